//! DescribeTopicPartitions: Metadata's topics, a page at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::NO_OPERATIONS;
use super::metadata::{ids, name_of};
use crate::cluster::{Cluster, is_legal_name, topic_name};
use crate::gateway::Shared;

/// Partitions on one page, whatever is asked for (`max.request.partition.size.limit`).
const PAGE_MAX: usize = 2000;

pub(super) async fn handle(
    shared: Arc<Shared>,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let cluster = Cluster::of(&*shared.broker);
    let mut names: BTreeSet<StrBytes> = request.topics.into_iter().map(|topic| topic.name.0).collect();
    if names.is_empty() {
        names = cluster.topics().iter().map(|topic| topic_name(topic)).collect();
    }
    let (from, mut first) = match request.cursor {
        Some(cursor) => (cursor.topic_name.0, usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => (StrBytes::new(), 0),
    };
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PAGE_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| *name >= from) {
        // The cursor may name a topic that is gone by now: the one after it begins at its beginning.
        let skip = if name == from { std::mem::take(&mut first) } else { 0 };
        let Some(topic) = cluster.topic(&name) else {
            response.topics.push(missing(&name));
            continue;
        };
        if room == 0 {
            response.next_cursor = Some(cursor(&name, skip));
            break;
        }
        let (described, next) = describe(&cluster, &topic, skip, room);
        room -= described.partitions.len();
        response.topics.push(described);
        if let Some(next) = next {
            response.next_cursor = Some(cursor(&name, next));
            break;
        }
    }
    response
}

fn cursor(topic: &str, partition: usize) -> Cursor {
    let mut cursor = Cursor::default();
    (cursor.topic_name, cursor.partition_index) = (name_of(topic), partition as i32);
    cursor
}

fn missing(name: &StrBytes) -> DescribeTopicPartitionsResponseTopic {
    let mut missing = DescribeTopicPartitionsResponseTopic::default();
    let legal = is_legal_name(name);
    let error = if legal { ResponseError::UnknownTopicOrPartition } else { ResponseError::InvalidTopicException };
    (missing.error_code, missing.name) = (error.code(), Some(TopicName(name.clone())));
    missing.topic_authorized_operations = NO_OPERATIONS;
    missing
}

/// Partitions from `skip` on, at most `room`, and the next one if there are more.
fn describe(
    cluster: &Cluster,
    topic: &LogInfo,
    skip: usize,
    room: usize,
) -> (DescribeTopicPartitionsResponseTopic, Option<usize>) {
    let mut described = DescribeTopicPartitionsResponseTopic::default();
    described.name = Some(TopicName(topic_name(topic)));
    described.topic_id = cluster.topic_id(topic);
    described.topic_authorized_operations = NO_OPERATIONS;
    let page = topic.partitions.iter().enumerate().skip(skip).take(room);
    described.partitions = page
        .map(|(index, uid)| {
            let (leader, replicas) = (cluster.leader(*uid), cluster.replicas(*uid));
            let mut partition = DescribeTopicPartitionsResponsePartition::default();
            if leader.node.is_none() {
                partition.error_code = ResponseError::LeaderNotAvailable.code();
            }
            partition.partition_index = index as i32;
            partition.leader_id = BrokerId(leader.node.map_or(-1, |node| node.0.into()));
            partition.leader_epoch = leader.epoch;
            partition.replica_nodes = ids(&replicas.all);
            partition.isr_nodes = ids(&replicas.in_sync);
            partition.eligible_leader_replicas = Some(Vec::new());
            partition.last_known_elr = Some(Vec::new());
            partition.offline_replicas = ids(&replicas.offline);
            partition
        })
        .collect();
    let next = skip + described.partitions.len();
    (described, (next < topic.partitions.len()).then_some(next))
}
