//! What drives a measurement: a client of one of the protocols. Everything else is the same for all of them.

use dlog_client::AppendOptions;
use dlog_proto::LogId;
use dlog_proto::record::RecordBatch;

use super::workload::Place;
use crate::commands::in_flight::Acknowledgement;
use crate::failure::Failure;

/// A client of one protocol.
pub(super) trait Driver {
    type Producer: Producer;
    /// What is to be read, found out before it is measured.
    type Source;
    type Consumer: Consumer;

    async fn producer(&self, log: &LogId, options: AppendOptions) -> Result<Self::Producer, Failure>;

    /// All that is in the log now: so many records of each partition.
    async fn source(&self, log: &LogId, records: &[u64]) -> Result<Self::Source, Failure>;

    /// Begins to read it.
    fn consumer(&self, source: Self::Source) -> Self::Consumer;
}

/// Appends. Records that wait at the same moment for a partition travel in one batch, of which five are on their way at most.
pub(super) trait Producer {
    type Ack: Acknowledgement;

    async fn append(&self, partition: u32, value: &[u8]) -> Result<Self::Ack, Failure>;

    /// Where a record stands, or why it was not acknowledged.
    fn place(outcome: <Self::Ack as Acknowledgement>::Outcome) -> Result<Place, String>;
}

/// Reads several partitions, each in order.
pub(super) trait Consumer {
    /// The next batch of any of them; `None` when all are at their end.
    async fn next(&mut self) -> Result<Option<ReadBack>, Failure>;
}

/// A batch that was read.
#[derive(Debug)]
pub(super) struct ReadBack {
    pub(super) partition: u32,
    /// Place of its first record.
    pub(super) first: Place,
    /// Records of it that come before where reading began.
    pub(super) skip: u32,
    pub(super) batch: RecordBatch,
}
