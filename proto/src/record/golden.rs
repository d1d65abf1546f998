//! Batches as Kafka's own clients send them, byte for byte: kafka-clients 4.1.0 (Java), librdkafka by way of
//! confluent-kafka 2.16.1 (captured from its mock broker), kafka-python 3.0.12. Between them they have every codec and each of the
//! codecs' dialects.

use bytes::Bytes;

use crate::record::testing::TestRecord;
use crate::record::{Compression, ProducerStamp, RecordBatch};

/// The four records of [`java_records`], taken apart. Transactional, and its sequence numbers wrap after the second record.
pub(super) const JAVA_NONE: &str = concat!(
    "0000000000000000",           //  0 baseOffset 0
    "000000c8",                   //  8 batchLength 200
    "ffffffff",                   // 12 partitionLeaderEpoch −1
    "02",                         // 16 magic
    "3ce99e3c",                   // 17 crc
    "0010",                       // 21 attributes: transactional, not compressed
    "00000003",                   // 23 lastOffsetDelta
    "0000018bcfe56800",           // 27 baseTimestamp 1,700,000,000,000
    "0000018bcfe5692c",           // 35 maxTimestamp, 300 later: the third record's
    "0000000000001267",           // 43 producerId 4711
    "0003",                       // 51 producerEpoch
    "7ffffffe",                   // 53 baseSequence 2^31 − 2
    "00000004",                   // 57 recordsCount
    "1c 00 00 00",                // 61 14 bytes, attributes 0, timestamp +0, offset +0
    "06 6b6579 0a 68656c6c6f 00", //    key of 3 "key", value of 5 "hello", no headers
    "24 00 13 02",                // 76 18 bytes, attributes 0, timestamp −10, offset +1
    "06 6b6579 01 04",            //    key of 3 "key", no value, two headers:
    "06 68c3a9 02 76",            //    key of 3 "hé", value of 1 "v"
    "02 6e 01",                   //    key of 1 "n", no value
    "d801 00 d804 04 01 c801",    // 95 108 bytes, attributes 0, timestamp +300, offset +2, no key, value of 100
    "6161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161",
    "6161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161",
    "00",                   //    no headers
    "0c 00 02 06 00 00 00", // 205 6 bytes, attributes 0, timestamp +1, offset +3, key of 0, value of 0, no headers
);

pub(super) const JAVA_GZIP: &str = "\
    000000000000000000000078ffffffff02f94d07730011000000030000018bcfe568000000018bcfe5692c000000000000126700037fff\
    fffe000000041f8b08000000000000ff9361606060cb4eade4ca48cdc9c9675061106602711959d8320eaf642a63ca63bcc1c870838585\
    f10463221d00030f03131bd04900379517bf97000000\
";
pub(super) const JAVA_SNAPPY: &str = "\
    000000000000000000000084ffffffff026f0fc7480012000000030000018bcfe568000000018bcfe5692c000000000000126700037fff\
    fffe0000000482534e415050590000000001000000010000003f9701b01c000000066b65790a68656c6c6f0024001302066b6579010406\
    68c3a90276026e01d80100d8040401c8016161fe02008602001c000c000206000000\
";
pub(super) const JAVA_LZ4: &str = "\
    00000000000000000000007affffffff0293339f420013000000030000018bcfe568000000018bcfe5692c000000000000126700037fff\
    fffe0000000404224d186040823a000000f0041c000000066b65790a68656c6c6f00240013020f00ff0601040668c3a90276026e01d801\
    00d8040401c8016101005080000c00020600000000000000\
";
pub(super) const JAVA_ZSTD: &str = "\
    000000000000000000000079ffffffff020914877c0014000000030000018bcfe568000000018bcfe5692c000000000000126700037fff\
    fffe0000000428b52ffd0058e4010044031c000000066b65790a68656c6c6f0024001302066b657901040668c3a90276026e01d80100d8\
    040401c80161000c000206000000010004292803010000\
";
pub(super) const LIBRDKAFKA_SNAPPY: &str = "\
    00000000000000000000006500000000027fd11dfa0002000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffff\
    ffff000000039f013814000000086b65793000006c000202010b083150619a0100240202680276b60100040401380832a0019a3800a201\
    000000\
";
pub(super) const LIBRDKAFKA_ZSTD: &str = "\
    00000000000000000000006d0000000002bb4d40c20004000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffff\
    ffff0000000328b52ffd00589d0100940214000000086b65793000006c000202086b65793150610202680276b601000404086b657932a0\
    016100020018a081128801\
";
pub(super) const LIBRDKAFKA_GZIP: &str = "\
    00000000000000000000006f0000000002ce3ca2fb0001000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffff\
    ffff000000031f8b080000000000000313616060e0c84ead346060c861606202310d031289044c4c194c65db1819585840fa8c163012ab\
    9158c00000bf4e84879f000000\
";
pub(super) const KAFKA_PYTHON_LZ4: &str = "\
    0000000000000000000000800000000002009cdb650003000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffff\
    ffff0000000304224d1868409f000000000000007638000000f00014000000086b65793000006c0002020b003f315061010014a0020268\
    0276b60100040438003f32a0013800140f02001250616161610000000000\
";
pub(super) const KAFKA_PYTHON_ZSTD: &str = "\
    00000000000000000000006a0000000002cda3a1670004000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffff\
    ffff0000000328b52ffd209f850100040214000000086b65793000006c0002023150610202680276b60100040432a0010005000004801a\
    5bad08ae06afa50e\
";

pub(super) const ALL: [(&str, &str); 10] = [
    ("java none", JAVA_NONE),
    ("java gzip", JAVA_GZIP),
    ("java snappy", JAVA_SNAPPY),
    ("java lz4", JAVA_LZ4),
    ("java zstd", JAVA_ZSTD),
    ("librdkafka gzip", LIBRDKAFKA_GZIP),
    ("librdkafka snappy", LIBRDKAFKA_SNAPPY),
    ("librdkafka zstd", LIBRDKAFKA_ZSTD),
    ("kafka-python lz4", KAFKA_PYTHON_LZ4),
    ("kafka-python zstd", KAFKA_PYTHON_ZSTD),
];

pub(super) fn batch(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// What is in the Java client's batches.
pub(super) fn java_records() -> [TestRecord; 4] {
    let record = |timestamp_ms, key: Option<&str>, value: Option<&str>| TestRecord {
        timestamp_ms,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    let headers = vec![("hé".to_owned(), Some(b"v".to_vec())), ("n".to_owned(), None)];
    [
        record(1_700_000_000_000, Some("key"), Some("hello")),
        TestRecord { headers, ..record(1_699_999_999_990, Some("key"), None) },
        record(1_700_000_000_300, None, Some(&"a".repeat(100))),
        record(1_700_000_000_001, Some(""), Some("")),
    ]
}

/// What is in the other clients' batches.
fn other_records() -> [TestRecord; 3] {
    [0, 1, 2].map(|i| TestRecord {
        timestamp_ms: 1_700_000_000_000 + i as i64,
        key: Some(format!("key{i}").into_bytes()),
        value: Some(vec![b'a'; 40 * i]),
        headers: if i == 1 { vec![("h".to_owned(), Some(b"v".to_vec()))] } else { Vec::new() },
    })
}

fn read(hex: &str) -> (RecordBatch, Vec<TestRecord>) {
    let batch = RecordBatch::parse(batch(hex)).unwrap();
    let records = batch.records().unwrap().map(|record| TestRecord::from(&record.unwrap())).collect();
    (batch, records)
}

#[test]
fn what_the_java_client_made_is_read() {
    for (compression, (name, hex)) in Compression::ALL.into_iter().zip(ALL) {
        let (batch, records) = read(hex);
        let header = batch.header();
        assert_eq!(records, java_records(), "{name}");
        assert_eq!(header.attributes.compression(), Ok(compression));
        assert!(header.attributes.is_transactional() && !header.attributes.is_control());
        assert_eq!((header.base_offset, header.leader_epoch, header.span(), header.record_count), (0, -1, 4, 4));
        assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (1_700_000_000_000, 1_700_000_000_300));
        assert_eq!(header.producer, Some(ProducerStamp { id: 4711, epoch: 3, base_sequence: i32::MAX - 1 }));
        assert_eq!(header.last_sequence(), Some(1));
    }
}

#[test]
fn what_other_clients_made_is_read() {
    for (name, hex) in &ALL[5..] {
        let (batch, records) = read(hex);
        assert_eq!(records, other_records(), "{name}");
        assert_eq!((batch.header().producer, batch.header().leader_epoch), (None, 0), "{name}");
    }
}
