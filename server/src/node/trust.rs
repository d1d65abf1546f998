//! Whom this node believes, and how it shows who it is.

use dlog_proto::transport::{ClusterCa, HostPort, NodeCert, TlsError, Trust};

use crate::config::Config;

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "{nodes} are on other machines, so all nodes need certificates of one CA, and {dir} has none: make them with `dlog tls \
         create --nodes …`, and copy each node's directory to its machine, to where --tls-dir says"
    )]
    NoCommonCa { nodes: String, dir: String },
}

/// This node's certificate, and whose certificates it accepts from other nodes.
pub(crate) struct Identity {
    pub(crate) cert: NodeCert,
    pub(crate) trust: Trust,
}

impl Identity {
    /// What is in the TLS directory. A node that is reached on this machine only, and whose peers are here too, gets a CA of its
    /// own at its first start.
    pub(crate) fn load(config: &Config) -> Result<Self, TrustError> {
        let dir = &config.tls.dir;
        let names = [config.advertise.host().to_owned()];
        let away: Vec<String> = config
            .cluster_nodes
            .iter()
            .filter(|(node, address)| *node != config.node_id && !is_loopback(address))
            .map(|(node, address)| format!("{node} ({address})"))
            .collect();
        let has = |file: &str| dir.join(file).exists();
        let cert = if has("ca.key") || away.is_empty() && !has("node.key") {
            let ca = ClusterCa::load_or_create(dir)?;
            NodeCert::load_or_create(dir, &ca, config.node_id, &names)?
        } else if has("node.key") {
            NodeCert::load(dir, config.node_id)?
        } else {
            return Err(TrustError::NoCommonCa { nodes: away.join(", "), dir: dir.display().to_string() });
        };
        let trust = if away.is_empty() { Trust::LoopbackOnly } else { Trust::from_ca_file(&config.tls.ca)? };
        Ok(Self { cert, trust })
    }
}

pub(super) fn is_loopback(address: &HostPort) -> bool {
    let host = address.host();
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
