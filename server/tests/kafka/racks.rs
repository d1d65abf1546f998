//! Consumers that say in which rack they are read from a replica there (KIP-392).

use std::process::Output;
use std::time::{Duration, Instant};

use dlog_proto::record;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::*;
use rustix::process::Signal;

use crate::client::{Kafka, PATIENCE, produce_request, text, topic};
use crate::support::Cluster;
use crate::{batch, eventually, fill, values};

const NAME: &str = "racked";
const RACKS: [&str; 3] = ["a", "b", "c"];

/// A Fetch of one partition.
#[derive(Clone, Copy)]
struct Asked {
    version: i16,
    partition: i32,
    offset: i64,
    rack: &'static str,
    replica: i32,
    epoch: i32,
    wait_ms: i32,
}

const CONSUMER: Asked = Asked { version: 12, partition: 0, offset: 0, rack: "", replica: -1, epoch: -1, wait_ms: 500 };

fn fetch(kafka: &mut Kafka, asked: Asked) -> PartitionData {
    let mut wanted = fetch_request::FetchPartition::default();
    (wanted.partition, wanted.fetch_offset, wanted.partition_max_bytes) = (asked.partition, asked.offset, 1 << 20);
    wanted.current_leader_epoch = if asked.version >= 9 { asked.epoch } else { -1 };
    let mut of_topic = fetch_request::FetchTopic::default();
    (of_topic.topic, of_topic.partitions) = (topic(NAME), vec![wanted]);
    let mut request = FetchRequest::default();
    (request.replica_id, request.max_wait_ms, request.min_bytes) = (BrokerId(asked.replica), asked.wait_ms, 1);
    (request.max_bytes, request.topics) = (1 << 20, vec![of_topic]);
    if asked.version >= 11 {
        request.rack_id = text(asked.rack);
    }
    kafka.ask(asked.version, &request).responses.remove(0).partitions.remove(0)
}

fn read(data: &PartitionData) -> Vec<(i64, String)> {
    let mut read = Vec::new();
    for batch in record::batches(data.records.clone().unwrap_or_default()).map(Result::unwrap) {
        for record in batch.records().unwrap().map(Result::unwrap) {
            let at = batch.header().base_offset as i64 + i64::from(record.offset_delta);
            read.push((at, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    read
}

/// Reads at one node until it has given so many records, and checks that it never gives more than is there.
fn read_all(node: &mut Kafka, partition: i32, count: i64) -> Vec<(i64, String)> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while (all.len() as i64) < count {
        let data = fetch(node, Asked { partition, offset: all.len() as i64, ..CONSUMER });
        assert!(data.high_watermark <= count, "{} of {count}", data.high_watermark);
        let lags = [ResponseError::OffsetNotAvailable, ResponseError::NotLeaderOrFollower].map(|error| error.code());
        assert!(data.error_code == 0 || lags.contains(&data.error_code), "{}", data.error_code);
        assert_eq!(data.preferred_read_replica.0, -1, "only leaders send consumers away");
        all.extend(read(&data).into_iter().filter(|(at, _)| *at >= all.len() as i64).collect::<Vec<_>>());
        assert!(Instant::now() < deadline, "{} of {count} records came", all.len());
    }
    all
}

/// What operators are told of the partition.
fn epochs(cluster: &Cluster) -> [Output; 2] {
    [vec!["epoch", "show", NAME], vec!["copyset", "show", NAME, "--lsn", "e1n5"]].map(|args| cluster.run(&args))
}

/// The node that leads, by its number.
fn leader(cluster: &Cluster, partition: i32, ask: usize) -> usize {
    let address = Kafka::connect(cluster.address(ask)).leaders(NAME).remove(&partition).unwrap();
    (1..=3).find(|node| cluster.address(*node) == address).unwrap()
}

fn newest_epoch(kafka: &mut Kafka, partition: i32) -> i32 {
    let mut wanted = metadata_request::MetadataRequestTopic::default();
    wanted.name = Some(topic(NAME));
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![wanted]);
    let response = kafka.ask(12, &request);
    response.topics[0].partitions.iter().find(|p| p.partition_index == partition).unwrap().leader_epoch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_is_sent_to_the_replica_in_its_rack_and_reads_there_across_epochs() {
    let mut cluster = Cluster::start_in_racks(3, &RACKS).await;
    Kafka::connect(cluster.address(1)).create(NAME, 3, 3);
    fill(&cluster, NAME, 0, 30);
    for partition in 0..3 {
        let leads = leader(&cluster, partition, 1);
        let mut kafka = Kafka::connect(cluster.address(leads));
        let mut at_leader = |asked: Asked| {
            let data = fetch(&mut kafka, Asked { partition, ..asked });
            (data.error_code, data.preferred_read_replica.0, read(&data).len())
        };
        for (node, rack) in (1..).zip(RACKS) {
            let told = eventually(|| {
                let told = at_leader(Asked { rack, ..CONSUMER });
                (node == leads || told.1 != -1).then_some(told)
            });
            assert_eq!(told, if node == leads { (0, -1, 30) } else { (0, node as i32, 0) }, "rack {rack}");
            // At once: it has nothing to wait for.
            let begun = Instant::now();
            let told =
                at_leader(Asked { rack, offset: 30, wait_ms: if node == leads { 0 } else { 20_000 }, ..CONSUMER });
            assert_eq!(told, (0, if node == leads { -1 } else { node as i32 }, 0));
            assert!(begun.elapsed() < PATIENCE / 3);
        }
        assert_eq!(at_leader(Asked { rack: "z", ..CONSUMER }), (0, -1, 30), "nobody is there");
        let other = RACKS[leads % 3];
        assert_eq!(at_leader(Asked { rack: other, replica: 2, ..CONSUMER }), (0, -1, 30), "no consumer");
        assert_eq!(at_leader(Asked { version: 10, ..CONSUMER }), (0, -1, 30), "it would not understand");
        assert_eq!(at_leader(Asked { rack: other, offset: 31, ..CONSUMER }).0, ResponseError::OffsetOutOfRange.code());

        let node = leads % 3 + 1;
        let mut replica = Kafka::connect(cluster.address(node));
        assert_eq!(read_all(&mut replica, partition, 30), values(partition, 0, 30));
        let epoch = newest_epoch(&mut replica, partition);
        let mut refused = |asked: Asked| {
            let data = fetch(&mut replica, Asked { partition, ..asked });
            assert!(read(&data).is_empty());
            ResponseError::try_from_code(data.error_code)
        };
        assert_eq!(refused(Asked { version: 10, ..CONSUMER }), Some(ResponseError::NotLeaderOrFollower));
        assert_eq!(refused(Asked { replica: 3, ..CONSUMER }), Some(ResponseError::NotLeaderOrFollower));
        assert_eq!(refused(Asked { offset: 31, ..CONSUMER }), Some(ResponseError::OffsetNotAvailable));
        assert_eq!(refused(Asked { offset: -1, ..CONSUMER }), Some(ResponseError::OffsetOutOfRange));
        assert_eq!(refused(Asked { epoch: epoch - 1, ..CONSUMER }), Some(ResponseError::FencedLeaderEpoch));
        assert_eq!(refused(Asked { epoch: epoch + 1, ..CONSUMER }), Some(ResponseError::UnknownLeaderEpoch));
        assert_eq!(refused(Asked { epoch, offset: 30, ..CONSUMER }), None, "at the end there is nothing yet");
    }

    let dead = leader(&cluster, 0, 1);
    let (alive, other) = (dead % 3 + 1, (dead + 1) % 3 + 1);
    cluster.kill(dead);
    let leads = eventually(|| Some(leader(&cluster, 0, alive)).filter(|leads| *leads != dead));
    let mut kafka = Kafka::connect(cluster.address(leads));
    for three in values(0, 30, 30).chunks(3) {
        let texts: Vec<String> = three.iter().map(|(_, value)| value.clone()).collect();
        assert_eq!(kafka.produce_patiently(NAME, 0, &batch(&texts, None)), three[0].0);
    }
    let data = fetch(&mut kafka, Asked { rack: RACKS[dead - 1], ..CONSUMER });
    assert_eq!((data.error_code, data.preferred_read_replica.0), (0, -1), "who is dead is not named");
    assert!(!read(&data).is_empty());
    let replica = if leads == alive { other } else { alive };
    let mut replica = Kafka::connect(cluster.address(replica));
    assert_eq!(read_all(&mut replica, 0, 60), values(0, 0, 60), "across epochs, all of it and nothing twice");
}

/// A replica that waits hears of what is released. What it has and is not released it keeps to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_gives_what_is_released_as_soon_as_it_is_and_nothing_else() {
    let cluster = Cluster::start_in_racks(3, &RACKS).await;
    Kafka::connect(cluster.address(1)).create_with(NAME, 1, 3, &[("min.insync.replicas", "3")]);
    fill(&cluster, NAME, 0, 3);
    let leads = leader(&cluster, 0, 1);
    let (node, paused) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    let mut replica = Kafka::connect(cluster.address(node));
    assert_eq!(read_all(&mut replica, 0, 3), values(0, 0, 3));

    let address = cluster.address(leads).to_owned();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        Kafka::connect(&address).produce_patiently(NAME, 0, &batch(&["late".to_owned()], None))
    });
    let begun = Instant::now();
    let data = fetch(&mut replica, Asked { offset: 3, wait_ms: 20_000, ..CONSUMER });
    assert_eq!(read(&data), [(3, "late".to_owned())]);
    assert!(begun.elapsed() < PATIENCE / 3, "it comes as soon as it is there");
    assert_eq!(late.join().unwrap(), 3);

    // Three copies are a write quorum, and one node takes none: what the other two have is not released.
    cluster.signal(paused, Signal::STOP);
    let mut kafka = Kafka::connect(cluster.address(leads));
    let done = kafka.ask(9, &produce_request(NAME, 0, 1, batch(&["held".to_owned()], None)));
    let done = &done.responses[0].partition_responses[0];
    assert_eq!((done.error_code, done.base_offset), (0, 4), "one copy is enough for its producer");
    let data = fetch(&mut replica, Asked { offset: 4, ..CONSUMER });
    let story = || format!("n{leads} leads, n{paused} is paused: {:?}\n{}", epochs(&cluster), cluster.logs());
    assert_eq!((data.error_code, data.high_watermark, read(&data)), (0, 4, Vec::new()), "{}", story());
    cluster.signal(paused, Signal::CONT);
    assert_eq!(read_all(&mut replica, 0, 5)[3..], [(3, "late".to_owned()), (4, "held".to_owned())]);
}
