//! Making batches: a producer's records, written straight into the bytes that will travel.
//!
//! Uncompressed, a finished batch is the very buffer that the records were written to; what is left of its memory serves
//! the next batch. Compressed, the buffer stays with the builder.

use bytes::BytesMut;

use crate::record::compression::Compression;
use crate::record::header::{Attributes, HEADER_LEN, MAGIC, NO_TIMESTAMP, ProducerStamp, UNCOUNTED_LEN, at, put_field};
use crate::record::records::RECORD_LEN_MIN;
use crate::record::stamp::{put_crc, put_producer};
use crate::record::varint;
use crate::time::TimestampMs;

/// A record as its producer has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// [`NO_TIMESTAMP`] if it has none.
    pub timestamp_ms: TimestampMs,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone in a compacted log.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl<'a> NewRecord<'a> {
    /// A record of a time and a value.
    pub const fn of_value(timestamp_ms: TimestampMs, value: &'a [u8]) -> Self {
        Self { timestamp_ms, key: None, value: Some(value), headers: &[] }
    }

    /// Encoded length of what comes after the record's own length.
    fn body_len(&self, timestamp_delta: i64, offset_delta: u32) -> usize {
        let attributes = 1;
        let headers = self.headers.iter().map(|(key, value)| nullable_len(Some(key.as_bytes())) + nullable_len(*value));
        attributes
            + varint::encoded_len(timestamp_delta)
            + varint::encoded_len(i64::from(offset_delta))
            + nullable_len(self.key)
            + nullable_len(self.value)
            + varint::encoded_len(self.headers.len() as i64)
            + headers.sum::<usize>()
    }
}

/// What a batch gets when it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchOptions {
    pub compression: Compression,
    /// Makes the batch idempotent.
    pub producer: Option<ProducerStamp>,
    pub transactional: bool,
    /// For the marks that end transactions. Sequencers take no such batch from a producer.
    pub control: bool,
}

// A record's place in its batch is an `i32`.
const _: () = assert!(BatchBuilder::LEN_MAX / RECORD_LEN_MIN <= i32::MAX as usize);

/// Fills batches record by record, one after the other, without an allocation per record.
#[derive(Debug)]
pub struct BatchBuilder {
    /// The header's place and the records so far; nothing at all before the first one.
    bytes: BytesMut,
    first_capacity: usize,
    record_count: u32,
    base_timestamp_ms: TimestampMs,
    max_timestamp_ms: TimestampMs,
}

impl BatchBuilder {
    /// Longest batch before compression, far above what any log takes. Half of what the length field holds, so that it
    /// does not overflow where compression makes a batch longer.
    pub const LEN_MAX: usize = 1 << 30;

    /// A builder whose buffers begin with `first_capacity` bytes: the length of a usual batch.
    pub fn new(first_capacity: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            first_capacity,
            record_count: 0,
            base_timestamp_ms: NO_TIMESTAMP,
            max_timestamp_ms: NO_TIMESTAMP,
        }
    }

    /// Length of the batch so far, header included and not compressed.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len().max(HEADER_LEN)
    }

    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// By how many bytes `record` would lengthen the batch.
    pub fn encoded_len_of(&self, record: &NewRecord<'_>) -> usize {
        let body_len = record.body_len(self.timestamp_delta(record), self.record_count);
        varint::encoded_len(body_len as i64) + body_len
    }

    /// Adds a record and returns its place in the batch, from 0.
    ///
    /// # Panics
    /// If the batch would become longer than [`LEN_MAX`](Self::LEN_MAX). Ask [`encoded_len_of`](Self::encoded_len_of)
    /// first whether a record of unknown length fits what the log takes.
    pub fn append(&mut self, record: &NewRecord<'_>) -> u32 {
        let (timestamp_delta, index) = (self.timestamp_delta(record), self.record_count);
        let body_len = record.body_len(timestamp_delta, index);
        let len = varint::encoded_len(body_len as i64) + body_len;
        assert!(len <= Self::LEN_MAX - self.len_bytes(), "a batch stays below {} bytes", Self::LEN_MAX);
        if self.is_empty() {
            self.bytes.reserve(self.first_capacity.max(HEADER_LEN + len));
            self.bytes.resize(HEADER_LEN, 0);
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.record_count += 1;

        self.bytes.reserve(len);
        let end = self.bytes.len() + len;
        // The attributes are a plain byte, and 0 is the same byte either way.
        put_varints(&mut self.bytes, [body_len as i64, 0, timestamp_delta, i64::from(index), len_or_none(record.key)]);
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        put_varints(&mut self.bytes, [len_or_none(record.value)]);
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        put_varints(&mut self.bytes, [record.headers.len() as i64]);
        for (key, value) in record.headers {
            put_varints(&mut self.bytes, [key.len() as i64]);
            self.bytes.extend_from_slice(key.as_bytes());
            put_varints(&mut self.bytes, [len_or_none(*value)]);
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
        debug_assert_eq!(self.bytes.len(), end, "a record is as long as announced");
        index
    }

    /// Makes the batch of what was appended and begins anew. Its base offset is 0 and its leader epoch −1.
    ///
    /// # Panics
    /// If nothing was appended: there is no batch without records.
    pub fn finish(&mut self, options: BatchOptions) -> BytesMut {
        assert!(!self.is_empty(), "a batch has records");
        let mut batch = match options.compression {
            Compression::None => self.bytes.split(),
            codec => {
                let mut compressed = BytesMut::with_capacity(self.bytes.len());
                compressed.resize(HEADER_LEN, 0);
                codec.compress(&self.bytes[HEADER_LEN..], &mut compressed);
                compressed
            }
        };
        self.put_header(&mut batch, options);
        self.reset();
        batch
    }

    /// Forgets what was appended and begins anew in the same memory.
    pub fn reset(&mut self) {
        self.bytes.clear();
        self.record_count = 0;
    }

    fn put_header(&self, batch: &mut [u8], options: BatchOptions) {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        let attributes = options.compression.codec()
            | bit(options.transactional, Attributes::TRANSACTIONAL)
            | bit(options.control, Attributes::CONTROL);
        let nobody = ProducerStamp { id: -1, epoch: -1, base_sequence: -1 };
        let counted = (batch.len() - UNCOUNTED_LEN) as u32;
        put_field(batch, at::BASE_OFFSET, 0u64.to_be_bytes());
        put_field(batch, at::BATCH_LENGTH, counted.to_be_bytes());
        put_field(batch, at::LEADER_EPOCH, (-1i32).to_be_bytes());
        put_field(batch, at::MAGIC, MAGIC.to_be_bytes());
        put_field(batch, at::ATTRIBUTES, attributes.to_be_bytes());
        put_field(batch, at::LAST_OFFSET_DELTA, (self.record_count - 1).to_be_bytes());
        put_field(batch, at::BASE_TIMESTAMP, self.base_timestamp_ms.to_be_bytes());
        put_field(batch, at::MAX_TIMESTAMP, self.max_timestamp_ms.to_be_bytes());
        put_producer(batch, options.producer.unwrap_or(nobody));
        put_field(batch, at::RECORDS_COUNT, self.record_count.to_be_bytes());
        put_crc(batch);
    }

    /// What a record's time is counted from is the first one's. Wraps as in the Java client, so that every pair of times
    /// has a delta.
    fn timestamp_delta(&self, record: &NewRecord<'_>) -> i64 {
        if self.is_empty() { 0 } else { record.timestamp_ms.wrapping_sub(self.base_timestamp_ms) }
    }
}

/// The number that stands for the length of what may be missing.
fn len_or_none(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn nullable_len(bytes: Option<&[u8]>) -> usize {
    varint::encoded_len(len_or_none(bytes)) + bytes.map_or(0, <[u8]>::len)
}

/// Writes several numbers at once: a buffer that grows is asked for room per call.
#[inline]
fn put_varints<const N: usize>(out: &mut BytesMut, values: [i64; N]) {
    let mut scratch = [[0; varint::LEN_MAX]; N];
    let scratch = scratch.as_flattened_mut();
    let mut rest = &mut *scratch;
    values.iter().for_each(|value| varint::put(&mut rest, *value));
    let len = N * varint::LEN_MAX - rest.len();
    out.extend_from_slice(&scratch[..len]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::golden;
    use crate::record::reader::RecordBatch;
    use crate::record::testing::any_records;

    #[test]
    fn builds_what_the_java_client_builds() {
        let mut builder = BatchBuilder::new(0);
        for record in golden::java_records() {
            record.with_ref(|record| builder.append(record));
        }
        let producer = Some(ProducerStamp { id: 4711, epoch: 3, base_sequence: i32::MAX - 1 });
        let batch = builder.finish(BatchOptions { producer, transactional: true, ..BatchOptions::default() });
        assert_eq!(batch, golden::batch(golden::JAVA_NONE));
    }

    #[test]
    fn the_newest_record_need_not_be_the_last() {
        let mut builder = BatchBuilder::new(0);
        for timestamp_ms in [5, -1, 9, 7] {
            builder.append(&NewRecord::of_value(timestamp_ms, b"x"));
        }
        let batch = RecordBatch::parse(builder.finish(BatchOptions::default()).freeze()).unwrap();
        assert_eq!((batch.header().base_timestamp_ms, batch.header().max_timestamp_ms), (5, 9));
        assert_eq!((batch.header().producer, batch.header().leader_epoch), (None, -1));

        builder.append(&NewRecord::of_value(3, b"x"));
        let batch = RecordBatch::parse(builder.finish(BatchOptions::default()).freeze()).unwrap();
        assert_eq!(
            (batch.header().base_timestamp_ms, batch.header().max_timestamp_ms),
            (3, 3),
            "and knows no other batch"
        );
    }

    #[test]
    fn a_mark_is_a_control_batch_outside_the_sequence() {
        let mut builder = BatchBuilder::new(0);
        builder.append(&NewRecord { key: Some(&[0, 0, 0, 1]), ..NewRecord::of_value(1, &[0; 6]) });
        let producer = Some(ProducerStamp { id: 1, epoch: 0, base_sequence: -1 });
        let batch =
            builder.finish(BatchOptions { producer, transactional: true, control: true, ..BatchOptions::default() });
        let header = *RecordBatch::parse(batch.freeze()).unwrap().header();
        assert!(header.attributes.is_control() && header.attributes.is_transactional());
        assert_eq!((header.producer, header.last_sequence()), (producer, None));
    }

    #[test]
    fn one_builder_makes_batch_after_batch() {
        for compression in Compression::ALL {
            let mut builder = BatchBuilder::new(100);
            let mut build = |value: &[u8]| {
                builder.append(&NewRecord::of_value(1, b"forgotten"));
                builder.reset();
                assert_eq!(builder.append(&NewRecord::of_value(1, value)), 0);
                assert_eq!(builder.append(&NewRecord::of_value(2, value)), 1);
                let batch = builder.finish(BatchOptions { compression, ..BatchOptions::default() });
                assert!(builder.is_empty() && builder.len_bytes() == HEADER_LEN);
                batch
            };
            let batches = [build(b"one"), build(&[2; 1000]), build(b"three")];
            for (batch, value) in batches.into_iter().zip([&b"one"[..], &[2; 1000], b"three"]) {
                let records = RecordBatch::parse(batch.freeze()).unwrap().records().unwrap();
                assert_eq!(records.refs().map(|record| record.unwrap().value.unwrap()).collect::<Vec<_>>(), [value; 2]);
            }
        }
    }

    #[test]
    fn memory_is_used_again_once_a_batch_is_gone() {
        let mut builder = BatchBuilder::new(1000);
        let mut build = || {
            builder.append(&NewRecord::of_value(1, &[7; 900]));
            builder.finish(BatchOptions::default())
        };
        let first = build().as_ptr();
        assert!((0..10).all(|_| build().as_ptr() == first));
    }

    #[test]
    #[should_panic(expected = "a batch has records")]
    fn there_is_no_batch_without_records() {
        BatchBuilder::new(0).finish(BatchOptions::default());
    }

    proptest! {
        #[test]
        fn a_record_is_as_long_as_announced(records in any_records()) {
            let mut builder = BatchBuilder::new(64);
            for (i, record) in records.iter().enumerate() {
                let announced = record.with_ref(|record| builder.len_bytes() + builder.encoded_len_of(record));
                prop_assert_eq!(record.with_ref(|record| builder.append(record)) as usize, i);
                prop_assert_eq!(builder.len_bytes(), announced);
            }
            prop_assert_eq!(builder.record_count() as usize, records.len());
            let len = builder.len_bytes();
            prop_assert_eq!(builder.finish(BatchOptions::default()).len(), len);
        }
    }
}
