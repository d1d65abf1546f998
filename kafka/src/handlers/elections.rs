//! ElectLeaders and ListPartitionReassignments: leaders are elected and replicas placed without being asked.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
    TopicName,
};

use super::text;
use crate::cluster::{Cluster, topic_name};
use crate::gateway::Shared;

/// Elections of a preferred leader; the other type takes any.
const PREFERRED: i8 = 0;

/// Every partition has the leader that it should have, or gets one as soon as there is one to be had.
pub(super) async fn elect(shared: Arc<Shared>, version: i16, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let cluster = Cluster::of(&*shared.broker);
    let asked: Vec<(TopicName, Vec<i32>)> = match request.topic_partitions {
        Some(topics) => topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect(),
        None => {
            let all = cluster.topics().into_iter();
            all.map(|topic| (TopicName(topic_name(&topic)), (0..topic.partitions.len() as i32).collect())).collect()
        }
    };
    let preferred = version < 1 || request.election_type == PREFERRED;
    let mut response = ElectLeadersResponse::default();
    for (name, partitions) in asked {
        let topic = cluster.topic(&name);
        let mut result = ReplicaElectionResult::default();
        for index in partitions {
            let uid = topic.as_ref().and_then(|topic| topic.partitions.get(usize::try_from(index).ok()?));
            let (error, why) = match uid.map(|uid| cluster.leader(*uid).node) {
                None => (ResponseError::UnknownTopicOrPartition, "there is no such partition"),
                Some(Some(_)) => (ResponseError::ElectionNotNeeded, "the partition has its leader"),
                Some(None) if preferred => (ResponseError::PreferredLeaderNotAvailable, "no node can lead it now"),
                Some(None) => (ResponseError::EligibleLeadersNotAvailable, "no node can lead it now"),
            };
            let mut partition = PartitionResult::default();
            (partition.partition_id, partition.error_code) = (index, error.code());
            partition.error_message = Some(text(why));
            result.partition_result.push(partition);
        }
        result.topic = name;
        response.replica_election_results.push(result);
    }
    response
}

/// Records are placed block by block, so no partition's replicas are ever being reassigned.
pub(super) fn reassignments(_: &ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
