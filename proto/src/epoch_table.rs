//! The epoch table of a partition: the only truth about where an epoch ends.
//!
//! An epoch below the newest that does not stand in the table was decided empty, or lies below the trim point: nothing of it
//! can be read. Of one that does, part or all may be trimmed too: it stays as long as recovery may need it ([`EpochTable::covered`]).
//! Ends are decided in order, so the base offset of an epoch is known once all before it are decided.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, PartitionUid, ProcessId};
use crate::lsn::{Epoch, Esn, LogOffset, Lsn};
use crate::nodeset::Nodeset;
use crate::replication::Replication;
use crate::wire::EpochEnd;

/// One epoch of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEntry {
    pub epoch: Epoch,
    pub sequencer: NodeId,
    /// The start of that node which activated the epoch: another start is another sequencer.
    pub process: ProcessId,
    pub nodeset: Arc<Nodeset>,
    pub replication: Arc<Replication>,
    /// Offset of the record with ESN 1; known once every earlier epoch is decided.
    pub base_offset: Option<LogOffset>,
    /// `None` while the epoch is undecided.
    pub end: Option<End>,
    /// Metadata revision at which it was activated.
    pub activated_at: u64,
}

/// A decided end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub last_esn: Esn,
    pub authoritative: bool,
}

impl EpochEntry {
    /// The end in the form in which it is sent to shards.
    pub fn epoch_end(&self) -> Option<EpochEnd> {
        let End { last_esn, authoritative } = self.end?;
        Some(EpochEnd { epoch: self.epoch, last_esn, authoritative })
    }

    /// Offset after the epoch's last record, once it is decided.
    pub fn end_offset(&self) -> Option<LogOffset> {
        Some(LogOffset(self.base_offset?.0 + u64::from(self.end?.last_esn.0)))
    }
}

/// A partition's epochs, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochTable {
    pub partition: PartitionUid,
    /// Metadata revision as of which this table is.
    pub revision: u64,
    /// Last LSN that may no longer be read.
    pub trim: Lsn,
    /// What the epochs before this one tell of producers, a write quorum of its nodeset has in a snapshot, or there was nothing to tell.
    /// It and every later epoch with records stand in the table, trimmed or not; so do all with records from that of the trim point
    /// on. 0: none is covered.
    pub covered: Epoch,
    pub epochs: Vec<EpochEntry>,
}

impl EpochTable {
    pub fn newest(&self) -> Option<&EpochEntry> {
        self.epochs.last()
    }

    pub fn epoch(&self, epoch: Epoch) -> Option<&EpochEntry> {
        self.epochs.binary_search_by_key(&epoch, |e| e.epoch).ok().map(|at| &self.epochs[at])
    }

    /// The first epoch in the table from `epoch` on.
    pub fn at_or_after(&self, epoch: Epoch) -> Option<&EpochEntry> {
        self.epochs.get(self.epochs.partition_point(|e| e.epoch < epoch))
    }

    /// Where the first record that may be read is, or will be: behind the trim point, and in an epoch that may have one there.
    pub fn oldest(&self) -> Lsn {
        let after = self.trim.next();
        let may_have = |e: &&EpochEntry| {
            e.end.is_none_or(|end| end.last_esn > Esn::ZERO && Lsn::new(e.epoch, end.last_esn) >= after)
        };
        let entry = self.epochs.iter().find(may_have);
        entry.map_or(Lsn::FIRST, |e| Lsn::new(e.epoch, Esn(1))).max(after)
    }

    /// The epochs of which something may be read; others are there for recovery.
    pub fn readable(&self) -> impl Iterator<Item = &EpochEntry> {
        let first = self.oldest().epoch();
        self.epochs.iter().filter(move |e| e.epoch >= first)
    }

    /// Whether `epoch` is decided to end at or beyond `esn`: then its record is decided for ever.
    pub fn decides(&self, lsn: Lsn) -> bool {
        self.epoch(lsn.epoch()).and_then(|e| e.end).is_some_and(|end| lsn.esn() <= end.last_esn)
    }

    /// Epochs whose ends are not decided, the newest one included, ascending.
    pub fn undecided(&self) -> impl Iterator<Item = &EpochEntry> {
        self.epochs.iter().filter(|e| e.end.is_none())
    }

    /// The offset of the record with this LSN. `None` for an LSN beyond a decided end, in an unknown epoch, or in an epoch
    /// whose base is not known yet.
    pub fn offset_of(&self, lsn: Lsn) -> Option<LogOffset> {
        let entry = self.epoch(lsn.epoch())?;
        if lsn.esn() == Esn::ZERO || entry.end.is_some_and(|end| lsn.esn() > end.last_esn) {
            return None;
        }
        Some(LogOffset(entry.base_offset?.0 + u64::from(lsn.esn().0) - 1))
    }

    /// The LSN of the record with this offset. In the newest epoch with a known base, it may not be written yet. `None` below
    /// the first epoch in the table, or beyond what an ESN can name.
    pub fn lsn_of(&self, offset: LogOffset) -> Option<Lsn> {
        let has = |e: &&EpochEntry| {
            e.base_offset.is_some_and(|base| base <= offset) && e.end_offset().is_none_or(|end| offset < end)
        };
        let entry = self.epochs.iter().rev().find(has)?;
        let esn = u32::try_from(offset.0 - entry.base_offset?.0 + 1).ok()?;
        Some(Lsn::new(entry.epoch, Esn(esn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, ShardId};
    use crate::nodeset::{Location, Member};
    use crate::replication::QuorumConfig;

    fn table(epochs: &[(u32, Option<u64>, Option<u32>)]) -> EpochTable {
        let member =
            Member { shard: ShardId::new(1, 0), incarnation: Incarnation(1), location: Location::default(), weight: 1 };
        let nodeset = Arc::new(Nodeset::new(vec![member]).unwrap());
        let replication = Arc::new(Replication::new(QuorumConfig::majority(1)));
        let entry = |(epoch, base, end): &(u32, Option<u64>, Option<u32>)| EpochEntry {
            epoch: Epoch(*epoch),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: nodeset.clone(),
            replication: replication.clone(),
            base_offset: base.map(LogOffset),
            end: end.map(|last| End { last_esn: Esn(last), authoritative: true }),
            activated_at: 0,
        };
        EpochTable {
            partition: PartitionUid(1),
            revision: 1,
            trim: Lsn::ZERO,
            covered: Epoch::ZERO,
            epochs: epochs.iter().map(entry).collect(),
        }
    }

    #[test]
    fn offsets_are_dense_across_epochs() {
        let table = table(&[(2, Some(0), Some(10)), (5, Some(10), Some(1)), (6, Some(11), None)]);
        let lsn = |e, n| Lsn::new(Epoch(e), Esn(n));
        for (offset, expected) in [(0, lsn(2, 1)), (9, lsn(2, 10)), (10, lsn(5, 1)), (11, lsn(6, 1)), (20, lsn(6, 10))]
        {
            assert_eq!(table.lsn_of(LogOffset(offset)), Some(expected));
            assert_eq!(table.offset_of(expected), Some(LogOffset(offset)));
        }
        assert_eq!(table.offset_of(lsn(2, 11)), None, "beyond the decided end");
        assert_eq!(table.offset_of(lsn(3, 1)), None, "decided empty");
        assert_eq!(table.lsn_of(LogOffset(11 + u64::from(u32::MAX))), None);
        assert!(table.decides(lsn(2, 10)) && !table.decides(lsn(2, 11)) && !table.decides(lsn(6, 1)));
    }

    #[test]
    fn the_oldest_record_lies_behind_what_is_kept_for_recovery_only() {
        let mut table = table(&[(2, Some(0), Some(10)), (5, Some(10), Some(0)), (7, Some(10), None)]);
        for (trim, oldest, offset) in [("e0n0", "e2n1", 0), ("e2n9", "e2n10", 9), ("e2n10", "e7n1", 10)] {
            table.trim = trim.parse().unwrap();
            assert_eq!(table.oldest(), oldest.parse().unwrap(), "trimmed to {trim}");
            assert_eq!(table.offset_of(table.oldest()), Some(LogOffset(offset)));
        }
        for (trim, oldest) in [("e6n3", "e7n1"), ("e7n4", "e7n5")] {
            table.trim = trim.parse().unwrap();
            assert_eq!((table.oldest(), table.readable().count()), (oldest.parse().unwrap(), 1));
        }
    }

    #[test]
    fn offsets_wait_for_the_base() {
        let table = table(&[(2, Some(7), None), (3, None, None)]);
        assert_eq!(table.offset_of(Lsn::new(Epoch(3), Esn(1))), None);
        assert_eq!(table.lsn_of(LogOffset(6)), None, "below the first epoch that is kept");
        assert_eq!(table.undecided().count(), 2);
    }
}
