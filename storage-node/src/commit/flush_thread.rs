//! The thread that syncs what nobody waits for.
//!
//! Through a file handle of its own: the kernel tells an error of writing back once per handle, so that a sync here can
//! never swallow an error that a sync of the commit thread must see, nor the other way round.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::ShardFailed;
use super::queue::{PanicGuard, Queue};
use crate::counters::SyncReason;
use crate::disk::DiskFile;
use crate::segment::file::Segment;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// Where the commit thread leaves what is to be flushed.
#[derive(Debug, Clone, Default)]
pub(super) struct FlushJobs {
    slot: Arc<(Mutex<Slot>, Condvar)>,
}

#[derive(Debug, Default)]
struct Slot {
    job: Option<FlushJob>,
    busy: bool,
    closed: bool,
}

#[derive(Debug, Clone)]
struct FlushJob {
    segment: Arc<Segment>,
    upto: Position,
    reason: SyncReason,
}

impl FlushJobs {
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

    fn done(&self) {
        self.slot().busy = false;
    }
}

pub(super) struct FlushThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    jobs: FlushJobs,
    file: Option<(SegmentId, Box<dyn DiskFile>)>,
}

impl FlushThread {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue>) -> Self {
        Self { shared, queue, jobs: FlushJobs::default(), file: None }
    }

    pub(super) fn jobs(&self) -> FlushJobs {
        self.jobs.clone()
    }

    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let _guard = PanicGuard(&queue);
        while let Some(job) = self.jobs.next() {
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
            self.jobs.done();
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
