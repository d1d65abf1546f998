//! CreateTopics, DeleteTopics, CreatePartitions: answered within the time that the client gives, and carried on beyond it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::state::{Command, CreateLog, CreatePartitions, DeleteLog, LogAttributes, Response};
use dlog_proto::LogId;
use dlog_proto::clock::now_ms;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::errands::{Errand, deadline};
use super::text;
use crate::cluster::{Cluster, is_legal_name, topic_name};
use crate::configs;
use crate::errors;
use crate::gateway::Shared;

/// A Kafka error, and what to say.
pub(super) type Refused = (ResponseError, String);

/// How long an answer waits for new partitions to have leaders, so that the client's next question finds them.
const LEADERS_WAIT: Duration = Duration::from_secs(2);
/// How long a client that asks for a topic waits for it to be made, at most: it asks again.
const ON_DEMAND_WAIT: Duration = Duration::from_secs(5);

/// A topic that is being made; nothing is under way if only its validity was asked for.
type Creating = Result<(CreateLog, Option<Errand<()>>), Refused>;

pub(super) async fn create(shared: Arc<Shared>, version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let deadline = deadline(request.timeout_ms);
    let mut named: HashMap<&str, usize> = HashMap::new();
    request.topics.iter().for_each(|topic| *named.entry(topic.name.as_str()).or_default() += 1);
    // All at once: the metadata tier does together what comes together.
    let begin = |topic: &CreatableTopic| match named.get(topic.name.as_str()) {
        Some(1) => begin_create(&shared, topic, (!request.validate_only).then_some(deadline)),
        _ => Err((ResponseError::InvalidRequest, "the topic is named twice".to_owned())),
    };
    let creating: Vec<Creating> = request.topics.iter().map(begin).collect();
    let mut response = CreateTopicsResponse::default();
    for (topic, creating) in request.topics.iter().zip(creating) {
        let outcome = match creating {
            Ok((create, Some(errand))) => errand.outcome().await.map(|()| create),
            Ok((create, None)) => Ok(create),
            Err(refused) => Err(refused),
        };
        response.topics.push(created(&shared, version, topic, outcome));
    }
    response
}

/// Begins to make a topic, or only looks whether it could be made.
fn begin_create(shared: &Arc<Shared>, topic: &CreatableTopic, deadline: Option<Instant>) -> Creating {
    let create = plan(shared, topic)?;
    let refused = |error: dlog_metadata::state::CreateLogError| (errors::of_create(&error), error.to_string());
    shared.broker.view().check_create_log(&create).map_err(refused)?;
    let errand = deadline.map(|by| shared.errands.begin(by, propose_create(shared.clone(), create.clone())));
    Ok((create, errand))
}

fn plan(shared: &Shared, topic: &CreatableTopic) -> Result<CreateLog, Refused> {
    let cluster = Cluster::of(&*shared.broker);
    let log = log_for(&cluster, &topic.name)?;
    let (partitions, factor) = match topic.assignments.is_empty() {
        true => (topic.num_partitions, topic.replication_factor),
        false => assigned(topic)?,
    };
    let partitions = match partitions {
        -1 => shared.settings.partitions_default,
        count if count > 0 => count as u32,
        count => {
            return Err((ResponseError::InvalidPartitions, format!("a topic has 1 partition or more, not {count}")));
        }
    };
    let factor = match factor {
        -1 => default_factor(shared, &cluster),
        factor => u8::try_from(factor).ok().filter(|factor| *factor > 0).ok_or_else(|| {
            let why = format!("a replication factor is 1 to the number of storage nodes, not {factor}");
            (ResponseError::InvalidReplicationFactor, why)
        })?,
    };
    let set =
        topic.configs.iter().map(|config| (config.name.as_str(), config.value.as_ref().map(|value| value.as_str())));
    let attributes = configs::attributes(factor, set)?;
    Ok(CreateLog { log, partitions, attributes, created_ms: now_ms() })
}

/// Partitions and copies as a manual assignment has them. Where they are is not for clients to say: copies are placed
/// block by block.
fn assigned(topic: &CreatableTopic) -> Result<(i32, i16), Refused> {
    let wrong = |why: &str| (ResponseError::InvalidReplicaAssignment, why.to_owned());
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let why = "with an assignment, the number of partitions and the replication factor are -1";
        return Err((ResponseError::InvalidRequest, why.to_owned()));
    }
    let factor = topic.assignments.first().map_or(0, |first| first.broker_ids.len());
    let mut indexes: Vec<i32> = topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
    indexes.sort_unstable();
    if !indexes.iter().copied().eq(0..indexes.len() as i32) {
        return Err(wrong("partitions are numbered from 0 on, each once"));
    }
    if factor == 0 || topic.assignments.iter().any(|assignment| assignment.broker_ids.len() != factor) {
        return Err(wrong("every partition has the same number of replicas, one at least"));
    }
    Ok((indexes.len() as i32, factor as i16))
}

fn log_for(cluster: &Cluster, name: &str) -> Result<LogId, Refused> {
    let illegal = |why: &str| (ResponseError::InvalidTopicException, why.to_owned());
    if !is_legal_name(name) {
        return Err(illegal("a topic's name is 1 to 249 characters of a-z A-Z 0-9 . _ - and neither '.' nor '..'"));
    }
    if let Some(known) = cluster.topic(name) {
        return Err((
            ResponseError::TopicAlreadyExists,
            format!("topic '{name}' exists already, as log {}", known.log),
        ));
    }
    let why = "it is reserved, or too long: a namespace and a name have at most 120 characters each";
    cluster.log_for_topic(name).ok_or_else(|| illegal(why))
}

fn default_factor(shared: &Shared, cluster: &Cluster) -> u8 {
    let nodes = u8::try_from(cluster.storage_nodes()).unwrap_or(u8::MAX).max(1);
    shared.settings.replication_factor_default.min(nodes)
}

/// Creates a log and waits until it can be used.
async fn propose_create(shared: Arc<Shared>, create: CreateLog) -> Result<(), Refused> {
    let log = create.log.clone();
    let proposed = shared.broker.propose(Command::CreateLog(create)).await;
    match proposed.map_err(|error| unavailable(&error))? {
        (revision, Response::CreateLog(Ok(_))) => wait_for_leaders(&shared, revision, &log).await,
        (_, Response::CreateLog(Err(error))) => Err((errors::of_create(&error), error.to_string())),
        (_, other) => Err(unexpected(&other)),
    }
}

pub(super) fn unavailable(error: &crate::broker::ProposeError) -> Refused {
    (ResponseError::RequestTimedOut, error.to_string())
}

pub(super) fn unexpected(response: &Response) -> Refused {
    (ResponseError::RequestTimedOut, format!("the metadata tier answered something else: {response:?}"))
}

/// Waits until this node sees what was applied at `revision`.
pub(super) async fn wait_applied(shared: &Shared, revision: u64) {
    let mut views = shared.broker.views();
    let _ = timeout(LEADERS_WAIT, views.wait_for(|view| view.revision() >= revision)).await;
}

/// Waits until this node knows what was applied at `revision`, and a while until all partitions have leaders.
async fn wait_for_leaders(shared: &Shared, revision: u64, log: &LogId) -> Result<(), Refused> {
    let mut views = shared.broker.views();
    let stopped = |_| (ResponseError::RequestTimedOut, "the node is stopping".to_owned());
    views.wait_for(|view| view.revision() >= revision).await.map_err(stopped)?;
    let led = |cluster: Cluster| {
        let info = cluster.view.log(log).cloned();
        info.is_none_or(|info| info.partitions.iter().all(|uid| cluster.leader(*uid).node.is_some()))
    };
    let _ = timeout(LEADERS_WAIT, views.wait_for(|_| led(Cluster::of(&*shared.broker)))).await;
    Ok(())
}

/// Creates topics as the defaults have them, because somebody asked for them, and waits a while until they are there.
pub(super) async fn create_on_demand(shared: &Arc<Shared>, names: impl Iterator<Item = &str>) {
    let deadline = Instant::now() + ON_DEMAND_WAIT;
    let cluster = Cluster::of(&*shared.broker);
    let attributes = LogAttributes::replicated(default_factor(shared, &cluster));
    let partitions = shared.settings.partitions_default;
    let creating = names.map(|name| {
        let create = CreateLog {
            log: log_for(&cluster, name)?,
            partitions,
            attributes: attributes.clone(),
            created_ms: now_ms(),
        };
        Ok((name, shared.errands.begin(deadline, propose_create(shared.clone(), create))))
    });
    let creating: Vec<Result<_, Refused>> = creating.collect();
    for creating in creating {
        let outcome = match creating {
            Ok((name, errand)) => errand.outcome().await.map_err(|(error, why)| (error, format!("{name}: {why}"))),
            Err(refused) => Err(refused),
        };
        if let Err((error, why)) = outcome
            && error != ResponseError::TopicAlreadyExists
        {
            tracing::info!("kafka: a topic could not be created on demand: {why}");
        }
    }
}

fn created(
    shared: &Shared,
    version: i16,
    topic: &CreatableTopic,
    outcome: Result<CreateLog, Refused>,
) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = topic.name.clone();
    if version >= 5 {
        (result.num_partitions, result.replication_factor) = (-1, -1);
    }
    match outcome {
        Err((error, why)) => (result.error_code, result.error_message) = (error.code(), Some(text(why))),
        Ok(create) => {
            let cluster = Cluster::of(&*shared.broker);
            if version >= 7 {
                let info = cluster.view.log(&create.log);
                result.topic_id = info.map_or(Uuid::nil(), |info| cluster.topic_id(info));
            }
            if version >= 5 {
                result.num_partitions = create.partitions as i32;
                result.replication_factor = create.attributes.replication.quorum.replication_factor.into();
                result.configs = Some(shown(shared, &create.attributes));
            }
        }
    }
    result
}

fn shown(shared: &Shared, attributes: &LogAttributes) -> Vec<CreatableTopicConfigs> {
    let shown = configs::topic_values(attributes, &shared.settings).into_iter().map(|value| {
        let mut config = CreatableTopicConfigs::default();
        config.name = StrBytes::from_string(value.name);
        config.value = Some(StrBytes::from_string(value.value));
        config.config_source = value.source;
        config
    });
    shown.collect()
}

pub(super) async fn delete(shared: Arc<Shared>, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let deadline = deadline(request.timeout_ms);
    let mut deleting = Vec::new();
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let named =
        request.topics.into_iter().map(|topic| (topic.name.filter(|_| topic.topic_id.is_nil()), topic.topic_id));
    for (name, id) in by_name.chain(named) {
        let cluster = Cluster::of(&*shared.broker);
        let found = match &name {
            Some(name) => cluster.topic(name),
            None => cluster.topic_by_id(id),
        };
        let mut result = DeletableTopicResult::default();
        if version >= 6 {
            result.topic_id = found.as_ref().map_or(id, |topic| cluster.topic_id(topic));
        }
        let missing =
            if name.is_some() { ResponseError::UnknownTopicOrPartition } else { ResponseError::UnknownTopicId };
        result.name = name.or_else(|| found.as_ref().map(|topic| TopicName(topic_name(topic))));
        let begun = match found {
            Some(topic) => Ok(shared.errands.begin(deadline, delete_one(shared.clone(), topic.log.clone()))),
            None => Err((missing, "there is no such topic".to_owned())),
        };
        deleting.push((result, begun));
    }
    let mut response = DeleteTopicsResponse::default();
    for (mut result, begun) in deleting {
        let outcome = match begun {
            Ok(errand) => errand.outcome().await,
            Err(refused) => Err(refused),
        };
        if let Err((error, why)) = outcome {
            result.error_code = error.code();
            result.error_message = Some(text(why)).filter(|_| version >= 5);
        }
        response.responses.push(result);
    }
    response
}

async fn delete_one(shared: Arc<Shared>, log: LogId) -> Result<(), Refused> {
    let delete = DeleteLog { log, deleted_ms: now_ms() };
    match shared.broker.propose(Command::DeleteLog(delete)).await.map_err(|error| unavailable(&error))? {
        (revision, Response::DeleteLog(Ok(_))) => {
            wait_applied(&shared, revision).await;
            Ok(())
        }
        (_, Response::DeleteLog(Err(error))) => Err((errors::of_delete(&error), error.to_string())),
        (_, other) => Err(unexpected(&other)),
    }
}

pub(super) async fn create_partitions(
    shared: Arc<Shared>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let deadline = deadline(request.timeout_ms);
    let mut named: HashMap<StrBytes, usize> = HashMap::new();
    request.topics.iter().for_each(|topic| *named.entry(topic.name.0.clone()).or_default() += 1);
    let begin = |topic: &CreatePartitionsTopic| match named.get(&topic.name.0) {
        Some(1) => {
            let create = plan_partitions(&shared, topic)?;
            let begin = || shared.errands.begin(deadline, add_partitions(shared.clone(), create));
            Ok((!request.validate_only).then(begin))
        }
        _ => Err((ResponseError::InvalidRequest, "the topic is named twice".to_owned())),
    };
    let adding: Vec<Result<Option<Errand<()>>, Refused>> = request.topics.iter().map(begin).collect();
    let mut response = CreatePartitionsResponse::default();
    for (topic, adding) in request.topics.into_iter().zip(adding) {
        let outcome = match adding {
            Ok(Some(errand)) => errand.outcome().await,
            Ok(None) => Ok(()),
            Err(refused) => Err(refused),
        };
        let mut result = CreatePartitionsTopicResult::default();
        if let Err((error, why)) = outcome {
            (result.error_code, result.error_message) = (error.code(), Some(text(why)));
        }
        result.name = topic.name;
        response.results.push(result);
    }
    response
}

fn plan_partitions(shared: &Shared, topic: &CreatePartitionsTopic) -> Result<CreatePartitions, Refused> {
    let cluster = Cluster::of(&*shared.broker);
    let missing = || (ResponseError::UnknownTopicOrPartition, "there is no such topic".to_owned());
    let info = cluster.topic(&topic.name).ok_or_else(missing)?;
    let (have, wrong) = (info.partitions.len(), |why: String| Err((ResponseError::InvalidPartitions, why)));
    let count = usize::try_from(topic.count).unwrap_or(0);
    if count <= have {
        return wrong(format!("the topic has {have} partitions, and they can only become more, not {}", topic.count));
    }
    if let Some(assignments) = topic.assignments.as_ref().filter(|assignments| assignments.len() != count - have) {
        let why = format!("{} new partitions are assigned, {} are asked for", assignments.len(), count - have);
        return Err((ResponseError::InvalidReplicaAssignment, why));
    }
    Ok(CreatePartitions { log: info.log.clone(), partitions: topic.count as u32 })
}

async fn add_partitions(shared: Arc<Shared>, create: CreatePartitions) -> Result<(), Refused> {
    let log = create.log.clone();
    match shared.broker.propose(Command::CreatePartitions(create)).await.map_err(|error| unavailable(&error))? {
        (revision, Response::CreatePartitions(Ok(_))) => wait_for_leaders(&shared, revision, &log).await,
        (_, Response::CreatePartitions(Err(error))) => Err((errors::of_create_partitions(&error), error.to_string())),
        (_, other) => Err(unexpected(&other)),
    }
}
