//! The thread that keeps the index up, makes segments ready and frees them.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlog_proto::clock::now_ms;

use super::budget::Budget;
use super::queue::{PanicGuard, Queue};
use super::{CommitConfig, ShardFailed};
use crate::engine::{BACKGROUND_STEP_LEN, CleanStop, UpkeepError};
use crate::index::kv::KvError;
use crate::log::SegmentLog;
use crate::reclaim::{LogJob, Reclaim};
use crate::shared::Shared;
use crate::upkeep::Upkeep;

/// How long it sleeps if nobody wakes it.
const TICK: Duration = Duration::from_millis(100);
/// When there is nothing to do in the background, this long nothing is looked for.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct UpkeepThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    upkeep: Upkeep,
    stop: Arc<CleanStop>,
    config: CommitConfig,
    /// Bytes that may be read and written in the background now.
    budget: Budget,
    /// Until then nothing is looked for that could be done in the background.
    rest_until: Instant,
}

impl UpkeepThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        upkeep: Upkeep,
        stop: Arc<CleanStop>,
        config: CommitConfig,
    ) -> Self {
        let now = Instant::now();
        let budget = Budget::new(config.background_bytes_per_second, now);
        Self { shared, queue, upkeep, stop, config, budget, rest_until: now }
    }

    pub(super) fn run(mut self) -> Self {
        let queue = Arc::clone(&self.queue);
        let _guard = PanicGuard(&queue);
        let mut reclaimed = Instant::now();
        while self.queue.wait_for_upkeep(TICK) {
            let due = reclaimed.elapsed() >= self.config.reclaim_every;
            if due {
                reclaimed = Instant::now();
            }
            if let Err(error) = self.turn(due) {
                self.fail(&error);
                break;
            }
        }
        self
    }

    fn turn(&mut self, reclaim: bool) -> Result<(), UpkeepError> {
        let now = now_ms();
        if self.shared.kv.has_failed() {
            return Err(KvError("it failed while it was read".to_owned()).into());
        }
        self.upkeep.prepare(now)?;
        self.upkeep.fill()?;
        while self.upkeep.index()? {
            self.upkeep.prepare(now)?;
            self.upkeep.fill()?;
        }
        if self.upkeep.trim()? {
            // There may be more: the log comes first.
            self.queue.wake_upkeep();
        }
        let with_log = &mut |job| on_commit_thread(&self.queue, job);
        let known = self.shared.take_forget_losses();
        if !known.is_empty() {
            Reclaim::new(&self.shared, &mut self.upkeep).forget_losses(&known, with_log)?;
        }
        if reclaim {
            Reclaim::new(&self.shared, &mut self.upkeep).run(with_log)?;
        }
        self.background()
    }

    /// One step of what can wait.
    fn background(&mut self) -> Result<(), UpkeepError> {
        let now = Instant::now();
        self.upkeep.rest(self.budget.earn(now));
        if self.budget.is_spent() || now < self.rest_until {
            return Ok(());
        }
        let done = match self.upkeep.rewrite(BACKGROUND_STEP_LEN)? {
            Some(bytes) => Some(bytes),
            None => self.upkeep.scrub(BACKGROUND_STEP_LEN, self.config.scrub_every)?,
        };
        if let Some(bytes) = done {
            self.budget.spend(bytes);
            if !self.budget.is_spent() {
                // There is more: the other work is looked after first.
                self.queue.wake_upkeep();
            }
        } else {
            self.rest_until = now + REST;
        }
        Ok(())
    }

    /// Takes the shard out of service. A damaged index is made again by the next start.
    fn fail(&self, error: &UpkeepError) {
        if let UpkeepError::Index(index) = error
            && !index.is_full_disk()
            && let Err(error) = self.stop.rebuild_index()
        {
            tracing::error!(%error, "cannot note that the index is damaged");
        }
        self.queue.fail(ShardFailed(error.to_string()));
    }

    pub(super) fn into_upkeep(self) -> Upkeep {
        self.upkeep
    }
}

/// Does something with the log and waits for it.
fn on_commit_thread(queue: &Queue, job: LogJob) -> Result<(), UpkeepError> {
    let (answer, answered) = mpsc::channel();
    let gone = || UpkeepError::Failed(ShardFailed("the shard stops".to_owned()));
    let job = Box::new(move |log: &mut SegmentLog| drop(answer.send(job(log))));
    if !queue.run(job) {
        return Err(gone());
    }
    answered.recv().map_err(|_| gone())?
}
