//! Serving: takes the data directory, opens the ports, says so, and goes on until told to stop.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::banner::Banner;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::http::{HttpError, HttpServer, NodeStatus, Status};
use crate::signals::Stop;

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let stop = Stop::on_signals().map_err(ServeError::Signals)?;
    let data_dir = DataDir::open(&config.data_dir, config.node_id, now_ms())?;
    let http = HttpServer::bind(&config.http).await?;
    let node = Arc::new(Node::new(config, data_dir));
    tracing::info!(
        node = node.config.node_id.0,
        listen = %node.config.listen,
        http = %node.config.http,
        data_dir = %node.data_dir.path().display(),
        "ready"
    );
    Banner { config: &node.config, data_dir: node.data_dir.path(), cluster: node.data_dir.cluster() }.print();
    let status: Arc<dyn NodeStatus> = Arc::<Node>::clone(&node);
    http.serve(status, stop).await;
    tracing::info!("stopped");
    Ok(())
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

struct Node {
    config: Config,
    data_dir: DataDir,
    started: Instant,
    metrics: Registry,
}

impl Node {
    fn new(config: Config, data_dir: DataDir) -> Self {
        let mut metrics = Registry::with_prefix("dlog");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        metrics.register("build", "What runs here.", version);
        Self { config, data_dir, started: Instant::now(), metrics }
    }
}

impl NodeStatus for Node {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Status {
        let Self { config, data_dir, started, .. } = self;
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node_id,
            cluster: data_dir.cluster(),
            roles: config.roles.names(),
            listen: config.listen.to_string(),
            advertise: config.advertise.to_string(),
            http: config.http.to_string(),
            data_dir: data_dir.path().display().to_string(),
            ready: self.ready().is_ok(),
            waiting_for: self.ready().err(),
            uptime_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn metrics(&self) -> &Registry {
        &self.metrics
    }
}
