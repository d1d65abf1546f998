//! Producer ids, fetched from the metadata tier a thousand at a time.

use std::ops::Range;
use std::sync::Arc;

use dlog_metadata::state::{AllocateProducerIds, Command, Response};

use crate::broker::{Broker, ProposeError};

const AT_ONCE: u32 = 1000;

pub(crate) struct ProducerIds {
    broker: Arc<dyn Broker>,
    left: tokio::sync::Mutex<Range<i64>>,
}

impl ProducerIds {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, left: tokio::sync::Mutex::new(0..0) }
    }

    /// An id that nobody else gets, ever.
    pub(crate) async fn next(&self) -> Result<i64, ProposeError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let command = Command::AllocateProducerIds(AllocateProducerIds { count: AT_ONCE });
            *left = match self.broker.propose(command).await?.1 {
                Response::AllocateProducerIds(Ok(ids)) => ids,
                other => return Err(ProposeError(format!("no producer ids were to be had: {other:?}"))),
            };
        }
        left.next().ok_or_else(|| ProposeError("no producer ids were given".to_owned()))
    }
}
