//! Freeing segments in which nothing is needed any more.
//!
//! A dead segment may still hold the newest entry of a partition that was quiet since: it is appended again first. The
//! freeing itself is an entry too, durable before the file is touched: a start after a crash knows which segments should
//! be there, and a missing one is a loss and not a guess.

use std::sync::Arc;

use dlog_proto::PartitionUid;

use crate::counters::SyncReason;
use crate::engine::UpkeepError;
use crate::entry::{Entry, ShardMeta};
use crate::log::{AppendError, SegmentLog};
use crate::recovery::Loss;
use crate::recovery::shard_row;
use crate::segment::SegmentId;
use crate::shared::Shared;
use crate::upkeep::{Upkeep, partition_row};

/// Partitions that are carried on in one go.
const CARRY_MAX: usize = 256;

/// Something to be done with the log, by whoever writes it.
pub(crate) type LogJob = Box<dyn FnOnce(&mut SegmentLog) -> Result<(), UpkeepError> + Send>;

pub(crate) struct Reclaim<'u> {
    shared: &'u Arc<Shared>,
    upkeep: &'u mut Upkeep,
}

impl<'u> Reclaim<'u> {
    pub(crate) fn new(shared: &'u Arc<Shared>, upkeep: &'u mut Upkeep) -> Self {
        Self { shared, upkeep }
    }

    /// Frees all dead segments and says how many. `with_log` runs a job on the log.
    pub(crate) fn run(
        &mut self,
        with_log: &mut dyn FnMut(LogJob) -> Result<(), UpkeepError>,
    ) -> Result<usize, UpkeepError> {
        while self.upkeep.index()? {}
        let mut freed = 0;
        for id in self.upkeep.dead_segments()? {
            match self.free(id, with_log) {
                Ok(()) => freed += 1,
                // Even the reserve is used up: what is freed first gives some back.
                Err(UpkeepError::Append(AppendError::NoSpace)) => {
                    tracing::warn!(segment = %id, "no space to carry on what is needed of a dead segment");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(freed)
    }

    /// Forgets these losses: the log does not list segments that are missing any more, and then the index forgets them.
    pub(crate) fn forget_losses(
        &mut self,
        losses: &[Loss],
        with_log: &mut dyn FnMut(LogJob) -> Result<(), UpkeepError>,
    ) -> Result<(), UpkeepError> {
        let shared = Arc::clone(self.shared);
        let missing: Vec<SegmentId> =
            losses.iter().filter(|loss| loss.begin.offset == 0).map(|loss| loss.begin.segment).collect();
        with_log(Box::new(move |log| {
            missing.into_iter().for_each(|segment| shared.segments.forget_missing(segment));
            log.append_segments(None)?;
            log.sync(SyncReason::Internal)?;
            Ok(())
        }))?;
        while self.upkeep.index()? {}
        Ok(self.upkeep.forget_losses(losses)?)
    }

    fn free(
        &mut self,
        id: SegmentId,
        with_log: &mut dyn FnMut(LogJob) -> Result<(), UpkeepError>,
    ) -> Result<(), UpkeepError> {
        let Some(segment) = self.shared.segments.get(id) else { return Ok(()) };
        let (partitions, shard) = self.upkeep.metas_in(&segment)?;
        drop(segment);
        for some in partitions.chunks(CARRY_MAX) {
            let (shared, some) = (Arc::clone(self.shared), some.to_vec());
            with_log(Box::new(move |log| {
                some.into_iter().try_for_each(|partition| carry(&shared, log, partition, id))
            }))?;
        }
        let shared = Arc::clone(self.shared);
        with_log(Box::new(move |log| {
            if shard {
                carry_shard(&shared, log, id)?;
            }
            log.append_segments(Some(id))?;
            log.sync(SyncReason::Internal)?;
            Ok(())
        }))?;
        while self.upkeep.index()? {}
        // An index that ends in a segment that is gone is of no use: a crash now would cost all of it.
        self.upkeep.checkpoint()?;
        Ok(self.upkeep.drop_segment(id)?)
    }
}

/// Appends a partition's newest entry again, if it stands in this segment. The overlay is asked first: what it has is newer
/// than the index, and in a newer segment.
fn carry(shared: &Shared, log: &mut SegmentLog, partition: PartitionUid, from: SegmentId) -> Result<(), UpkeepError> {
    if shared.overlay().meta(partition).is_some() {
        return Ok(());
    }
    let row = partition_row(&shared.kv, partition)?;
    match row.filter(|row| row.meta_at.is_some_and(|at| at.segment == from)) {
        Some(row) => append(shared, log, Entry::Partition(row.meta)),
        None => Ok(()),
    }
}

fn carry_shard(shared: &Shared, log: &mut SegmentLog, from: SegmentId) -> Result<(), UpkeepError> {
    let row = shard_row(&shared.kv)?;
    if shared.overlay().shard().is_some() || row.at.segment != from {
        return Ok(());
    }
    append(shared, log, Entry::Shard(ShardMeta { incomplete_before: row.incomplete_before }))
}

fn append(shared: &Shared, log: &mut SegmentLog, entry: Entry) -> Result<(), UpkeepError> {
    shared.space.reserve(&entry).map_err(|_| AppendError::NoSpace)?;
    Ok(log.append(&[entry])?)
}
