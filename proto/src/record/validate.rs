//! What a sequencer checks before it takes a producer's batch. Nothing here decompresses: what the records are is between
//! their producer and their readers.

use crate::record::compression::{Compression, DECOMPRESSED_LEN_MAX};
use crate::record::error::BatchError;
use crate::record::header::{Attributes, BatchHeader, HEADER_LEN, NO_TIMESTAMP, TimestampType, parse_intact};
use crate::record::records::RECORD_LEN_MIN;
use crate::time::TimestampMs;

/// What a log takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Longest batch in bytes as sent, header included. Kafka's `max.message.bytes`.
    pub batch_len_max: usize,
    /// How far the producer's clock may be behind; `None`: any distance. For logs that keep the time of append neither
    /// distance means anything.
    pub timestamp_before_max_ms: Option<u64>,
    /// How far the producer's clock may be ahead; `None`: any distance.
    pub timestamp_after_max_ms: Option<u64>,
}

/// Checks a batch that a producer sent: exactly one, whole and undamaged, with a header that makes sense and claims
/// nothing that is not the producer's to say.
pub fn check_produced(batch: &[u8], limits: &BatchLimits, now_ms: TimestampMs) -> Result<BatchHeader, BatchError> {
    if batch.len() > limits.batch_len_max {
        return Err(BatchError::TooLarge { len: batch.len(), max: limits.batch_len_max });
    }
    let header = parse_intact(batch)?;
    if header.base_offset != 0 {
        return Err(BatchError::BaseOffset(header.base_offset as i64));
    }
    check_attributes(header.attributes)?;
    check_count(&header)?;
    check_producer(&header)?;
    check_timestamps(&header, limits, now_ms)?;
    Ok(header)
}

fn check_attributes(attributes: Attributes) -> Result<(), BatchError> {
    let reserved = attributes.0 & !(Attributes::CODEC | Attributes::APPEND_TIME | Attributes::TRANSACTIONAL);
    if reserved != 0 {
        return Err(BatchError::ReservedAttributes(reserved));
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::AppendTime);
    }
    attributes.compression().map(|_| ())
}

/// No record may be missing, so there is one at least. A count costs its sender nothing and the log that many LSNs, so it must at least be possible: two batches that claim
/// 2^31 records would use up an epoch.
fn check_count(header: &BatchHeader) -> Result<(), BatchError> {
    if header.record_count != header.span() {
        let (records, last_offset_delta) = (header.record_count as i32, header.last_offset_delta as i32);
        return Err(BatchError::Count { records, last_offset_delta });
    }
    let body_len_max = match header.attributes.compression()? {
        Compression::None => header.batch_len - HEADER_LEN,
        _ => DECOMPRESSED_LEN_MAX,
    };
    let max = body_len_max / RECORD_LEN_MIN;
    if header.record_count as usize > max {
        return Err(BatchError::TooManyRecords { records: header.record_count, max });
    }
    Ok(())
}

fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    match header.producer {
        Some(producer) if producer.epoch < 0 || producer.base_sequence < 0 => {
            Err(BatchError::Producer { id: producer.id, epoch: producer.epoch, base_sequence: producer.base_sequence })
        }
        None if header.attributes.is_transactional() => {
            Err(BatchError::Producer { id: -1, epoch: -1, base_sequence: -1 })
        }
        _ => Ok(()),
    }
}

/// The header names the first record's and the newest one's time, and a producer may have left the latter out: each is
/// checked by itself.
fn check_timestamps(header: &BatchHeader, limits: &BatchLimits, now_ms: TimestampMs) -> Result<(), BatchError> {
    let earliest_ms = limits.timestamp_before_max_ms.map_or(TimestampMs::MIN, |ms| now_ms.saturating_sub_unsigned(ms));
    let latest_ms = limits.timestamp_after_max_ms.map_or(TimestampMs::MAX, |ms| now_ms.saturating_add_unsigned(ms));
    for timestamp_ms in [header.base_timestamp_ms, header.max_timestamp_ms] {
        if timestamp_ms != NO_TIMESTAMP && !(earliest_ms..=latest_ms).contains(&timestamp_ms) {
            return Err(BatchError::Timestamp { timestamp_ms, earliest_ms, latest_ms });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;
    use crate::record::header::{at, put_field};
    use crate::record::stamp::put_crc;

    const LIMITS: BatchLimits =
        BatchLimits { batch_len_max: 1000, timestamp_before_max_ms: None, timestamp_after_max_ms: Some(1000) };
    const NOW_MS: TimestampMs = 1_700_000_000_000;

    fn check(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        check_produced(batch, &LIMITS, NOW_MS)
    }

    /// The refusal of a batch that has `value` at `start`, its CRC made right again.
    fn refusal<const N: usize>(start: usize, value: [u8; N]) -> BatchError {
        let mut batch = golden::batch(golden::JAVA_NONE).to_vec();
        put_field(&mut batch, start, value);
        put_crc(&mut batch);
        check(&batch).unwrap_err()
    }

    #[test]
    fn what_real_producers_send_is_taken() {
        for (name, hex) in golden::ALL {
            let batch = golden::batch(hex);
            let header = check(&batch).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(header.batch_len, batch.len(), "{name}");
        }
    }

    #[test]
    fn exactly_one_whole_batch() {
        let batch = golden::batch(golden::JAVA_NONE);
        for len in 0..batch.len() {
            assert!(matches!(check(&batch[..len]), Err(BatchError::Truncated { .. })), "{len}");
        }
        let two = [batch.clone(), batch.clone()].concat();
        assert_eq!(check(&two), Err(BatchError::Trailing { extra: batch.len() }));
    }

    #[test]
    fn every_flipped_bit_under_the_crc_is_damage() {
        let batch = golden::batch(golden::JAVA_NONE);
        for bit in at::CRC * 8..batch.len() * 8 {
            let mut damaged = batch.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = check(&damaged).unwrap_err();
            assert!(matches!(error, BatchError::Crc { .. }) && error.is_retriable(), "bit {bit}: {error}");
        }
    }

    #[test]
    fn the_limit_is_on_the_bytes_as_sent() {
        let batch = golden::batch(golden::JAVA_NONE);
        let limits = |batch_len_max| BatchLimits { batch_len_max, ..LIMITS };
        assert!(check_produced(&batch, &limits(batch.len()), NOW_MS).is_ok());
        let error = check_produced(&batch, &limits(batch.len() - 1), NOW_MS).unwrap_err();
        assert_eq!(error, BatchError::TooLarge { len: batch.len(), max: batch.len() - 1 });
        assert!(!error.is_retriable());
    }

    #[test]
    fn a_producer_does_not_speak_for_the_log() {
        assert_eq!(refusal(at::MAGIC, [1]), BatchError::Magic(1));
        assert_eq!(refusal(at::BASE_OFFSET, 5u64.to_be_bytes()), BatchError::BaseOffset(5));
        assert_eq!(refusal(at::ATTRIBUTES, [0, 0x20]), BatchError::ReservedAttributes(0x20));
        assert_eq!(refusal(at::ATTRIBUTES, [0, 0x40]), BatchError::ReservedAttributes(0x40));
        assert_eq!(refusal(at::ATTRIBUTES, [0x80, 0x80]), BatchError::ReservedAttributes(0x8080));
        assert_eq!(refusal(at::ATTRIBUTES, [0, 0x08]), BatchError::AppendTime);
        assert_eq!(refusal(at::ATTRIBUTES, [0, 0x05]), BatchError::Codec(5));
    }

    #[test]
    fn counts_agree_and_are_possible() {
        let count = |records, last_offset_delta| BatchError::Count { records, last_offset_delta };
        assert_eq!(refusal(at::RECORDS_COUNT, 0u32.to_be_bytes()), count(0, 3));
        assert_eq!(refusal(at::RECORDS_COUNT, 3u32.to_be_bytes()), count(3, 3));
        assert_eq!(refusal(at::LAST_OFFSET_DELTA, 4u32.to_be_bytes()), count(4, 4));
        let greedy = |codec: u8| {
            let mut batch = golden::batch(golden::JAVA_NONE).to_vec();
            batch[at::ATTRIBUTES + 1] = codec;
            put_field(&mut batch, at::LAST_OFFSET_DELTA, (i32::MAX - 1).to_be_bytes());
            put_field(&mut batch, at::RECORDS_COUNT, i32::MAX.to_be_bytes());
            put_crc(&mut batch);
            check(&batch).unwrap_err()
        };
        let too_many = |max| BatchError::TooManyRecords { records: i32::MAX as u32, max };
        assert_eq!(greedy(0), too_many((212 - 61) / 7));
        assert_eq!(greedy(4), too_many((64 << 20) / 7));
    }

    #[test]
    fn an_idempotent_producer_says_all_of_it() {
        let refused = |start, value| matches!(refusal(start, value), BatchError::Producer { .. });
        assert!(refused(at::BASE_SEQUENCE, (-1i32).to_be_bytes()));
        assert!(matches!(refusal(at::PRODUCER_EPOCH, (-1i16).to_be_bytes()), BatchError::Producer { .. }));
        let anonymous = refusal(at::PRODUCER_ID, (-1i64).to_be_bytes());
        assert!(matches!(anonymous, BatchError::Producer { id: -1, .. }), "and this one is transactional");
    }

    #[test]
    fn clocks_may_differ_by_so_much() {
        let ahead = (NOW_MS + 1001).to_be_bytes();
        let late = |timestamp_ms| BatchError::Timestamp {
            timestamp_ms,
            earliest_ms: TimestampMs::MIN,
            latest_ms: NOW_MS + 1000,
        };
        assert_eq!(refusal(at::MAX_TIMESTAMP, ahead), late(NOW_MS + 1001));
        assert_eq!(refusal(at::BASE_TIMESTAMP, ahead), late(NOW_MS + 1001));

        let batch = golden::batch(golden::JAVA_NONE);
        let any = BatchLimits { batch_len_max: 1000, timestamp_before_max_ms: None, timestamp_after_max_ms: None };
        assert!(check_produced(&batch, &any, TimestampMs::MIN).is_ok());
        let recent = BatchLimits { timestamp_before_max_ms: Some(1000), ..any };
        assert!(check_produced(&batch, &recent, NOW_MS + 1000).is_ok());
        assert!(check_produced(&batch, &recent, NOW_MS + 1001).is_err());

        let mut timeless = batch.to_vec();
        put_field(&mut timeless, at::BASE_TIMESTAMP, NO_TIMESTAMP.to_be_bytes());
        put_field(&mut timeless, at::MAX_TIMESTAMP, NO_TIMESTAMP.to_be_bytes());
        put_crc(&mut timeless);
        assert!(check_produced(&timeless, &recent, NOW_MS + 1001).is_ok(), "no time is no wrong time");
    }
}
