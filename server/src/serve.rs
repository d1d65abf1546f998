//! Serving: takes the data directory, opens the ports, says so, and goes on until told to stop.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use dlog_metadata::Metadata;
use dlog_proto::clock::now_ms;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::banner::Banner;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::http::{HttpError, HttpServer, NodeStatus, Status};
use crate::node::{Node, NodeError, NodeMetrics};
use crate::signals::Stop;

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("the metadata replica has failed, and this node with it: {0}")]
    MetadataFailed(String),
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let mut stop = Stop::on_signals().map_err(ServeError::Signals)?;
    let config = Arc::new(config);
    let data_dir = Arc::new(DataDir::open(&config.data_dir, config.node_id, now_ms())?);
    let http = HttpServer::bind(&config.http).await.inspect_err(|_| data_dir.abandon())?;
    let status = Arc::new(Health::new(config.clone(), data_dir.clone()));
    let shown: Arc<dyn NodeStatus> = Arc::<Health>::clone(&status);
    let http = tokio::spawn(http.serve(shown, stop.clone()));

    let (waiting, metrics) = (status.clone(), status.node_metrics.clone());
    let started =
        Node::start(config.clone(), data_dir.clone(), stop.clone(), &metrics, move |what| waiting.waits_for(what))
            .await;
    let node = match started {
        Ok(node) => node,
        Err(NodeError::Stopped) => return Ok(()),
        Err(error) => {
            if error.is_of_ports() {
                data_dir.abandon();
            }
            return Err(error.into());
        }
    };
    status.is_ready(node.metadata().clone());
    tracing::info!(
        node = config.node_id.0,
        listen = %config.listen,
        http = %config.http,
        data_dir = %data_dir.path().display(),
        ready_ms = status.started.elapsed().as_millis() as u64,
        "ready"
    );
    Banner { config: &config, data_dir: data_dir.path(), cluster: data_dir.cluster() }.print();
    let metadata = node.metadata().clone();
    let failed = tokio::select! {
        () = stop.requested() => None,
        why = metadata.wait_failed() => Some(why),
    };
    node.stop().await;
    if let Some(why) = failed {
        return Err(ServeError::MetadataFailed(why));
    }
    let _ = http.await;
    tracing::info!("stopped");
    Ok(())
}

/// What HTTP tells of this node.
struct Health {
    config: Arc<Config>,
    data_dir: Arc<DataDir>,
    started: Instant,
    metrics: Registry,
    node_metrics: NodeMetrics,
    /// Once it serves.
    metadata: OnceLock<Metadata>,
    waiting_for: Mutex<String>,
}

impl Health {
    fn new(config: Arc<Config>, data_dir: Arc<DataDir>) -> Self {
        let mut metrics = Registry::with_prefix("dlog");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        metrics.register("build", "What runs here", version);
        let node_metrics = NodeMetrics::default();
        metrics.register_collector(Box::new(node_metrics.clone()));
        let waiting_for = Mutex::new("its ports".to_owned());
        Self {
            config,
            data_dir,
            started: Instant::now(),
            metrics,
            node_metrics,
            metadata: OnceLock::new(),
            waiting_for,
        }
    }

    fn waits_for(&self, what: &str) {
        tracing::debug!("waiting for {what}");
        what.clone_into(&mut self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_ready(&self, metadata: Metadata) {
        let _ = self.metadata.set(metadata);
    }
}

impl NodeStatus for Health {
    fn ready(&self) -> Result<(), String> {
        match self.metadata.get() {
            None => Err(format!("waiting for {}", self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner))),
            Some(metadata) if metadata.leader().is_none() => {
                Err("waiting for a leader of the metadata tier".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    fn status(&self) -> Status {
        let Self { config, data_dir, started, .. } = self;
        let ready = self.ready();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node_id,
            cluster: data_dir.cluster(),
            roles: config.roles.names(),
            listen: config.listen.to_string(),
            advertise: config.advertise.to_string(),
            http: config.http.to_string(),
            data_dir: data_dir.path().display().to_string(),
            ready: ready.is_ok(),
            waiting_for: ready.err(),
            uptime_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn metrics(&self) -> &Registry {
        &self.metrics
    }
}
