//! Kafka's protocol, spoken to whole nodes.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_client::Position;
use dlog_proto::Lsn;
use dlog_proto::record::{self, BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use support::{Cluster, dlog, free_address};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A connection to a node.
struct Kafka(TcpStream);

impl Kafka {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let mut out = BytesMut::new();
        out.put_i32(0);
        let mut header = RequestHeader::default();
        (header.request_api_key, header.request_api_version, header.correlation_id) = (R::KEY, version, 7);
        header.client_id = Some(text("test"));
        header.encode(&mut out, R::header_version(version)).unwrap();
        request.encode(&mut out, version).unwrap();
        let len = out.len() as i32 - 4;
        out[..4].copy_from_slice(&len.to_be_bytes());
        self.0.write_all(&out).unwrap();
        let mut len = [0; 4];
        self.0.read_exact(&mut len).unwrap();
        let mut answer = vec![0; i32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut answer).unwrap();
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
        let response = R::Response::decode(&mut answer, version).unwrap();
        assert!(!answer.has_remaining(), "nothing follows the answer");
        response
    }

    /// Whether the node closes the connection instead of answering.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    fn create(&mut self, name: &str, partitions: i32, copies: i16) {
        let mut create = create_topics_request::CreatableTopic::default();
        (create.name, create.num_partitions, create.replication_factor) = (topic(name), partitions, copies);
        let mut request = CreateTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![create], 30_000);
        let response = self.ask(7, &request);
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    }

    /// Who leads each partition of a topic, once all have a leader: its address.
    fn leaders(&mut self, name: &str) -> BTreeMap<i32, String> {
        let mut wanted = metadata_request::MetadataRequestTopic::default();
        wanted.name = Some(topic(name));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![wanted]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.ask(12, &request);
            let brokers: BTreeMap<i32, String> =
                response.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host, b.port))).collect();
            let leader = |p: &metadata_response::MetadataResponsePartition| {
                Some((p.partition_index, brokers.get(&p.leader_id.0)?.clone()))
            };
            let partitions = &response.topics[0].partitions;
            match partitions.iter().map(leader).collect() {
                Some(leaders) if !partitions.is_empty() => return leaders,
                _ => assert!(Instant::now() < deadline, "there are leaders: {response:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn produce(&mut self, name: &str, partition: i32, batch: Bytes) -> Result<i64, ResponseError> {
        let mut data = produce_request::PartitionProduceData::default();
        (data.index, data.records) = (partition, Some(batch));
        let mut of_topic = produce_request::TopicProduceData::default();
        (of_topic.name, of_topic.partition_data) = (topic(name), vec![data]);
        let mut request = ProduceRequest::default();
        (request.acks, request.timeout_ms, request.topic_data) = (-1, 30_000, vec![of_topic]);
        let response = self.ask(9, &request);
        let done = &response.responses[0].partition_responses[0];
        ResponseError::try_from_code(done.error_code).map_or(Ok(done.base_offset), Err)
    }

    /// Goes to whoever leads the partition now.
    fn follow(&mut self, name: &str, partition: i32) {
        std::thread::sleep(Duration::from_millis(20));
        let leader = self.leaders(name).remove(&partition).unwrap();
        *self = Self::connect(&leader);
    }

    /// As a producer does: what is refused for now is sent again.
    fn produce_patiently(&mut self, name: &str, partition: i32, batch: &Bytes) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.produce(name, partition, batch.clone()) {
                Ok(offset) => return offset,
                Err(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
            }
            self.follow(name, partition);
        }
    }

    /// Values from an offset on, as one Fetch gives them, with their offsets.
    fn fetch(&mut self, name: &str, partition: i32, offset: i64, max_bytes: i32) -> Vec<(i64, String)> {
        let mut wanted = fetch_request::FetchPartition::default();
        (wanted.partition, wanted.fetch_offset, wanted.partition_max_bytes) = (partition, offset, max_bytes);
        let mut of_topic = fetch_request::FetchTopic::default();
        (of_topic.topic, of_topic.partitions) = (topic(name), vec![wanted]);
        let mut request = FetchRequest::default();
        (request.max_wait_ms, request.min_bytes, request.max_bytes) = (500, 1, max_bytes);
        request.topics = vec![of_topic];
        let response = self.ask(12, &request);
        let fetched = &response.responses[0].partitions[0];
        let retriable = [ResponseError::NotLeaderOrFollower, ResponseError::OffsetNotAvailable];
        assert!(
            fetched.error_code == 0 || retriable.iter().any(|error| error.code() == fetched.error_code),
            "partition {partition} from {offset}: {}",
            fetched.error_code
        );
        let mut values = Vec::new();
        for batch in record::batches(fetched.records.clone().unwrap_or_default()) {
            let batch = batch.unwrap();
            for record in batch.records().unwrap() {
                let record = record.unwrap();
                let at = batch.header().base_offset as i64 + i64::from(record.offset_delta);
                values.push((at, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
        }
        values.retain(|(at, _)| *at >= offset);
        values
    }

    /// Reads so many records from an offset on, in order.
    fn read(&mut self, name: &str, partition: i32, from: i64, count: usize, max_bytes: i32) -> Vec<(i64, String)> {
        let (mut read, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while read.len() < count {
            let next = from + read.len() as i64;
            let fetched = self.fetch(name, partition, next, max_bytes);
            if fetched.is_empty() {
                self.follow(name, partition);
            }
            read.extend(fetched);
            assert!(Instant::now() < deadline, "partition {partition}: {} of {count} records came", read.len());
        }
        read
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
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("described", 2, 1);
    kafka.leaders("described");
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
