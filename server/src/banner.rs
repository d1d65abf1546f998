//! What a node says when it is ready: what listens where, and what to type next. For people, on standard output; the log is on
//! standard error.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use dlog_proto::ClusterId;

use crate::config::Config;

/// Replication of the first log that is suggested, where there are nodes for it.
const REPLICATION_SUGGESTED: usize = 3;

/// Displayed as several lines, the last one ended.
#[derive(Debug, Clone)]
pub struct Banner<'a> {
    pub config: &'a Config,
    pub data_dir: &'a Path,
    /// `None` while the cluster is not known.
    pub cluster: Option<ClusterId>,
}

impl Banner<'_> {
    /// A standard output that nobody reads any more is no reason to stop.
    pub fn print(&self) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "{self}").and_then(|()| out.flush());
    }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, data_dir, cluster } = self;
        write!(f, "DLog {}: node {}", env!("CARGO_PKG_VERSION"), config.node_id.0)?;
        if config.cluster_nodes.len() > 1 {
            write!(f, " of {}", config.cluster_nodes.len())?;
        }
        if let Some(cluster) = cluster {
            write!(f, ", cluster {cluster}")?;
        }
        writeln!(f, ", is ready\n")?;
        writeln!(f, "  roles    {}", config.roles.names().join(", "))?;
        write!(f, "  clients  {} (QUIC, UDP)", config.listen)?;
        if config.advertise != config.listen {
            write!(f, ", reached as {}", config.advertise)?;
        }
        write!(f, "\n  Kafka    {} (TCP)", config.advertise)?;
        writeln!(f, "\n  HTTP     http://{}: /v1/status, /metrics, /health/ready", config.http)?;
        writeln!(f, "  data     {}\n", data_dir.display())?;

        let local = Config::default().listen;
        let server = if config.advertise == local { String::new() } else { format!(" --server {}", config.advertise) };
        let replication = config.cluster_nodes.len().min(REPLICATION_SUGGESTED);
        writeln!(f, "Try, in another terminal:")?;
        writeln!(f, "  dlog log create demo/first --partitions 1 --replication {replication}{server}")?;
        writeln!(f, "  echo hello | dlog append demo/first{server}")?;
        writeln!(f, "  dlog read demo/first --from oldest{server}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SettingFlags, load};

    #[test]
    fn one_node() {
        let config = Config::default();
        let banner = Banner { config: &config, data_dir: Path::new("/data"), cluster: None };
        let golden = "\
DLog 0.1.0: node 1, is ready

  roles    metadata, sequencer, storage
  clients  localhost:9092 (QUIC, UDP)
  Kafka    localhost:9092 (TCP)
  HTTP     http://localhost:9644: /v1/status, /metrics, /health/ready
  data     /data

Try, in another terminal:
  dlog log create demo/first --partitions 1 --replication 1
  echo hello | dlog append demo/first
  dlog read demo/first --from oldest
";
        assert_eq!(banner.to_string(), golden);
    }

    #[test]
    fn one_of_several() {
        let variables = [
            ("DLOG_NODE_ID", "2"),
            ("DLOG_LISTEN", "0.0.0.0:7000"),
            ("DLOG_CLUSTER_NODES", "1=a:7000,2=b:7000,3=c:7000,4=d:7000"),
            ("DLOG_ROLES", "storage"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let config = load(SettingFlags::default(), variables).unwrap().config;
        let banner = Banner { config: &config, data_dir: Path::new("/data"), cluster: Some(ClusterId(0xab)) };
        let golden = "\
DLog 0.1.0: node 2 of 4, cluster 000000000000000000000000000000ab, is ready

  roles    storage
  clients  0.0.0.0:7000 (QUIC, UDP), reached as b:7000
  Kafka    b:7000 (TCP)
  HTTP     http://localhost:9645: /v1/status, /metrics, /health/ready
  data     /data

Try, in another terminal:
  dlog log create demo/first --partitions 1 --replication 3 --server b:7000
  echo hello | dlog append demo/first --server b:7000
  dlog read demo/first --from oldest --server b:7000
";
        assert_eq!(banner.to_string(), golden);
    }
}
