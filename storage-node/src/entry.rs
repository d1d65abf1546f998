//! What a shard keeps: the entries of its log.
//!
//! Their order in the log is their order in time. Blocks and amends add up; of [`PartitionMeta`] and [`ShardMeta`] the
//! newest entry is the whole truth. Everything else that the engine knows (where blocks lie, how many, what is dead) is
//! derived from these and can be derived again.

use std::fmt;

use dlog_proto::block::{Block, BlockHeader, BlockKind, Placement};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use smallvec::SmallVec;

/// Number of an entry submitted to a running shard, from 1, without gaps. Starts over with every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntrySeq(pub u64);

impl EntrySeq {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for EntrySeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One thing that is to be durable.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A block of either kind. Of producer snapshots only the one with the highest LSN is kept.
    Block { placement: Placement, block: Block },
    /// Another placement for a block that the shard has; the higher version wins, whichever came first.
    Amend { partition: PartitionUid, epoch: Epoch, first_esn: Esn, placement: Placement },
    /// What holds for a partition from now on.
    Partition(PartitionMeta),
    /// What holds for the shard from now on.
    Shard(ShardMeta),
}

/// All that a shard must not forget about a partition besides its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionMeta {
    pub partition: PartitionUid,
    /// Stores and amends of epochs below this one are refused.
    pub seal: Epoch,
    /// Everything up to here is given up.
    pub trim: Lsn,
    /// Known decided ends, ascending by epoch. Blocks of these epochs beyond their ends are not data: they are purged, or
    /// kept aside if the decision was not authoritative. Ends of epochs that are trimmed altogether may be left out.
    pub ends: Vec<EpochEnd>,
    /// The partition's log was deleted: nothing of it is data any more.
    pub deleted: bool,
}

impl PartitionMeta {
    /// Nothing sealed, trimmed or ended.
    pub const fn new(partition: PartitionUid) -> Self {
        Self { partition, seal: Epoch::ZERO, trim: Lsn::ZERO, ends: Vec::new(), deleted: false }
    }

    /// Where this epoch ended, if that is known.
    pub fn end_of(&self, epoch: Epoch) -> Option<EpochEnd> {
        let at = self.ends.binary_search_by_key(&epoch, |end| end.epoch).ok()?;
        Some(self.ends[at])
    }

    /// What these LSNs of one epoch are. They are given up only when all of them are.
    pub fn fate(&self, first: Lsn, last: Lsn) -> Fate {
        if self.deleted || last <= self.trim {
            return Fate::Trimmed;
        }
        match self.end_of(first.epoch()) {
            Some(end) if first.esn() > end.last_esn => {
                if end.authoritative {
                    Fate::Purged
                } else {
                    Fate::Quarantined
                }
            }
            _ => Fate::Data,
        }
    }
}

/// What becomes of a block under a [`PartitionMeta`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is served.
    Data,
    /// It was given up with everything before it, or its log was deleted.
    Trimmed,
    /// It lies beyond its epoch's end: it never was part of the partition.
    Purged,
    /// As purged, but too few shards stood behind the decision: kept for inspection, never served.
    Quarantined,
}

/// All that a shard must not forget about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShardMeta {
    /// Metadata revision below which this shard lost unflushed blocks to a machine crash; 0 if it never did. See
    /// [`Sealed::incomplete_before`](dlog_proto::wire::Sealed::incomplete_before).
    pub incomplete_before: u64,
}

/// How far a partition is known to be acknowledged, settled and released. Hints: they may lag after a restart, and nothing
/// is unsafe if they do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Marks {
    pub released: Lsn,
    /// Of the newest epochs of which the shard has blocks, ascending; at most [`Marks::EPOCHS_MAX`].
    pub epochs: SmallVec<[EpochMarks; 1]>,
}

/// Highest acknowledged and settled ESN of an epoch, as far as the placements and releases that were seen tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EpochMarks {
    pub epoch: Epoch,
    pub acked: Esn,
    pub settled: Esn,
}

impl Marks {
    /// Of this many epochs marks are kept: more are not undecided at the same time unless something is very wrong.
    pub const EPOCHS_MAX: usize = 8;

    pub fn of_epoch(&self, epoch: Epoch) -> Option<&EpochMarks> {
        self.epochs.iter().find(|marks| marks.epoch == epoch)
    }

    /// Raises an epoch's marks to at least these.
    pub fn raise(&mut self, marks: EpochMarks) {
        let at = self.epochs.partition_point(|known| known.epoch < marks.epoch);
        match self.epochs.get_mut(at).filter(|known| known.epoch == marks.epoch) {
            Some(known) => {
                known.acked = known.acked.max(marks.acked);
                known.settled = known.settled.max(marks.settled);
            }
            None => self.epochs.insert(at, marks),
        }
        if self.epochs.len() > Self::EPOCHS_MAX {
            self.epochs.remove(0);
        }
    }

    /// Raises all marks to at least those of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.released = self.released.max(other.released);
        other.epochs.iter().for_each(|marks| self.raise(*marks));
    }
}

/// A block that the shard has, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldBlock {
    pub header: BlockHeader,
    /// The newest.
    pub placement: Placement,
}

/// A block read back.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    /// The newest.
    pub placement: Placement,
    /// Verified; its bytes are a slice of a segment's map or of memory.
    pub block: Block,
}

/// What is to be known of a partition before it is served.
#[derive(Debug, Clone)]
pub struct PartitionImage {
    pub meta: PartitionMeta,
    pub marks: Marks,
    /// Position of the newest producer snapshot: everything below it is in it.
    pub snapshot: Option<Lsn>,
    /// Data blocks, ascending, of every epoch whose end is not known: those above the epoch's settled mark.
    pub unsettled: Vec<HeldBlock>,
}

impl Entry {
    pub fn partition(&self) -> Option<PartitionUid> {
        match self {
            Self::Block { block, .. } => Some(block.header().partition),
            Self::Amend { partition, .. } => Some(*partition),
            Self::Partition(meta) => Some(meta.partition),
            Self::Shard(_) => None,
        }
    }

    /// Whether this is a block of records.
    pub fn is_records(&self) -> bool {
        matches!(self, Self::Block { block, .. } if block.header().kind == BlockKind::Records)
    }
}
