//! openraft's log, on the [`wal`](super::wal): entries that are not purged are held in memory, one thread writes.
//!
//! Everything that is written goes through one queue, so that it becomes durable in the order in which openraft asked
//! for it. What waits at the same moment is one batch with one sync.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use dlog_proto::NodeId;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::{oneshot, watch};

use super::types::{Entry, LogId, StorageError, StorageIOError, TypeConfig, Vote, raft_id};
use super::wal::{self, Op, WalError, Writer};

/// Entries in one message to a peer, in bytes, and one more.
const REPLICATE_BYTES_MAX: u64 = 1 << 20;
/// How long a committed mark may wait for something else to be written. It only makes a restart quicker.
const COMMITTED_DELAY: Duration = Duration::from_millis(100);
const BATCH_OPS_MAX: usize = 1024;

/// What is known of snapshots on disk: a log entry may only go when one holds what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SnapshotProgress {
    /// Index of the last entry in a durable snapshot.
    pub(crate) upto: Option<u64>,
    pub(crate) failed: bool,
}

#[derive(Clone)]
pub(crate) struct LogStore {
    cache: Arc<RwLock<Cache>>,
    writer: Sender<Io>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// `None` where entries may go unseen, in tests.
    snapshots: Option<watch::Receiver<SnapshotProgress>>,
}

enum Io {
    Append(Vec<Entry>, LogFlushed<TypeConfig>),
    Committed(Option<LogId>),
    /// A vote, a truncation or a purge, and who waits for it.
    Other(Op, oneshot::Sender<io::Result<()>>),
    Close,
}

#[derive(Debug, Default)]
struct Cache {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: VecDeque<Cached>,
    /// Bytes of all entries that were ever appended since the log was opened.
    bytes: u64,
}

#[derive(Debug)]
struct Cached {
    entry: Entry,
    /// What [`Cache::bytes`] was before it.
    bytes_before: u64,
}

impl Cache {
    fn push(&mut self, entry: Entry) {
        let size = match &entry.payload {
            EntryPayload::Normal(proposals) => proposals.size(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 64,
        };
        self.entries.push_back(Cached { entry, bytes_before: self.bytes });
        self.bytes += size as u64;
    }

    fn last(&self) -> Option<LogId> {
        self.entries.back().map(|cached| cached.entry.log_id).or(self.purged)
    }

    /// Where the entry with this index is, or would be.
    fn place(&self, index: u64) -> usize {
        let first = self.entries.front().map_or(index, |cached| cached.entry.log_id.index);
        usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX).min(self.entries.len())
    }

    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Cached> {
        let to = self.place(to);
        self.entries.range(self.place(from).min(to)..to)
    }
}

impl LogStore {
    /// Opens the log of `node` in `dir`, or begins one.
    pub(crate) fn open(
        dir: &Path,
        node: NodeId,
        snapshots: Option<watch::Receiver<SnapshotProgress>>,
    ) -> Result<Self, WalError> {
        let (replayed, writer) = wal::open(dir, node)?;
        let marks = replayed.marks;
        let vote = marks.vote.map(|vote| without_leadership(vote, node));
        let mut cache = Cache { vote, committed: marks.committed, purged: marks.purged, ..Cache::default() };
        replayed.entries.into_iter().for_each(|entry| cache.push(entry));
        let (sender, receiver) = channel();
        let spawned = thread::Builder::new().name("metadata-log".to_owned()).spawn(move || run(writer, &receiver));
        let thread =
            spawned.map_err(|source| WalError::Io { doing: "start a thread for", path: dir.to_owned(), source })?;
        let (cache, thread) = (Arc::new(RwLock::new(cache)), Arc::new(Mutex::new(Some(thread))));
        Ok(Self { cache, writer: sender, thread, snapshots })
    }

    /// Index of the last entry that is not in the log any more.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.cache().purged.map(|purged| purged.index)
    }

    /// Whether nothing was ever written to it.
    pub(crate) fn is_blank(&self) -> bool {
        let cache = self.cache();
        cache.vote.is_none() && cache.last().is_none()
    }

    /// Bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let cache = self.cache();
        let first = cache.entries.get(cache.place(index.map_or(0, |index| index + 1)));
        first.map_or(0, |first| cache.bytes - first.bytes_before)
    }

    /// Writes what waits, and closes the files.
    pub(crate) fn close(&self) {
        let _ = self.writer.send(Io::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_mut(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Durable when this returns.
    async fn write(&self, op: Op) -> Result<(), StorageError> {
        let (done, wait) = oneshot::channel();
        let is_vote = matches!(op, Op::Vote(_));
        let _ = self.writer.send(Io::Other(op, done));
        let result = wait.await.unwrap_or_else(|_| Err(closed()));
        result.map_err(|error| {
            let io = if is_vote { StorageIOError::write_vote(&error) } else { StorageIOError::write_logs(&error) };
            io.into()
        })
    }

    /// Waits until a durable snapshot holds all entries up to `index`. openraft purges while a snapshot is still being
    /// installed: a crash in between would leave neither.
    async fn wait_for_snapshot(&self, index: u64) -> Result<(), StorageError> {
        let Some(mut snapshots) = self.snapshots.clone() else { return Ok(()) };
        let reached = snapshots.wait_for(|progress| progress.failed || progress.upto >= Some(index)).await;
        match reached {
            Ok(progress) if !progress.failed => Ok(()),
            _ => {
                let error = io::Error::other(format!("no snapshot holds the log up to entry {index}: it is kept"));
                Err(StorageIOError::write_logs(&error).into())
            }
        }
    }
}

/// openraft would resume the leadership in which this node was stopped, in the same term. A term is to have one process
/// that leads, so that what it says without the log (who lives) can be ordered by it. The vote itself binds as before:
/// nobody else has this leader id.
fn without_leadership(vote: Vote, node: NodeId) -> Vote {
    let own = vote.leader_id().voted_for() == Some(raft_id(node));
    Vote { committed: vote.committed && !own, ..vote }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata log is closed")
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.cache().range(from, to).map(|cached| cached.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let cache = self.cache();
        let mut room = None;
        let fits =
            |cached: &&Cached| cached.bytes_before < *room.get_or_insert(cached.bytes_before + REPLICATE_BYTES_MAX);
        Ok(cache.range(start, end).take_while(fits).map(|cached| cached.entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let cache = self.cache();
        Ok(LogState { last_purged_log_id: cache.purged, last_log_id: cache.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.write(Op::Vote(*vote)).await?;
        self.cache_mut().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.cache().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.cache_mut().committed = committed;
        let _ = self.writer.send(Io::Committed(committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.cache().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut cache = self.cache_mut();
            entries.iter().cloned().for_each(|entry| cache.push(entry));
        }
        if let Err(SendError(Io::Append(_, callback))) = self.writer.send(Io::Append(entries, callback)) {
            callback.log_io_completed(Err(closed()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut cache = self.cache_mut();
            let len = cache.place(log_id.index);
            cache.entries.truncate(len);
        }
        self.write(Op::Truncate(log_id)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.wait_for_snapshot(log_id.index).await?;
        {
            let mut cache = self.cache_mut();
            let gone = cache.place(log_id.index + 1);
            cache.entries.drain(..gone);
            cache.purged = cache.purged.max(Some(log_id));
        }
        self.write(Op::Purge(log_id)).await
    }
}

/// The writer's thread: takes what waits, writes it in one go, tells those who wait, in order.
fn run(mut writer: Writer, queue: &Receiver<Io>) {
    let mut committed: Option<Option<LogId>> = None;
    let mut failed: Option<io::Error> = None;
    loop {
        let first = match committed {
            Some(_) => queue.recv_timeout(COMMITTED_DELAY),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut open = !matches!(first, Err(RecvTimeoutError::Disconnected));
        // A committed mark waits for company, but not for ever.
        let is_late = first.is_err();
        let mut batch = Batch::default();
        let waiting = std::iter::from_fn(|| queue.try_recv().ok()).take(BATCH_OPS_MAX);
        for io in first.ok().into_iter().chain(waiting) {
            match io {
                Io::Committed(mark) => committed = Some(mark),
                Io::Close => open = false,
                Io::Append(entries, callback) => batch.add(Op::Append(entries), Waiter::Append(callback)),
                Io::Other(op, done) => batch.add(op, Waiter::Other(done)),
            }
        }
        if !batch.is_empty() || is_late || !open {
            batch.ops.extend(committed.take().map(Op::Committed));
        }
        if !batch.is_empty() && failed.is_none() {
            failed = writer.write(&batch.ops).err();
            if let Some(error) = &failed {
                tracing::error!(%error, "the metadata log cannot be written; this replica stops");
            }
        }
        batch.finish(failed.as_ref());
        if !open {
            return;
        }
    }
}

#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    waiters: Vec<Waiter>,
}

enum Waiter {
    Append(LogFlushed<TypeConfig>),
    Other(oneshot::Sender<io::Result<()>>),
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn add(&mut self, op: Op, waiter: Waiter) {
        self.ops.push(op);
        self.waiters.push(waiter);
    }

    fn finish(self, failed: Option<&io::Error>) {
        let result = || failed.map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())));
        for waiter in self.waiters {
            match waiter {
                Waiter::Append(callback) => callback.log_io_completed(result()),
                Waiter::Other(done) => drop(done.send(result())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::CommittedLeaderId;
    use openraft::storage::RaftLogStorageExt;
    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;
    use crate::raft::types::{Proposal, Proposals};

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        let command = vec![0; bytes].into();
        let payload = EntryPayload::Normal(Proposals(vec![Proposal { request: None, command }]));
        Entry { log_id: log_id(index), payload }
    }

    #[tokio::test]
    async fn nothing_is_purged_that_no_snapshot_holds() {
        let dir = TempDir::new().unwrap();
        let (progress, snapshots) = watch::channel(SnapshotProgress { upto: Some(3), failed: false });
        let mut log = LogStore::open(dir.path(), NodeId(1), Some(snapshots)).unwrap();
        log.blocking_append((0..5).map(|index| entry(index, 10))).await.unwrap();
        log.purge(log_id(3)).await.unwrap();
        // A snapshot of what is ahead of this log is being installed.
        let early = timeout(Duration::from_millis(50), log.purge(log_id(9))).await;
        assert!(early.is_err() && log.purged_index() == Some(3), "purged before the snapshot was durable");
        progress.send_replace(SnapshotProgress { upto: Some(9), failed: false });
        log.purge(log_id(9)).await.unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(9)));
        progress.send_replace(SnapshotProgress { upto: Some(9), failed: true });
        assert!(log.purge(log_id(12)).await.is_err(), "that snapshot will never be");
        log.close();
        assert_eq!(LogStore::open(dir.path(), NodeId(1), None).unwrap().purged_index(), Some(9));
    }

    #[tokio::test]
    async fn messages_to_peers_are_bounded_in_bytes() {
        let dir = TempDir::new().unwrap();
        let mut log = LogStore::open(dir.path(), NodeId(1), None).unwrap();
        log.blocking_append((0..6).map(|index| entry(index, 400_000))).await.unwrap();
        log.blocking_append([entry(6, 3_000_000), entry(7, 10)]).await.unwrap();
        for (from, expected) in [(0, 3), (4, 3), (6, 1), (7, 1)] {
            assert_eq!(log.limited_get_log_entries(from, 8).await.unwrap().len(), expected, "from {from}");
        }
        assert_eq!(log.bytes_after(Some(7)), 0);
        assert!(log.bytes_after(Some(5)) > 3_000_000 && log.bytes_after(Some(6)) < 100);
        assert!(log.bytes_after(None) > 5_400_000);
    }

    #[tokio::test]
    async fn a_leader_that_is_started_again_does_not_lead() {
        let dir = TempDir::new().unwrap();
        let mut log = LogStore::open(dir.path(), NodeId(1), None).unwrap();
        for (node, leads) in [(1, false), (2, true)] {
            log.save_vote(&Vote::new_committed(5, node)).await.unwrap();
            log.close();
            log = LogStore::open(dir.path(), NodeId(1), None).unwrap();
            assert_eq!(log.read_vote().await.unwrap().map(|vote| vote.committed), Some(leads));
        }
    }

    #[tokio::test]
    async fn after_a_failure_nothing_is_confirmed() {
        let dir = TempDir::new().unwrap();
        let mut log = LogStore::open(dir.path(), NodeId(1), None).unwrap();
        log.close();
        assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
        assert!(log.blocking_append([entry(0, 10)]).await.is_err());
    }
}
