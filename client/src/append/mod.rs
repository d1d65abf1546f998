//! Appending.

mod accumulator;
mod ack;
pub mod core;
mod partitioner;
mod producer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dlog_metadata::state::LogInfo;
use dlog_proto::wire::Acks;
use dlog_proto::{PartitionId, TimestampMs};
use tokio::sync::OnceCell;

pub use self::ack::{Ack, Appended};
pub use self::core::AppendFailure;
pub use self::partitioner::partition_of_key;
pub use self::producer::AppendOptions;
pub(crate) use self::producer::ProducerIds;
use self::producer::{Producer, Shared};
use crate::directory::Directory;
use crate::error::ClientError;

/// A record to append.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// Where to; by key if `None`, or in turns without one.
    pub partition: Option<PartitionId>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// In milliseconds since 1970; now if `None`.
    pub timestamp_ms: Option<TimestampMs>,
    /// Copies to wait for, if not those that the appender waits for.
    pub acks: Option<Acks>,
}

impl<'a> From<&'a [u8]> for Record<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self { value: Some(value), ..Self::default() }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Record<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::from(value.as_slice())
    }
}

impl<'a> From<&'a str> for Record<'a> {
    fn from(value: &'a str) -> Self {
        Self::from(value.as_bytes())
    }
}

/// Appends to a log: per record, each with its own acknowledgement. Records that wait at the same moment for the same
/// partition travel in one batch. Whatever happens to connections and sequencers, each is stored once, in order.
///
/// Dropping it does not lose what was appended: it is still sent, as long as the runtime lives. [`Self::flush`] waits for it.
#[derive(Debug)]
pub struct Appender {
    log: Arc<LogInfo>,
    directory: Arc<Directory>,
    ids: Arc<ProducerIds>,
    options: AppendOptions,
    partitions: Vec<OnceCell<Arc<Shared>>>,
    turn: AtomicU32,
}

impl Appender {
    pub(crate) fn new(
        log: Arc<LogInfo>,
        directory: Arc<Directory>,
        ids: Arc<ProducerIds>,
        options: AppendOptions,
    ) -> Self {
        let partitions = log.partitions.iter().map(|_| OnceCell::new()).collect();
        Self { log, directory, ids, options, partitions, turn: AtomicU32::new(0) }
    }

    /// Appends a record. Waits only while the window is full; the outcome is what the [`Ack`] resolves to.
    pub async fn append(&self, record: impl Into<Record<'_>>) -> Result<Ack, ClientError> {
        let record = record.into();
        let shared = self.partition(self.choose(&record)?).await;
        shared.ready().await;
        Ok(shared.push(&record))
    }

    /// Waits until everything that was appended has its outcome.
    pub async fn flush(&self) {
        for shared in self.partitions.iter().filter_map(OnceCell::get) {
            shared.flushed().await;
        }
    }

    /// What last kept a partition's records from being acknowledged, for a person; `None` if nothing did since the last
    /// acknowledgement.
    pub fn trouble(&self, partition: PartitionId) -> Option<String> {
        self.partitions.get(partition.0 as usize)?.get()?.trouble()
    }

    fn choose(&self, record: &Record<'_>) -> Result<PartitionId, ClientError> {
        let partitions = self.partitions.len() as u32;
        let partition = match (record.partition, record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, partitions),
            (None, None) => PartitionId(self.turn.fetch_add(1, Ordering::Relaxed) % partitions.max(1)),
        };
        if partition.0 < partitions {
            return Ok(partition);
        }
        let (log, last) = (self.log.log.clone(), partitions.saturating_sub(1));
        Err(ClientError::UnknownPartition { log, partition, last })
    }

    /// What is shared with the partition's task, which is started with the first record.
    async fn partition(&self, partition: PartitionId) -> &Arc<Shared> {
        let at = partition.0 as usize;
        let start = async || {
            let shared = Arc::new(Shared::new(self.options.clone()));
            let (directory, ids) = (self.directory.clone(), self.ids.clone());
            let producer = Producer::new(self.log.partitions[at], directory, ids, shared.clone());
            tokio::spawn(producer.run());
            shared
        };
        self.partitions[at].get_or_init(start).await
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.partitions.iter().filter_map(OnceCell::get).for_each(|shared| shared.close());
    }
}
