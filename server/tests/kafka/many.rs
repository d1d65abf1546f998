//! A Fetch of very many partitions.

use std::collections::BTreeMap;
use std::thread;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;

use crate::batch;
use crate::client::{Kafka, topic};
use crate::support::Cluster;

const NAME: &str = "many";

/// A Fetch that names each partition of the topic so often, in a session if one is given.
fn request(partitions: i32, times: usize, (partition_bytes, bytes): (i32, i32), session: (i32, i32)) -> FetchRequest {
    let wanted = |partition: i32| {
        let mut wanted = fetch_request::FetchPartition::default();
        (wanted.partition, wanted.partition_max_bytes) = (partition, partition_bytes);
        wanted
    };
    let mut of_topic = fetch_request::FetchTopic::default();
    of_topic.topic = topic(NAME);
    of_topic.partitions = (0..times).flat_map(|_| (0..partitions).map(wanted)).collect();
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.min_bytes, request.max_bytes) = (500, 1, bytes);
    (request.session_id, request.session_epoch) = session;
    request.topics = if of_topic.partitions.is_empty() { vec![] } else { vec![of_topic] };
    request
}

/// Partitions that an answer has records of, and their bytes.
fn told(answer: &FetchResponse) -> BTreeMap<i32, usize> {
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    let len = |data: &fetch_response::PartitionData| data.records.as_ref().map_or(0, bytes::Bytes::len);
    partitions.filter(|data| len(data) > 0).map(|data| (data.partition_index, len(data))).collect()
}

/// Ten thousand partitions of a megabyte each fit neither the answer nor the node: it gives what it was asked for at most, and
/// takes no more memory for it, however many ask at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_partitions_take_no_more_memory_than_the_answer_may_have() {
    const ANSWER: i32 = 4 << 20;
    const ASKING: usize = 8;
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), NAME, 1);
    let long = "x".repeat(900_000);
    assert_eq!(kafka.produce_patiently(NAME, 0, &batch(std::slice::from_ref(&long), None)), 0);
    let before = cluster.memory(1);
    let address = cluster.address(1).to_owned();
    let asking = (0..ASKING).map(|_| {
        let address = address.clone();
        thread::spawn(move || {
            let answer = Kafka::connect(&address).ask(4, &request(1, 10_000, (1 << 20, ANSWER), (0, -1)));
            let partitions = &answer.responses[0].partitions;
            assert_eq!(partitions.len(), 10_000, "each is answered for");
            assert!(partitions.iter().all(|data| data.error_code == 0 && data.high_watermark == 1));
            partitions.iter().map(|data| data.records.as_ref().map_or(0, bytes::Bytes::len)).sum::<usize>()
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        let bytes = asked.join().unwrap();
        assert!((3_000_000..=ANSWER as usize).contains(&bytes), "{bytes}");
    }
    let taken = cluster.memory(1).saturating_sub(before);
    assert!(taken < 2 * ASKING as u64 * ANSWER as u64, "{taken} bytes");
}

/// With room for one partition at a time, all get their turn: a session lets whoever got something wait for the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_of_a_session_gets_its_turn() {
    const PARTITIONS: i32 = 20;
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), NAME, PARTITIONS);
    for partition in 0..PARTITIONS {
        assert_eq!(kafka.produce_patiently(NAME, partition, &batch(&["x".repeat(1000)], None)), 0);
    }
    let one = (2000, 1000);
    let first = kafka.ask(11, &request(PARTITIONS, 1, one, (0, 0)));
    assert!(first.session_id != 0 && told(&first).len() == 1);
    let mut turns = told(&first);
    for epoch in 1..PARTITIONS {
        let next = told(&kafka.ask(11, &request(0, 1, one, (first.session_id, epoch))));
        assert_eq!(next.len(), 1, "one fits");
        turns.extend(next);
    }
    assert_eq!(turns.len(), PARTITIONS as usize, "none twice before all had theirs: {turns:?}");
    let stale = kafka.ask(11, &request(0, 1, one, (first.session_id, 3))).error_code;
    assert_eq!(stale, ResponseError::InvalidFetchSessionEpoch.code());
}
