//! The metadata tier as a node uses it.

mod chores;
mod config;
mod error;
mod living;
mod membership;
mod newcomer;
mod operation;
mod peers;
mod proposals;
mod reads;
mod rounds;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dlog_proto::{NodeId, Time};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};

pub use config::{MetadataConfig, Snapshots, Timings};
pub use error::{MetadataError, StartError};
pub use operation::Operation;
pub use proposals::COMMAND_LEN_MAX;
pub use reads::ReplicaStatus;

use crate::liveness::LivenessTable;
use crate::raft::PeerTransport;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::replica::{Replica, members};
use crate::raft::rpc::ReadIndexAnswer;
use crate::raft::snapshot_file::SnapshotDir;
use crate::raft::snapshot_inbox::SnapshotInbox;
use crate::raft::types::{Raft, node_id, raft_id};
use living::Living;
use newcomer::Newcomer;
use proposals::{WaitingProposal, serve_proposals};
use rounds::{Rounds, serve};

/// Commands that may wait for the log before more are held back.
const PROPOSALS_WAITING_MAX: usize = 1024;

/// This node's part of the metadata tier; a clone is another handle to it.
#[derive(Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
}

struct Inner {
    config: MetadataConfig,
    raft: Raft,
    replica: Replica,
    log: LogStore,
    network: Network,
    newcomer: Newcomer,
    living: Living,
    inbox: Mutex<SnapshotInbox>,
    proposals: mpsc::Sender<WaitingProposal>,
    /// Reads that are to see everything, on this node.
    reads: Rounds<Result<u64, MetadataError>>,
    /// Reads anywhere that are to see everything, on the leader.
    confirmations: Rounds<ReadIndexAnswer>,
    /// When a leader was last heard of.
    last_append: watch::Sender<Time>,
    voters_mismatch: watch::Sender<Option<String>>,
    started: Instant,
    tasks: Mutex<JoinSet<()>>,
}

impl Metadata {
    /// Opens what is on disk and takes part. Log and snapshots that are damaged are refused: see [`StartError`].
    pub async fn start(config: MetadataConfig, transport: Arc<dyn PeerTransport>) -> Result<Self, StartError> {
        config.check()?;
        let raft_config = Arc::new(config.raft()?);
        let (dir, node) = (config.data_dir.clone(), config.node);
        let opened = spawn_blocking(move || open(&dir, node)).await;
        let (replica, log) = opened.map_err(|error| StartError::Raft(error.to_string()))??;
        let newcomer = Newcomer::new(&config.data_dir, log.is_blank() && config.is_voter());
        let network = Network { transport, voters: Arc::new(config.voters.clone()) };
        let raft = Raft::new(raft_id(node), raft_config, network.clone(), log.clone(), replica.clone()).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        raft.runtime_config().elect(newcomer.is_full());
        let (proposals, waiting_proposals) = mpsc::channel(PROPOSALS_WAITING_MAX);
        let (reads, waiting_reads) = Rounds::new();
        let (confirmations, waiting_confirmations) = Rounds::new();
        let living = Living::new(LivenessTable::new(config.leases()));
        let inner = Arc::new(Inner {
            config,
            raft,
            replica,
            log,
            network,
            newcomer,
            living,
            inbox: Mutex::default(),
            proposals,
            reads,
            confirmations,
            last_append: watch::Sender::new(Time::ZERO),
            voters_mismatch: watch::Sender::new(None),
            started: Instant::now(),
            tasks: Mutex::default(),
        });
        inner.spawn(serve_proposals(inner.clone(), waiting_proposals));
        inner.spawn(serve(waiting_reads, inner.each_round(|inner| async move { inner.read_index().await })));
        let confirm = inner.each_round(|inner| async move { inner.confirm_leadership().await });
        inner.spawn(serve(waiting_confirmations, confirm));
        inner.spawn(inner.clone().do_chores());
        inner.spawn(inner.clone().watch_leases());
        inner.take_part().await;
        Ok(Self { inner })
    }

    pub fn config(&self) -> &MetadataConfig {
        &self.inner.config
    }

    /// Who leads and where it is, as far as this node knows.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        self.inner.leader()
    }

    pub fn is_leader(&self) -> bool {
        self.leader().is_some_and(|(leader, _)| leader == self.inner.config.node)
    }

    /// Why this node's replica has stopped, if it has: its log cannot be written, or it cannot read what others wrote.
    /// The process should stop then.
    pub fn failed(&self) -> Option<String> {
        self.inner.failed()
    }

    /// Waits until this node's replica stops, and says why.
    pub async fn wait_failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        stopped.map_or_else(|_| "it is shut down".to_owned(), |_| self.inner.failed().unwrap_or_default())
    }

    /// How the configured voters differ from those that vote.
    pub fn voters_mismatch(&self) -> watch::Receiver<Option<String>> {
        self.inner.compare_voters();
        self.inner.voters_mismatch.subscribe()
    }

    /// Stops taking part. What was answered is on disk.
    pub async fn shutdown(&self) {
        self.inner.tasks().abort_all();
        let _ = self.inner.raft.shutdown().await;
        let log = self.inner.log.clone();
        let _ = spawn_blocking(move || log.close()).await;
    }
}

fn open(dir: &Path, node: NodeId) -> Result<(Replica, LogStore), StartError> {
    let (snapshots_dir, log_dir) = (dir.join("snapshots"), dir.join("log"));
    let io_error = |source| StartError::Io { path: snapshots_dir.clone(), source };
    let snapshots = SnapshotDir::open(&snapshots_dir).map_err(io_error)?;
    let (loaded, damaged) = snapshots.load().map_err(io_error)?;
    let replica = Replica::new(snapshots, loaded);
    let log = LogStore::open(&log_dir, node, Some(replica.snapshot_progress()))?;
    if log.is_blank() && replica.snapshot_index().is_some() {
        log.close();
        return Err(StartError::LogMissing { path: dir.to_owned() });
    }
    if let Some(purged) = log.purged_index().filter(|purged| Some(*purged) > replica.snapshot_index()) {
        log.close();
        return Err(StartError::SnapshotMissing { path: dir.to_owned(), purged, damaged });
    }
    for what in damaged {
        tracing::error!("a metadata snapshot is damaged, an older one and the log stand in for it: {what}");
    }
    Ok((replica, log))
}

impl Inner {
    /// Begins a cluster, or goes on with one. A voter that is alone leads at once.
    async fn take_part(self: &Arc<Self>) {
        if !self.config.is_voter() {
            self.raft.runtime_config().elect(true);
        } else if self.config.voters.len() == 1 {
            if self.newcomer.is_full() {
                let _ = self.raft.trigger().elect().await;
            } else {
                self.begin().await;
            }
        } else {
            let inner = self.clone();
            self.spawn(async move { inner.arrive().await });
        }
    }

    /// A round of [`serve`] with a handle of its own.
    fn each_round<F, R: Fn(Arc<Self>) -> F>(self: &Arc<Self>, round: R) -> impl FnMut() -> F + use<F, R> {
        let inner = self.clone();
        move || round(inner.clone())
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn leader(&self) -> Option<(NodeId, String)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let stored =
            metrics.membership_config.nodes().find(|(id, _)| **id == leader).map(|(_, node)| node.addr.clone());
        let node = node_id(leader);
        let configured = self.config.voters.get(&node).cloned();
        Some((node, configured.or(stored).unwrap_or_default()))
    }

    /// The voters and the other members as they are stored, with their addresses.
    fn members(&self) -> (BTreeMap<u64, String>, BTreeMap<u64, String>) {
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow().membership_config.clone();
        members(&membership)
    }

    /// Whom to ask: the leader, and in between one voter after the other, for what is known of the leader may be old.
    fn leader_or_voter(&self, tries: usize) -> (NodeId, String) {
        let any = || {
            let mut voters = self.config.voters.iter().cycle().skip(tries % self.config.voters.len());
            voters.next().map(|(node, address)| (*node, address.clone())).expect("there are voters")
        };
        self.leader().filter(|_| tries.is_multiple_of(2)).unwrap_or_else(any)
    }

    /// Waits until this node hears of a leader that is none of `old`: whom it knew, and whom it asks. These need not be the
    /// same, and what was known before is no reason to give up on who is asked.
    async fn leader_news(&self, old: [Option<NodeId>; 2]) {
        let is_new = |leader: Option<u64>| leader.is_some_and(|leader| !old.contains(&Some(node_id(leader))));
        let mut metrics = self.raft.server_metrics();
        if metrics.wait_for(|metrics| is_new(metrics.current_leader)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn failed(&self) -> Option<String> {
        self.raft.metrics().borrow().running_state.as_ref().err().map(ToString::to_string)
    }
}
