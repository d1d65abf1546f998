//! Batches that wait for the next block.

use std::collections::VecDeque;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockBuilder};
use dlog_proto::{Epoch, Esn, PartitionUid, TimestampMs};
use smallvec::SmallVec;

use crate::in_flight::Waiter;

/// A validated batch that has its LSNs.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    pub(crate) bytes: Bytes,
    pub(crate) first_esn: Esn,
    pub(crate) span: u32,
    /// Earliest and latest of its records.
    pub(crate) timestamps: (TimestampMs, TimestampMs),
    /// None if it was stored on the sequencer's own account.
    pub(crate) waiters: SmallVec<[Waiter; 1]>,
}

#[derive(Debug, Default)]
pub(crate) struct Pending {
    batches: VecDeque<PendingBatch>,
    bytes: usize,
}

impl Pending {
    pub(crate) fn push(&mut self, batch: PendingBatch) {
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets one more wait for the batch that begins with `first_esn`. Whether it is here.
    pub(crate) fn join(&mut self, first_esn: Esn, waiter: Waiter) -> bool {
        match self.batches.binary_search_by_key(&first_esn, |b| b.first_esn) {
            Ok(at) => {
                self.batches[at].waiters.push(waiter);
                true
            }
            Err(_) => false,
        }
    }

    /// Packs what waits into one block of about `len_target` bytes, and says who waits for it.
    pub(crate) fn cut(
        &mut self,
        partition: PartitionUid,
        epoch: Epoch,
        now_ms: TimestampMs,
        len_target: usize,
    ) -> Option<(Block, SmallVec<[Waiter; 2]>)> {
        let first_esn = self.batches.front()?.first_esn;
        let mut builder = BlockBuilder::new(partition, epoch, first_esn, now_ms);
        let mut waiters = SmallVec::new();
        while let Some(batch) = self.batches.front() {
            if !builder.is_empty() && builder.body_len() + batch.bytes.len() > len_target {
                break;
            }
            assert_eq!(builder.next_esn(), batch.first_esn, "a block's LSNs are contiguous");
            builder.push(&batch.bytes, batch.span, batch.timestamps);
            self.bytes -= batch.bytes.len();
            let batch = self.batches.pop_front().expect("it is the front");
            waiters.extend(batch.waiters);
        }
        Some((builder.finish(), waiters))
    }

    /// Gives up all that waits, and says who waited.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = Waiter> {
        self.bytes = 0;
        std::mem::take(&mut self.batches).into_iter().flat_map(|batch| batch.waiters)
    }
}
