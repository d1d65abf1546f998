//! The thread that appends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flush_thread::FlushJobs;
use super::queue::{PanicGuard, Queue, Taken};
use super::{CommitConfig, CommitSink, ShardFailed};
use crate::counters::SyncReason;
use crate::entry::{Entry, EntrySeq};
use crate::log::{AppendError, SegmentLog};
use crate::segment::Position;
use crate::shared::Shared;
use crate::space::Space;

/// With this many times the write cache's bytes not durable, writing waits for the disk.
const CACHE_OVERRUN: u64 = 4;

/// While writing is held up, how often it is looked whether it may go on.
const HOLD_TIME: Duration = Duration::from_millis(2);

pub(super) struct CommitThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    log: SegmentLog,
    sink: Box<dyn CommitSink>,
    config: CommitConfig,
    flush: FlushJobs,
    /// What is written and not durable, oldest first.
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: u64,
    durable: EntrySeq,
    /// When the last entries came, until the log notes how far it is durable.
    unmarked_since: Option<Instant>,
    failed: Option<ShardFailed>,
}

struct Unsynced {
    end: Position,
    last_seq: EntrySeq,
    bytes: u64,
    since: Instant,
}

impl std::fmt::Debug for CommitThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitThread").field("durable", &self.durable).finish_non_exhaustive()
    }
}

impl CommitThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        log: SegmentLog,
        sink: Box<dyn CommitSink>,
        config: CommitConfig,
        flush: FlushJobs,
    ) -> Self {
        Self {
            shared,
            queue,
            log,
            sink,
            config,
            flush,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            durable: EntrySeq::default(),
            unmarked_since: None,
            failed: None,
        }
    }

    pub(super) fn run(mut self) -> Self {
        let queue = Arc::clone(&self.queue);
        let _guard = PanicGuard(&queue);
        let mut spare = Vec::new();
        loop {
            let hold = self.shared.overlay().bytes() > self.shared.config.unindexed_bytes_max;
            let look_again = hold.then(|| Instant::now() + HOLD_TIME);
            let mut taken = self.queue.take(spare, look_again.or_else(|| self.deadline()), hold);
            let closed = taken.closed;
            if let Err(failed) = self.turn(&mut taken, hold) {
                self.fail(failed);
                break;
            }
            if closed {
                break;
            }
            spare = taken.entries;
            spare.clear();
        }
        self.flush.close();
        self.queue.drained();
        self
    }

    /// One turn: what the flush thread did, what others want done, the next group, its sync.
    fn turn(&mut self, taken: &mut Taken, hold: bool) -> Result<(), ShardFailed> {
        if let Some(failed) = taken.failed.take() {
            return Err(failed);
        }
        self.note_durable();
        taken.jobs.drain(..).for_each(|job| job(&mut self.log));
        if !taken.entries.is_empty() {
            self.append(&taken.entries, taken.last_seq)?;
        }
        let asked = taken.sync_upto > self.durable && !self.unsynced.is_empty();
        if asked {
            self.sync(SyncReason::Asked)?;
        } else if taken.closed {
            self.sync(SyncReason::Internal)?;
        } else if hold && !self.unsynced.is_empty() {
            // Only what is durable is indexed, and there is too much that is not.
            self.sync(SyncReason::Bytes)?;
        }
        self.flush_if_due()?;
        self.mark_if_idle()
    }

    fn append(&mut self, entries: &[Entry], last_seq: EntrySeq) -> Result<(), ShardFailed> {
        let bytes: usize = entries.iter().map(Space::needed).sum();
        self.log.append(entries).map_err(|error| match error {
            AppendError::Failed(failed) => failed,
            AppendError::NoSpace | AppendError::TooLong { .. } => {
                ShardFailed("an entry was submitted for which no space was reserved".to_owned())
            }
        })?;
        self.queue.written(bytes);
        let (end, bytes, since) = (self.log.position(), bytes as u64, Instant::now());
        self.unsynced_bytes += bytes;
        self.unsynced.push_back(Unsynced { end, last_seq, bytes, since });
        self.unmarked_since = Some(since);
        self.sink.written(last_seq);
        // Going on in another segment made the one before durable.
        self.note_durable();
        Ok(())
    }

    fn sync(&mut self, reason: SyncReason) -> Result<(), ShardFailed> {
        self.log.sync(reason)?;
        self.note_durable();
        Ok(())
    }

    /// Tells the sink what became durable.
    fn note_durable(&mut self) {
        let (durable, before) = (self.shared.durable(), self.durable);
        while let Some(oldest) = self.unsynced.front().filter(|oldest| oldest.end <= durable) {
            self.durable = oldest.last_seq;
            self.unsynced_bytes -= oldest.bytes;
            self.unsynced.pop_front();
        }
        if self.durable > before {
            self.sink.durable(self.durable);
            self.queue.wake_upkeep();
        }
    }

    /// When what is written and not durable is to be flushed.
    fn flush_at(&self, oldest: &Unsynced) -> Instant {
        let latest = oldest.since + self.config.cache_age_max;
        latest.min(self.flush.rested_at().max(oldest.since))
    }

    /// Has the write cache flushed if it is time, or if it is full. If the disk cannot follow, waits for it.
    fn flush_if_due(&mut self) -> Result<(), ShardFailed> {
        let Some(oldest) = self.unsynced.front() else { return Ok(()) };
        let reason = if self.unsynced_bytes >= self.config.cache_bytes_max {
            SyncReason::Bytes
        } else if Instant::now() >= self.flush_at(oldest) {
            SyncReason::Age
        } else {
            return Ok(());
        };
        if self.unsynced_bytes >= CACHE_OVERRUN * self.config.cache_bytes_max {
            return self.sync(reason);
        }
        self.flush.begin(self.log.active(), self.log.position(), reason);
        Ok(())
    }

    fn mark_if_idle(&mut self) -> Result<(), ShardFailed> {
        if self.unsynced.is_empty()
            && self.unmarked_since.is_some_and(|since| since.elapsed() >= self.config.mark_after)
        {
            self.unmarked_since = None;
            if let Err(AppendError::Failed(failed)) = self.log.mark() {
                return Err(failed);
            }
        }
        Ok(())
    }

    /// When to wake up if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        match self.unsynced.front() {
            // The flush thread wakes this one when it is done.
            Some(_) if self.flush.is_busy() => None,
            Some(oldest) => Some(self.flush_at(oldest)),
            None => self.unmarked_since.map(|since| since + self.config.mark_after),
        }
    }

    fn fail(&mut self, failed: ShardFailed) {
        tracing::error!(shard = %self.shared.identity.shard, %failed, "the shard stops");
        self.log.fail(failed.clone());
        self.queue.fail(failed.clone());
        self.sink.failed(&failed);
        self.failed = Some(failed);
    }

    pub(super) fn failed(&self) -> Result<(), ShardFailed> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn into_log(self) -> SegmentLog {
        self.log
    }
}
