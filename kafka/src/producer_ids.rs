//! Producer ids, fetched from the metadata tier a thousand at a time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::state::{AllocateProducerIds, Command, Response};
use kafka_protocol::ResponseError;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::errors;

const AT_ONCE: u32 = 1000;
/// How long somebody waits for an id before it has to ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// There are none at the moment: what Kafka says then too.
const LATER: ResponseError = ResponseError::CoordinatorLoadInProgress;

pub(crate) struct ProducerIds {
    broker: Arc<dyn Broker>,
    left: tokio::sync::Mutex<Range<i64>>,
}

impl ProducerIds {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, left: tokio::sync::Mutex::new(0..0) }
    }

    /// An id that nobody else gets, ever.
    pub(crate) async fn next(&self) -> Result<i64, ResponseError> {
        timeout(PATIENCE, self.take()).await.unwrap_or(Err(LATER))
    }

    async fn take(&self) -> Result<i64, ResponseError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let command = Command::AllocateProducerIds(AllocateProducerIds { count: AT_ONCE });
            *left = match self.broker.propose(command).await {
                Ok((_, Response::AllocateProducerIds(Ok(ids)))) => ids,
                Ok((_, Response::AllocateProducerIds(Err(error)))) => {
                    tracing::error!("kafka: there are no producer ids: {error}");
                    return Err(errors::of_producer_ids(&error));
                }
                other => {
                    tracing::info!("kafka: no producer ids could be had: {other:?}");
                    return Err(LATER);
                }
            };
        }
        left.next().ok_or(LATER)
    }
}
