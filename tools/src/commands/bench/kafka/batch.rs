//! What becomes of a batch, and of the records in it.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::commands::in_flight::Acknowledgement;

/// The outcome of a batch: the offset of its first record.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    known: OnceLock<Result<u64, String>>,
    told: Notify,
}

impl Outcome {
    pub(super) fn set(&self, outcome: Result<u64, String>) {
        self.known.set(outcome).expect("a batch has one outcome");
        self.told.notify_waiters();
    }
}

/// The acknowledgement of one record.
#[derive(Debug)]
pub(crate) struct KafkaAck {
    pub(super) batch: Arc<Outcome>,
    pub(super) index: u32,
}

impl Acknowledgement for KafkaAck {
    /// The record's offset.
    type Outcome = Result<u64, String>;

    fn now(&self) -> Option<Self::Outcome> {
        let of_batch = self.batch.known.get()?;
        Some(of_batch.as_ref().map(|first| first + u64::from(self.index)).map_err(Clone::clone))
    }

    async fn settled(&mut self) {
        let told = self.batch.told.notified();
        // It may have been told before we listened.
        if self.batch.known.get().is_none() {
            told.await;
        }
    }
}
