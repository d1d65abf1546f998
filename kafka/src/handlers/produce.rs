//! Produce: batches are checked and handed to the sequencer on this node, as they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_metadata::state::LogInfo;
use dlog_proto::clock::now_ms;
use dlog_proto::record::{BatchLimits, Compression, check_produced};
use dlog_proto::wire::{Acks, AppendError, AppendOk};
use dlog_proto::{NodeId, PartitionUid};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse, TopicName};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::text;
use crate::broker::Pending;
use crate::cluster::{Cluster, log_start};
use crate::configs::timestamp_limits;
use crate::errors;
use crate::gateway::Shared;
use crate::wire::{Answer, Header, answer};

/// First version that may carry zstd.
const ZSTD: i16 = 7;
/// First version with the log's start, with messages, with the new leader, with ids instead of names.
const LOG_START: i16 = 5;
const MESSAGES: i16 = 8;
const LEADERS: i16 = 10;
const TOPIC_IDS: i16 = 13;
/// How long a client may wait at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// A batch that was put in line, or why it was not.
struct Begun {
    index: i32,
    uid: Option<PartitionUid>,
    append: Result<Pending<Result<AppendOk, AppendError>>, (ResponseError, String)>,
}

struct BegunTopic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<Begun>,
}

pub(super) fn begin(shared: &Arc<Shared>, header: &Header, request: ProduceRequest) -> Pending<Answer> {
    let (correlation, version) = (header.correlation, header.version);
    let acks = request.acks;
    let deadline =
        Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)).min(TIMEOUT_MAX);
    let refusal = refusal(&request);
    let cluster = Cluster::of(&*shared.broker);
    let topics: Vec<BegunTopic> = request
        .topic_data
        .into_iter()
        .map(|topic| begin_topic(shared, &cluster, version, acks, topic, refusal))
        .collect();
    let shared = shared.clone();
    Box::pin(async move {
        let response = finish(&shared, version, topics, deadline).await;
        if acks != 0 {
            return answer(correlation, version, &response);
        }
        // Nobody waits for an answer, so the only way to say that something is wrong is to close (as Kafka does).
        let mut partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        match partitions.find(|partition| partition.error_code != 0) {
            None => Answer::Silence,
            Some(failed) => {
                let why = failed.error_message.as_ref().map_or("", |message| message.as_str());
                Answer::Close(format!("it wants no acknowledgement, and a batch was not taken: {why}"))
            }
        }
    })
}

/// What is wrong with the request as a whole.
fn refusal(request: &ProduceRequest) -> Option<(ResponseError, &'static str)> {
    if request.transactional_id.is_some() {
        let why = "transactions are not supported";
        return Some((ResponseError::TransactionalIdAuthorizationFailed, why));
    }
    match request.acks {
        -1..=1 => None,
        _ => Some((ResponseError::InvalidRequiredAcks, "acks is 0, 1 or -1 (all)")),
    }
}

fn begin_topic(
    shared: &Shared,
    cluster: &Cluster,
    version: i16,
    acks: i16,
    topic: TopicProduceData,
    refusal: Option<(ResponseError, &'static str)>,
) -> BegunTopic {
    let by_id = version >= TOPIC_IDS;
    let info = if by_id { cluster.topic_by_id(topic.topic_id) } else { cluster.topic(&topic.name) };
    let missing = if by_id { ResponseError::UnknownTopicId } else { ResponseError::UnknownTopicOrPartition };
    let (name, id) = (topic.name, topic.topic_id);
    let partitions = topic.partition_data.into_iter().map(|partition| {
        let index = usize::try_from(partition.index).ok();
        let uid = index.and_then(|index| info.as_ref()?.partitions.get(index).copied());
        let append = match (refusal, &info, uid) {
            (Some((error, why)), ..) => Err((error, why.to_owned())),
            (_, None, _) => Err((missing, "there is no such topic".to_owned())),
            (_, _, None) => Err((ResponseError::UnknownTopicOrPartition, "the topic has no such partition".to_owned())),
            (_, Some(info), Some(uid)) => check(shared, info, version, partition.records.as_ref()).map(|batch| {
                let append_time = info.attributes.is_log_append_time();
                shared.broker.append(uid, batch, copies(acks), acks != 0, append_time)
            }),
        };
        Begun { index: partition.index, uid, append }
    });
    BegunTopic { name, id, partitions: partitions.collect() }
}

/// acks=1 waits for one copy, as at a Kafka leader.
fn copies(acks: i16) -> Acks {
    if acks == -1 { Acks::Quorum } else { Acks::One }
}

fn check(
    shared: &Shared,
    topic: &LogInfo,
    version: i16,
    records: Option<&Bytes>,
) -> Result<Bytes, (ResponseError, String)> {
    let batch = records.filter(|records| !records.is_empty());
    let Some(batch) = batch else { return Err((ResponseError::InvalidRecord, "there are no records".to_owned())) };
    let (before, after) = timestamp_limits(&topic.attributes, shared.settings.timestamp_after_max_ms);
    let limits = BatchLimits {
        batch_len_max: topic.attributes.max_message_bytes().unwrap_or(shared.settings.message_len_max) as usize,
        timestamp_before_max_ms: before,
        timestamp_after_max_ms: after,
    };
    let header =
        check_produced(batch, &limits, now_ms()).map_err(|error| (errors::of_batch(&error), error.to_string()))?;
    if version < ZSTD && header.attributes.compression() == Ok(Compression::Zstd) {
        let why = format!("zstd needs Produce in version {ZSTD} or later");
        return Err((ResponseError::UnsupportedCompressionType, why));
    }
    if header.attributes.is_transactional() {
        return Err((ResponseError::InvalidTxnState, "transactions are not supported".to_owned()));
    }
    Ok(batch.clone())
}

async fn finish(shared: &Shared, version: i16, topics: Vec<BegunTopic>, deadline: Instant) -> ProduceResponse {
    let mut response = ProduceResponse::default();
    let mut leaders: Vec<NodeId> = Vec::new();
    for topic in topics {
        let mut done = TopicProduceResponse::default();
        (done.name, done.topic_id) = (topic.name, topic.id);
        for partition in topic.partitions {
            let outcome = outcome(partition.append, deadline).await;
            done.partition_responses.push(report(
                shared,
                version,
                partition.index,
                partition.uid,
                outcome,
                &mut leaders,
            ));
        }
        response.responses.push(done);
    }
    if version >= LEADERS && !leaders.is_empty() {
        let cluster = Cluster::of(&*shared.broker);
        leaders.sort_unstable();
        leaders.dedup();
        response.node_endpoints = leaders.into_iter().filter_map(|node| endpoint(&cluster, node)).collect();
    }
    response
}

enum Failure {
    Refused(ResponseError, String),
    Append(AppendError),
}

async fn outcome(
    append: Result<Pending<Result<AppendOk, AppendError>>, (ResponseError, String)>,
    deadline: Instant,
) -> Result<AppendOk, Failure> {
    let append = append.map_err(|(error, why)| Failure::Refused(error, why))?;
    match timeout_at(deadline, append).await {
        Ok(outcome) => outcome.map_err(Failure::Append),
        Err(_) => {
            let why = "the batch was not acknowledged in the time that was given; it may be yet".to_owned();
            Err(Failure::Refused(ResponseError::RequestTimedOut, why))
        }
    }
}

fn report(
    shared: &Shared,
    version: i16,
    index: i32,
    uid: Option<PartitionUid>,
    outcome: Result<AppendOk, Failure>,
    leaders: &mut Vec<NodeId>,
) -> PartitionProduceResponse {
    let mut report = PartitionProduceResponse::default();
    report.index = index;
    (report.base_offset, report.log_append_time_ms, report.log_start_offset) = (-1, -1, -1);
    let (error, why) = match outcome {
        Ok(ok) => {
            report.base_offset = ok.offset.map_or(-1, |offset| offset.0 as i64);
            report.log_append_time_ms = ok.append_time;
            if version >= LOG_START {
                let table = uid.and_then(|uid| shared.broker.view().table(uid));
                report.log_start_offset = table.map_or(-1, |table| log_start(&table).0 as i64);
            }
            return report;
        }
        Err(Failure::Refused(error, why)) => (error, why),
        Err(Failure::Append(error)) => {
            if let Some(uid) = uid.filter(|_| errors::is_elsewhere(&error) && version >= LEADERS) {
                let leader = Cluster::of(&*shared.broker).leader(uid);
                let mut current = LeaderIdAndEpoch::default();
                current.leader_id = BrokerId(leader.node.map_or(-1, |node| node.0.into()));
                current.leader_epoch = leader.epoch;
                // Who still names this node has nothing to tell.
                if let Some(node) = leader.node.filter(|node| *node != shared.broker.node()) {
                    report.current_leader = current;
                    leaders.push(node);
                }
            }
            (errors::of_append(&error), error.to_string())
        }
    };
    tracing::debug!(partition = ?uid, ?error, "kafka: a batch was not taken: {why}");
    report.error_code = error.code();
    if version >= MESSAGES {
        report.error_message = Some(text(why));
    }
    report
}

fn endpoint(cluster: &Cluster, node: NodeId) -> Option<NodeEndpoint> {
    let at = cluster.endpoint(node)?;
    let mut endpoint = NodeEndpoint::default();
    endpoint.node_id = BrokerId(at.node.0.into());
    (endpoint.host, endpoint.port, endpoint.rack) = (at.host, at.port.into(), at.rack);
    Some(endpoint)
}
