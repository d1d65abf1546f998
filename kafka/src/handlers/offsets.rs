//! OffsetCommit, OffsetFetch, OffsetDelete.

use std::collections::HashMap;
use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use dlog_proto::clock::now_ms;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::groups::{WRONG_ANSWER, done};
use crate::cluster::{Cluster, topic_name};
use crate::gateway::Shared;
use crate::group::{CommitOffset, GroupAnswer, GroupRequest, OffsetsWanted, StoredOffset};

/// First versions of OffsetFetch with an error of the whole answer, with many groups.
const GROUP_ERRORS: i16 = 2;
const BATCHED: i16 = 8;

pub(super) async fn commit(shared: Arc<Shared>, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let cluster = Cluster::of(&*shared.broker);
    let mut offsets = Vec::new();
    let mut response = OffsetCommitResponse::default();
    for topic in &request.topics {
        let info = cluster.topic(&topic.name);
        let mut result = OffsetCommitResponseTopic::default();
        result.name = topic.name.clone();
        for partition in &topic.partitions {
            let checked = match &info {
                None => Err(ResponseError::UnknownTopicOrPartition),
                Some(info) => check(&shared, &request, info, partition),
            };
            let mut answer = OffsetCommitResponsePartition::default();
            answer.partition_index = partition.partition_index;
            match checked {
                Ok(offset) => offsets.push(offset),
                Err(error) => answer.error_code = error.code(),
            }
            result.partitions.push(answer);
        }
        response.topics.push(result);
    }
    let group = request.group_id.as_str().to_owned();
    let commit = GroupRequest::Commit {
        group: group.clone(),
        generation: request.generation_id_or_member_epoch,
        member: request.member_id.as_str().to_owned(),
        instance: request.group_instance_id.as_ref().map(|instance| instance.as_str().to_owned()),
        offsets,
    };
    if let Err(error) = done(shared.groups.ask(&group, commit).await) {
        let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.filter(|partition| partition.error_code == 0).for_each(|p| p.error_code = error.code());
    }
    response
}

fn check(
    shared: &Shared,
    request: &OffsetCommitRequest,
    info: &LogInfo,
    partition: &OffsetCommitRequestPartition,
) -> Result<CommitOffset, ResponseError> {
    let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
    if index >= info.partitions.len() {
        return Err(ResponseError::UnknownTopicOrPartition);
    }
    let metadata = partition.committed_metadata.as_ref().map_or("", |metadata| metadata.as_str());
    if metadata.len() > shared.groups.settings().metadata_len_max {
        return Err(ResponseError::OffsetMetadataTooLarge);
    }
    let committed_ms = now_ms();
    let keeps = (request.retention_time_ms >= 0).then(|| committed_ms.saturating_add(request.retention_time_ms));
    let offset = StoredOffset {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: metadata.to_owned(),
        committed_ms,
        expires_ms: keeps,
        log_uid: info.uid.0,
    };
    let topic = topic_name(info).as_str().to_owned();
    Ok(CommitOffset { topic, partition: partition.partition_index, offset })
}

pub(super) async fn fetch(shared: Arc<Shared>, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let mut response = OffsetFetchResponse::default();
    if version >= BATCHED {
        for group in request.groups {
            response.groups.push(fetch_group(&shared, group).await);
        }
        return response;
    }
    let wanted = request.topics.map(|topics| {
        let each = topics.into_iter().flat_map(|topic| {
            let name = topic.name.as_str().to_owned();
            topic.partition_indexes.into_iter().map(move |partition| (name.clone(), partition))
        });
        each.collect::<Vec<_>>()
    });
    match offsets_of(&shared, &request.group_id, wanted.clone()).await {
        Err(error) if version >= GROUP_ERRORS => response.error_code = error.code(),
        // It is each partition's.
        Err(error) => {
            for (topic, partition) in wanted.unwrap_or_default() {
                let mut failed = single(version, partition, None);
                failed.error_code = error.code();
                let mut result = OffsetFetchResponseTopic::default();
                (result.name, result.partitions) = (TopicName(StrBytes::from_string(topic)), vec![failed]);
                response.topics.push(result);
            }
        }
        Ok(offsets) => {
            for (topic, partitions) in by_topic(offsets) {
                let mut result = OffsetFetchResponseTopic::default();
                result.partitions =
                    partitions.into_iter().map(|(index, offset)| single(version, index, offset)).collect();
                result.name = TopicName(StrBytes::from_string(topic));
                response.topics.push(result);
            }
        }
    }
    response
}

/// Offsets as the coordinator has them, without those of topics that are not what they were.
async fn offsets_of(
    shared: &Shared,
    group: &str,
    wanted: Option<Vec<(String, i32)>>,
) -> Result<Vec<(String, i32, Option<StoredOffset>)>, ResponseError> {
    let all = wanted.is_none();
    let wanted = wanted.map_or(OffsetsWanted::All, OffsetsWanted::Of);
    let ask = GroupRequest::Fetch { group: group.to_owned(), wanted };
    let GroupAnswer::Offsets(mut offsets) = shared.groups.ask(group, ask).await? else { return Err(WRONG_ANSWER) };
    let cluster = Cluster::of(&*shared.broker);
    let mut uids: HashMap<String, Option<u64>> = HashMap::new();
    for (topic, _, offset) in &mut offsets {
        let uid = uids.entry(topic.clone()).or_insert_with(|| cluster.topic(topic).map(|info| info.uid.0));
        if offset.as_ref().is_some_and(|offset| Some(offset.log_uid) != *uid) {
            *offset = None;
        }
    }
    if all {
        offsets.retain(|(_, _, offset)| offset.is_some());
    }
    Ok(offsets)
}

/// In the order in which the topics come.
fn by_topic<T>(offsets: Vec<(String, i32, T)>) -> Vec<(String, Vec<(i32, T)>)> {
    let mut topics: Vec<(String, Vec<(i32, T)>)> = Vec::new();
    for (topic, partition, offset) in offsets {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push((partition, offset)),
            _ => topics.push((topic, vec![(partition, offset)])),
        }
    }
    topics
}

fn single(version: i16, index: i32, offset: Option<StoredOffset>) -> OffsetFetchResponsePartition {
    let mut partition = OffsetFetchResponsePartition::default();
    partition.partition_index = index;
    let (offset, epoch, metadata) = shown(offset);
    (partition.committed_offset, partition.metadata) = (offset, Some(metadata));
    partition.committed_leader_epoch = if version >= 5 { epoch } else { -1 };
    partition
}

/// −1 is no offset, and no metadata are empty ones.
fn shown(offset: Option<StoredOffset>) -> (i64, i32, StrBytes) {
    match offset {
        Some(offset) => (offset.offset, offset.leader_epoch, StrBytes::from_string(offset.metadata)),
        None => (-1, -1, StrBytes::new()),
    }
}

async fn fetch_group(shared: &Shared, asked: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let mut result = OffsetFetchResponseGroup::default();
    let wanted = asked.topics.map(|topics| {
        let each = topics.into_iter().flat_map(|topic| {
            let name = topic.name.as_str().to_owned();
            topic.partition_indexes.into_iter().map(move |partition| (name.clone(), partition))
        });
        each.collect::<Vec<_>>()
    });
    match offsets_of(shared, &asked.group_id, wanted).await {
        Err(error) => result.error_code = error.code(),
        Ok(offsets) => {
            for (topic, partitions) in by_topic(offsets) {
                let mut of_topic = OffsetFetchResponseTopics::default();
                of_topic.partitions = partitions.into_iter().map(|(index, offset)| batched(index, offset)).collect();
                of_topic.name = TopicName(StrBytes::from_string(topic));
                result.topics.push(of_topic);
            }
        }
    }
    result.group_id = asked.group_id;
    result
}

fn batched(index: i32, offset: Option<StoredOffset>) -> OffsetFetchResponsePartitions {
    let mut partition = OffsetFetchResponsePartitions::default();
    let (offset, epoch, metadata) = shown(offset);
    (partition.partition_index, partition.committed_offset) = (index, offset);
    (partition.committed_leader_epoch, partition.metadata) = (epoch, Some(metadata));
    partition
}

pub(super) async fn delete(shared: Arc<Shared>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut response = OffsetDeleteResponse::default();
    let partitions = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| (topic.name.as_str().to_owned(), partition.partition_index))
    });
    let group = request.group_id.as_str().to_owned();
    let ask = GroupRequest::DeleteOffsets { group: group.clone(), partitions: partitions.collect() };
    let results = match shared.groups.ask(&group, ask).await {
        Ok(GroupAnswer::OffsetsDeleted(results)) => results,
        Ok(_) => Err(WRONG_ANSWER),
        Err(error) => Err(error),
    };
    let mut results = match results {
        Ok(results) => results.into_iter(),
        Err(error) => {
            response.error_code = error.code();
            return response;
        }
    };
    for topic in request.topics {
        let mut result = OffsetDeleteResponseTopic::default();
        for (asked, outcome) in topic.partitions.iter().zip(results.by_ref()) {
            let mut partition = OffsetDeleteResponsePartition::default();
            partition.partition_index = asked.partition_index;
            partition.error_code = outcome.err().map_or(0, |error: ResponseError| error.code());
            result.partitions.push(partition);
        }
        result.name = topic.name;
        response.topics.push(result);
    }
    response
}
