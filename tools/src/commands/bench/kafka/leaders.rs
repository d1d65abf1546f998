//! Who leads which partition, and where it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use dlog_proto::transport::HostPort;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, sleep};

use super::connection::Connection;
use crate::failure::Failure;

const METADATA: i16 = 12;
const LIST_OFFSETS: i16 = 7;
/// A timestamp that means the end.
const LATEST: i64 = -1;
const PAUSE: Duration = Duration::from_millis(50);

/// A node that leads, and what.
pub(super) struct Leading {
    pub(super) connection: Connection,
    /// Each partition with the offset after its last record.
    pub(super) partitions: Vec<(u32, u64)>,
}

pub(super) struct Leaders {
    pub(super) nodes: Vec<Leading>,
}

pub(super) fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

impl Leaders {
    /// Waits until every partition is led, and its leader says where it ends.
    pub(super) async fn find(servers: &[HostPort], topic: &str, patience: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        let mut asked = connect_first(servers, patience).await?;
        loop {
            let why = match leaders(&mut asked, topic).await? {
                Ok(leaders) => match open(leaders, topic, patience).await? {
                    Ok(nodes) => return Ok(Self { nodes }),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                return Err(Failure::new(format!("topic {topic} cannot be used yet: {why}")));
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until so many records of each partition can be read: what is acknowledged from memory is not on disk at once.
    pub(super) async fn wait_for(&mut self, topic: &str, records: &[u64], patience: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        for node in &mut self.nodes {
            let is_there = |(index, end): &(u32, u64)| records.get(*index as usize).is_none_or(|count| end >= count);
            while !node.partitions.iter().all(is_there) {
                if Instant::now() >= deadline {
                    return Err(Failure::new("what was acknowledged cannot be read: an end lies before it"));
                }
                sleep(PAUSE / 10).await;
                let indexes: Vec<u32> = node.partitions.iter().map(|(index, _)| *index).collect();
                let ends = ends(&mut node.connection, topic, &indexes).await?;
                node.partitions = ends.map_err(|why| Failure::new(format!("topic {topic}: {why}")))?;
            }
        }
        Ok(())
    }
}

async fn connect_first(servers: &[HostPort], patience: Duration) -> Result<Connection, Failure> {
    let mut failure = Failure::new("no server was given");
    for server in servers {
        match Connection::open(server.clone(), patience).await {
            Ok(connection) => return Ok(connection),
            Err(failed) => failure = failed,
        }
    }
    Err(failure)
}

/// The partitions by their leader; or what is still amiss.
async fn leaders(asked: &mut Connection, topic: &str) -> Result<Result<BTreeMap<HostPort, Vec<u32>>, String>, Failure> {
    let mut wanted = MetadataRequestTopic::default();
    wanted.name = Some(topic_name(topic));
    let mut request = MetadataRequest::default();
    (request.topics, request.allow_auto_topic_creation) = (Some(vec![wanted]), false);
    let answer = asked.ask(METADATA, &request).await?;
    let [told] = &answer.topics[..] else { return Err(asked.answers.failed("Metadata is about other topics")) };
    if let Some(error) = ResponseError::try_from_code(told.error_code) {
        return Ok(Err(error.to_string()));
    }
    let mut leaders: BTreeMap<HostPort, Vec<u32>> = BTreeMap::new();
    for partition in &told.partitions {
        let index = partition.partition_index;
        let Some(node) = answer.brokers.iter().find(|broker| broker.node_id == partition.leader_id) else {
            return Ok(Err(format!("partition {index} has no leader")));
        };
        let host = node.host.as_str();
        let address =
            if host.contains(':') { format!("[{host}]:{}", node.port) } else { format!("{host}:{}", node.port) };
        let address = address.parse::<HostPort>().map_err(|error| asked.answers.failed(error))?;
        leaders.entry(address).or_default().push(index as u32);
    }
    Ok(Ok(leaders))
}

async fn open(
    leaders: BTreeMap<HostPort, Vec<u32>>,
    topic: &str,
    patience: Duration,
) -> Result<Result<Vec<Leading>, String>, Failure> {
    let mut nodes = Vec::with_capacity(leaders.len());
    for (address, indexes) in leaders {
        let mut connection = Connection::open(address, patience).await?;
        match ends(&mut connection, topic, &indexes).await? {
            Ok(partitions) => nodes.push(Leading { connection, partitions }),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(nodes))
}

async fn ends(
    connection: &mut Connection,
    topic: &str,
    indexes: &[u32],
) -> Result<Result<Vec<(u32, u64)>, String>, Failure> {
    let mut of_topic = ListOffsetsTopic::default();
    of_topic.name = topic_name(topic);
    for index in indexes {
        let mut partition = ListOffsetsPartition::default();
        (partition.partition_index, partition.timestamp) = (*index as i32, LATEST);
        of_topic.partitions.push(partition);
    }
    let mut request = ListOffsetsRequest::default();
    (request.replica_id, request.topics) = (BrokerId(-1), vec![of_topic]);
    let answer = connection.ask(LIST_OFFSETS, &request).await?;
    let mut ends = Vec::with_capacity(indexes.len());
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        if let Some(error) = ResponseError::try_from_code(partition.error_code) {
            return Ok(Err(format!("partition {}: {error}", partition.partition_index)));
        }
        ends.push((partition.partition_index as u32, partition.offset.max(0) as u64));
    }
    Ok(Ok(ends))
}
