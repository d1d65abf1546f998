//! Group commit: a shard on its threads.
//!
//! - The *commit* thread takes everything that is queued, appends it, and syncs once for all that asked for it. While it
//!   does, more is queued: that is the next group. An idle shard starts at once.
//! - The *flush* thread syncs what no append waits for: at once if it has rested, else when it has, or when the write cache is at
//!   a bound. Appending goes on meanwhile.
//! - The *upkeep* thread keeps the index up, makes the next segment ready and frees dead ones; and what is left of its time and
//!   of a budget goes into rewriting segments and looking for damage.
//!
//! What became of entries is told to one [`CommitSink`], by the commit thread alone.
//!
//! Bounds: what waits to be written is counted in bytes and refused when it is reserved; what is written and not indexed
//! holds the commit thread up.

mod budget;
mod commit_thread;
mod flush_thread;
mod queue;
mod upkeep_thread;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use dlog_proto::PartitionUid;

use self::commit_thread::CommitThread;
use self::flush_thread::FlushThread;
use self::queue::Queue;
use self::upkeep_thread::UpkeepThread;
use crate::counters::CounterValues;
use crate::engine::{CloseError, Engine};
use crate::entry::{Entry, EntrySeq, Marks};
use crate::read::Reader;
use crate::recovery::Loss;
use crate::shared::Shared;

/// Told by the commit thread how far it is. Calls come in order; `upto` never falls.
pub trait CommitSink: Send + 'static {
    /// All entries up to this one would survive the process and can be read.
    fn written(&mut self, upto: EntrySeq);
    /// All entries up to this one would survive the machine.
    fn durable(&mut self, upto: EntrySeq);
    /// The shard is out of service for good: nothing more becomes written or durable.
    fn failed(&mut self, error: &ShardFailed);
}

/// Why a shard takes no more entries until its process is started again: a write or a sync failed, and what the disk has
/// then is not known; or its index is damaged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("shard out of service: {0}")]
pub struct ShardFailed(pub String);

/// Why an entry is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitRefused {
    #[error(transparent)]
    Failed(#[from] ShardFailed),
    #[error("the shard is closed")]
    Closed,
}

/// Why there is no room for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveRefused {
    /// Stores come faster than the disk takes them.
    #[error("{queued} bytes wait to be written already: retry later")]
    Overloaded { queued: usize },
    /// The disk is full. Trim, wait for retention, or add space: the shard goes on by itself then.
    #[error("no space left on the disk")]
    NoSpace,
    /// The next segment is still being prepared.
    #[error("space is being prepared: retry in a few milliseconds")]
    NotReady,
    #[error("an entry of {len} bytes is over the limit of {max}")]
    TooLong { len: usize, max: usize },
}

/// Bounds of a running shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitConfig {
    /// Bytes that may be reserved and not written yet.
    pub queue_bytes_max: usize,
    /// The oldest entry that is written and not durable is at most this old when its sync begins.
    pub cache_age_max: Duration,
    /// Unless the disk is slow, it begins sooner: this long after the last one ended. An idle shard starts at once.
    pub cache_rest_min: Duration,
    /// And so many bytes are at most not durable when it does.
    pub cache_bytes_max: u64,
    /// After this time without entries the log notes how far it is durable.
    pub mark_after: Duration,
    /// How often dead segments are looked for.
    pub reclaim_every: Duration,
    /// Bytes that may be read and written in a second to rewrite segments and to look for damage; 0 for neither.
    pub background_bytes_per_second: u32,
    /// Time between two rounds of looking for damage.
    pub scrub_every: Duration,
}

impl Default for CommitConfig {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            cache_age_max: Duration::from_millis(250),
            cache_rest_min: Duration::from_millis(1),
            cache_bytes_max: 64 << 20,
            mark_after: Duration::from_millis(100),
            reclaim_every: Duration::from_secs(10),
            background_bytes_per_second: 32 << 20,
            scrub_every: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Handle to a running shard; cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Committer {
    /// Takes space for an entry before it is admitted. Every entry that is submitted was reserved.
    pub fn reserve(&self, entry: &Entry) -> Result<(), ReserveRefused> {
        self.queue.reserve(entry, &self.shared.space)
    }

    /// Gives back what was reserved for an entry that is not submitted after all.
    pub fn unreserve(&self, entry: &Entry) {
        self.queue.unreserve(entry, &self.shared.space);
    }

    /// Queues an entry. With `sync` it becomes durable as soon as can be, otherwise within the write cache's bounds.
    pub fn submit(&self, entry: Entry, sync: bool) -> Result<EntrySeq, SubmitRefused> {
        self.queue.push([entry], sync)
    }

    /// Queues entries together. Gives the number of the last; `None` if there are none.
    pub fn submit_all(&self, entries: Vec<Entry>, sync: bool) -> Result<EntrySeq, SubmitRefused> {
        self.queue.push(entries, sync)
    }

    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Notes marks that no entry tells. They may be lost.
    pub fn note_marks(&self, partition: PartitionUid, marks: &Marks) {
        self.shared.note_hint(partition, marks);
    }

    /// Forgets these of the [losses](Reader::losses), some time soon: what may be missing is on record elsewhere. Until then
    /// every start tells of them.
    pub fn forget_losses(&self, losses: Vec<Loss>) {
        self.shared.ask_to_forget_losses(losses);
        self.queue.wake_upkeep();
    }

    pub fn counters(&self) -> CounterValues {
        self.shared.counters.values()
    }
}

/// A running shard's threads.
#[derive(Debug)]
pub struct Running {
    queue: Arc<Queue>,
    commit: JoinHandle<CommitThread>,
    flush: JoinHandle<()>,
    upkeep: JoinHandle<UpkeepThread>,
    engine: EngineRest,
}

/// What no thread needs while the shard runs.
#[derive(Debug)]
struct EngineRest {
    shared: Arc<Shared>,
    stop: Arc<crate::engine::CleanStop>,
}

impl Engine {
    /// Starts the shard's threads.
    pub fn start(self, sink: Box<dyn CommitSink>, config: CommitConfig) -> (Committer, Running) {
        let Self { shared, log, upkeep, stop, .. } = self;
        let (queue, stop) = (Arc::new(Queue::new(config.queue_bytes_max)), Arc::new(stop));
        let name = |role: &str| format!("{role}-{}", shared.identity.shard);
        let spawn = |role| std::thread::Builder::new().name(name(role));
        let flush_thread = FlushThread::new(Arc::clone(&shared), Arc::clone(&queue), config.cache_rest_min);
        let flush_jobs = flush_thread.jobs();
        let flush = spawn("flush").spawn(move || flush_thread.run()).expect("threads can be started");
        let commit_thread = CommitThread::new(Arc::clone(&shared), Arc::clone(&queue), log, sink, config, flush_jobs);
        let commit = spawn("commit").spawn(move || commit_thread.run()).expect("threads can be started");
        let upkeep_thread =
            UpkeepThread::new(Arc::clone(&shared), Arc::clone(&queue), upkeep, Arc::clone(&stop), config);
        let upkeep = spawn("upkeep").spawn(move || upkeep_thread.run()).expect("threads can be started");
        let committer = Committer { shared: Arc::clone(&shared), queue: Arc::clone(&queue) };
        (committer, Running { queue, commit, flush, upkeep, engine: EngineRest { shared, stop } })
    }
}

impl Running {
    /// Writes what is queued, makes everything durable, and leaves the directory so that the next start has nothing to do.
    pub fn close(self) -> Result<(), CloseError> {
        self.queue.close();
        // A thread that panicked left a shard that is not closed properly: the next start recovers it.
        let panicked = |_| ShardFailed("a thread of the shard panicked".to_owned());
        let commit = self.commit.join().map_err(panicked)?;
        self.flush.join().map_err(panicked)?;
        let upkeep = self.upkeep.join().map_err(panicked)?;
        drop(self.engine.shared);
        commit.failed()?;
        let (log, upkeep) = (commit.into_log(), upkeep.into_upkeep());
        let stop = Arc::into_inner(self.engine.stop).expect("the threads are gone");
        Engine::of_parts(log, upkeep, stop).close()
    }
}
