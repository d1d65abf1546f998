//! Clusters of nodes in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlog_metadata::state::{
    AllocateProducerIds, CreateLog, LogAttributes, RegisterNode, Registered, Roles, ShardRegistration, State,
};
use dlog_metadata::{Metadata, MetadataConfig, MetadataError, Snapshots, Timings};
use dlog_proto::{Incarnation, LogId, NodeId, ProcessId, RequestId};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::net::{Net, Wire};

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    voters: BTreeMap<NodeId, String>,
    dirs: BTreeMap<NodeId, TempDir>,
    nodes: BTreeMap<NodeId, Metadata>,
    pub(crate) timings: Timings,
    pub(crate) snapshots: Snapshots,
    process: u128,
    counter: AtomicU64,
}

fn temp_dir() -> TempDir {
    // Syncs of other tests' clusters on the same disk would be measured too.
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

impl Cluster {
    pub(crate) fn new(voters: u16) -> Self {
        let voters = (1..=voters).map(|n| (NodeId(n), format!("voter{n}:1"))).collect();
        Self {
            net: Arc::default(),
            voters,
            dirs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            timings: Timings::default(),
            snapshots: Snapshots::default(),
            process: 0,
            counter: AtomicU64::new(0),
        }
    }

    /// A cluster whose voters have all been started.
    pub(crate) async fn started(voters: u16) -> Self {
        let mut cluster = Self::new(voters);
        for node in 1..=voters {
            cluster.start(node).await;
        }
        cluster
    }

    pub(crate) fn config(&mut self, node: u16) -> MetadataConfig {
        self.process += 1;
        MetadataConfig {
            node: NodeId(node),
            process: ProcessId(self.process),
            voters: self.voters.clone(),
            data_dir: self.dirs.entry(NodeId(node)).or_insert_with(temp_dir).path().to_owned(),
            timings: self.timings,
            snapshots: self.snapshots,
        }
    }

    pub(crate) async fn start(&mut self, node: u16) -> Metadata {
        let config = self.config(node);
        let node = NodeId(node);
        let wire = Wire { net: self.net.clone(), from: node };
        let metadata = Metadata::start(config, Arc::new(wire)).await.unwrap();
        self.net.attach(node, metadata.clone());
        self.nodes.insert(node, metadata.clone());
        metadata
    }

    pub(crate) fn node(&self, node: u16) -> &Metadata {
        &self.nodes[&NodeId(node)]
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Metadata> {
        self.nodes.values()
    }

    /// Stops a node without a word to the others.
    pub(crate) async fn kill(&mut self, node: u16) {
        self.net.detach(NodeId(node));
        self.nodes.remove(&NodeId(node)).unwrap().shutdown().await;
    }

    /// Takes a stopped node's disk away.
    pub(crate) fn wipe(&mut self, node: u16) {
        self.dirs.remove(&NodeId(node));
    }

    pub(crate) fn dir(&self, node: u16) -> &std::path::Path {
        self.dirs[&NodeId(node)].path()
    }

    pub(crate) async fn shutdown(self) {
        for (node, metadata) in self.nodes {
            self.net.detach(node);
            metadata.shutdown().await;
        }
    }

    /// Waits until all running nodes agree on a leader that runs, and all voters vote.
    pub(crate) async fn leader(&self) -> u16 {
        let agreed = eventually("a leader", || {
            let mut leaders = self.running().map(|node| node.leader().map(|(leader, _)| leader));
            let first = leaders.next()??;
            let all_vote = self.running().all(|node| !node.is_catching_up());
            (all_vote && self.nodes.contains_key(&first) && leaders.all(|leader| leader == Some(first)))
                .then_some(first)
        });
        agreed.await.0
    }

    pub(crate) fn request(&self) -> RequestId {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        RequestId { process: ProcessId(0xfeed), counter }
    }

    pub(crate) async fn register(&self, through: u16, node: u16, process: u128) -> Registered {
        let command = RegisterNode {
            node: NodeId(node),
            address: format!("node{node}:1"),
            http: String::new(),
            roles: Roles::ALL,
            location: "".parse().unwrap(),
            process: ProcessId(process),
            cores: 1,
            weight: 1,
            shards: vec![ShardRegistration { index: 0, incarnation: self.incarnation(through, node), unclean: false }],
        };
        // The cluster may not have its id yet.
        loop {
            match self.node(through).run(self.request(), command.clone()).await.unwrap().1 {
                Ok(registered) => return registered,
                Err(error) => assert!(error.to_string().contains("no id yet"), "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn incarnation(&self, through: u16, node: u16) -> Option<Incarnation> {
        let view = self.node(through).view();
        view.node(NodeId(node)).and_then(|info| info.shards.get(&0)).map(|shard| shard.incarnation)
    }

    /// Creates a log of one partition and one copy.
    pub(crate) async fn create(&self, through: u16, log: &str) -> Result<u64, MetadataError> {
        let attributes = LogAttributes::replicated(1);
        let command = CreateLog { log: log_id(log), partitions: 1, attributes, created_ms: 0 };
        let (revision, created) = self.node(through).run(self.request(), command).await?;
        created.unwrap();
        Ok(revision)
    }

    pub(crate) async fn producer_ids(&self, through: u16) -> Result<i64, MetadataError> {
        let (_, ids) = self.node(through).run(self.request(), AllocateProducerIds { count: 1 }).await?;
        Ok(ids.unwrap().start)
    }

    /// Waits until every running node has reached `revision`.
    pub(crate) async fn all_reach(&self, revision: u64) -> Vec<Arc<State>> {
        let mut views = Vec::new();
        for node in self.running() {
            views.push(node.wait_applied(revision).await.unwrap());
        }
        views
    }
}

pub(crate) fn log_id(log: &str) -> LogId {
    log.parse().unwrap()
}

/// Looks again and again until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{what} within 10 s");
        sleep(Duration::from_millis(5)).await;
    }
}
