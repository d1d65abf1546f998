//! What is not there is refused at once, by the answer that clients take for final, and nothing is offered that is not there.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;

use crate::client::{Kafka, produce_request, text};
use crate::support::Cluster;

/// Transactions, ACLs, delegation tokens, log directories, reassignments, quotas, SCRAM, KRaft, KIP-848, telemetry, share and
/// Streams groups.
const NOT_OFFERED: [std::ops::RangeInclusive<i16>; 9] =
    [4..=7, 24..=31, 34..=34, 38..=41, 45..=45, 48..=59, 62..=74, 76..=94, 1000..=1000];

/// A batch of one record with other attributes, and a CRC that holds.
fn batch_with(attributes: u16) -> Bytes {
    let mut builder = BatchBuilder::new(128);
    builder.append(&NewRecord::of_value(1, b"value"));
    let mut bytes = BytesMut::from(&builder.finish(BatchOptions::default())[..]);
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

/// Bit by bit: it is not ours that is tested with.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_refused_wherever_they_begin() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "plain", 1);
    let last_word = ResponseError::TransactionalIdAuthorizationFailed.code();
    for version in 0..=5 {
        let mut init = InitProducerIdRequest::default();
        init.transactional_id = Some(TransactionalId(text("tx")));
        let told = kafka.ask(version, &init);
        assert_eq!((told.error_code, told.producer_id.0, told.producer_epoch), (last_word, -1, -1), "{version}");
        init.transactional_id = Some(TransactionalId(text("")));
        assert_eq!(kafka.ask(version, &init).error_code, ResponseError::InvalidRequest.code());
    }
    for version in 1..=3 {
        let mut find = FindCoordinatorRequest::default();
        (find.key, find.key_type) = (text("tx"), 1);
        assert_eq!(kafka.ask(version, &find).error_code, last_word, "{version}");
    }
    for version in 4..=6 {
        let mut find = FindCoordinatorRequest::default();
        find.coordinator_keys = vec![text("tx"), text("other")];
        let invalid = ResponseError::InvalidRequest.code();
        for (kind, error) in [(1, last_word), (2, invalid), (9, invalid)] {
            find.key_type = kind;
            let told: Vec<_> = kafka.ask(version, &find).coordinators.iter().map(|one| one.error_code).collect();
            assert_eq!(told, [error; 2], "{version} {kind}");
        }
    }
    let mut request = produce_request("plain", 0, -1, batch_with(0));
    request.transactional_id = Some(TransactionalId(text("tx")));
    assert_eq!(kafka.ask(9, &request).responses[0].partition_responses[0].error_code, last_word);
    assert_eq!(kafka.produce("plain", 0, batch_with(0x10)), Err(ResponseError::InvalidRecord), "without a producer");
    assert_eq!(kafka.produce("plain", 0, batch_with(0x20)), Err(ResponseError::InvalidRecord), "a control batch");
    assert_eq!(
        kafka.produce("plain", 0, batch_with(0x08)),
        Err(ResponseError::InvalidTimestamp),
        "its own append time"
    );
    assert_eq!(kafka.produce("plain", 0, batch_with(0x05)), Err(ResponseError::UnsupportedCompressionType));
    let two = Bytes::from([batch_with(0), batch_with(0)].concat());
    assert_eq!(kafka.produce("plain", 0, two), Err(ResponseError::InvalidRecord), "one batch at a time");
    assert_eq!(kafka.produce("plain", 0, batch_with(0)), Ok(0), "nothing of that was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_offered_is_there_and_what_is_not_closes_the_connection() {
    let cluster = Cluster::start(1).await;
    let mut versions = ApiVersionsRequest::default();
    (versions.client_software_name, versions.client_software_version) = (text("test"), text("1"));
    let told = Kafka::connect(cluster.address(1)).ask(4, &versions);
    let offered: BTreeMap<i16, (i16, i16)> =
        told.api_keys.iter().map(|told| (told.api_key, (told.min_version, told.max_version))).collect();
    assert!(told.finalized_features.is_empty() && told.supported_features.is_empty(), "no feature of KRaft is on");
    // Who does not see Produce 0 does not compress (KAFKA-18659).
    assert_eq!(offered[&0], (0, 13));
    for key in NOT_OFFERED.into_iter().flatten() {
        assert!(!offered.contains_key(&key), "{key}");
        let mut kafka = Kafka::connect(cluster.address(1));
        let mut request = BytesMut::new();
        request.put_i16(key);
        request.put_i16(0);
        request.put_i32(1);
        request.put_i16(-1);
        kafka.tell(&request);
        assert!(kafka.is_closed(), "{key}");
    }
    let mut old = Kafka::connect(cluster.address(1));
    old.tell_request(3, &produce_request("nowhere", 0, 1, Bytes::new()));
    let mut refused = Kafka::connect(cluster.address(1));
    let mut request = BytesMut::new();
    request.put_slice(&[0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff]);
    refused.tell(&request);
    assert!(refused.is_closed(), "Produce 2 is named for old clients' sake, and nobody sends it");
}

/// What every client reads first, byte by byte: a header without tags in all versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_has_the_header_that_all_clients_can_read() {
    let cluster = Cluster::start(1).await;
    for version in 0..=4_i16 {
        let mut request = BytesMut::new();
        request.put_slice(&[0, 18]);
        request.put_i16(version);
        request.put_slice(&[0, 0, 0, 5, 0, 1, b'x']);
        if version >= 3 {
            request.put_slice(b"\0\x05test\x021\0");
        }
        let mut answer = Kafka::connect(cluster.address(1)).exchange(&request);
        assert_eq!((answer.get_i32(), answer.get_i16()), (5, 0), "{version}: number, then at once the error");
        let count = if version >= 3 { i32::from(answer.get_u8()) - 1 } else { answer.get_i32() };
        assert!(count > 30, "{version}: {count}");
        assert_eq!((answer.get_i16(), answer.get_i16(), answer.get_i16()), (0, 0, 13), "{version}: Produce");
    }
    let mut nameless = ApiVersionsRequest::default();
    (nameless.client_software_name, nameless.client_software_version) = (text("-"), text("1"));
    let told = Kafka::connect(cluster.address(1)).ask(3, &nameless).error_code;
    assert_eq!(told, ResponseError::InvalidRequest.code());
}
