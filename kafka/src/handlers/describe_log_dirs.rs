//! DescribeLogDirs: the shards of this node, and what partitions take there.

use std::collections::HashSet;
use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use dlog_proto::{EpochTable, PartitionUid, ShardId};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use super::text;
use crate::broker::{LogDir, LogDirUsage};
use crate::cluster::{Cluster, topic_name};
use crate::gateway::Shared;

/// First version with the size of the volume.
const VOLUME: i16 = 4;

/// A topic, and the partitions of it that are wanted.
struct Wanted {
    name: TopicName,
    partitions: Vec<(i32, PartitionUid)>,
}

pub(super) async fn handle(
    shared: Arc<Shared>,
    version: i16,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let cluster = Cluster::of(&*shared.broker);
    let wanted: Vec<Wanted> = match request.topics {
        None => cluster.topics().iter().map(|topic| wanted(topic, None)).collect(),
        // Those that do not exist are left out.
        Some(topics) => {
            topics.iter().filter_map(|asked| Some(wanted(&*cluster.topic(&asked.topic)?, Some(asked)))).collect()
        }
    };
    let partitions = wanted.iter().flat_map(|topic| topic.partitions.iter().map(|(_, uid)| *uid)).collect();
    let dirs = shared.broker.log_dirs(partitions).await;
    let mut response = DescribeLogDirsResponse::default();
    response.results = dirs.iter().map(|dir| describe(&cluster, version, dir, &wanted)).collect();
    response
}

fn wanted(topic: &LogInfo, asked: Option<&DescribableLogDirTopic>) -> Wanted {
    let asked: Option<HashSet<i32>> = asked.map(|asked| asked.partitions.iter().copied().collect());
    let partitions = (0..).zip(topic.partitions.iter().copied());
    let partitions = partitions.filter(|(index, _)| asked.as_ref().is_none_or(|asked| asked.contains(index)));
    Wanted { name: TopicName(topic_name(topic)), partitions: partitions.collect() }
}

fn describe(cluster: &Cluster, version: i16, dir: &LogDir, wanted: &[Wanted]) -> DescribeLogDirsResult {
    let mut result = DescribeLogDirsResult::default();
    result.log_dir = text(dir.path.to_string_lossy());
    let Some(usage) = &dir.usage else {
        result.error_code = ResponseError::KafkaStorageError.code();
        return result;
    };
    if version >= VOLUME {
        (result.total_bytes, result.usable_bytes) = (size(usage.total_bytes), size(usage.usable_bytes));
    }
    for topic in wanted {
        let mut described = DescribeLogDirsTopic::default();
        described.partitions = partitions(cluster, dir.shard, usage, topic);
        if !described.partitions.is_empty() {
            described.name = topic.name.clone();
            result.topics.push(described);
        }
    }
    result
}

/// The partitions of a topic that have something in a shard, or may get it there: the shard is in the newest nodeset.
fn partitions(cluster: &Cluster, shard: ShardId, usage: &LogDirUsage, topic: &Wanted) -> Vec<DescribeLogDirsPartition> {
    let is_member = |uid: PartitionUid| {
        let table = cluster.view.table(uid);
        let newest = table.as_ref().and_then(EpochTable::newest);
        newest.is_some_and(|epoch| epoch.nodeset.members().iter().any(|member| member.shard == shard))
    };
    let describe = |&(index, uid): &(i32, PartitionUid)| {
        let bytes = usage.partitions.get(&uid).copied().or_else(|| is_member(uid).then_some(0))?;
        let mut partition = DescribeLogDirsPartition::default();
        (partition.partition_index, partition.partition_size) = (index, size(bytes));
        Some(partition)
    };
    topic.partitions.iter().filter_map(describe).collect()
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
