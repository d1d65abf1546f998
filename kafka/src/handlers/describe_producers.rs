//! DescribeProducers: who wrote to a partition not long ago.

use std::sync::Arc;

use dlog_proto::producer::ActiveProducer;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use crate::cluster::Cluster;
use crate::gateway::Shared;

pub(super) async fn handle(shared: Arc<Shared>, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let mut response = DescribeProducersResponse::default();
    for topic in request.topics {
        let mut result = TopicResponse::default();
        for index in topic.partition_indexes {
            let mut partition = PartitionResponse::default();
            partition.partition_index = index;
            match producers(&shared, &topic.name, index).await {
                Ok(producers) => partition.active_producers = producers.into_iter().map(state).collect(),
                Err(error) => partition.error_code = error.code(),
            }
            result.partitions.push(partition);
        }
        result.name = topic.name;
        response.topics.push(result);
    }
    response
}

async fn producers(shared: &Shared, topic: &str, index: i32) -> Result<Vec<ActiveProducer>, ResponseError> {
    let info = Cluster::of(&*shared.broker).topic(topic);
    let uid = info.and_then(|info| info.partitions.get(usize::try_from(index).ok()?).copied());
    let uid = uid.ok_or(ResponseError::UnknownTopicOrPartition)?;
    // Clients ask again, of whoever leads then.
    shared.broker.producers(uid).await.ok_or(ResponseError::NotLeaderOrFollower)
}

fn state(producer: ActiveProducer) -> ProducerState {
    let mut state = ProducerState::default();
    (state.producer_id, state.producer_epoch) = (ProducerId(producer.producer), producer.epoch.into());
    (state.last_sequence, state.last_timestamp) = (producer.last.last_sequence, producer.last.timestamp);
    // There are no transactions.
    (state.coordinator_epoch, state.current_txn_start_offset) = (-1, -1);
    state
}
