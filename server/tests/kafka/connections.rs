//! What a connection is told before and between records: versions, acknowledgements, order; and when it is closed.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;

use crate::client::{Kafka, PATIENCE, produce_request, text};
use crate::consuming::{Fetch, PLAIN, fetch};
use crate::support::Cluster;

fn batch(base_sequence: i32) -> Bytes {
    batch_of(ProducerStamp { id: 9000, epoch: 0, base_sequence })
}

fn batch_of(producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(1024);
    builder.append(&NewRecord::of_value(1, b"value"));
    builder.finish(BatchOptions { producer: Some(producer), ..BatchOptions::default() }).freeze()
}

/// A request in a version that nobody knows, without a client's name.
fn from_the_future(key: ApiKey) -> BytesMut {
    let mut request = BytesMut::new();
    request.put_i16(key as i16);
    request.put_i16(99);
    request.put_i32(4242);
    request.put_i16(-1);
    request.put_slice(b"\0whatever comes in that version");
    request
}

/// A client from the future is answered in version 0 and told what there is; one that asks for anything else that is not
/// offered is closed, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_are_not_known_are_answered_in_version_0() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    for _ in 0..2 {
        let mut answer = kafka.exchange(&from_the_future(ApiKey::ApiVersions));
        assert_eq!((answer.get_i32(), answer.get_i16()), (4242, ResponseError::UnsupportedVersion.code()));
        let versions: Vec<_> =
            (0..answer.get_i32()).map(|_| (answer.get_i16(), answer.get_i16(), answer.get_i16())).collect();
        assert_eq!(versions, [(ApiKey::ApiVersions as i16, 0, 4)]);
        assert!(!answer.has_remaining(), "no throttle time, no tags: that is version 0");
    }
    let mut versions = ApiVersionsRequest::default();
    (versions.client_software_name, versions.client_software_version) = (text("test"), text("1"));
    let told = kafka.ask(4, &versions);
    let highest = |key: ApiKey| told.api_keys.iter().find(|told| told.api_key == key as i16).unwrap().max_version;
    // Who sends ids instead of names must have been able to learn them, and must be able to fetch by them.
    assert!(highest(ApiKey::Produce) >= 13 && highest(ApiKey::Fetch) >= 13 && highest(ApiKey::Metadata) >= 12);
    kafka.tell(&from_the_future(ApiKey::Metadata));
    assert!(kafka.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_no_acknowledgement_gets_none_and_keeps_its_order() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "unacknowledged", 1);
    assert_eq!(kafka.produce_patiently("unacknowledged", 0, &batch(0)), 0);
    // Were one of them answered, it would be taken for the answer to the last.
    (1..50).for_each(|sequence| kafka.tell_request(9, &produce_request("unacknowledged", 0, 0, batch(sequence))));
    let done = kafka.ask(9, &produce_request("unacknowledged", 0, 1, batch(50)));
    let done = &done.responses[0].partition_responses[0];
    assert_eq!((done.error_code, done.base_offset), (0, 50));
    // A sequence that was left out is refused, and the partition goes on.
    assert_eq!(kafka.produce("unacknowledged", 0, batch(60)), Err(ResponseError::OutOfOrderSequenceNumber));
    assert_eq!(kafka.produce("unacknowledged", 0, batch(51)), Ok(51));
    // The only way to say that a batch was not taken is to close.
    kafka.tell_request(9, &produce_request("unacknowledged", 0, 0, batch(70)));
    assert!(kafka.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_log_takes_is_refused_by_the_code_that_clients_know() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "picky", 1);
    let good = batch(0);
    let broken = |at: usize, value: u8| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] = value;
        bytes.freeze()
    };
    let last = good.len() - 1;
    assert_eq!(kafka.produce("picky", 0, broken(last, 9)), Err(ResponseError::CorruptMessage));
    // Format 1: the byte that says so is in the same place in all formats.
    assert_eq!(kafka.produce("picky", 0, broken(16, 1)), Err(ResponseError::UnsupportedForMessageFormat));
    assert_eq!(kafka.produce("picky", 0, Bytes::new()), Err(ResponseError::InvalidRecord));
    assert_eq!(kafka.produce("picky", 7, good.clone()), Err(ResponseError::UnknownTopicOrPartition));
    let mut builder = BatchBuilder::new(2 << 20);
    builder.append(&NewRecord::of_value(1, &vec![b'x'; 1 << 20]));
    let long = builder.finish(BatchOptions::default()).freeze();
    assert_eq!(kafka.produce("picky", 0, long), Err(ResponseError::MessageTooLarge));
    let mut request = produce_request("picky", 0, 3, good.clone());
    assert_eq!(
        kafka.ask(9, &request).responses[0].partition_responses[0].error_code,
        ResponseError::InvalidRequiredAcks.code()
    );
    request.acks = -1;
    assert_eq!(kafka.ask(9, &request).responses[0].partition_responses[0].base_offset, 0, "nothing was taken before");
    // A producer that is not known begins with its first batch.
    let stranger = batch_of(ProducerStamp { id: 5_000_000, epoch: 3, base_sequence: 0 });
    assert_eq!(kafka.produce("picky", 0, stranger), Ok(1));
    // What the topic says counts, to the byte.
    let plain = crate::batch(&["value".to_owned()], None);
    for (limit, outcome) in [(plain.len(), Ok(2)), (plain.len() - 1, Err(ResponseError::MessageTooLarge))] {
        kafka.configure("picky", "max.message.bytes", &limit.to_string());
        assert_eq!(kafka.produce("picky", 0, plain.clone()), outcome);
    }
}

/// Who authenticates is not let in unasked, and not left waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_to_authenticate_hears_at_once_that_nobody_does() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "OAUTHBEARER"] {
        let mut handshake = SaslHandshakeRequest::default();
        handshake.mechanism = text(mechanism);
        let answer = kafka.ask(1, &handshake);
        assert_eq!(answer.error_code, ResponseError::UnsupportedSaslMechanism.code());
        assert!(answer.mechanisms.is_empty(), "there is none to try instead");
        let mut authenticate = SaslAuthenticateRequest::default();
        authenticate.auth_bytes = Bytes::from_static(b"\0user\0password");
        let answer = kafka.ask(2, &authenticate);
        assert_eq!(answer.error_code, ResponseError::IllegalSaslState.code());
        assert_eq!(answer.session_lifetime_ms, 0, "there is no session that would have to be renewed");
    }
}

/// A name that is two addresses is reached at either, or the one that answers is advertised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_reached_where_it_says_that_it_is() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    let told = kafka.ask(12, &MetadataRequest::default());
    let [broker] = &told.brokers[..] else { panic!("{told:?}") };
    assert_eq!(format!("{}:{}", broker.host, broker.port), cluster.address(1), "as it was given, not as it resolves");
    let again = Kafka::connect(&format!("{}:{}", broker.host, broker.port)).ask(12, &MetadataRequest::default());
    assert_eq!(told.cluster_id, again.cluster_id);
}

/// Whoever is silent, stops in the middle of a request or does not take its answers is cut off; whoever waits for an answer is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_slow_clients_lose_their_connections() {
    const LIMIT: Duration = Duration::from_millis(700);
    // As sent, with its length: what the node can do, version 0.
    const VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let limit = LIMIT.as_millis().to_string();
    let flags = ["--kafka-connection-idle-ms", &limit, "--kafka-stall-ms", &limit];
    let cluster = Cluster::start_with(1, &flags).await;
    let mut waiting = Kafka::with_topic(cluster.address(1), "waiting", 1);
    let begun = Instant::now();
    let mut idle = Kafka::connect(cluster.address(1));
    let mut half = Kafka::connect(cluster.address(1));
    half.0.write_all(&VERSIONS[..9]).unwrap();
    let patient = Fetch { wait_ms: 3 * LIMIT.as_millis() as i32, ..PLAIN };
    let (fetched, took) = fetch(&mut waiting, "waiting", &patient);
    assert!(fetched.error_code == 0 && took >= 2 * LIMIT, "who waits for an answer is not idle: {took:?}");
    assert!(idle.is_closed() && half.is_closed());
    assert!(begun.elapsed() < PATIENCE / 2, "they were closed long ago");

    let mut deaf = Kafka::connect(cluster.address(1));
    deaf.0.set_write_timeout(Some(PATIENCE)).unwrap();
    let many = VERSIONS.repeat(1000);
    let refused = std::iter::repeat_with(|| deaf.0.write_all(&many)).find_map(Result::err).unwrap();
    assert!(matches!(refused.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refused}");
    assert_eq!(Kafka::connect(cluster.address(1)).ask(0, &ApiVersionsRequest::default()).error_code, 0);
}
