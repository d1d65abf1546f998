//! How a client finds its cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dlog_proto::transport::HostPort;

use super::parse_timeout;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// Nodes to ask, in this order; one that answers is enough.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "DLOG_SERVER",
        default_value = "localhost:9092",
        value_delimiter = ',',
        num_args = 1
    )]
    pub server: Vec<HostPort>,
    /// Certificate of the cluster's CA; needed for servers that are not on this machine. Servers keep it in
    /// <data-dir>/tls/ca.pem.
    #[arg(long, value_name = "FILE", env = "DLOG_CA")]
    pub ca: Option<PathBuf>,
    /// How long an answer may take: 500ms, 10s, 2m. [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
}

impl ConnectArgs {
    /// How long an answer may take.
    pub fn answer_timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(10))
    }
}
