//! A Kafka client of a few requests, which says what it does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use dlog_proto::record::{self, RecordBatch};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

const CORRELATION: i32 = 7;

fn frame<R: Request>(version: i16, request: &R) -> BytesMut {
    let mut out = BytesMut::new();
    let mut header = RequestHeader::default();
    (header.request_api_key, header.request_api_version, header.correlation_id) = (R::KEY, version, CORRELATION);
    header.client_id = Some(text("test"));
    header.encode(&mut out, R::header_version(version)).unwrap();
    request.encode(&mut out, version).unwrap();
    out
}

pub(crate) fn produce_request(name: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    let mut data = produce_request::PartitionProduceData::default();
    (data.index, data.records) = (partition, Some(batch));
    let mut of_topic = produce_request::TopicProduceData::default();
    (of_topic.name, of_topic.partition_data) = (topic(name), vec![data]);
    let mut request = ProduceRequest::default();
    (request.acks, request.timeout_ms, request.topic_data) = (acks, 30_000, vec![of_topic]);
    request
}

/// A connection to a node.
pub(crate) struct Kafka(pub(crate) TcpStream);

impl Kafka {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// A connection to a node that has just made a topic of one copy, all of which is led.
    pub(crate) fn with_topic(address: &str, name: &str, partitions: i32) -> Self {
        let mut kafka = Self::connect(address);
        kafka.create(name, partitions, 1);
        kafka.leaders(name);
        kafka
    }

    /// Sends a frame.
    pub(crate) fn tell(&mut self, frame: &[u8]) {
        let len = (frame.len() as i32).to_be_bytes();
        self.0.write_all(&[&len[..], frame].concat()).unwrap();
    }

    /// Sends a frame, and takes the next one that comes.
    pub(crate) fn exchange(&mut self, frame: &[u8]) -> Bytes {
        self.tell(frame);
        let mut len = [0; 4];
        self.0.read_exact(&mut len).unwrap();
        let mut answer = vec![0; i32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut answer).unwrap();
        answer.into()
    }

    /// Sends a request that is not answered.
    pub(crate) fn tell_request<R: Request>(&mut self, version: i16, request: &R) {
        self.tell(&frame(version, request));
    }

    pub(crate) fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let mut answer = self.exchange(&frame(version, request));
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, CORRELATION);
        let response = R::Response::decode(&mut answer, version).unwrap();
        assert!(!answer.has_remaining(), "nothing follows the answer");
        response
    }

    /// Whether the node closes the connection instead of answering.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    pub(crate) fn create(&mut self, name: &str, partitions: i32, copies: i16) {
        self.create_with(name, partitions, copies, &[]);
    }

    pub(crate) fn create_with(&mut self, name: &str, partitions: i32, copies: i16, configs: &[(&str, &str)]) {
        let mut create = create_topics_request::CreatableTopic::default();
        (create.name, create.num_partitions, create.replication_factor) = (topic(name), partitions, copies);
        for (key, value) in configs {
            let mut config = create_topics_request::CreatableTopicConfig::default();
            (config.name, config.value) = (text(key), Some(text(value)));
            create.configs.push(config);
        }
        let mut request = CreateTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![create], 30_000);
        let response = self.ask(7, &request);
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    }

    /// Who leads each partition of a topic, once all have a leader: its address.
    pub(crate) fn leaders(&mut self, name: &str) -> BTreeMap<i32, String> {
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

    pub(crate) fn configure(&mut self, name: &str, key: &'static str, value: &str) {
        let mut config = incremental_alter_configs_request::AlterableConfig::default();
        (config.name, config.value) = (text(key), Some(text(value)));
        let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
        (resource.resource_type, resource.resource_name, resource.configs) = (2, text(name), vec![config]);
        let mut request = IncrementalAlterConfigsRequest::default();
        request.resources = vec![resource];
        let response = self.ask(1, &request);
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
    }

    /// Produces with acks=all.
    pub(crate) fn send(&mut self, name: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        let request = produce_request(name, partition, -1, batch);
        self.ask(9, &request).responses.remove(0).partition_responses.remove(0)
    }

    pub(crate) fn produce(&mut self, name: &str, partition: i32, batch: Bytes) -> Result<i64, ResponseError> {
        let done = self.send(name, partition, batch);
        ResponseError::try_from_code(done.error_code).map_or(Ok(done.base_offset), Err)
    }

    /// Goes to whoever leads the partition now.
    pub(crate) fn follow(&mut self, name: &str, partition: i32) {
        std::thread::sleep(Duration::from_millis(20));
        let leader = self.leaders(name).remove(&partition).unwrap();
        *self = Self::connect(&leader);
    }

    /// As a producer does: what is refused for now is sent again.
    pub(crate) fn produce_patiently(&mut self, name: &str, partition: i32, batch: &Bytes) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.produce(name, partition, batch.clone()) {
                Ok(offset) => return offset,
                Err(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
            }
            self.follow(name, partition);
        }
    }

    /// What one Fetch gives.
    pub(crate) fn fetch_once(&mut self, name: &str, partition: i32, offset: i64, max_bytes: i32) -> PartitionData {
        let mut wanted = fetch_request::FetchPartition::default();
        (wanted.partition, wanted.fetch_offset, wanted.partition_max_bytes) = (partition, offset, max_bytes);
        let mut of_topic = fetch_request::FetchTopic::default();
        (of_topic.topic, of_topic.partitions) = (topic(name), vec![wanted]);
        let mut request = FetchRequest::default();
        (request.max_wait_ms, request.min_bytes, request.max_bytes) = (500, 1, max_bytes);
        request.topics = vec![of_topic];
        self.ask(12, &request).responses.remove(0).partitions.remove(0)
    }

    /// Values from an offset on, as one Fetch gives them, with their offsets.
    pub(crate) fn fetch(&mut self, name: &str, partition: i32, offset: i64, max_bytes: i32) -> Vec<(i64, String)> {
        let fetched = self.fetch_once(name, partition, offset, max_bytes);
        let retriable = [ResponseError::NotLeaderOrFollower, ResponseError::OffsetNotAvailable];
        assert!(
            fetched.error_code == 0 || retriable.iter().any(|error| error.code() == fetched.error_code),
            "partition {partition} from {offset}: {}",
            fetched.error_code
        );
        let mut values = Vec::new();
        for batch in record::batches(fetched.records.unwrap_or_default()) {
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
    pub(crate) fn read(
        &mut self,
        name: &str,
        partition: i32,
        from: i64,
        count: usize,
        max_bytes: i32,
    ) -> Vec<(i64, String)> {
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

    /// The batches of partition 0 from the one with `offset` on, until they have so many records.
    pub(crate) fn fetch_batches(&mut self, name: &str, offset: i64, count: u32) -> Vec<RecordBatch> {
        let (mut batches, mut read, deadline) = (Vec::new(), 0, Instant::now() + PATIENCE);
        while read < count {
            let fetched = self.fetch_once(name, 0, offset + i64::from(read), 1 << 20);
            for batch in record::batches(fetched.records.unwrap_or_default()).map(Result::unwrap) {
                read += batch.header().span();
                batches.push(batch);
            }
            assert!(Instant::now() < deadline, "{read} of {count} records came");
        }
        batches
    }

    /// Offset and time of what ListOffsets finds in partition 0.
    pub(crate) fn list_offset(&mut self, name: &str, time: i64) -> (i64, i64) {
        let mut partition = list_offsets_request::ListOffsetsPartition::default();
        partition.timestamp = time;
        let mut of_topic = list_offsets_request::ListOffsetsTopic::default();
        (of_topic.name, of_topic.partitions) = (topic(name), vec![partition]);
        let mut request = ListOffsetsRequest::default();
        (request.replica_id, request.topics) = (BrokerId(-1), vec![of_topic]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.ask(7, &request).topics.remove(0).partitions.remove(0);
            // Who has just been named as leader may have to be told of it.
            if found.error_code != ResponseError::NotLeaderOrFollower.code() || Instant::now() > deadline {
                assert_eq!(found.error_code, 0, "{found:?}");
                return (found.offset, found.timestamp);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
