//! InitProducerId: for idempotent producers. Transactions are not there.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::gateway::Shared;

pub(super) async fn handle(shared: Arc<Shared>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let mut response = InitProducerIdResponse::default();
    (response.producer_id, response.producer_epoch) = (ProducerId(-1), -1);
    match request.transactional_id {
        // The one error that every client takes for final.
        Some(id) if !id.is_empty() => response.error_code = ResponseError::TransactionalIdAuthorizationFailed.code(),
        Some(_) => response.error_code = ResponseError::InvalidRequest.code(),
        None => match shared.producer_ids.next().await {
            Ok(id) => (response.producer_id, response.producer_epoch) = (ProducerId(id), 0),
            Err(error) => response.error_code = error.code(),
        },
    }
    response
}
