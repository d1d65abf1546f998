//! Epochs of many partitions at once: activate, decide, trim, cover, and the record of what lacks copies.

use std::collections::BTreeSet;
use std::sync::Arc;

use dlog_proto::{End, Epoch, EpochEntry, EpochTable, Esn, Incarnation, Lsn, PartitionUid, ShardId};

use super::State;
use super::attributes::LogAttributes;
use super::chosen::{ChosenNodesets, Pools};
use super::command::{
    Activate, BATCH_LEN_MAX, Cover, CoverItem, Decide, Decision, MissingCopies, RecordUnderReplicated, Trim, TrimItem,
    UnderReplicatedChange, UnderReplicatedItem,
};
use super::errors::{
    ActivateError, BatchTooLong, CoverError, DecideError, PartitionError, TrimError, UnderReplicatedError,
};
use super::partition::{EpochRow, Partition, Verdict};
use super::response::{Activated, Activation, Decided, unknown};
use super::tables::PackedTables;
use super::under_replicated::{MissingAt, MissingRange, UnderReplicated};

fn check_len<T>(items: &[T]) -> Result<(), BatchTooLong> {
    if items.len() > BATCH_LEN_MAX { Err(BatchTooLong(items.len() as u32)) } else { Ok(()) }
}

impl State {
    pub fn partition(&self, partition: PartitionUid) -> Option<&Arc<Partition>> {
        self.partitions.get(&partition)
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionUid, &Arc<Partition>)> {
        self.partitions.iter().map(|(uid, partition)| (*uid, partition))
    }

    /// The whole epoch table of a partition.
    pub fn table(&self, partition: PartitionUid) -> Option<EpochTable> {
        let rows = self.partitions.get(&partition)?;
        Some(self.table_of(partition, rows, &rows.epochs))
    }

    /// The table as it was when `epoch` was the newest: for an answer that may be older than the newest epoch by now. `None`: the epoch is
    /// over, and has left the table. What is left of it is no table of that epoch's sequencer.
    pub fn table_upto(&self, partition: PartitionUid, epoch: Epoch) -> Option<EpochTable> {
        let rows = self.partitions.get(&partition)?;
        let newer = rows.epochs.partition_point(|row| row.epoch <= epoch);
        let upto = &rows.epochs[..newer];
        upto.last().is_some_and(|row| row.epoch == epoch).then(|| self.table_of(partition, rows, upto))
    }

    /// Whether the newest epoch is not replicated as its log says by now: it takes a new one for that.
    pub fn is_outdated(&self, partition: PartitionUid) -> bool {
        let Some(rows) = self.partitions.get(&partition) else { return false };
        let wanted = self.logs.get(&rows.log).map(|log| &log.attributes.replication);
        let has = rows.epochs.last().and_then(|row| self.replications.get(row.replication));
        has.is_some_and(|has| wanted.is_some_and(|wanted| *wanted != **has))
    }

    /// Whether an epoch that is kept may be decided with fewer answers than safety takes: its sequencer needs a lease.
    pub fn prefers_availability(&self) -> bool {
        let mut kept = self.replications.numbers().filter_map(|number| self.replications.get(number));
        kept.any(|replication| !replication.quorum.is_strict())
    }

    /// The table from the oldest undecided epoch on.
    pub fn undecided_table(&self, uid: PartitionUid) -> Option<EpochTable> {
        let partition = self.partitions.get(&uid)?;
        Some(self.table_of(uid, partition, &partition.epochs[partition.first_undecided()..]))
    }

    fn table_of(&self, uid: PartitionUid, partition: &Partition, rows: &[EpochRow]) -> EpochTable {
        let entry = |row: &EpochRow| EpochEntry {
            epoch: row.epoch,
            sequencer: row.sequencer,
            process: row.process,
            nodeset: self.nodesets.get(row.nodeset).expect("INV-INTERNED").clone(),
            replication: self.replications.get(row.replication).expect("INV-INTERNED").clone(),
            base_offset: row.base_offset,
            end: row.end,
            activated_at: row.activated_at,
        };
        let epochs = rows.iter().map(entry).collect();
        EpochTable { partition: uid, revision: self.revision, trim: partition.trim, covered: partition.covered, epochs }
    }

    /// What of a partition lacks copies.
    pub fn under_replicated(&self, partition: PartitionUid) -> Option<&Arc<UnderReplicated>> {
        self.under_replicated.get(&partition)
    }

    /// All partitions of which something lacks copies.
    pub fn all_under_replicated(&self) -> impl Iterator<Item = (PartitionUid, &Arc<UnderReplicated>)> {
        self.under_replicated.iter().map(|(uid, missing)| (*uid, missing))
    }

    /// Whether a partition of this uid was ever made: then, if it is not there, its log was deleted.
    pub fn was_made(&self, partition: PartitionUid) -> bool {
        (1..=self.counters.partition).contains(&partition.0)
    }

    fn known(&self, uid: PartitionUid) -> Result<&Arc<Partition>, PartitionError> {
        self.partitions.get(&uid).ok_or_else(|| unknown(uid, self.was_made(uid)))
    }

    fn change(&mut self, uid: PartitionUid) -> &mut Partition {
        self.touched.partitions.insert(uid);
        Arc::make_mut(self.partitions.get_mut(&uid).expect("a partition that is there"))
    }

    /// An epoch has left the table: so has its use of what it shared.
    pub(super) fn release(&mut self, row: &EpochRow) {
        self.nodesets.release(row.nodeset);
        self.replications.release(row.replication);
    }

    pub(super) fn activate(&mut self, command: &Activate) -> Result<Activated, BatchTooLong> {
        check_len(&command.partitions)?;
        let mut chosen = std::mem::take(&mut self.chosen);
        let shards = chosen.set_shards(self.writable_shards());
        let mut pools = Pools::new(&shards);
        let mut seen = BTreeSet::new();
        let mut give = |uid: &PartitionUid| {
            if !seen.insert(*uid) {
                return Err(ActivateError::Duplicate(*uid));
            }
            let epoch = self.activate_one(command, *uid, &mut chosen, &mut pools)?;
            Ok(Activation { partition: *uid, epoch })
        };
        let results = command.partitions.iter().map(&mut give).collect();
        self.chosen = chosen;
        Ok(Activated { results, tables: PackedTables::default() })
    }

    /// The tables that go with an activation. Made when it is answered, so that a remembered answer is small.
    pub(super) fn fill_tables(&self, activated: &mut Activated) {
        let given = activated.results.iter().flatten();
        activated.tables = PackedTables(given.filter_map(|a| self.undecided_table(a.partition)).collect());
    }

    fn activate_one(
        &mut self,
        command: &Activate,
        uid: PartitionUid,
        chosen: &mut ChosenNodesets,
        pools: &mut Pools<'_>,
    ) -> Result<Epoch, ActivateError> {
        let &Activate { sequencer: node, process, planned, .. } = command;
        let info = self.nodes.get(&node).filter(|info| info.roles.sequencer);
        let registered = info.ok_or(ActivateError::NotSequencer { node })?.process;
        if registered != process {
            return Err(ActivateError::Stale { node, registered });
        }
        let partition = self.known(uid)?;
        let epoch = partition.next_epoch(uid)?;
        let log = self.logs.get(&partition.log).expect("INV-LOG-PARTITIONS").clone();
        let LogAttributes { replication, nodeset_size: size, .. } = &log.attributes;
        let not_enough = |short| ActivateError::NotEnough { partition: uid, short };
        let nodeset = chosen.acquire(&mut self.nodesets, pools, uid, replication, *size).map_err(not_enough)?;
        let row = EpochRow {
            epoch,
            sequencer: node,
            process,
            nodeset,
            replication: self.replications.acquire(replication.clone()),
            base_offset: None,
            end: None,
            activated_at: self.revision,
            planned,
        };
        self.change(uid).add(row);
        Ok(epoch)
    }

    pub(super) fn decide(&mut self, command: &Decide) -> Result<Vec<Result<Decided, DecideError>>, BatchTooLong> {
        check_len(&command.decisions)?;
        Ok(command.decisions.iter().map(|decision| self.decide_one(decision)).collect())
    }

    fn decide_one(&mut self, decision: &Decision) -> Result<Decided, DecideError> {
        let &Decision { partition: uid, epoch, last_esn, authoritative, .. } = decision;
        let partition = self.known(uid)?;
        let at = match partition.judge(decision)? {
            Verdict::Stands(decided) => return Ok(decided),
            Verdict::Decide(at) => at,
        };
        let row = &partition.epochs[at];
        for missing in &decision.under_replicated {
            let &MissingCopies { shard, incarnation, from, to } = missing;
            if from == Esn::ZERO || from > to || to > last_esn {
                return Err(DecideError::BadRange { partition: uid, epoch, from, to, last_esn });
            }
            if !self.is_member(row, shard, incarnation) {
                return Err(DecideError::NotMember { partition: uid, epoch, shard, incarnation });
            }
        }
        let (decided, left) = self.change(uid).decide(at, End { last_esn, authoritative });
        left.iter().for_each(|row| self.release(row));
        let trim = self.partitions.get(&uid).expect("changed above").trim;
        self.change_under_replicated(uid, |ranges| {
            for &MissingCopies { shard, incarnation, from, to } in &decision.under_replicated {
                ranges.add(MissingAt { epoch, shard, incarnation }, MissingRange { from, to: Some(to) });
            }
            ranges.end_epoch(epoch, last_esn);
            ranges.trim(trim);
        });
        Ok(decided)
    }

    fn is_member(&self, row: &EpochRow, shard: ShardId, incarnation: Incarnation) -> bool {
        let nodeset = self.nodesets.get(row.nodeset).expect("INV-INTERNED");
        nodeset.index_of(shard).is_some_and(|index| nodeset.member(index).incarnation == incarnation)
    }

    fn change_under_replicated(&mut self, uid: PartitionUid, change: impl FnOnce(&mut UnderReplicated)) {
        let mut ranges = self.under_replicated.get(&uid).map(|ranges| (**ranges).clone()).unwrap_or_default();
        change(&mut ranges);
        if ranges.is_empty() {
            self.under_replicated.remove(&uid);
        } else {
            self.under_replicated.insert(uid, Arc::new(ranges));
        }
        self.touched.partitions.insert(uid);
    }

    pub(super) fn record_under_replicated(
        &mut self,
        command: &RecordUnderReplicated,
    ) -> Result<Vec<Result<(), UnderReplicatedError>>, BatchTooLong> {
        check_len(&command.items)?;
        Ok(command.items.iter().map(|item| self.record_one(item)).collect())
    }

    fn record_one(&mut self, item: &UnderReplicatedItem) -> Result<(), UnderReplicatedError> {
        let &UnderReplicatedItem { partition: uid, epoch, shard, incarnation, change } = item;
        let partition = self.known(uid)?;
        let row = partition.find(epoch).map(|at| &partition.epochs[at]);
        let at = MissingAt { epoch, shard, incarnation };
        match change {
            UnderReplicatedChange::Open { from } => {
                let open = row.filter(|row| row.end.is_none());
                let row = open.ok_or(UnderReplicatedError::NotOpen { partition: uid, epoch })?;
                if from == Esn::ZERO {
                    return Err(UnderReplicatedError::BadRange { from, to: Esn::MAX });
                }
                if !self.is_member(row, shard, incarnation) {
                    return Err(UnderReplicatedError::NotMember { partition: uid, epoch, shard, incarnation });
                }
                self.change_under_replicated(uid, |ranges| ranges.add(at, MissingRange { from, to: None }));
            }
            UnderReplicatedChange::Close { to } => {
                self.change_under_replicated(uid, |ranges| ranges.close(at, to));
            }
            UnderReplicatedChange::Repaired { from, to } => {
                if from == Esn::ZERO || from > to {
                    return Err(UnderReplicatedError::BadRange { from, to });
                }
                self.change_under_replicated(uid, |ranges| ranges.repaired(at, from, to));
            }
            UnderReplicatedChange::Lost { from, to } => {
                if from == Esn::ZERO || from > to {
                    return Err(UnderReplicatedError::BadRange { from, to });
                }
                // Of an epoch that is not there any more nothing is needed.
                let Some(row) = row else { return Ok(()) };
                let end = row.end.ok_or(UnderReplicatedError::NotDecided { partition: uid, epoch })?;
                if !self.is_member(row, shard, incarnation) {
                    return Err(UnderReplicatedError::NotMember { partition: uid, epoch, shard, incarnation });
                }
                let trim = partition.trim;
                self.change_under_replicated(uid, |ranges| {
                    ranges.add(at, MissingRange { from, to: Some(to) });
                    ranges.end_epoch(epoch, end.last_esn);
                    ranges.trim(trim);
                });
            }
        }
        Ok(())
    }

    pub(super) fn trim(&mut self, command: &Trim) -> Result<Vec<Result<Lsn, TrimError>>, BatchTooLong> {
        check_len(&command.items)?;
        Ok(command.items.iter().map(|item| self.trim_one(*item)).collect())
    }

    fn trim_one(&mut self, item: TrimItem) -> Result<Lsn, TrimError> {
        let TrimItem { partition: uid, upto } = item;
        let trim = self.known(uid)?.trim;
        if upto <= trim {
            return Ok(trim);
        }
        self.known(uid)?.check_trim(uid, upto)?;
        let left = self.change(uid).trim(upto);
        left.iter().for_each(|row| self.release(row));
        if self.under_replicated.contains_key(&uid) {
            self.change_under_replicated(uid, |ranges| ranges.trim(upto));
        }
        Ok(upto)
    }

    pub(super) fn cover(&mut self, command: &Cover) -> Result<Vec<Result<Epoch, CoverError>>, BatchTooLong> {
        check_len(&command.items)?;
        Ok(command.items.iter().map(|item| self.cover_one(*item)).collect())
    }

    fn cover_one(&mut self, item: CoverItem) -> Result<Epoch, CoverError> {
        let CoverItem { partition: uid, epoch } = item;
        let partition = self.known(uid)?;
        if !partition.check_cover(uid, epoch)? {
            return Ok(partition.covered);
        }
        let left = self.change(uid).cover(epoch);
        left.iter().for_each(|row| self.release(row));
        Ok(epoch)
    }
}
