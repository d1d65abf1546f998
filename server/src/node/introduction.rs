//! How a node introduces itself: to those who connect, and to those it connects to.

use std::sync::OnceLock;

use dlog_proto::transport::{Admission, Hello, PROTOCOL_MAX, PROTOCOL_MIN, PeerIdentity, Refused, Welcome};
use dlog_proto::{ClusterId, NodeId, ProcessId};

/// Name and version, for others' logs.
pub(crate) const SOFTWARE: &str = concat!("dlog ", env!("CARGO_PKG_VERSION"));

/// Who this node is, to those who connect.
#[derive(Debug)]
pub(crate) struct Introduction {
    /// Once it is known.
    cluster: OnceLock<ClusterId>,
    welcome: Welcome,
}

impl Introduction {
    pub(crate) fn new(node: NodeId, process: ProcessId, cores: u16, cluster: Option<ClusterId>) -> Self {
        let (protocol, software) = (PROTOCOL_MAX, SOFTWARE.to_owned());
        let introduction = Self {
            cluster: OnceLock::new(),
            welcome: Welcome { protocol, cluster: None, node, process, cores, software },
        };
        cluster.into_iter().for_each(|cluster| introduction.know(cluster));
        introduction
    }

    /// From now on the cluster is named too.
    pub(crate) fn know(&self, cluster: ClusterId) {
        let _ = self.cluster.set(cluster);
    }

    /// To those this node connects to.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: self.cluster.get().copied(),
            node: Some(self.welcome.node),
            process: Some(self.welcome.process),
            expect_node: None,
            software: SOFTWARE.to_owned(),
        }
    }
}

impl Admission for Introduction {
    fn admit(&self, hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused> {
        Welcome { cluster: self.cluster.get().copied(), ..self.welcome.clone() }.answer(hello, peer)
    }
}
