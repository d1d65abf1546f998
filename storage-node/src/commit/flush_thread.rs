//! The thread that syncs what nobody waits for.
//!
//! Readers do wait for it: what is not durable is not released. So an idle shard starts at once, and a busy one after a rest in
//! which more gathers: at least [`CommitConfig::cache_rest_min`](super::CommitConfig::cache_rest_min), and so long that syncs take a
//! fifth of the time. A disk so slow that this would be longer than `cache_age_max` gets no more than that.
//!
//! Through a file handle of its own: the kernel tells an error of writing back once per handle, so that a sync here can
//! never swallow an error that a sync of the commit thread must see, nor the other way round.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ShardFailed;
use super::queue::{PanicGuard, Queue};
use crate::counters::SyncReason;
use crate::disk::DiskFile;
use crate::segment::file::Segment;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// A rest is so many times as long as the sync before it.
const REST_TIMES: u32 = 4;

/// Where the commit thread leaves what is to be flushed.
#[derive(Debug, Clone)]
pub(super) struct FlushJobs {
    slot: Arc<(Mutex<Slot>, Condvar)>,
    rest_min: Duration,
}

#[derive(Debug)]
struct Slot {
    job: Option<FlushJob>,
    busy: bool,
    closed: bool,
    /// When the next flush may begin, if nothing asks for it sooner.
    rested_at: Instant,
}

#[derive(Debug, Clone)]
struct FlushJob {
    segment: Arc<Segment>,
    upto: Position,
    reason: SyncReason,
}

impl FlushJobs {
    fn new(rest_min: Duration) -> Self {
        let slot = Slot { job: None, busy: false, closed: false, rested_at: Instant::now() + rest_min };
        Self { slot: Arc::new((Mutex::new(slot), Condvar::new())), rest_min }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everything up to here synced, unless a flush is under way: then its end is soon enough to look again.
    pub(super) fn begin(&self, segment: &Arc<Segment>, upto: Position, reason: SyncReason) {
        let mut slot = self.slot();
        if !slot.busy {
            slot.busy = true;
            slot.job = Some(FlushJob { segment: Arc::clone(segment), upto, reason });
            self.slot.1.notify_one();
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.slot().busy
    }

    /// When the next flush may begin, if nothing asks for it sooner.
    pub(super) fn rested_at(&self) -> Instant {
        self.slot().rested_at
    }

    pub(super) fn close(&self) {
        self.slot().closed = true;
        self.slot.1.notify_one();
    }

    fn next(&self) -> Option<FlushJob> {
        let slot = self.slot();
        let is_idle = |slot: &mut Slot| slot.job.is_none() && !slot.closed;
        let mut slot = self.slot.1.wait_while(slot, is_idle).unwrap_or_else(PoisonError::into_inner);
        slot.job.take()
    }

    fn done(&self, took: Duration) {
        let mut slot = self.slot();
        slot.busy = false;
        slot.rested_at = Instant::now() + self.rest_min.max(took * REST_TIMES);
    }
}

pub(super) struct FlushThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    jobs: FlushJobs,
    file: Option<(SegmentId, Box<dyn DiskFile>)>,
}

impl FlushThread {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue>, rest_min: Duration) -> Self {
        Self { shared, queue, jobs: FlushJobs::new(rest_min), file: None }
    }

    pub(super) fn jobs(&self) -> FlushJobs {
        self.jobs.clone()
    }

    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let _guard = PanicGuard(&queue);
        while let Some(job) = self.jobs.next() {
            let begun = Instant::now();
            match self.sync(&job) {
                Ok(()) => {
                    self.shared.counters.sync(job.reason);
                    self.shared.note_durable(job.upto);
                }
                Err(error) => {
                    let segment = job.segment.id;
                    self.queue.fail(ShardFailed(format!("sync of segment {segment} failed: {error}")));
                }
            }
            self.jobs.done(begun.elapsed());
            self.queue.wake_commit();
        }
    }

    /// A handle that was opened after a write failed to be written back is told so too, as long as nobody was.
    fn sync(&mut self, job: &FlushJob) -> std::io::Result<()> {
        let id = job.segment.id;
        if self.file.as_ref().is_none_or(|(open, _)| *open != id) {
            self.file = Some((id, self.shared.disk.open(&id.file_name())?));
        }
        self.file.as_ref().expect("just opened").1.sync()
    }
}
