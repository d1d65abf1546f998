//! Reading batches: a trait, and what it is made of, the native client.

use std::pin::Pin;

use dlog_client::{Client, GapReason, Position, ReadStep, Reader};
use dlog_proto::record::RecordBatch;
use dlog_proto::{LogId, LogOffset, Lsn};

use crate::broker::Pending;

/// Opens streams of batches.
pub trait Reading: Send + Sync + 'static {
    /// Reads a partition from a place on: to an LSN (excluded), or without end.
    fn open(
        &self,
        log: LogId,
        partition: u32,
        from: Position,
        until: Option<Lsn>,
    ) -> Pending<Result<Box<dyn Steps>, String>>;
}

/// A stream of batches, in order. At the tail it waits for more.
pub trait Steps: Send {
    /// The next one; `None` where reading was to end. Whoever stops waiting loses nothing.
    fn next<'a>(&'a mut self) -> Pin<Box<dyn Future<Output = Result<Option<Step>, String>> + Send + 'a>>;
}

/// A step through a partition.
#[derive(Debug, Clone)]
pub enum Step {
    /// A batch, and where its first record is.
    Batch { lsn: Lsn, offset: LogOffset, batch: RecordBatch },
    /// No records up to here, this one included: they were lost, or given up.
    Gap { to: Lsn, lost: bool },
}

/// Reading through the native client: from the shards of the nodeset, wherever they are.
#[derive(Debug, Clone)]
pub struct ClientReading(pub Client);

impl Reading for ClientReading {
    fn open(
        &self,
        log: LogId,
        partition: u32,
        from: Position,
        until: Option<Lsn>,
    ) -> Pending<Result<Box<dyn Steps>, String>> {
        let client = self.0.clone();
        Box::pin(async move {
            let reader = client.reader(&log, partition, from, until.map(Position::Lsn)).await;
            let reader = reader.map_err(|error| error.to_string())?;
            Ok(Box::new(ClientSteps(reader)) as Box<dyn Steps>)
        })
    }
}

struct ClientSteps(Reader);

impl Steps for ClientSteps {
    fn next<'a>(&'a mut self) -> Pin<Box<dyn Future<Output = Result<Option<Step>, String>> + Send + 'a>> {
        Box::pin(async move {
            let step = self.0.next_step().await.map_err(|error| error.to_string())?;
            Ok(step.map(|step| match step {
                ReadStep::Batch(read) => Step::Batch { lsn: read.lsn, offset: read.offset, batch: read.batch },
                ReadStep::Gap { to, reason, .. } => Step::Gap { to, lost: reason == GapReason::DataLoss },
            }))
        })
    }
}
