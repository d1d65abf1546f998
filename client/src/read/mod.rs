//! Reading a partition.

mod ahead;
pub mod core;
mod driver;
pub(crate) mod position;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dlog_proto::record::{self, Headers, RecordBatch};
use dlog_proto::{LogOffset, Lsn, PartitionUid, TimestampMs};

use self::ahead::AheadReceiver;
pub use self::core::{GapReason, ReaderSettings};
use self::core::{Item, ReaderCore};
use self::driver::Driver;
pub use self::position::Position;
use crate::directory::Directory;
use crate::error::ClientError;

/// A record that was read.
#[derive(Debug, Clone)]
pub struct ReadRecord {
    pub lsn: Lsn,
    pub offset: LogOffset,
    pub timestamp_ms: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// What a reader hands out, in the order of LSNs.
#[derive(Debug, Clone)]
pub enum ReadItem {
    Record(ReadRecord),
    /// No records from here to there, both included.
    Gap {
        from: Lsn,
        to: Lsn,
        reason: GapReason,
    },
}

/// A batch of records that was read, as its producer made it.
#[derive(Debug, Clone)]
pub struct ReadBatch {
    /// Of the batch's first record.
    pub lsn: Lsn,
    pub offset: LogOffset,
    /// Records of the batch that come before where reading began, to be skipped.
    pub skip: u32,
    pub batch: RecordBatch,
}

/// A whole step of a reader.
#[derive(Debug, Clone)]
pub enum ReadStep {
    Batch(ReadBatch),
    Gap { from: Lsn, to: Lsn, reason: GapReason },
}

/// Reads one partition, in order, every LSN once: a record, or a gap with a reason. At the tail it waits for more.
#[derive(Debug)]
pub struct Reader {
    items: AheadReceiver,
    steps: VecDeque<ReadStep>,
    records: VecDeque<ReadRecord>,
}

impl Reader {
    pub(crate) fn start(directory: Arc<Directory>, partition: PartitionUid, core: ReaderCore) -> Self {
        let items = Driver::start(directory, partition, core);
        Self { items, steps: VecDeque::new(), records: VecDeque::new() }
    }

    /// The next record or gap; `None` where reading was to end.
    pub async fn next(&mut self) -> Result<Option<ReadItem>, ClientError> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(ReadItem::Record(record)));
            }
            match self.next_step().await? {
                None => return Ok(None),
                Some(ReadStep::Gap { from, to, reason }) => return Ok(Some(ReadItem::Gap { from, to, reason })),
                Some(ReadStep::Batch(batch)) => self.records = records(&batch)?,
            }
        }
    }

    /// The next batch or gap: for those who read millions of records a second. Not to be mixed with [`Self::next`].
    pub async fn next_step(&mut self) -> Result<Option<ReadStep>, ClientError> {
        while self.steps.is_empty() {
            match self.items.recv().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(Item::Gap { from, to, reason })) => self.steps.push_back(ReadStep::Gap { from, to, reason }),
                Some(Ok(Item::Block { block, from, base })) => {
                    for batch in record::batches(block.body()) {
                        let batch = batch.map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
                        self.steps.extend(step(batch, block.header().first_lsn(), from, base));
                    }
                }
            }
        }
        Ok(self.steps.pop_front())
    }
}

/// A stored batch as the reader sees it. Stored, its base offset is ESN − 1. `None` if all of it comes before `from`.
fn step(batch: RecordBatch, of_block: Lsn, from: Lsn, base: LogOffset) -> Option<ReadStep> {
    let esn_before = batch.header().base_offset;
    let lsn = Lsn((of_block.0 & !u64::from(u32::MAX)) + esn_before + 1);
    let skip = u32::try_from(from.0.saturating_sub(lsn.0)).unwrap_or(u32::MAX);
    let offset = LogOffset(base.0 + esn_before);
    (skip < batch.header().span()).then_some(ReadStep::Batch(ReadBatch { lsn, offset, skip, batch }))
}

fn records(batch: &ReadBatch) -> Result<VecDeque<ReadRecord>, ClientError> {
    let damaged = |error: record::BatchError| ClientError::NotUnderstood(error.to_string());
    let mut records = VecDeque::with_capacity(batch.batch.header().record_count as usize);
    for record in batch.batch.records().map_err(damaged)? {
        let record = record.map_err(damaged)?;
        if record.offset_delta < batch.skip {
            continue;
        }
        records.push_back(ReadRecord {
            lsn: Lsn(batch.lsn.0 + u64::from(record.offset_delta)),
            offset: LogOffset(batch.offset.0 + u64::from(record.offset_delta)),
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers,
        });
    }
    Ok(records)
}
