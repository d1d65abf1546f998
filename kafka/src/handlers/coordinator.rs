//! FindCoordinator.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::text;
use crate::cluster::{Cluster, Endpoint};
use crate::gateway::Shared;

/// What is coordinated.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// First version with many keys.
const BATCHED: i16 = 4;

pub(super) async fn handle(
    shared: Arc<Shared>,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut response = FindCoordinatorResponse::default();
    let kind = if version >= 1 { request.key_type } else { GROUP };
    if version < BATCHED {
        let found = find(&shared, kind, &request.key).await;
        let (endpoint, error, why) = split(found);
        (response.node_id, response.host, response.port) = endpoint;
        response.error_code = error;
        response.error_message = why.filter(|_| version >= 1);
        return response;
    }
    for key in request.coordinator_keys {
        let found = find(&shared, kind, &key).await;
        let mut coordinator = Coordinator::default();
        let (endpoint, error, why) = split(found);
        (coordinator.node_id, coordinator.host, coordinator.port) = endpoint;
        (coordinator.error_code, coordinator.error_message) = (error, why);
        coordinator.key = key;
        response.coordinators.push(coordinator);
    }
    response
}

type Found = Result<Endpoint, (ResponseError, &'static str)>;

async fn find(shared: &Shared, kind: i8, key: &str) -> Found {
    match kind {
        GROUP => {
            let why = "the group has no coordinator at the moment";
            let node = shared.groups.coordinator(key).await.map_err(|error| (error, why))?;
            let cluster = Cluster::of(&*shared.broker);
            cluster.endpoint(node).ok_or((ResponseError::CoordinatorNotAvailable, why))
        }
        // The one error that every client takes for final.
        TRANSACTION => Err((ResponseError::TransactionalIdAuthorizationFailed, "transactions are not supported")),
        _ => Err((ResponseError::InvalidRequest, "only groups (0) have coordinators")),
    }
}

fn split(found: Found) -> ((BrokerId, StrBytes, i32), i16, Option<StrBytes>) {
    match found {
        Ok(at) => ((BrokerId(at.node.0.into()), at.host, at.port.into()), 0, None),
        Err((error, why)) => ((BrokerId(-1), StrBytes::new(), -1), error.code(), Some(text(why))),
    }
}
