//! Which nodes found a cluster, and where each is; local ones by number alone.

use std::collections::BTreeMap;
use std::fmt;

use dlog_proto::NodeId;
use dlog_proto::transport::HostPort;

use super::{Setting, Shown, read_list};

/// The nodes that found a cluster, and where each is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNodes(BTreeMap<NodeId, HostPort>);

impl ClusterNodes {
    pub fn only(node: NodeId, address: HostPort) -> Self {
        Self([(node, address)].into())
    }

    pub fn get(&self, node: NodeId) -> Option<&HostPort> {
        self.0.get(&node)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, &HostPort)> {
        self.0.iter().map(|(node, address)| (*node, address))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never, once read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `2` or `2=host:port`.
    fn read_node(text: &str) -> Result<(NodeId, HostPort), String> {
        let (id, address) = match text.split_once('=') {
            Some((id, address)) => (id.trim(), Some(address.trim())),
            None => (text, None),
        };
        let id =
            id.parse().ok().filter(|id| *id > 0).map(NodeId).ok_or("1,2,3 or 1=host:port,2=host:port is expected")?;
        let address = match address {
            Some(address) => address.parse().map_err(|error| format!("node {}: {error}", id.0))?,
            None if id.0 <= LOCAL_NODE_MAX => local_address(id),
            None => return Err(format!("node {} has no default port: {}=host:port is expected", id.0, id.0)),
        };
        Ok((id, address))
    }
}

impl fmt::Display for ClusterNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (node, address)) in self.iter().enumerate() {
            write!(f, "{}{}={address}", if i == 0 { "" } else { "," }, node.0)?;
        }
        Ok(())
    }
}

impl Setting for ClusterNodes {
    const PLACEHOLDER: &'static str = "NODES";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let items = match value {
            toml::Value::Table(table) => {
                table.iter().map(|(node, address)| Some(format!("{node}={}", address.as_str()?))).collect()
            }
            _ => read_list(value),
        };
        let mut nodes = BTreeMap::new();
        for item in items.ok_or("1,2,3 or 1=host:port,2=host:port is expected")? {
            let (node, address) = Self::read_node(&item)?;
            if nodes.insert(node, address).is_some() {
                return Err(format!("node {} stands in it twice, once is expected", node.0));
            }
        }
        if nodes.is_empty() { Err("at least one node is expected".to_owned()) } else { Ok(Self(nodes)) }
    }

    fn show(&self) -> Shown {
        let json = self.iter().map(|(node, address)| (node.0.to_string(), address.to_string().into()));
        Shown { text: self.to_string(), json: serde_json::Value::Object(json.collect()) }
    }
}

const LISTEN_PORT: u16 = 9092;
const HTTP_PORT: u16 = 9644;
/// The last node for which there is a default port of each kind.
pub(in crate::config) const LOCAL_NODE_MAX: u16 = u16::MAX - HTTP_PORT + 1;
const _: () = assert!(LISTEN_PORT < HTTP_PORT, "or LOCAL_NODE_MAX follows from the other");

/// Where a node of a local cluster serves clients and nodes, unless told otherwise.
///
/// # Panics
/// For nodes above [`LOCAL_NODE_MAX`].
pub(in crate::config) fn local_address(node: NodeId) -> HostPort {
    on_localhost(LISTEN_PORT, node)
}

/// Where a node of a local cluster serves HTTP, unless told otherwise.
///
/// # Panics
/// For nodes above [`LOCAL_NODE_MAX`].
pub(in crate::config) fn http_address(node: NodeId) -> HostPort {
    on_localhost(HTTP_PORT, node)
}

fn on_localhost(first_port: u16, node: NodeId) -> HostPort {
    assert!((1..=LOCAL_NODE_MAX).contains(&node.0), "callers check that there is a port for {node}");
    format!("localhost:{}", first_port + (node.0 - 1)).parse().expect("a name and a port make an address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::tests::{from_text, from_toml};

    #[test]
    fn cluster_nodes_are_local_ones_or_have_addresses() {
        let local = "1=localhost:9092,2=localhost:9093,3=localhost:9094";
        for given in [r#""1,2,3""#, "[1, 2, 3]", r#"["3", "1", "2"]"#] {
            assert_eq!(from_toml::<ClusterNodes>(given).unwrap().to_string(), local, "{given}");
        }
        for given in [r#""1=a:1, 7=[::1]:7""#, r#"["1=a:1", "7=[::1]:7"]"#, r#"{ 1 = "a:1", 7 = "[::1]:7" }"#] {
            assert_eq!(from_toml::<ClusterNodes>(given).unwrap().to_string(), "1=a:1,7=[::1]:7", "{given}");
        }
        assert_eq!(from_toml::<ClusterNodes>("1").unwrap().len(), 1);
        for (bad, why) in [
            ("", "1,2,3 or 1=host:port"),
            ("1,,2", "1,2,3 or 1=host:port"),
            ("0", "1,2,3 or 1=host:port"),
            ("1,1", "node 1 stands in it twice"),
            ("1=host", "node 1: 'host' is not an address"),
            ("60000", "node 60000 has no default port"),
        ] {
            assert!(from_text::<ClusterNodes>(bad).unwrap_err().contains(why), "{bad}");
        }
        assert!(from_toml::<ClusterNodes>("[]").is_err());
        assert!(from_toml::<ClusterNodes>("{ 1 = 5 }").is_err());
    }

    #[test]
    fn local_nodes_have_ports_of_their_own() {
        assert_eq!(local_address(NodeId(3)).to_string(), "localhost:9094");
        assert_eq!(http_address(NodeId(3)).to_string(), "localhost:9646");
        assert_eq!(http_address(NodeId(LOCAL_NODE_MAX)).port(), u16::MAX);
    }
}
