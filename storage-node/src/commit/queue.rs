//! What waits for the commit thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{ReserveRefused, ShardFailed, SubmitRefused};
use crate::entry::{Entry, EntrySeq};
use crate::log::SegmentLog;
use crate::space::Space;

/// Something to be done by the commit thread, between groups.
pub(super) type Job = Box<dyn FnOnce(&mut SegmentLog) + Send>;

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The commit thread waits here.
    wake: Condvar,
    /// The upkeep thread waits here, with the same lock.
    upkeep: Condvar,
    reserved_bytes: AtomicUsize,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// Of the last entry.
    last_seq: EntrySeq,
    /// Highest that asked to be synced.
    sync_upto: EntrySeq,
    jobs: Vec<Job>,
    /// Something happened that the commit thread should look at.
    is_woken: bool,
    upkeep_is_woken: bool,
    failed: Option<ShardFailed>,
    closing: bool,
    /// The commit thread is done.
    drained: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("entries", &self.entries.len())
            .field("last_seq", &self.last_seq)
            .finish_non_exhaustive()
    }
}

/// Takes the shard out of service if its thread panics.
pub(super) struct PanicGuard<'q>(pub(super) &'q Queue);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(ShardFailed("a thread of the shard panicked".to_owned()));
        }
    }
}

/// What the commit thread has to do.
pub(super) struct Taken {
    pub(super) entries: Vec<Entry>,
    pub(super) last_seq: EntrySeq,
    pub(super) sync_upto: EntrySeq,
    pub(super) jobs: Vec<Job>,
    /// Nothing will come any more.
    pub(super) closed: bool,
    pub(super) failed: Option<ShardFailed>,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            upkeep: Condvar::new(),
            reserved_bytes: AtomicUsize::new(0),
            bytes_max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserve(&self, entry: &Entry, space: &Space) -> Result<(), ReserveRefused> {
        let needed = Space::needed(entry);
        let queued = self.reserved_bytes.fetch_add(needed, Ordering::AcqRel);
        let refused =
            if queued >= self.bytes_max { Err(ReserveRefused::Overloaded { queued }) } else { space.reserve(entry) };
        if refused.is_err() {
            self.written(needed);
        }
        if refused == Err(ReserveRefused::NotReady) {
            self.wake_upkeep();
        }
        refused
    }

    pub(super) fn unreserve(&self, entry: &Entry, space: &Space) {
        self.written(Space::needed(entry));
        space.unreserve(entry);
    }

    /// So many reserved bytes do not wait any more.
    pub(super) fn written(&self, bytes: usize) {
        self.reserved_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(super) fn push(&self, entries: impl IntoIterator<Item = Entry>, sync: bool) -> Result<EntrySeq, SubmitRefused> {
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone().into());
        }
        if state.closing {
            return Err(SubmitRefused::Closed);
        }
        let before = state.entries.len();
        state.entries.extend(entries);
        state.last_seq.0 += (state.entries.len() - before) as u64;
        if sync {
            state.sync_upto = state.last_seq;
        }
        let seq = state.last_seq;
        let first = before == 0;
        drop(state);
        if first {
            self.wake.notify_one();
        }
        Ok(seq)
    }

    /// Has the commit thread do something between groups. `false` if it is gone.
    pub(super) fn run(&self, job: Job) -> bool {
        let mut state = self.state();
        if state.drained || state.failed.is_some() {
            return false;
        }
        state.jobs.push(job);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Has the commit thread look at what is durable.
    pub(super) fn wake_commit(&self) {
        self.state().is_woken = true;
        self.wake.notify_one();
    }

    pub(super) fn wake_upkeep(&self) {
        self.state().upkeep_is_woken = true;
        self.upkeep.notify_one();
    }

    pub(super) fn fail(&self, failed: ShardFailed) {
        self.state().failed.get_or_insert(failed);
        self.wake.notify_one();
        self.upkeep.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().closing = true;
        self.wake.notify_one();
    }

    /// The commit thread is done. Whoever waits for a job that it did not come to is told by the job's end.
    pub(super) fn drained(&self) {
        let mut state = self.state();
        state.drained = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop(jobs);
        self.upkeep.notify_one();
    }

    /// Waits until there is something to do or it is `deadline`. `spare` becomes the queue's buffer. Entries stay where they
    /// are while `hold` is set.
    pub(super) fn take(&self, spare: Vec<Entry>, deadline: Option<Instant>, hold: bool) -> Taken {
        debug_assert!(spare.is_empty(), "a buffer to be filled");
        let mut state = self.state();
        loop {
            let has_work = state.is_woken
                || (!state.entries.is_empty() && !hold)
                || !state.jobs.is_empty()
                || state.failed.is_some()
                || state.closing;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if has_work || left.is_some_and(|left| left.is_zero()) {
                break;
            }
            state = match left {
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.is_woken = false;
        let entries = if hold { spare } else { std::mem::replace(&mut state.entries, spare) };
        Taken {
            entries,
            last_seq: state.last_seq,
            sync_upto: state.sync_upto,
            jobs: std::mem::take(&mut state.jobs),
            closed: state.closing && state.entries.is_empty(),
            failed: state.failed.clone(),
        }
    }

    /// Waits until the upkeep thread is woken or the time is over. `false` if it should end.
    pub(super) fn wait_for_upkeep(&self, time: Duration) -> bool {
        let state = self.state();
        let is_idle = |state: &mut State| !state.upkeep_is_woken && !state.drained && state.failed.is_none();
        let (mut state, _) =
            self.upkeep.wait_timeout_while(state, time, is_idle).unwrap_or_else(PoisonError::into_inner);
        state.upkeep_is_woken = false;
        !state.drained && state.failed.is_none()
    }
}
