//! How long a Fetch waits, and what it gives at the ends of partitions.

use std::time::{Duration, Instant};

use dlog_proto::record;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::*;

use crate::client::{Kafka, PATIENCE, topic};
use crate::support::Cluster;

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

pub(crate) struct Fetch {
    pub(crate) offset: i64,
    pub(crate) wait_ms: i32,
    pub(crate) min_bytes: i32,
    pub(crate) partition_max_bytes: i32,
}

pub(crate) const PLAIN: Fetch = Fetch { offset: 0, wait_ms: 500, min_bytes: 1, partition_max_bytes: 1 << 20 };

pub(crate) fn fetch(kafka: &mut Kafka, name: &str, asked: &Fetch) -> (PartitionData, Duration) {
    let mut wanted = fetch_request::FetchPartition::default();
    (wanted.fetch_offset, wanted.partition_max_bytes) = (asked.offset, asked.partition_max_bytes);
    let mut of_topic = fetch_request::FetchTopic::default();
    (of_topic.topic, of_topic.partitions) = (topic(name), vec![wanted]);
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.min_bytes, request.max_bytes) = (asked.wait_ms, asked.min_bytes, 1 << 20);
    request.topics = vec![of_topic];
    let begun = Instant::now();
    let data = kafka.ask(11, &request).responses.remove(0).partitions.remove(0);
    (data, begun.elapsed())
}

fn offsets(data: &PartitionData) -> Vec<i64> {
    let batches = record::batches(data.records.clone().unwrap_or_default()).map(Result::unwrap);
    batches
        .flat_map(|batch| (0..i64::from(batch.header().span())).map(move |i| batch.header().base_offset as i64 + i))
        .collect()
}

fn some(count: usize) -> bytes::Bytes {
    crate::batch(&vec!["x".repeat(100); count], None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_waits_as_long_as_it_says_and_no_longer() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "waiting", 1);
    // An empty partition has an end, and whoever is there waits.
    assert_eq!((kafka.list_offset("waiting", EARLIEST).0, kafka.list_offset("waiting", LATEST).0), (0, 0));
    assert_eq!(kafka.list_offset("waiting", 5), (-1, -1), "no record has that time");
    let (data, took) = fetch(&mut kafka, "waiting", &PLAIN);
    assert_eq!((data.error_code, data.high_watermark, data.last_stable_offset), (0, 0, 0));
    assert!(offsets(&data).is_empty() && took >= Duration::from_millis(490), "{took:?}");
    let (data, _) = fetch(&mut kafka, "waiting", &Fetch { offset: 1, ..PLAIN });
    assert_eq!(data.error_code, ResponseError::OffsetOutOfRange.code());

    assert_eq!(kafka.produce_patiently("waiting", 0, &some(3)), 0);
    assert_eq!(kafka.produce_patiently("waiting", 0, &some(3)), 3);
    // More is asked for than fits the partition's share: there is nothing to wait for.
    let greedy = Fetch { wait_ms: 20_000, min_bytes: 1 << 20, partition_max_bytes: 500, ..PLAIN };
    let (data, took) = fetch(&mut kafka, "waiting", &greedy);
    assert!(offsets(&data) == [0, 1, 2] && took < PATIENCE / 3, "{took:?}");
    // From inside a batch the whole batch comes; clients leave out what they did not ask for.
    let (data, _) = fetch(&mut kafka, "waiting", &Fetch { offset: 4, ..PLAIN });
    assert_eq!(offsets(&data), [3, 4, 5]);
    // At the end there is nothing yet, and that is no error.
    let (data, took) = fetch(&mut kafka, "waiting", &Fetch { offset: 6, ..PLAIN });
    assert!(data.error_code == 0 && offsets(&data).is_empty() && took >= Duration::from_millis(490), "{took:?}");
    // What comes while it waits ends the wait.
    let address = cluster.address(1).to_owned();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        Kafka::connect(&address).produce_patiently("waiting", 0, &some(1))
    });
    let (data, took) = fetch(&mut kafka, "waiting", &Fetch { offset: 6, wait_ms: 20_000, ..PLAIN });
    assert!(offsets(&data) == [6] && took < PATIENCE / 3, "{took:?}");
    assert_eq!(late.join().unwrap(), 6);
}

/// Who has read everything stays at the end: no epoch, restart or deletion leaves an offset without a record before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_stays_where_it_is_when_epochs_change_and_records_are_deleted() {
    let mut cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "ends", 1);
    assert_eq!(kafka.produce_patiently("ends", 0, &some(5)), 0);
    for _ in 0..2 {
        cluster.kill(1);
        cluster.start_node(1);
        cluster.serves().await;
        kafka = Kafka::connect(cluster.address(1));
        kafka.leaders("ends");
        let deadline = Instant::now() + PATIENCE;
        while fetch(&mut kafka, "ends", &PLAIN).0.error_code != 0 {
            assert!(Instant::now() < deadline, "the partition is led again");
            std::thread::sleep(Duration::from_millis(50));
        }
        let (data, _) = fetch(&mut kafka, "ends", &Fetch { offset: 5, ..PLAIN });
        assert_eq!((data.error_code, data.high_watermark), (0, 5));
    }
    // What an old epoch's leader could have been asked: where it ended, which is where nothing was lost.
    let end_of = |kafka: &mut Kafka, epoch: i32| {
        let mut asked = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
        asked.leader_epoch = epoch;
        let mut of_topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default();
        (of_topic.topic, of_topic.partitions) = (topic("ends"), vec![asked]);
        let mut request = OffsetForLeaderEpochRequest::default();
        request.topics = vec![of_topic];
        let end = kafka.ask(4, &request).topics.remove(0).partitions.remove(0);
        (end.error_code, end.end_offset)
    };
    assert_eq!(end_of(&mut kafka, 1), (0, 5));
    assert_eq!(end_of(&mut kafka, 1000), (0, -1), "nobody had that epoch");

    let mut all = delete_records_request::DeleteRecordsPartition::default();
    all.offset = -1;
    let mut of_topic = delete_records_request::DeleteRecordsTopic::default();
    (of_topic.name, of_topic.partitions) = (topic("ends"), vec![all]);
    let mut request = DeleteRecordsRequest::default();
    (request.topics, request.timeout_ms) = (vec![of_topic], 10_000);
    let deleted = kafka.ask(2, &request).topics.remove(0).partitions.remove(0);
    assert_eq!((deleted.error_code, deleted.low_watermark), (0, 5));
    assert_eq!((kafka.list_offset("ends", EARLIEST).0, kafka.list_offset("ends", LATEST).0), (5, 5));
    let (data, _) = fetch(&mut kafka, "ends", &Fetch { offset: 4, ..PLAIN });
    assert_eq!(data.error_code, ResponseError::OffsetOutOfRange.code());
    assert_eq!(kafka.produce_patiently("ends", 0, &some(1)), 5);
    let (data, _) = fetch(&mut kafka, "ends", &Fetch { offset: 5, ..PLAIN });
    assert_eq!((offsets(&data), data.log_start_offset), (vec![5], 5));
}
