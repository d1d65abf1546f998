//! Kafka's protocol, spoken to whole nodes.

mod admin;
mod client;
mod connections;
mod consuming;
mod every_request;
mod failing;
mod many;
mod racks;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod times;
mod traps;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Kafka, PATIENCE, text, topic};
use dlog_client::Position;
use dlog_proto::Lsn;
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use support::{Cluster, dlog, free_address};
use tempfile::TempDir;

/// What comes to be, within a while.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it comes to be");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn batch(values: &[String], producer: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(1024);
    for value in values {
        builder.append(&NewRecord { timestamp_ms: 1, key: None, value: Some(value.as_bytes()), headers: &[] });
    }
    builder.finish(BatchOptions { producer, ..BatchOptions::default() }).freeze()
}

fn values(partition: i32, from: i64, count: i64) -> Vec<(i64, String)> {
    (from..from + count).map(|offset| (offset, format!("{partition}-{offset}"))).collect()
}

/// Appends so many records in batches of three.
fn fill(cluster: &Cluster, name: &str, from: i64, count: i64) {
    for (partition, leader) in Kafka::connect(cluster.address(1)).leaders(name) {
        let mut kafka = Kafka::connect(&leader);
        for three in values(partition, from, count).chunks(3) {
            let texts: Vec<String> = three.iter().map(|(_, value)| value.clone()).collect();
            assert_eq!(kafka.produce_patiently(name, partition, &batch(&texts, None)), three[0].0);
        }
    }
}

fn check(cluster: &Cluster, name: &str, count: i64) {
    for (partition, leader) in Kafka::connect(cluster.address(1)).leaders(name) {
        let mut kafka = Kafka::connect(&leader);
        // From the middle of a batch too, and with answers of about a batch.
        for (from, max_bytes) in [(0, 1 << 20), (4, 1 << 20), (0, 100)] {
            let read = kafka.read(name, partition, from, (count - from) as usize, max_bytes);
            assert_eq!(read, values(partition, from, count - from), "from {from}, {max_bytes} bytes");
        }
    }
}

/// With one copy of each record on three nodes, most of it is not on the node that leads: the records come from the shards
/// of this node or from others, and it makes no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_read_what_is_on_this_node_and_on_others() {
    let cluster = Cluster::start(3).await;
    Kafka::connect(cluster.address(1)).create("spread", 8, 1);
    fill(&cluster, "spread", 0, 60);
    check(&cluster, "spread", 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_read_on_across_epochs() {
    let mut cluster = Cluster::start(3).await;
    Kafka::connect(cluster.address(1)).create("epochs", 3, 3);
    for round in 0..3 {
        fill(&cluster, "epochs", 30 * round, 30);
        let node = round as usize + 1;
        cluster.kill(node);
        cluster.start_node(node);
        cluster.serves().await;
    }
    check(&cluster, "epochs", 90);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_and_sizes_are_described() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "described", 2);
    let mut init = InitProducerIdRequest::default();
    init.transactional_id = None;
    let id = kafka.ask(4, &init).producer_id.0;
    assert!(id >= 0);
    for sequence in 0..3 {
        let stamp = ProducerStamp { id, epoch: 0, base_sequence: 2 * sequence };
        let batch = batch(&["x".repeat(1000), "y".repeat(1000)], Some(stamp));
        assert_eq!(kafka.produce_patiently("described", 1, &batch), i64::from(2 * sequence));
    }

    let mut wanted = describe_producers_request::TopicRequest::default();
    (wanted.name, wanted.partition_indexes) = (topic("described"), vec![0, 1, 2]);
    let mut request = DescribeProducersRequest::default();
    request.topics = vec![wanted];
    let response = kafka.ask(0, &request);
    let partitions = &response.topics[0].partitions;
    let of: Vec<_> = partitions.iter().map(|p| (p.error_code, p.active_producers.len())).collect();
    assert_eq!(of, [(0, 0), (0, 1), (ResponseError::UnknownTopicOrPartition.code(), 0)]);
    let producer = &partitions[1].active_producers[0];
    let told = (producer.producer_id.0, producer.producer_epoch, producer.last_sequence);
    assert_eq!(told, (id, 0, 5));

    let mut wanted = describe_log_dirs_request::DescribableLogDirTopic::default();
    (wanted.topic, wanted.partitions) = (topic("described"), vec![0, 1, 9]);
    let mut unknown = wanted.clone();
    unknown.topic = topic("unknown");
    let mut request = DescribeLogDirsRequest::default();
    request.topics = Some(vec![unknown, wanted]);
    let deadline = Instant::now() + PATIENCE;
    // Sizes are those of what is in the index already.
    loop {
        let response = kafka.ask(4, &request);
        assert!(response.results.iter().all(|dir| dir.error_code == 0 && dir.total_bytes > dir.usable_bytes));
        let topics: Vec<_> = response.results.iter().flat_map(|dir| &dir.topics).collect();
        assert!(topics.iter().all(|found| found.name == topic("described")), "unknown ones are left out");
        let mut sizes = BTreeMap::new();
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            *sizes.entry(partition.partition_index).or_insert(0) += partition.partition_size;
        }
        assert_eq!(sizes.keys().copied().collect::<Vec<_>>(), [0, 1]);
        if sizes[&1] >= 6000 {
            assert!(sizes[&0] == 0 && sizes[&1] < 20_000, "{sizes:?}");
            return;
        }
        assert!(Instant::now() < deadline, "sizes come to be known: {sizes:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Commits that are longer together than a partition of the groups' log may grow: it is written anew and trimmed, and a
/// node that starts again finds the newest offsets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_log_is_written_anew_and_trimmed() {
    const PARTITIONS: i32 = 100;
    let mut cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("committed", PARTITIONS, 1);
    let commit = |kafka: &mut Kafka, round: i64| {
        let mut of_topic = offset_commit_request::OffsetCommitRequestTopic::default();
        of_topic.name = topic("committed");
        for index in 0..PARTITIONS {
            let mut partition = offset_commit_request::OffsetCommitRequestPartition::default();
            (partition.partition_index, partition.committed_offset) = (index, round);
            // It does not compress.
            let metadata: String = std::iter::repeat_with(fastrand::alphanumeric).take(4000).collect();
            partition.committed_metadata = Some(text(&metadata));
            of_topic.partitions.push(partition);
        }
        let mut request = OffsetCommitRequest::default();
        (request.group_id, request.generation_id_or_member_epoch) = (GroupId(text("g")), -1);
        request.topics = vec![of_topic];
        let response = kafka.ask(9, &request);
        response.topics[0].partitions.iter().map(|partition| partition.error_code).max().unwrap()
    };
    let mut find = FindCoordinatorRequest::default();
    find.coordinator_keys = vec![text("g")];
    let deadline = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < 60 {
        match commit(&mut kafka, done) {
            0 => done += 1,
            _ => {
                assert!(Instant::now() < deadline, "there is a coordinator");
                kafka.ask(4, &find);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    let client = cluster.client();
    let log = "__dlog/groups".parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut oldest = Vec::new();
        for partition in 0..16 {
            oldest.push(client.find(&log, partition, Position::Oldest).await.unwrap());
        }
        if oldest.iter().any(|lsn: &Lsn| lsn.esn().0 > 1) {
            break;
        }
        assert!(Instant::now() < deadline, "a partition is trimmed: {oldest:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.kill(1);
    cluster.start_node(1);
    cluster.serves().await;
    let mut group = offset_fetch_request::OffsetFetchRequestGroup::default();
    (group.group_id, group.topics) = (GroupId(text("g")), None);
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![group];
    let mut kafka = Kafka::connect(cluster.address(1));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = kafka.ask(9, &request);
        if response.groups[0].error_code == 0 {
            let partitions = &response.groups[0].topics[0].partitions;
            assert_eq!(partitions.len(), PARTITIONS as usize);
            assert!(partitions.iter().all(|partition| partition.committed_offset == 59), "the last commit counts");
            return;
        }
        assert!(Instant::now() < deadline, "the coordinator is back: {response:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_requests_are_bounded() {
    const MOST: usize = 16;
    let (dir, address) = (TempDir::new().unwrap(), free_address());
    let mut command = dlog();
    command.args(["--listen", &address, "--http", &free_address(), "--data-dir", dir.path().to_str().unwrap()]);
    command.args(["--limits-connections-max", &MOST.to_string()]);
    let mut node = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "the node serves");
        std::thread::sleep(Duration::from_millis(50));
    }
    let versions = ApiVersionsRequest::default();
    let answers = |kafka: &mut Kafka| kafka.ask(0, &versions).error_code == 0;
    let mut first = Kafka::connect(&address);
    assert!(answers(&mut first));
    std::thread::sleep(Duration::from_millis(200));

    let mut others: Vec<Kafka> = (1..MOST).map(|_| Kafka::connect(&address)).collect();
    assert!(others.iter_mut().all(answers), "as many as may be are served");
    assert!(Kafka::connect(&address).is_closed(), "and no more");
    others.pop().unwrap().0.shutdown(Shutdown::Both).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut late = Kafka::connect(&address);
    assert!(answers(&mut late), "one that goes makes room for another");

    for announced in [[0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0, 0, 0, 1], *b"GET ", [0x16, 3, 1, 2]] {
        others.pop();
        std::thread::sleep(Duration::from_millis(50));
        let mut bad = Kafka::connect(&address);
        bad.0.write_all(&announced).unwrap();
        assert!(bad.is_closed(), "{announced:?} is no request");
    }
    // 50 MiB of anything but records: the node says no before it takes them.
    let mut long = Kafka::connect(&address);
    long.0.write_all(&[3, 0x20, 0, 0, 0, 3, 0, 12]).unwrap();
    assert!(long.is_closed());
    // Half a request holds up nobody else.
    let mut slow = Kafka::connect(&address);
    slow.0.write_all(&[0, 0, 1, 0, 0, 18]).unwrap();
    assert!(answers(&mut first) && answers(&mut late));
    node.kill().unwrap();
    node.wait().unwrap();
}
