//! DescribeCluster.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

use super::{NO_OPERATIONS, text};
use crate::cluster::Cluster;
use crate::gateway::Shared;

/// Brokers; the other type of endpoint is controllers, which have no port of their own here.
const BROKERS: i8 = 1;

pub(super) async fn handle(
    shared: Arc<Shared>,
    version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let mut response = DescribeClusterResponse::default();
    response.cluster_authorized_operations = NO_OPERATIONS;
    if version >= 1 && request.endpoint_type != BROKERS {
        response.error_code = ResponseError::MismatchedEndpointType.code();
        response.error_message = Some(text("controllers are not reached by this protocol: ask for brokers"));
        response.endpoint_type = BROKERS;
        return response;
    }
    let cluster = Cluster::of(&*shared.broker);
    response.endpoint_type = BROKERS;
    response.cluster_id = cluster.id();
    response.controller_id = BrokerId(cluster.controller().map_or(-1, |node| node.0.into()));
    response.brokers = cluster
        .endpoints()
        .into_iter()
        .map(|endpoint| {
            let mut broker = DescribeClusterBroker::default();
            broker.broker_id = BrokerId(endpoint.node.0.into());
            (broker.host, broker.port, broker.rack) = (endpoint.host, endpoint.port.into(), endpoint.rack);
            broker
        })
        .collect();
    response
}
