//! Metadata: who is there, and who leads what.

use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{NO_OPERATIONS, topics};
use crate::cluster::{Cluster, is_legal_name, topic_name};
use crate::gateway::Shared;

pub(super) async fn handle(shared: Arc<Shared>, version: i16, request: MetadataRequest) -> MetadataResponse {
    let may_create = shared.settings.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
    if may_create {
        create_missing(&shared, request.topics.as_deref().unwrap_or_default()).await;
    }
    let cluster = Cluster::of(&*shared.broker);
    let mut response = MetadataResponse::default();
    response.brokers = brokers(&cluster, version);
    response.cluster_id = Some(cluster.id()).filter(|_| version >= 2);
    response.controller_id = BrokerId(cluster.controller().map_or(-1, |node| node.0.into()));
    response.topics = match request.topics {
        None => cluster.topics().iter().map(|topic| describe(&cluster, topic, version)).collect(),
        Some(topics) if version == 0 && topics.is_empty() => {
            cluster.topics().iter().map(|topic| describe(&cluster, topic, version)).collect()
        }
        Some(topics) => topics.iter().map(|topic| find(&cluster, topic, version)).collect(),
    };
    response
}

/// Makes the topics that are asked for and are not there; those that cannot be made are found missing afterwards.
async fn create_missing(shared: &Arc<Shared>, asked: &[MetadataRequestTopic]) {
    let cluster = Cluster::of(&*shared.broker);
    let names = asked.iter().filter(|topic| topic.topic_id.is_nil()).filter_map(|topic| topic.name.as_ref());
    let missing = names.map(|name| name.as_str()).filter(|name| is_legal_name(name) && cluster.topic(name).is_none());
    topics::create_on_demand(shared, missing).await;
}

fn brokers(cluster: &Cluster, version: i16) -> Vec<MetadataResponseBroker> {
    let broker = |endpoint: crate::cluster::Endpoint| {
        let mut broker = MetadataResponseBroker::default();
        broker.node_id = BrokerId(endpoint.node.0.into());
        broker.host = endpoint.host;
        broker.port = endpoint.port.into();
        broker.rack = endpoint.rack.filter(|_| version >= 1);
        broker
    };
    cluster.endpoints().into_iter().map(broker).collect()
}

fn find(cluster: &Cluster, asked: &MetadataRequestTopic, version: i16) -> MetadataResponseTopic {
    // An id counts before a name, which some clients leave empty then.
    let name = asked.name.as_ref().filter(|_| asked.topic_id.is_nil());
    let found = match name {
        Some(name) => cluster.topic(name),
        None => cluster.topic_by_id(asked.topic_id),
    };
    if let Some(topic) = found {
        return describe(cluster, &topic, version);
    }
    let mut missing = MetadataResponseTopic::default();
    missing.topic_authorized_operations = NO_OPERATIONS;
    missing.error_code = match name {
        Some(name) if !is_legal_name(name) => ResponseError::InvalidTopicException,
        Some(_) => ResponseError::UnknownTopicOrPartition,
        None => ResponseError::UnknownTopicId,
    }
    .code();
    missing.name = asked.name.clone().or_else(|| (version < 12).then(TopicName::default));
    missing.topic_id = asked.topic_id;
    missing
}

fn describe(cluster: &Cluster, topic: &LogInfo, version: i16) -> MetadataResponseTopic {
    let mut described = MetadataResponseTopic::default();
    described.name = Some(TopicName(topic_name(topic)));
    if version >= 10 {
        described.topic_id = cluster.topic_id(topic);
    }
    described.topic_authorized_operations = NO_OPERATIONS;
    let partitions = topic.partitions.iter().enumerate();
    described.partitions = partitions
        .map(|(index, uid)| {
            let (leader, replicas) = (cluster.leader(*uid), cluster.replicas(*uid));
            let mut partition = MetadataResponsePartition::default();
            partition.partition_index = index as i32;
            partition.leader_id = BrokerId(leader.node.map_or(-1, |node| node.0.into()));
            if leader.node.is_none() {
                partition.error_code = ResponseError::LeaderNotAvailable.code();
            }
            partition.leader_epoch = if version >= 7 { leader.epoch } else { -1 };
            partition.replica_nodes = ids(&replicas.all);
            partition.isr_nodes = ids(&replicas.in_sync);
            if version >= 5 {
                partition.offline_replicas = ids(&replicas.offline);
            }
            partition
        })
        .collect();
    described
}

pub(super) fn ids(nodes: &[dlog_proto::NodeId]) -> Vec<BrokerId> {
    nodes.iter().map(|node| BrokerId(node.0.into())).collect()
}

/// A topic's name as answers want it.
pub(super) fn name_of(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use dlog_metadata::state::{
        Command, CreateLog, InitCluster, LogAttributes, RegisterNode, Roles, ShardRegistration, State,
    };
    use dlog_proto::{ClusterId, Location, LogId, NodeId, ProcessId};

    use super::*;

    /// A topic of two partitions that nobody leads yet.
    fn deserted() -> Cluster {
        let mut state = State::default();
        let shards = vec![ShardRegistration { index: 0, incarnation: None, unclean: false }];
        let node = RegisterNode {
            node: NodeId(1),
            address: "localhost:9092".to_owned(),
            http: String::new(),
            roles: Roles::ALL,
            location: Location::default(),
            process: ProcessId(1),
            cores: 1,
            weight: 100,
            shards,
        };
        let log = LogId::new("default", "t").unwrap();
        let attributes = LogAttributes::replicated(1);
        let commands = [
            Command::InitCluster(InitCluster { cluster: ClusterId(7), created_ms: 0 }),
            Command::RegisterNode(node),
            Command::CreateLog(CreateLog { log, partitions: 2, attributes, created_ms: 0 }),
        ];
        for (revision, command) in (1..).zip(commands) {
            state.apply(revision, None, command);
        }
        Cluster::deserted(state)
    }

    /// A producer that hears of a topic without a leader waits for one; were the topic itself in error, it would give up.
    #[test]
    fn a_partition_that_nobody_leads_says_so_and_its_topic_does_not() {
        let cluster = deserted();
        let mut asked = MetadataRequestTopic::default();
        asked.name = Some(name_of("t"));
        for version in [0, 7, 12] {
            let topic = find(&cluster, &asked, version);
            assert_eq!((topic.error_code, topic.partitions.len()), (0, 2));
            for partition in &topic.partitions {
                let told = (partition.error_code, partition.leader_id.0, partition.leader_epoch);
                assert_eq!(told, (ResponseError::LeaderNotAvailable.code(), -1, -1));
                assert!(!partition.replica_nodes.is_empty(), "Java's client believes in no partition without replicas");
            }
        }
    }

    /// Ids are there from the first version on that has them, and lead back to the same topic.
    #[test]
    fn a_topic_has_one_id_in_all_versions_that_have_ids() {
        let cluster = deserted();
        let mut by_name = MetadataRequestTopic::default();
        by_name.name = Some(name_of("t"));
        assert!(find(&cluster, &by_name, 9).topic_id.is_nil());
        let id = find(&cluster, &by_name, 10).topic_id;
        assert!(!id.is_nil());
        let mut by_id = MetadataRequestTopic::default();
        (by_id.topic_id, by_id.name) = (id, None);
        let found = find(&cluster, &by_id, 13);
        assert_eq!((found.error_code, found.topic_id, found.name), (0, id, Some(name_of("t"))));
    }
}
