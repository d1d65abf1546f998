//! Clients at work: writers, readers that follow, and who asks for the tail. What they do and see goes into the history.

mod follower;
pub(crate) mod record;
mod tail;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dlog_client::{Client, ClientError, Position, ReadItem};
use dlog_proto::{LogId, Lsn};
use tokio::sync::watch;

pub(crate) use follower::Follower;
pub(crate) use tail::TailAsker;
pub(crate) use writer::Writer;

use crate::history::{At, History, Reading, Seen};

/// What is kept of a run at most, in events; then writers stop. An event takes some 50 bytes.
pub(crate) const EVENTS_MAX: usize = 4_000_000;

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Work,
    /// Writers stop; readers go on.
    Drain,
    /// All stop.
    End,
}

/// What clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) log: LogId,
    pub(crate) partitions: u32,
    pub(crate) seed: u64,
    pub(crate) phase: watch::Sender<Phase>,
    began: Instant,
    history: Mutex<History>,
}

impl Shared {
    pub(crate) fn new(log: LogId, partitions: u32, seed: u64) -> Arc<Self> {
        let (phase, history) = (watch::Sender::new(Phase::Work), Mutex::default());
        Arc::new(Self { log, partitions, seed, phase, began: Instant::now(), history })
    }

    pub(crate) fn now(&self) -> At {
        At(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this phase, or a later one, has begun.
    async fn reaches(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// What a reader was given, as the history has it.
    fn seen(&self, item: ReadItem) -> Result<Seen, String> {
        match item {
            ReadItem::Record(read) => {
                let record = read.value.as_deref().and_then(|value| record::parse(self.seed, value));
                Ok(Seen { at: self.now(), lsn: read.lsn, offset: read.offset.0, record })
            }
            ReadItem::Gap { from, to, reason } => Err(format!("{from} to {to}: {reason:?}")),
        }
    }

    /// Reads from a place to another, excluded.
    pub(crate) async fn read_between(
        &self,
        client: &Client,
        (reader, partition): (u32, u32),
        from: Lsn,
        until: Lsn,
    ) -> Result<Reading, ClientError> {
        let end = Some(Position::Lsn(until));
        let mut items = client.reader(&self.log, partition, Position::Lsn(from), end).await?;
        let mut reading = Reading { reader, partition, from, until: None, seen: Vec::new(), complaints: Vec::new() };
        while let Some(item) = items.next().await? {
            match self.seen(item) {
                Ok(seen) => reading.seen.push(seen),
                Err(gap) => reading.complaints.push(gap),
            }
        }
        reading.until = Some(until);
        Ok(reading)
    }
}

/// The outcome, or nothing if it takes too long.
async fn in_time<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, ClientError>>,
) -> Option<Result<T, ClientError>> {
    tokio::time::timeout(patience, asked).await.ok()
}
