//! What is known of producers: the window by which a retried batch is told from a new one.
//!
//! Kafka's rules (reference: Kafka's `ProducerStateEntry` and `ProducerAppendInfo`): per producer the epoch and the last
//! five batches. A batch that equals one of them is a retry and gets the first answer; the next batch must begin where the
//! last one ended; a higher producer epoch begins at 0. One rule is stricter than Kafka's: a producer that is not known and
//! does not begin at 0 is refused, because whoever forgot it cannot tell a retry from a new batch.
//!
//! The table is the same whether it was filled batch by batch, from a snapshot, or by merging what several shards hold:
//! [`ProducerTable::merge`] keeps the five highest LSNs of the highest epoch.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use smallvec::SmallVec;

use crate::lsn::Lsn;
use crate::time::TimestampMs;

/// Batches of a producer that are told from new ones, at least; also how many it may have in flight.
pub const WINDOW: usize = 5;
/// Batches of a producer that are kept. A snapshot leaves out what is in flight, and must still know what came before.
const KEPT: usize = 2 * WINDOW;

/// What an idempotent producer writes into each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerBatch {
    pub producer: i64,
    pub epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
}

/// A batch that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredBatch {
    pub first_sequence: i32,
    pub last_sequence: i32,
    /// Of its first record.
    pub lsn: Lsn,
    /// Sequencer's time.
    pub timestamp: TimestampMs,
}

/// A producer of a partition, and the batch that it wrote last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer: i64,
    pub epoch: i16,
    pub last: StoredBatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ProducerState {
    epoch: i16,
    /// The newest batches of that epoch, ascending by LSN.
    batches: SmallVec<[StoredBatch; WINDOW]>,
}

/// What to do with a producer's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Store it.
    New,
    /// It is stored here already.
    Duplicate(StoredBatch),
    OutOfOrder {
        expected: i32,
    },
    /// The producer has a newer epoch than the batch's.
    Fenced {
        current: i16,
    },
    Unknown,
}

/// The sequence number after `sequence`: after the highest comes 0.
pub fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

/// All producers of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerTable {
    producers: BTreeMap<i64, ProducerState>,
}

/// Why bytes are not an encoded table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the producer table is damaged: {0}")]
pub struct ProducerTableError(&'static str);

impl ProducerTable {
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// All producers, by their ids.
    pub fn active(&self) -> impl Iterator<Item = ActiveProducer> {
        self.producers.iter().filter_map(|(&producer, state)| {
            let last = *state.batches.last()?;
            Some(ActiveProducer { producer, epoch: state.epoch, last })
        })
    }

    /// What to do with this batch.
    pub fn admit(&self, batch: &ProducerBatch) -> Admission {
        let Some(state) = self.producers.get(&batch.producer) else {
            return if batch.first_sequence == 0 { Admission::New } else { Admission::Unknown };
        };
        if batch.epoch < state.epoch {
            return Admission::Fenced { current: state.epoch };
        }
        if batch.epoch > state.epoch {
            return if batch.first_sequence == 0 { Admission::New } else { Admission::OutOfOrder { expected: 0 } };
        }
        let same =
            |b: &&StoredBatch| (b.first_sequence, b.last_sequence) == (batch.first_sequence, batch.last_sequence);
        if let Some(stored) = state.batches.iter().find(same) {
            return Admission::Duplicate(*stored);
        }
        let expected = state.batches.last().map_or(0, |last| next_sequence(last.last_sequence));
        if batch.first_sequence == expected { Admission::New } else { Admission::OutOfOrder { expected } }
    }

    /// Notes that a batch was stored. Those of an older epoch than the producer's, or known already, change nothing.
    pub fn note(&mut self, batch: &ProducerBatch, lsn: Lsn, timestamp: TimestampMs) {
        let stored =
            StoredBatch { first_sequence: batch.first_sequence, last_sequence: batch.last_sequence, lsn, timestamp };
        self.note_stored(batch.producer, batch.epoch, stored);
    }

    fn note_stored(&mut self, producer: i64, epoch: i16, stored: StoredBatch) {
        let state = self.producers.entry(producer).or_default();
        if epoch < state.epoch {
            return;
        }
        if epoch > state.epoch {
            *state = ProducerState { epoch, batches: SmallVec::new() };
        }
        let at = state.batches.partition_point(|b| b.lsn < stored.lsn);
        if state.batches.get(at).is_some_and(|b| b.lsn == stored.lsn) {
            return;
        }
        state.batches.insert(at, stored);
        if state.batches.len() > KEPT {
            state.batches.remove(0);
        }
    }

    /// Adds what another table knows.
    pub fn merge(&mut self, other: &Self) {
        for (producer, state) in &other.producers {
            state.batches.iter().for_each(|stored| self.note_stored(*producer, state.epoch, *stored));
        }
    }

    /// Forgets producers that stored nothing since `before`.
    pub fn expire(&mut self, before: TimestampMs) {
        self.producers.retain(|_, state| state.batches.iter().any(|b| b.timestamp >= before));
    }

    /// Forgets batches above `upto`.
    pub fn retain_upto(&mut self, upto: Lsn) {
        self.retain(|lsn| lsn <= upto);
    }

    /// Forgets batches, by their first LSN, that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(Lsn) -> bool) {
        self.producers.values_mut().for_each(|state| state.batches.retain(|b| keep(b.lsn)));
        self.producers.retain(|_, state| !state.batches.is_empty());
    }

    /// ```text
    /// version u8 = 1 | producers u32 | each: id i64, epoch i16, batches u8 | each: first i32, last i32, lsn u64, timestamp i64
    /// ```
    /// All little-endian.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(5 + self.producers.len() * 64);
        out.put_u8(1);
        out.put_u32_le(u32::try_from(self.producers.len()).expect("bounded by the partition's producers"));
        for (producer, state) in &self.producers {
            out.put_i64_le(*producer);
            out.put_i16_le(state.epoch);
            out.put_u8(state.batches.len() as u8);
            for batch in &state.batches {
                out.put_i32_le(batch.first_sequence);
                out.put_i32_le(batch.last_sequence);
                out.put_u64_le(batch.lsn.0);
                out.put_i64_le(batch.timestamp);
            }
        }
        out.into()
    }

    pub fn decode(mut bytes: &[u8]) -> Result<Self, ProducerTableError> {
        let short = ProducerTableError("it ends too early");
        if bytes.try_get_u8().map_err(|_| short.clone())? != 1 {
            return Err(ProducerTableError("unknown version"));
        }
        let count = bytes.try_get_u32_le().map_err(|_| short.clone())?;
        let mut table = Self::default();
        for _ in 0..count {
            if bytes.len() < 11 {
                return Err(short);
            }
            let (producer, epoch, batches) = (bytes.get_i64_le(), bytes.get_i16_le(), usize::from(bytes.get_u8()));
            if batches > KEPT || bytes.len() < batches * 24 {
                return Err(ProducerTableError("more batches than fit"));
            }
            for _ in 0..batches {
                let stored = StoredBatch {
                    first_sequence: bytes.get_i32_le(),
                    last_sequence: bytes.get_i32_le(),
                    lsn: Lsn(bytes.get_u64_le()),
                    timestamp: bytes.get_i64_le(),
                };
                table.note_stored(producer, epoch, stored);
            }
        }
        if bytes.is_empty() { Ok(table) } else { Err(ProducerTableError("bytes follow it")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::{Epoch, Esn};
    use proptest::prelude::*;

    fn batch(epoch: i16, first: i32, last: i32) -> ProducerBatch {
        ProducerBatch { producer: 7, epoch, first_sequence: first, last_sequence: last }
    }

    fn lsn(n: u32) -> Lsn {
        Lsn::new(Epoch(1), Esn(n))
    }

    #[test]
    fn retries_are_told_from_new_batches() {
        let mut table = ProducerTable::default();
        assert_eq!(table.admit(&batch(0, 3, 3)), Admission::Unknown);
        assert_eq!(table.admit(&batch(0, 0, 2)), Admission::New);
        table.note(&batch(0, 0, 2), lsn(10), 0);
        assert!(matches!(table.admit(&batch(0, 0, 2)), Admission::Duplicate(b) if b.lsn == lsn(10)));
        assert_eq!(table.admit(&batch(0, 3, 3)), Admission::New);
        assert_eq!(table.admit(&batch(0, 4, 4)), Admission::OutOfOrder { expected: 3 });
        assert_eq!(
            table.admit(&batch(0, 0, 1)),
            Admission::OutOfOrder { expected: 3 },
            "not the batch that was stored"
        );
        assert_eq!(table.admit(&batch(1, 1, 1)), Admission::OutOfOrder { expected: 0 });
        table.note(&batch(1, 0, 0), lsn(20), 0);
        assert_eq!(table.admit(&batch(0, 3, 3)), Admission::Fenced { current: 1 });
    }

    #[test]
    fn a_window_is_kept_besides_what_is_in_flight() {
        let mut table = ProducerTable::default();
        (0..11).for_each(|i| table.note(&batch(0, i, i), lsn(i as u32 + 1), 0));
        assert_eq!(table.admit(&batch(0, 0, 0)), Admission::OutOfOrder { expected: 11 });
        assert!((1..11).all(|i| matches!(table.admit(&batch(0, i, i)), Admission::Duplicate(_))));
        table.retain_upto(lsn(6));
        assert!((1..6).all(|i| matches!(table.admit(&batch(0, i, i)), Admission::Duplicate(_))));
        assert_eq!(table.admit(&batch(0, 6, 6)), Admission::New, "it was in flight");
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut table = ProducerTable::default();
        table.note(&batch(0, i32::MAX - 1, i32::MAX), lsn(1), 0);
        assert_eq!(table.admit(&batch(0, 0, 4)), Admission::New);
        table.note(&batch(0, 0, 4), lsn(3), 0);
        assert_eq!(table.admit(&batch(0, 5, 5)), Admission::New);
    }

    #[test]
    fn idle_producers_expire() {
        let mut table = ProducerTable::default();
        table.note(&batch(0, 0, 0), lsn(1), 1000);
        table.expire(1000);
        assert_eq!(table.len(), 1);
        table.expire(1001);
        assert!(table.is_empty());
    }

    proptest! {
        // However the batches are spread over shards, merging gives what one table that saw all of them knows.
        #[test]
        fn merging_shards_gives_the_whole(
            batches in prop::collection::vec((0i64..3, 0usize..3), 0..40),
        ) {
            let mut whole = ProducerTable::default();
            let mut shards = vec![ProducerTable::default(); 3];
            for (i, (producer, shard)) in batches.iter().enumerate() {
                let b = ProducerBatch { producer: *producer, epoch: (i / 15) as i16, first_sequence: i as i32, last_sequence: i as i32 };
                whole.note(&b, lsn(i as u32 + 1), 0);
                shards[*shard].note(&b, lsn(i as u32 + 1), 0);
                shards[(*shard + 1) % 3].note(&b, lsn(i as u32 + 1), 0);
            }
            let mut merged = ProducerTable::default();
            shards.iter().rev().for_each(|shard| merged.merge(shard));
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(ProducerTable::decode(&whole.encode()), Ok(whole));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ProducerTable::decode(&bytes);
        }
    }
}
