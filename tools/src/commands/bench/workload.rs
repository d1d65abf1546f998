//! Records that tell whether they are the right ones: a sequence number, and text that follows from it.

use std::fmt;

use dlog_proto::Lsn;

/// Length of the text that records are cut from; odd, so that neighbours differ.
const TEXT_LEN: usize = 999_983;
/// The same text always, so that a reader needs no copy of what was written.
const SEED: u64 = 7;

#[derive(Debug)]
pub(super) struct Workload {
    record_len: usize,
    partitions: u32,
    /// Letters, which compress about as well as logs do; the beginning once more at the end, so that nothing wraps.
    text: Vec<u8>,
}

impl Workload {
    /// # Panics
    /// If a record is too short for its number.
    pub(super) fn new(record_len: usize, partitions: u32) -> Self {
        assert!(record_len >= size_of::<u64>(), "a record has room for its number");
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut text: Vec<u8> = (0..TEXT_LEN).map(|_| random.lowercase() as u8).collect();
        for at in 0..record_len {
            text.push(text[at]);
        }
        Self { record_len, partitions, text }
    }

    pub(super) fn record_len(&self) -> usize {
        self.record_len
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Records are dealt out in turns.
    pub(super) fn partition_of(&self, sequence: u64) -> u32 {
        (sequence % u64::from(self.partitions)) as u32
    }

    /// What a record has after its number.
    fn tail(&self, sequence: u64) -> &[u8] {
        let at = (sequence.wrapping_mul(31) % TEXT_LEN as u64) as usize;
        &self.text[at..at + self.record_len - size_of::<u64>()]
    }

    pub(super) fn write(&self, sequence: u64, record: &mut Vec<u8>) {
        record.clear();
        record.extend_from_slice(&sequence.to_be_bytes());
        record.extend_from_slice(self.tail(sequence));
    }

    /// The record's number; `None` if it is not a record as it was written.
    pub(super) fn check(&self, record: &[u8]) -> Option<u64> {
        let (number, tail) = record.split_first_chunk()?;
        let sequence = u64::from_be_bytes(*number);
        (tail == self.tail(sequence)).then_some(sequence)
    }
}

/// Where a record stands in its partition, as its protocol says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Lsn(Lsn),
    Offset(u64),
}

impl Place {
    fn number(self) -> u64 {
        match self {
            Self::Lsn(lsn) => lsn.0,
            Self::Offset(offset) => offset,
        }
    }

    /// So many records further in the same batch.
    pub(super) fn plus(self, records: u32) -> Self {
        match self {
            Self::Lsn(lsn) => Self::Lsn(Lsn(lsn.0 + u64::from(records))),
            Self::Offset(offset) => Self::Offset(offset + u64::from(records)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(lsn) => lsn.fmt(f),
            Self::Offset(offset) => write!(f, "offset {offset}"),
        }
    }
}

/// A partition's places in order, in one number: the same for what was acknowledged and for what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PlaceHash {
    hash: u64,
    pub(super) records: u64,
}

impl PlaceHash {
    pub(super) fn add(&mut self, place: Place) {
        self.hash = (self.hash.rotate_left(5) ^ place.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.records += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_again_and_damage_is_seen() {
        for len in [8, 9, 100, 1_000_000] {
            let workload = Workload::new(len, 3);
            let mut record = Vec::new();
            for sequence in [0, 1, 12_345, u64::MAX] {
                workload.write(sequence, &mut record);
                assert_eq!((record.len(), workload.check(&record)), (len, Some(sequence)));
            }
            if len > 8 {
                *record.last_mut().unwrap() ^= 1;
                assert_eq!(workload.check(&record), None, "another text");
            }
            record.pop();
            assert_eq!(workload.check(&record), None, "too short");
        }
    }

    #[test]
    fn records_are_dealt_out_in_turns() {
        let workload = Workload::new(8, 3);
        assert_eq!((0..5).map(|n| workload.partition_of(n)).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn the_hash_depends_on_what_and_in_which_order() {
        let hash = |places: &[u64]| {
            let mut hash = PlaceHash::default();
            places.iter().for_each(|place| hash.add(Place::Offset(*place)));
            hash
        };
        assert_eq!(hash(&[1, 2, 3]), hash(&[1, 2, 3]));
        for other in [&[1, 3, 2][..], &[1, 2], &[1, 2, 4], &[1, 2, 2]] {
            assert_ne!(hash(&[1, 2, 3]), hash(other));
        }
    }
}
