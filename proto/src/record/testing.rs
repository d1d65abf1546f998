//! Records of any kind, and everything that can be done with bytes that come from outside.

use bytes::Bytes;
use proptest::prelude::*;

use crate::record::{
    BatchBuilder, BatchHeader, BatchLimits, BatchOptions, Compression, HeaderRefs, NewRecord, Record, RecordBatch,
    RecordRef, batch_headers, batches, check_produced,
};
use crate::time::TimestampMs;

/// A record by itself, to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TestRecord {
    pub(super) timestamp_ms: TimestampMs,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl TestRecord {
    pub(super) fn with_ref<T>(&self, use_it: impl FnOnce(&NewRecord<'_>) -> T) -> T {
        let headers: Vec<_> = self.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        use_it(&NewRecord {
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }
}

fn copied(headers: HeaderRefs<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    headers.map(|header| (header.key.into_owned(), header.value.map(<[u8]>::to_vec))).collect()
}

impl From<&RecordRef<'_>> for TestRecord {
    fn from(record: &RecordRef<'_>) -> Self {
        Self {
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: copied(record.headers.clone()),
        }
    }
}

impl From<&Record> for TestRecord {
    fn from(record: &Record) -> Self {
        Self {
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers: copied(record.headers.iter()),
        }
    }
}

fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        (any::<u8>(), 0usize..3000).prop_map(|(byte, len)| vec![byte; len]),
    ])
}

fn any_record() -> impl Strategy<Value = TestRecord> {
    let near = 1_700_000_000_000..1_700_000_100_000i64;
    let timestamp_ms = prop_oneof![8 => near, 1 => any::<i64>(), 1 => Just(-1)];
    let headers = prop::collection::vec((any::<String>(), any_bytes()), 0..3);
    (timestamp_ms, any_bytes(), any_bytes(), headers).prop_map(|(timestamp_ms, key, value, headers)| TestRecord {
        timestamp_ms,
        key,
        value,
        headers,
    })
}

pub(super) fn any_records() -> impl Strategy<Value = Vec<TestRecord>> {
    prop::collection::vec(any_record(), 1..20)
}

pub(super) fn any_batch() -> impl Strategy<Value = Bytes> {
    (prop::collection::vec(any_record(), 1..4), prop::sample::select(&Compression::ALL))
        .prop_map(|(records, compression)| build(&records, compression))
}

pub(super) fn build(records: &[TestRecord], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    for record in records {
        record.with_ref(|record| builder.append(record));
    }
    builder.finish(BatchOptions { compression, ..BatchOptions::default() }).freeze()
}

/// Does with `bytes` all that is done with bytes from outside.
pub(super) fn read_everything(bytes: &Bytes) {
    const DECOMPRESSED_LEN_MAX: usize = 1 << 16;
    let limits = BatchLimits {
        batch_len_max: 1 << 20,
        timestamp_before_max_ms: Some(u64::MAX),
        timestamp_after_max_ms: Some(u64::MAX),
    };
    let checked = check_produced(bytes, &limits, 1_700_000_000_000);
    if let Ok(header) = BatchHeader::parse(bytes) {
        assert!(u64::from(header.span()) <= 1 << 31 && header.record_count <= header.span());
        assert!(
            header.last_offset() >= header.base_offset && header.last_sequence().is_none_or(|sequence| sequence >= 0)
        );
    }
    for item in batch_headers(bytes) {
        assert!(item.is_err() || item.is_ok_and(|(header, batch)| header.batch_len == batch.len()));
    }
    for batch in batches(bytes.clone()) {
        let Ok(records) = batch.and_then(|batch| batch.records_with_limit(DECOMPRESSED_LEN_MAX)) else { continue };
        let owned: Vec<_> = records.clone().map(|record| record.map(|record| TestRecord::from(&record))).collect();
        let borrowed: Vec<_> = records.refs().map(|record| record.map(|record| TestRecord::from(&record))).collect();
        assert_eq!(owned, borrowed, "both ways of reading are one");
    }
    // What a sequencer takes, a reader at least recognises.
    assert!(checked.is_err() || RecordBatch::parse(bytes.clone()).is_ok());
}
