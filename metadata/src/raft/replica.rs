//! This node's copy of the state: openraft applies entries to it, everybody else reads.
//!
//! Readers hold a whole state of their own (a clone is cheap), so they never wait for a writer nor the writer for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::log_store::SnapshotProgress;
use super::snapshot_file::{Loaded, SnapshotDir};
use super::types::{
    Applied, Entry, LogId, Membership, Proposals, Snapshot, SnapshotMeta, StorageError, StorageIOError, TypeConfig,
    node_id,
};
use crate::state::{Changes, CodecError, Command, RecentChanges, State, decode};

/// A replica; a clone is another handle to it.
#[derive(Clone)]
pub(crate) struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    written: Mutex<Written>,
    views: watch::Sender<Arc<State>>,
    recent: Mutex<RecentChanges>,
    snapshots: SnapshotDir,
    progress: watch::Sender<SnapshotProgress>,
}

/// What entries are applied to.
#[derive(Clone, Default)]
struct Written {
    state: State,
    last_applied: Option<LogId>,
    membership: Membership,
}

impl Shared {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("a replica that failed half-way through an entry must not go on")
    }

    fn recent(&self) -> MutexGuard<'_, RecentChanges> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    pub(crate) fn new(snapshots: SnapshotDir, loaded: Option<Loaded>) -> Self {
        let written = loaded.map_or_else(Written::default, |Loaded { meta, state }| Written {
            state,
            last_applied: meta.last_log_id,
            membership: meta.last_membership,
        });
        let upto = written.last_applied.map(|last| last.index);
        let mut recent = RecentChanges::default();
        recent.reset(written.state.revision());
        let views = watch::Sender::new(Arc::new(written.state.clone()));
        let progress = watch::Sender::new(SnapshotProgress { upto, failed: false });
        let (written, recent) = (Mutex::new(written), Mutex::new(recent));
        Self { shared: Arc::new(Shared { written, views, recent, snapshots, progress }) }
    }

    /// The state as of the last applied entry.
    pub(crate) fn view(&self) -> Arc<State> {
        self.shared.views.borrow().clone()
    }

    pub(crate) fn views(&self) -> watch::Receiver<Arc<State>> {
        self.shared.views.subscribe()
    }

    pub(crate) fn changes_after(&self, revision: u64) -> Option<Changes> {
        self.shared.recent().after(revision)
    }

    pub(crate) fn snapshot_progress(&self) -> watch::Receiver<SnapshotProgress> {
        self.shared.progress.subscribe()
    }

    /// Index of the last entry in a durable snapshot.
    pub(crate) fn snapshot_index(&self) -> Option<u64> {
        self.shared.progress.borrow().upto
    }

    /// The error names the entry that this process cannot read.
    fn apply_all(&self, entries: impl Iterator<Item = Entry>) -> Result<Vec<Applied>, (LogId, CodecError)> {
        let mut written = self.shared.written();
        let mut answers = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            answers.push(written.apply(entry).map_err(|error| (log_id, error))?);
            let (revision, changes) = (written.state.revision(), written.state.take_changes());
            self.shared.recent().push(revision, changes);
        }
        self.shared.views.send_replace(Arc::new(written.state.clone()));
        Ok(answers)
    }

    /// Takes the place of what is there, once it is durable.
    fn install(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), AnyError> {
        let state = State::from_snapshot(bytes).map_err(|error| AnyError::new(&error))?;
        if meta.last_log_id.is_none_or(|last| last.index != state.revision()) {
            return Err(AnyError::error("the snapshot is not of the entry that it says"));
        }
        self.shared.snapshots.save(meta, bytes).map_err(|error| AnyError::new(&error))?;
        let mut written = self.shared.written();
        let (last_applied, membership) = (meta.last_log_id, meta.last_membership.clone());
        *written = Written { state, last_applied, membership };
        self.shared.recent().reset(written.state.revision());
        self.shared.views.send_replace(Arc::new(written.state.clone()));
        drop(written);
        self.saved(meta);
        Ok(())
    }

    fn saved(&self, meta: &SnapshotMeta) {
        let upto = meta.last_log_id.map(|last| last.index);
        self.shared.progress.send_modify(|progress| progress.upto = progress.upto.max(upto));
    }
}

impl Written {
    fn apply(&mut self, entry: Entry) -> Result<Applied, CodecError> {
        let Entry { log_id, payload } = entry;
        self.state.advance(log_id.index);
        self.last_applied = Some(log_id);
        match payload {
            EntryPayload::Blank => Ok(Applied(vec![])),
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(log_id), membership);
                Ok(Applied(vec![]))
            }
            // Whoever proposed it could read it. If this process cannot, it is older, and must not guess.
            EntryPayload::Normal(proposals) => self.run(log_id.index, proposals),
        }
    }

    fn run(&mut self, revision: u64, proposals: Proposals) -> Result<Applied, CodecError> {
        let decoded = proposals.0.into_iter().map(|proposal| Ok((proposal.request, decode(&proposal.command)?)));
        let decoded: Vec<(_, Command)> = decoded.collect::<Result<_, CodecError>>()?;
        let apply = |(request, command)| self.state.apply(revision, request, command);
        Ok(Applied(decoded.into_iter().map(apply).collect()))
    }
}

impl RaftStateMachine<TypeConfig> for Replica {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let written = self.shared.written();
        Ok((written.last_applied, written.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.apply_all(entries.into_iter()).map_err(|(log_id, error)| StorageIOError::apply(log_id, &error).into())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder { replica: self.clone(), written: self.shared.written().clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Bytes>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<Bytes>) -> Result<(), StorageError> {
        let (replica, meta) = (self.clone(), meta.clone());
        let signature = meta.signature();
        let installed = spawn_blocking(move || replica.install(&meta, &snapshot)).await;
        let result = installed.unwrap_or_else(|error| Err(AnyError::new(&error)));
        result.map_err(|error| {
            self.shared.progress.send_modify(|progress| progress.failed = true);
            StorageIOError::write_snapshot(Some(signature), error).into()
        })
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let snapshots = self.shared.snapshots.clone();
        let read = spawn_blocking(move || snapshots.newest()).await;
        let read_error = |error: AnyError| StorageError::from(StorageIOError::read_snapshot(None, error));
        let newest = read.map_err(|error| read_error(AnyError::new(&error)))?;
        let newest = newest.map_err(|error| read_error(AnyError::new(&error)))?;
        Ok(newest.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(bytes) }))
    }
}

/// A state of its own to make a snapshot of, while others are applied.
pub(crate) struct SnapshotBuilder {
    replica: Replica,
    written: Written,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (replica, written) = (self.replica.clone(), self.written.clone());
        let built = spawn_blocking(move || {
            let Written { state, last_applied, membership } = written;
            let id = last_applied
                .map(|last| format!("{}-{}-{}", last.index, last.leader_id.term, node_id(last.leader_id.node_id)));
            let meta = SnapshotMeta {
                last_log_id: last_applied,
                last_membership: membership,
                snapshot_id: id.unwrap_or_default(),
            };
            let bytes = Bytes::from(state.to_snapshot());
            replica.shared.snapshots.save(&meta, &bytes).map_err(|error| AnyError::new(&error))?;
            replica.saved(&meta);
            Ok(Snapshot { meta, snapshot: Box::new(bytes) })
        });
        let result = built.await.unwrap_or_else(|error| Err(AnyError::new(&error)));
        result.map_err(|error| StorageIOError::write_snapshot(None, error).into())
    }
}

/// The voters with their addresses, and all other members with theirs.
pub(crate) fn members(membership: &Membership) -> (BTreeMap<u64, String>, BTreeMap<u64, String>) {
    let voters: Vec<u64> = membership.voter_ids().collect();
    let nodes = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
    nodes.partition(|(id, _)| voters.contains(id))
}
