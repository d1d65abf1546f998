//! A partition's records on their way into batches, as the native client makes them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_client::AppendOptions;
use dlog_proto::clock::now_ms;
use dlog_proto::record::{BatchBuilder, BatchOptions, Compression, NewRecord, ProducerStamp};
use tokio::time::Instant;

use super::batch::{KafkaAck, Outcome};

/// Batches of a partition that are on their way, at most: what an idempotent producer may have.
const IN_FLIGHT_MAX: u32 = 5;
const BATCH_CAPACITY: usize = 4096;

pub(super) struct Partition {
    pub(super) index: u32,
    compression: Compression,
    linger: Duration,
    batch_len_max: usize,
    state: Mutex<State>,
}

struct State {
    stamp: ProducerStamp,
    open: BatchBuilder,
    outcome: Arc<Outcome>,
    opened_at: Instant,
    full: VecDeque<(BatchBuilder, Arc<Outcome>)>,
    in_flight: u32,
    /// Somebody will look when the open batch has waited long enough.
    is_timed: bool,
}

/// What is to be done for a partition.
pub(super) enum Next {
    Send(Bytes, Arc<Outcome>),
    /// Look again then: a batch waits for company.
    Wait(Instant),
    Nothing,
}

impl Partition {
    pub(super) fn new(index: u32, options: &AppendOptions, producer_id: i64) -> Self {
        let state = State {
            stamp: ProducerStamp { id: producer_id, epoch: 0, base_sequence: 0 },
            open: BatchBuilder::new(BATCH_CAPACITY),
            outcome: Arc::default(),
            opened_at: Instant::now(),
            full: VecDeque::new(),
            in_flight: 0,
            is_timed: false,
        };
        let AppendOptions { compression, linger, batch_len_max, .. } = *options;
        Self { index, compression, linger, batch_len_max, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, and says whether somebody should look: it is the first, or fills a batch.
    pub(super) fn push(&self, value: &[u8]) -> (KafkaAck, bool) {
        let record = NewRecord { timestamp_ms: now_ms(), key: None, value: Some(value), headers: &[] };
        let mut state = self.state();
        let mut look = false;
        let len = state.open.len_bytes() + state.open.encoded_len_of(&record);
        if !state.open.is_empty() && len > self.batch_len_max {
            state.close();
            look = true;
        }
        if state.open.is_empty() {
            state.opened_at = Instant::now();
            look = true;
        }
        let index = state.open.append(&record);
        (KafkaAck { batch: state.outcome.clone(), index }, look)
    }

    pub(super) fn next(&self) -> Next {
        let mut state = self.state();
        if state.in_flight >= IN_FLIGHT_MAX || state.full.is_empty() && state.open.is_empty() {
            return Next::Nothing;
        }
        if state.full.is_empty() {
            let due = state.opened_at + self.linger;
            if !self.linger.is_zero() && Instant::now() < due {
                return if std::mem::replace(&mut state.is_timed, true) { Next::Nothing } else { Next::Wait(due) };
            }
            state.close();
        }
        let Some((mut builder, outcome)) = state.full.pop_front() else { return Next::Nothing };
        state.in_flight += 1;
        let stamp = state.stamp;
        state.stamp.base_sequence = stamp.sequence_after(builder.record_count());
        // Whoever appends need not wait for the checksum.
        drop(state);
        let options = BatchOptions { compression: self.compression, producer: Some(stamp), ..BatchOptions::default() };
        Next::Send(builder.finish(options).freeze(), outcome)
    }

    /// The time that [`Next::Wait`] said has come.
    pub(super) fn handle_time(&self) {
        self.state().is_timed = false;
    }

    pub(super) fn handle_answer(&self) {
        self.state().in_flight -= 1;
    }
}

impl State {
    fn close(&mut self) {
        let builder = std::mem::replace(&mut self.open, BatchBuilder::new(BATCH_CAPACITY));
        self.full.push_back((builder, std::mem::take(&mut self.outcome)));
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::record::RecordBatch;

    use super::*;
    use crate::commands::in_flight::Acknowledgement;

    fn partition(linger: Duration) -> Partition {
        Partition::new(3, &AppendOptions { linger, batch_len_max: 200, ..AppendOptions::default() }, 7)
    }

    fn sent(partition: &Partition) -> Option<(RecordBatch, Arc<Outcome>)> {
        match partition.next() {
            Next::Send(bytes, outcome) => Some((RecordBatch::parse(bytes).unwrap(), outcome)),
            Next::Wait(_) | Next::Nothing => None,
        }
    }

    #[test]
    fn batches_are_filled_numbered_and_five_at_a_time() {
        let partition = partition(Duration::ZERO);
        let acks: Vec<_> = (0..14).map(|_| partition.push(&[b'x'; 50])).collect();
        let looks: Vec<_> = acks.iter().map(|(_, look)| *look).collect();
        assert_eq!(looks[..5], [true, false, true, false, true], "two records of 50 bytes fill a batch of 200");
        let batches: Vec<_> = std::iter::from_fn(|| sent(&partition)).collect();
        let places: Vec<_> = batches.iter().map(|(batch, _)| batch.header().producer.unwrap().base_sequence).collect();
        assert_eq!(places, [0, 2, 4, 6, 8]);
        batches[1].1.set(Ok(40));
        assert_eq!((acks[1].0.now(), acks[3].0.now()), (None, Some(Ok(41))));
        partition.handle_answer();
        assert_eq!(sent(&partition).unwrap().0.header().producer.unwrap().base_sequence, 10);
        assert!(sent(&partition).is_none());
    }

    #[tokio::test]
    async fn a_batch_waits_for_company_as_long_as_it_is_told() {
        let partition = partition(Duration::from_millis(50));
        let _first = partition.push(b"x");
        let Next::Wait(due) = partition.next() else { panic!("it waits") };
        assert!(matches!(partition.next(), Next::Nothing), "once is enough");
        tokio::time::sleep_until(due).await;
        partition.handle_time();
        assert_eq!(sent(&partition).unwrap().0.header().record_count, 1);
        (0..3).for_each(|_| drop(partition.push(&[b'x'; 50])));
        assert_eq!(sent(&partition).unwrap().0.header().record_count, 2, "what is full does not wait");
        assert!(matches!(partition.next(), Next::Wait(_)));
    }

    #[tokio::test]
    async fn a_failure_is_every_records() {
        let partition = partition(Duration::ZERO);
        let (first, second) = (partition.push(b"x").0, partition.push(b"y").0);
        let waiting = tokio::spawn(async move {
            let mut second = second;
            second.settled().await;
            second.now()
        });
        tokio::task::yield_now().await;
        sent(&partition).unwrap().1.set(Err("no".to_owned()));
        assert_eq!((first.now(), waiting.await.unwrap()), (Some(Err("no".to_owned())), Some(Err("no".to_owned()))));
    }
}
