//! A writer: numbered records to every partition at a pace, many on their way at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dlog_client::{Ack, AppendFailure, AppendOptions, Appended, Appender, Client, Record};
use dlog_proto::PartitionId;
use dlog_proto::clock::every;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{EVENTS_MAX, Phase, Shared, record};
use crate::history::{Append, Outcome, RecordId};

/// Records of one key that have no outcome yet; a writer then waits.
const IN_FLIGHT_MAX: usize = 200;
/// How long a record of an impatient writer may take. Then nobody knows whether it is stored.
const IMPATIENCE: Duration = Duration::from_millis(1500);

pub(crate) struct Writer {
    pub(crate) number: u16,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    /// Between two records.
    pub(crate) pace: Duration,
    /// Gives up soon, so that there are appends whose outcome nobody knows.
    pub(crate) is_impatient: bool,
}

/// A record on its way, and its place in the history.
type OnItsWay = (usize, RecordId, Ack);

impl Writer {
    /// Until the phase of work is over and everything has its outcome.
    pub(crate) async fn run(self) -> Result<(), String> {
        let failed = |error| format!("writer {} has no appender: {error}", self.number);
        let mut options = AppendOptions::default();
        if self.is_impatient {
            options.delivery_timeout = IMPATIENCE;
        }
        let appender = Arc::new(self.client.appender(&self.shared.log, options).await.map_err(failed)?);
        let mut keys = Vec::new();
        let mut waiting = JoinSet::new();
        for _ in 0..self.shared.partitions {
            let (sent, on_their_way) = mpsc::channel(IN_FLIGHT_MAX);
            waiting.spawn(note_outcomes(self.shared.clone(), on_their_way));
            keys.push((0, sent));
        }
        let mut pace = every(self.pace);
        let mut rng = fastrand::Rng::with_seed(self.shared.seed ^ u64::from(self.number));
        while !self.shared.is(Phase::Drain) {
            pace.tick().await;
            let partition = rng.u32(0..self.shared.partitions);
            let (next, sent) = &mut keys[partition as usize];
            // A partition that does not take records now keeps nobody from writing to others.
            let Ok(place) = sent.try_reserve() else { continue };
            let record = RecordId { partition, writer: self.number, number: *next };
            *next += 1;
            match self.append(&appender, record).await {
                Some(on_its_way) => place.send(on_its_way),
                None => break,
            }
        }
        drop(keys);
        while waiting.join_next().await.is_some() {}
        Ok(())
    }

    /// `None`: the history is full.
    async fn append(&self, appender: &Appender, record: RecordId) -> Option<OnItsWay> {
        let value = record::value(self.shared.seed, record);
        let at = {
            let mut history = self.shared.history();
            if history.events() >= EVENTS_MAX {
                return None;
            }
            history.appends.push(Append { record, invoked: self.shared.now(), outcome: Outcome::Pending });
            history.appends.len() - 1
        };
        let key = format!("w{}", self.number);
        let to = Record {
            partition: Some(PartitionId(record.partition)),
            key: Some(key.as_bytes()),
            value: Some(&value),
            ..Record::default()
        };
        let ack = appender.append(to).await.expect("the partition exists");
        Some((at, record, ack))
    }
}

/// Of one key, in the order in which its records were appended.
async fn note_outcomes(shared: Arc<Shared>, mut sent: mpsc::Receiver<OnItsWay>) {
    let mut waiting: VecDeque<OnItsWay> = VecDeque::new();
    loop {
        tokio::select! {
            next = sent.recv() => match next {
                Some(next) => {
                    waiting.push_back(next);
                    note_early(&shared, &waiting);
                }
                None => break,
            },
            outcome = first(&mut waiting) => note(&shared, &mut waiting, outcome),
        }
    }
    while !waiting.is_empty() {
        let outcome = first(&mut waiting).await;
        note(&shared, &mut waiting, outcome);
    }
}

async fn first(waiting: &mut VecDeque<OnItsWay>) -> Result<Appended, AppendFailure> {
    match waiting.front_mut() {
        Some((.., ack)) => ack.await,
        None => std::future::pending().await,
    }
}

/// Whether the one before the newest was acknowledged, and the oldest was not: the newest is looked at first.
fn note_early(shared: &Shared, waiting: &VecDeque<OnItsWay>) {
    let [Some(late), Some(early)] = [waiting.front(), waiting.iter().rev().nth(1)] else { return };
    if matches!(early.2.now(), Some(Ok(_))) && late.2.now().is_none() {
        shared.history().early_acks.push((early.1, late.1));
    }
}

fn note(shared: &Shared, waiting: &mut VecDeque<OnItsWay>, outcome: Result<Appended, AppendFailure>) {
    let Some((place, ..)) = waiting.pop_front() else { return };
    let at = shared.now();
    let outcome = match outcome {
        Ok(Appended { lsn, offset, .. }) => Outcome::Acknowledged { at, lsn, offset: offset.map(|offset| offset.0) },
        Err(AppendFailure::Refused(error)) => Outcome::Refused { at, why: error.to_string() },
        Err(failure @ AppendFailure::NotSent { .. }) => Outcome::NotSent { at, why: failure.to_string() },
        Err(failure @ (AppendFailure::TimedOut { .. } | AppendFailure::Behind)) => {
            Outcome::Unknown { at, why: failure.to_string() }
        }
    };
    shared.history().appends[place].outcome = outcome;
}
