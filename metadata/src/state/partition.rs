//! One partition's epochs: how they come, end and go. Pure arithmetic on one partition; [`super::epochs`] does the
//! rest.
//!
//! INV-EPOCH-ORDER: epochs ascend. The newest is undecided and always kept: only a later epoch ends an earlier one.
//! INV-EPOCH-DECIDED-PREFIX: decided epochs come before undecided ones.
//! INV-EPOCH-BASE: the base of an epoch is known if and only if every epoch before it is decided.
//! INV-EPOCH-DENSE: the base of an epoch is the end offset of the one before it in the table.
//! INV-EPOCH-GONE: an epoch below the newest that is not in the table was decided empty, or lies below both the trim point's epoch and the
//! one that `covered` names.
//! INV-EPOCH-COVERED: every epoch below `covered` is decided, and `covered` itself stands in the table.
//!
//! Why a trimmed epoch is kept until it is covered: until a stored snapshot tells of its producers, its batches do, which shards keep for
//! that reason. Whoever reads them back has to know which shards, and where the epoch ended (trap C11). The covering epoch is kept,
//! even if it has no records, because the snapshot lies on its nodeset. The trim point's own epoch is kept because shards may hold
//! blocks beyond its end, and have to be told of it.

use dlog_proto::bugs::{Bug, bug};
use dlog_proto::{End, Epoch, Esn, LogOffset, Lsn, NodeId, PartitionId, PartitionUid, ProcessId};
use serde::{Deserialize, Serialize};

use super::command::Decision;
use super::errors::{ActivateError, CoverError, DecideError, TrimError};
use super::logs::LogUid;
use super::response::Decided;

/// Undecided epochs that a partition may have. Each is one more failed succession; without a bound a sequencer that
/// restarts for ever while recovery is impossible would fill the state.
pub const UNDECIDED_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    pub log: LogUid,
    pub index: PartitionId,
    /// Last LSN that may no longer be read.
    pub trim: Lsn,
    /// See [`EpochTable::covered`](dlog_proto::EpochTable::covered).
    pub covered: Epoch,
    pub(super) epochs: Vec<EpochRow>,
}

/// As [`dlog_proto::EpochEntry`], with what many epochs share as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochRow {
    pub(super) epoch: Epoch,
    pub(super) sequencer: NodeId,
    pub(super) process: ProcessId,
    pub(super) nodeset: u32,
    pub(super) replication: u32,
    pub(super) base_offset: Option<LogOffset>,
    pub(super) end: Option<End>,
    pub(super) activated_at: u64,
    pub(super) planned: bool,
}

impl EpochRow {
    fn end_offset(&self) -> Option<LogOffset> {
        Some(LogOffset(self.base_offset?.0 + u64::from(self.end?.last_esn.0)))
    }
}

/// What is to be done about a decision that may stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stood already.
    Stands(Decided),
    /// The row at this place is to be ended.
    Decide(usize),
}

impl Partition {
    pub(super) fn new(log: LogUid, index: PartitionId) -> Self {
        Self { log, index, trim: Lsn::ZERO, covered: Epoch::ZERO, epochs: Vec::new() }
    }

    /// The newest epoch, its sequencer and its process. `None` if there was none yet.
    pub fn newest(&self) -> Option<(Epoch, NodeId, ProcessId)> {
        self.epochs.last().map(|row| (row.epoch, row.sequencer, row.process))
    }

    /// Whether the newest epoch was a planned succession.
    pub fn is_newest_planned(&self) -> bool {
        self.epochs.last().is_some_and(|row| row.planned)
    }

    /// How many epochs are not decided, the newest one included.
    pub fn undecided_len(&self) -> usize {
        self.epochs.len() - self.first_undecided()
    }

    /// The place of the oldest undecided epoch.
    pub(super) fn first_undecided(&self) -> usize {
        self.epochs.partition_point(|row| row.end.is_some())
    }

    pub(super) fn find(&self, epoch: Epoch) -> Option<usize> {
        self.epochs.binary_search_by_key(&epoch, |row| row.epoch).ok()
    }

    /// The epoch that would come next.
    pub(super) fn next_epoch(&self, partition: PartitionUid) -> Result<Epoch, ActivateError> {
        let newest = self.epochs.last().map_or(Epoch::ZERO, |row| row.epoch);
        if newest == Epoch::MAX {
            Err(ActivateError::EpochsExhausted(partition))
        } else if self.undecided_len() >= UNDECIDED_MAX {
            Err(ActivateError::TooManyUndecided { partition })
        } else {
            Ok(newest.next())
        }
    }

    /// Adds the epoch that [`Self::next_epoch`] gave.
    pub(super) fn add(&mut self, mut row: EpochRow) {
        assert!(self.epochs.last().is_none_or(|last| last.epoch < row.epoch && last.end.is_none()));
        row.base_offset = self.epochs.is_empty().then_some(LogOffset(0));
        self.epochs.push(row);
    }

    /// Whether `decision` may stand (traps C8, C9b).
    pub(super) fn judge(&self, decision: &Decision) -> Result<Verdict, DecideError> {
        let &Decision { partition, epoch, last_esn, authoritative, recoverer, .. } = decision;
        let newest = self.epochs.last().map_or(Epoch::ZERO, |row| row.epoch);
        if epoch >= recoverer {
            return Err(DecideError::NotLater { partition, epoch, recoverer });
        }
        if epoch == Epoch::ZERO || recoverer > newest {
            let epoch = if recoverer > newest { recoverer } else { epoch };
            return Err(DecideError::UnknownEpoch { partition, epoch, newest });
        }
        if recoverer < newest && !bug(Bug::StaleRecovererDecides) {
            return Err(DecideError::Stale { partition, recoverer, newest });
        }
        let Some(at) = self.find(epoch) else {
            if last_esn == Esn::ZERO && self.keeps_records_of(epoch) {
                let next = self.epochs.iter().find(|row| row.epoch > epoch);
                return Ok(Verdict::Stands(Decided::empty(authoritative, next.and_then(|row| row.base_offset))));
            }
            return Err(DecideError::AlreadyDecided { partition, epoch, end: None });
        };
        let row = &self.epochs[at];
        match row.end {
            Some(end) if end.last_esn == last_esn => Ok(Verdict::Stands(Decided { end, end_offset: row.end_offset() })),
            Some(end) => Err(DecideError::AlreadyDecided { partition, epoch, end: Some(end) }),
            None if at != self.first_undecided() => {
                let predecessor = self.epochs[self.first_undecided()].epoch;
                Err(DecideError::PredecessorOpen { partition, predecessor })
            }
            None => Ok(Verdict::Decide(at)),
        }
    }

    /// Ends the row that [`Self::judge`] named: fixes the base of the next one. Rows that leave the table are handed back.
    pub(super) fn decide(&mut self, at: usize, end: End) -> (Decided, Vec<EpochRow>) {
        assert!(at == self.first_undecided() && at + 1 < self.epochs.len(), "INV-EPOCH-DECIDED-PREFIX");
        let row = &mut self.epochs[at];
        row.end = Some(end);
        let row = *row;
        let end_offset = row.end_offset();
        assert!(end_offset.is_some(), "INV-EPOCH-BASE");
        self.epochs[at + 1].base_offset = end_offset;
        (Decided { end, end_offset }, self.take_gone())
    }

    /// Whether an epoch stays in the table if it has records: then one that is not there has none.
    fn keeps_records_of(&self, epoch: Epoch) -> bool {
        epoch >= self.covered || epoch >= self.trim.epoch()
    }

    /// INV-EPOCH-GONE.
    fn stays(&self, row: &EpochRow) -> bool {
        match row.end {
            None => true,
            Some(End { last_esn: Esn::ZERO, .. }) => row.epoch == self.covered,
            Some(end) if bug(Bug::TrimmedEpochsLeave) => Lsn::new(row.epoch, end.last_esn) > self.trim,
            Some(_) => self.keeps_records_of(row.epoch),
        }
    }

    fn take_gone(&mut self) -> Vec<EpochRow> {
        let (stay, gone) = std::mem::take(&mut self.epochs).into_iter().partition(|row| self.stays(row));
        self.epochs = stay;
        gone
    }

    /// Whether a snapshot in `epoch` can cover what is before it. `false`: that is known, of this or a later one.
    pub(super) fn check_cover(&self, partition: PartitionUid, epoch: Epoch) -> Result<bool, CoverError> {
        if epoch <= self.covered {
            return Ok(false);
        }
        let at = self.find(epoch).ok_or(CoverError::Gone { partition, epoch })?;
        if at > self.first_undecided() {
            let predecessor = self.epochs[self.first_undecided()].epoch;
            return Err(CoverError::PredecessorOpen { partition, predecessor });
        }
        Ok(true)
    }

    /// What is before `epoch` is covered. Rows that leave the table are handed back.
    pub(super) fn cover(&mut self, epoch: Epoch) -> Vec<EpochRow> {
        self.covered = epoch;
        self.take_gone()
    }

    /// Whether records up to `upto` can have been released.
    pub(super) fn check_trim(&self, partition: PartitionUid, upto: Lsn) -> Result<(), TrimError> {
        let first_undecided = self.epochs.get(self.first_undecided()).map_or(Epoch::ZERO, |row| row.epoch);
        if upto.epoch() > first_undecided {
            return Err(TrimError::NotReleased { partition, upto, first_undecided });
        }
        Ok(())
    }

    /// Moves the trim point, never back. Rows that leave the table are handed back.
    pub(super) fn trim(&mut self, upto: Lsn) -> Vec<EpochRow> {
        self.trim = self.trim.max(upto);
        self.take_gone()
    }

    /// What must hold; `Err` names what does not.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let first_undecided = self.first_undecided();
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        ensure(self.epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch), "INV-EPOCH-ORDER")?;
        ensure(self.epochs.last().is_none_or(|row| row.end.is_none()), "INV-EPOCH-ORDER")?;
        ensure(self.epochs[first_undecided..].iter().all(|row| row.end.is_none()), "INV-EPOCH-DECIDED-PREFIX")?;
        let based = |(at, row): (usize, &EpochRow)| row.base_offset.is_some() == (at <= first_undecided);
        ensure(self.epochs.iter().enumerate().all(based), "INV-EPOCH-BASE")?;
        let decided = self.epochs.windows(2).take(first_undecided);
        ensure(decided.into_iter().all(|pair| pair[0].end_offset() == pair[1].base_offset), "INV-EPOCH-DENSE")?;
        ensure(self.epochs.iter().all(|row| self.stays(row)), "INV-EPOCH-GONE")?;
        let covered = self.covered == Epoch::ZERO || self.find(self.covered).is_some_and(|at| at <= first_undecided);
        ensure(covered || bug(Bug::TrimmedEpochsLeave), "INV-EPOCH-COVERED")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: PartitionUid = PartitionUid(1);

    fn partition(epochs: u32) -> Partition {
        let mut partition = Partition::new(LogUid(1), PartitionId(0));
        for _ in 0..epochs {
            let epoch = partition.next_epoch(UID).unwrap();
            let (sequencer, process) = (NodeId(1), ProcessId(1));
            let row = EpochRow {
                epoch,
                sequencer,
                process,
                nodeset: 0,
                replication: 0,
                base_offset: None,
                end: None,
                activated_at: 0,
                planned: false,
            };
            partition.add(row);
        }
        partition
    }

    fn decide(partition: &mut Partition, epoch: u32, last: u32, recoverer: u32) -> Result<Option<u64>, DecideError> {
        let decision = Decision {
            partition: UID,
            epoch: Epoch(epoch),
            last_esn: Esn(last),
            authoritative: true,
            recoverer: Epoch(recoverer),
            under_replicated: vec![],
        };
        let decided = match partition.judge(&decision)? {
            Verdict::Stands(decided) => decided,
            Verdict::Decide(at) => partition.decide(at, End { last_esn: Esn(last), authoritative: true }).0,
        };
        partition.check().unwrap();
        Ok(decided.end_offset.map(|offset| offset.0))
    }

    fn cover(partition: &mut Partition, epoch: u32) -> Result<usize, CoverError> {
        let is_news = partition.check_cover(UID, Epoch(epoch))?;
        let left = if is_news { partition.cover(Epoch(epoch)).len() } else { 0 };
        partition.check().unwrap();
        Ok(left)
    }

    fn kept(partition: &Partition) -> Vec<u32> {
        partition.epochs.iter().map(|row| row.epoch.0).collect()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn epochs_end_in_order_and_offsets_are_dense() {
        let mut partition = partition(4);
        assert_eq!(
            decide(&mut partition, 2, 5, 4),
            Err(DecideError::PredecessorOpen { partition: UID, predecessor: Epoch(1) })
        );
        assert_eq!(decide(&mut partition, 1, 10, 4), Ok(Some(10)));
        assert_eq!(decide(&mut partition, 2, 0, 4), Ok(Some(10)));
        assert_eq!(partition.find(Epoch(2)), None, "empty ones leave");
        assert_eq!(decide(&mut partition, 3, 5, 4), Ok(Some(15)));
        assert_eq!(partition.epochs.last().unwrap().base_offset, Some(LogOffset(15)));
    }

    #[test]
    fn an_end_is_decided_once() {
        let mut partition = partition(3);
        decide(&mut partition, 1, 10, 3).unwrap();
        decide(&mut partition, 2, 0, 3).unwrap();
        assert_eq!(decide(&mut partition, 1, 10, 3), Ok(Some(10)), "the same again");
        assert_eq!(decide(&mut partition, 2, 0, 3), Ok(Some(10)), "the same again, of an epoch that left");
        let end = Some(End { last_esn: Esn(10), authoritative: true });
        let already = |epoch, end| Err(DecideError::AlreadyDecided { partition: UID, epoch: Epoch(epoch), end });
        assert_eq!(decide(&mut partition, 1, 9, 3), already(1, end));
        assert_eq!(decide(&mut partition, 2, 1, 3), already(2, None));
        partition.trim(lsn("e3n1"));
        assert_eq!(decide(&mut partition, 1, 0, 3), already(1, end), "trimmed, and not covered");
        cover(&mut partition, 3).unwrap();
        assert_eq!(decide(&mut partition, 1, 10, 3), already(1, None), "nobody knows any more");
        assert_eq!(decide(&mut partition, 1, 0, 3), already(1, None));
    }

    #[test]
    fn c9b_only_the_newest_epoch_decides_and_only_earlier_ones() {
        let mut partition = partition(3);
        let stale = DecideError::Stale { partition: UID, recoverer: Epoch(2), newest: Epoch(3) };
        assert_eq!(decide(&mut partition, 1, 1, 2), Err(stale), "trap C9b");
        for (epoch, recoverer) in [(3, 3), (4, 3)] {
            assert!(matches!(decide(&mut partition, epoch, 1, recoverer), Err(DecideError::NotLater { .. })));
        }
        for (epoch, recoverer) in [(0, 3), (3, 4)] {
            assert!(matches!(decide(&mut partition, epoch, 1, recoverer), Err(DecideError::UnknownEpoch { .. })));
        }
    }

    #[test]
    fn a_trimmed_epoch_stays_until_it_is_covered_and_bases_are_kept() {
        let mut partition = partition(4);
        decide(&mut partition, 1, 10, 4).unwrap();
        assert_eq!(cover(&mut partition, 2), Ok(0), "nothing is trimmed");
        decide(&mut partition, 2, 10, 4).unwrap();
        assert!(partition.check_trim(UID, lsn("e4n1")).is_err(), "epoch 3 is open");
        assert_eq!(partition.trim(lsn("e2n4")).len(), 1);
        assert_eq!(partition.trim(lsn("e1n2")).len(), 0);
        assert_eq!((partition.trim, partition.epochs[0].base_offset), (lsn("e2n4"), Some(LogOffset(10))));
        assert!(partition.check_trim(UID, lsn("e3n7")).is_ok());
        assert_eq!(partition.trim(lsn("e3n7")).len(), 0);
        assert_eq!(decide(&mut partition, 3, 7, 4), Ok(Some(27)), "decided at the trim point");
        assert_eq!(kept(&partition), [2, 3, 4], "only a snapshot of epoch 2 is known");
        assert_eq!(cover(&mut partition, 4), Ok(1));
        assert_eq!((kept(&partition), partition.epochs[1].base_offset), (vec![3, 4], Some(LogOffset(27))));
        assert_eq!((cover(&mut partition, 4), cover(&mut partition, 2)), (Ok(0), Ok(0)), "again, and from the past");
        assert_eq!(partition.covered, Epoch(4));
        assert!(Partition::new(LogUid(1), PartitionId(0)).check_trim(UID, lsn("e1n1")).is_err(), "never activated");
    }

    #[test]
    fn the_covering_epoch_stays_even_if_it_is_empty() {
        let mut partition = partition(5);
        decide(&mut partition, 1, 10, 5).unwrap();
        let open = Err(CoverError::PredecessorOpen { partition: UID, predecessor: Epoch(2) });
        assert_eq!(cover(&mut partition, 3), open, "it cannot have read what epoch 2 holds");
        cover(&mut partition, 2).unwrap();
        for epoch in [2, 3] {
            decide(&mut partition, epoch, 0, 5).unwrap();
        }
        assert_eq!(kept(&partition), [1, 2, 4, 5], "epoch 2 has the snapshot, epoch 3 nothing");
        assert_eq!(cover(&mut partition, 3), Err(CoverError::Gone { partition: UID, epoch: Epoch(3) }));
        assert_eq!(cover(&mut partition, 4), Ok(1));
        assert_eq!(kept(&partition), [1, 4, 5]);
    }

    #[test]
    fn undecided_epochs_are_bounded() {
        let mut partition = partition(UNDECIDED_MAX as u32);
        assert_eq!(partition.next_epoch(UID), Err(ActivateError::TooManyUndecided { partition: UID }));
        decide(&mut partition, 1, 1, UNDECIDED_MAX as u32).unwrap();
        assert_eq!(partition.next_epoch(UID), Ok(Epoch(UNDECIDED_MAX as u32 + 1)));
        partition.epochs.last_mut().unwrap().epoch = Epoch::MAX;
        assert_eq!(partition.next_epoch(UID), Err(ActivateError::EpochsExhausted(UID)));
    }
}
