//! A network in memory, with links that can be cut and delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dlog_metadata::{Metadata, PeerError, PeerFuture, PeerTransport};
use dlog_proto::NodeId;
use dlog_proto::wire::RaftRpc;
use tokio::time::{sleep, timeout};

#[derive(Default)]
pub(crate) struct Net {
    nodes: Mutex<BTreeMap<NodeId, Metadata>>,
    /// Links that carry nothing, in both directions.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Nodes that are asked nothing; who asks waits. What they ask is answered.
    deaf: Mutex<BTreeSet<NodeId>>,
    delay_ms: AtomicU64,
}

impl Net {
    pub(crate) fn attach(&self, node: NodeId, metadata: Metadata) {
        self.nodes.lock().unwrap().insert(node, metadata);
    }

    pub(crate) fn detach(&self, node: NodeId) -> Option<Metadata> {
        self.nodes.lock().unwrap().remove(&node)
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<Metadata> {
        self.nodes.lock().unwrap().get(&node).cloned()
    }

    /// Cuts `node` off from all others.
    pub(crate) fn isolate(&self, node: NodeId) {
        let links = (1..100).map(|other| link(node, NodeId(other)));
        self.cut.lock().unwrap().extend(links);
    }

    /// From now on nobody can ask `node` anything.
    pub(crate) fn deafen(&self, node: NodeId) {
        self.deaf.lock().unwrap().insert(node);
    }

    fn is_deaf(&self, node: NodeId) -> bool {
        self.deaf.lock().unwrap().contains(&node)
    }

    pub(crate) fn heal(&self) {
        self.deaf.lock().unwrap().clear();
        self.cut.lock().unwrap().clear();
    }

    pub(crate) fn set_delay(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.lock().unwrap().contains(&link(a, b))
    }
}

fn link(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

/// The network as one node sees it.
pub(crate) struct Wire {
    pub(crate) net: Arc<Net>,
    pub(crate) from: NodeId,
}

impl PeerTransport for Wire {
    fn call<'a>(
        &'a self,
        node: NodeId,
        _address: &'a str,
        rpc: RaftRpc,
        payload: Bytes,
        after: Duration,
    ) -> PeerFuture<'a> {
        Box::pin(async move {
            let delay = Duration::from_millis(self.net.delay_ms.load(Ordering::Relaxed));
            let exchange = async {
                sleep(delay).await;
                while self.net.is_cut(self.from, node) || self.net.is_deaf(node) {
                    sleep(Duration::from_millis(20)).await;
                }
                let target = self.net.nodes.lock().unwrap().get(&node).cloned();
                let gone = || PeerError::Unreachable { node, reason: "nobody listens".to_owned() };
                let target = target.ok_or_else(gone)?;
                // What has arrived is done, whether or not the asker still waits.
                let answer = tokio::spawn(async move { target.handle_raft(rpc, payload).await }).await;
                let answer = answer.map_err(|_| gone())?;
                sleep(delay).await;
                while self.net.is_cut(self.from, node) {
                    sleep(Duration::from_millis(20)).await;
                }
                answer.map_err(|error| PeerError::Refused { node, reason: error.to_string() })
            };
            timeout(after, exchange).await.unwrap_or(Err(PeerError::Timeout { node, after }))
        })
    }
}
