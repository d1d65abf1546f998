//! The three changes that a finished batch may see. Everybody else's bytes are the producer's bytes.
//!
//! All of them panic if `batch` is shorter than a header: they are for batches that were built or checked here.

use crate::record::header::{Attributes, HEADER_LEN, ProducerStamp, at, compute_crc, put_field};
use crate::time::TimestampMs;

/// Says where the batch stands: the first record's offset and the epoch. Both lie outside the CRC, and inside the header:
/// it does for a copy of the first [`HEADER_LEN`] bytes too, so that whoever serves a batch need not copy the rest.
pub fn stamp(batch: &mut [u8], base_offset: u64, leader_epoch: u32) {
    assert!(batch.len() >= HEADER_LEN, "a batch has a header");
    assert!(base_offset <= i64::MAX as u64 && leader_epoch <= i32::MAX as u32, "Kafka's numbers have a sign");
    put_field(batch, at::BASE_OFFSET, base_offset.to_be_bytes());
    put_field(batch, at::LEADER_EPOCH, leader_epoch.to_be_bytes());
}

/// Gives all records of the batch the time at which the log took it, instead of their producer's.
pub fn set_append_time(batch: &mut [u8], now_ms: TimestampMs) {
    assert!(batch.len() >= HEADER_LEN, "a batch has a header");
    batch[at::ATTRIBUTES + 1] |= Attributes::APPEND_TIME as u8;
    put_field(batch, at::MAX_TIMESTAMP, now_ms.to_be_bytes());
    put_crc(batch);
}

/// Says who made the batch. For its producer, as long as it has not been sent: afterwards somebody may already know it by
/// its old stamp and would take it twice.
pub fn set_producer(batch: &mut [u8], producer: ProducerStamp) {
    assert!(batch.len() >= HEADER_LEN, "a batch has a header");
    put_producer(batch, producer);
    put_crc(batch);
}

pub(super) fn put_producer(batch: &mut [u8], producer: ProducerStamp) {
    put_field(batch, at::PRODUCER_ID, producer.id.to_be_bytes());
    put_field(batch, at::PRODUCER_EPOCH, producer.epoch.to_be_bytes());
    put_field(batch, at::BASE_SEQUENCE, producer.base_sequence.to_be_bytes());
}

pub(super) fn put_crc(batch: &mut [u8]) {
    let crc = compute_crc(batch);
    put_field(batch, at::CRC, crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::golden;
    use crate::record::header::TimestampType;
    use crate::record::reader::RecordBatch;

    #[test]
    fn a_place_in_the_log_leaves_the_crc_alone() {
        let original = golden::batch(golden::JAVA_ZSTD);
        let mut batch = original.to_vec();
        stamp(&mut batch, 41, 7);
        assert_eq!(batch[at::MAGIC..], original[at::MAGIC..]);
        let header = *RecordBatch::parse(Bytes::from(batch)).unwrap().header();
        assert_eq!((header.base_offset, header.last_offset(), header.leader_epoch), (41, 44, 7));
    }

    #[test]
    fn the_time_of_append_is_every_records_time() {
        let mut batch = golden::batch(golden::JAVA_LZ4).to_vec();
        set_append_time(&mut batch, 1_800_000_000_000);
        let batch = RecordBatch::parse(Bytes::from(batch)).unwrap();
        assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
        assert!(batch.header().attributes.is_transactional(), "the other bits stay");
        let times: Vec<_> = batch.records().unwrap().map(|record| record.unwrap().timestamp_ms).collect();
        assert_eq!(times, [1_800_000_000_000; 4]);
    }

    #[test]
    fn a_renewed_producer_takes_its_batch_along() {
        let original = golden::batch(golden::JAVA_NONE);
        let mut batch = original.to_vec();
        let renewed = ProducerStamp { id: 4712, epoch: 0, base_sequence: 0 };
        set_producer(&mut batch, renewed);
        assert_eq!(batch[HEADER_LEN..], original[HEADER_LEN..]);
        let header = *RecordBatch::parse(Bytes::from(batch)).unwrap().header();
        assert_eq!((header.producer, header.last_sequence()), (Some(renewed), Some(3)));
    }
}
