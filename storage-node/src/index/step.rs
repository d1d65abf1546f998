//! What a group changes in the index.
//!
//! The index is a function of the log: groups go through here once, in order, whether they were just written or are scanned
//! again, and nothing else decides what a row is. So it does not matter how many groups become one batch, and an index
//! that was lost comes back equal.

use std::collections::hash_map::Entry;
use std::ops::Range;

use dlog_proto::{Lsn, PartitionUid};
use rustc_hash::FxHashMap;

use super::digest::{GroupDigest, Item, Run};
use super::kv::{Batch, Key, Kv, KvError};
use super::schema::{
    AmendRow, CheckpointRow, EpochTail, LateRow, LossRow, PartitionRow, RunRow, SegmentRow, ShardRow, SnapshotAt,
    Table, first_lsn,
};
use super::transaction::Transaction;
use crate::entry::{EpochMarks, Fate, Marks, PartitionMeta};
use crate::segment::entries::{Amend, SegmentRanges};
use crate::segment::header::Identity;
use crate::segment::{Position, SegmentId};

/// Collects the changes of some groups.
pub(crate) struct Step<'k> {
    pub(crate) changes: Transaction<'k>,
    partitions: FxHashMap<PartitionUid, PartitionRow>,
    segments: FxHashMap<SegmentId, SegmentRow>,
    shard: ShardRow,
    shard_changed: bool,
}

impl<'k> Step<'k> {
    pub(crate) fn new(kv: &'k dyn Kv) -> Result<Self, KvError> {
        let changes = Transaction::new(kv);
        let shard = changes.get(&Table::Shard.key())?.unwrap_or_default();
        let (partitions, segments) = (FxHashMap::default(), FxHashMap::default());
        Ok(Self { changes, partitions, segments, shard, shard_changed: false })
    }

    pub(crate) fn group(&mut self, group: &GroupDigest) -> Result<(), KvError> {
        let at = |offset| Position::new(group.begin.segment, offset);
        if group.stretches > 0 {
            self.segment(group.begin.segment)?.stretches += group.stretches;
        }
        for item in &group.items {
            match item {
                Item::Run(number) => self.run(group.run(*number))?,
                Item::Snapshot(it) => self.snapshot(it.partition, it.at, it.marks)?,
                Item::Amend { amend, .. } => self.amend(group.begin.segment, amend)?,
                Item::Partition { offset, meta } => self.meta(at(*offset), meta)?,
                Item::Shard { offset, meta } => {
                    (self.shard.at, self.shard.incomplete_before) = (at(*offset), meta.incomplete_before);
                    self.shard_changed = true;
                }
                Item::Segments(segments) => self.exist(segments)?,
            }
        }
        Ok(())
    }

    /// The shard's entry stands somewhere else now.
    pub(crate) fn move_shard(&mut self, from: Position, to: Position) {
        if self.shard.at == from {
            (self.shard.at, self.shard_changed) = (to, true);
        }
    }

    /// Something that was durable is damaged.
    pub(crate) fn loss(&mut self, begin: Position, end: u32) {
        self.changes.put(Table::Loss.place(begin), &LossRow { end });
    }

    /// Notes marks that the log does not tell.
    pub(crate) fn hint(&mut self, partition: PartitionUid, marks: &Marks) -> Result<(), KvError> {
        let key = Table::Hints.partition(partition);
        let mut known: Marks = self.changes.get(&key)?.unwrap_or_default();
        known.merge(marks);
        self.changes.put(key, &known);
        Ok(())
    }

    /// The changes, and that everything before `position` is in the index with them.
    pub(crate) fn finish(mut self, identity: Identity, position: Position, next_commit: u64) -> Batch {
        for (partition, row) in &self.partitions {
            self.changes.put(Table::Partition.partition(*partition), row);
        }
        for (segment, row) in &self.segments {
            self.changes.put(Table::Segment.segment(*segment), row);
        }
        if self.shard_changed {
            self.changes.put(Table::Shard.key(), &self.shard);
        }
        self.changes.put(Table::Checkpoint.key(), &CheckpointRow { identity, position, next_commit });
        self.changes.into_batch()
    }

    pub(crate) fn partition(&mut self, partition: PartitionUid) -> Result<&mut PartitionRow, KvError> {
        Ok(match self.partitions.entry(partition) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let stored = self.changes.get(&Table::Partition.partition(partition))?;
                unknown.insert(stored.unwrap_or_else(|| PartitionRow::new(partition)))
            }
        })
    }

    pub(crate) fn segment(&mut self, segment: SegmentId) -> Result<&mut SegmentRow, KvError> {
        let (segment, generation) = (segment.original(), segment.generation());
        let row = match self.segments.entry(segment) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let stored = self.changes.get(&Table::Segment.segment(segment))?;
                unknown.insert(stored.unwrap_or_default())
            }
        };
        row.generation = row.generation.max(generation);
        Ok(row)
    }

    fn run(&mut self, run: &Run) -> Result<(), KvError> {
        let (partition, first) = (run.partition, run.first_lsn());
        let row = self.partition(partition)?;
        let fate = row.meta.fate(first, run.last_lsn());
        if matches!(fate, Fate::Trimmed | Fate::Purged) {
            return Ok(());
        }
        let tail = row.tail(run.epoch).filter(|tail| first.esn() > tail.last_esn);
        let in_order = tail.map(|tail| tail.last_esn = run.last_lsn().esn()).is_some();
        if fate == Fate::Data {
            raise(row, run.marks());
        }
        if !in_order {
            return run.late_rows().try_for_each(|(first, late)| self.late(partition, first, late));
        }
        self.add_run(partition, first, run.to_row(), fate)
    }

    pub(super) fn add_run(
        &mut self,
        partition: PartitionUid,
        first: Lsn,
        run: RunRow,
        fate: Fate,
    ) -> Result<(), KvError> {
        self.segment(run.segment)?.live_bytes += u64::from(run.bytes);
        if fate == Fate::Quarantined {
            self.changes.put(Table::Quarantine.block(partition, first), &run);
            return Ok(());
        }
        self.changes.put(Table::Run.block(partition, first), &run);
        count(self.partition(partition)?, first, run.blocks, run.bytes);
        Ok(())
    }

    fn late(&mut self, partition: PartitionUid, first: Lsn, late: LateRow) -> Result<(), KvError> {
        match self.partition(partition)?.meta.fate(first, Lsn::new(first.epoch(), late.last_esn)) {
            Fate::Trimmed | Fate::Purged => return Ok(()),
            Fate::Quarantined => return self.add_run(partition, first, late.to_run_row(), Fate::Quarantined),
            Fate::Data => {}
        }
        let key = Table::Late.block(partition, first);
        if let Some(replaced) = self.changes.get::<LateRow>(&key)? {
            self.drop_data(partition, &replaced.to_run_row())?;
        }
        self.segment(late.position.segment)?.live_bytes += u64::from(late.len);
        self.changes.put(key, &late);
        count(self.partition(partition)?, first, 1, late.len);
        Ok(())
    }

    fn snapshot(&mut self, partition: PartitionUid, at: SnapshotAt, marks: EpochMarks) -> Result<(), KvError> {
        let row = self.partition(partition)?;
        if row.meta.deleted || is_beyond(&row.meta, at.lsn) || row.snapshot.is_some_and(|known| known.lsn > at.lsn) {
            return Ok(());
        }
        raise(row, marks);
        let replaced = row.snapshot.replace(at);
        self.segment(at.position.segment)?.live_bytes += u64::from(at.len);
        self.drop_snapshot(replaced)
    }

    pub(super) fn drop_snapshot(&mut self, snapshot: Option<SnapshotAt>) -> Result<(), KvError> {
        if let Some(at) = snapshot {
            self.segment(at.position.segment)?.drop_bytes(u64::from(at.len));
        }
        Ok(())
    }

    fn amend(&mut self, segment: SegmentId, amend: &Amend) -> Result<(), KvError> {
        let first = Lsn::new(amend.epoch, amend.first_esn);
        match self.partition(amend.partition)?.meta.fate(first, first) {
            Fate::Data => {}
            // The block may go on behind the trim point; then it is kept.
            Fate::Trimmed if self.straddles_trim(amend.partition, first)? => {}
            _ => return Ok(()),
        }
        let row = self.partition(amend.partition)?;
        raise(row, amend.marks());
        row.floor = row.floor.min(first);
        let key = Table::Amend.block(amend.partition, first);
        let replaced: Option<AmendRow> = self.changes.get(&key)?;
        if replaced.as_ref().is_some_and(|known| known.placement.version >= amend.placement.version) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            self.segment(replaced.segment)?.drop_amend();
        }
        self.segment(segment)?.live_amends += 1;
        self.changes.put(key, &AmendRow { segment, placement: amend.placement.clone() });
        Ok(())
    }

    /// Whether what is kept of a partition begins at or before `first`, which is trimmed.
    fn straddles_trim(&mut self, partition: PartitionUid, first: Lsn) -> Result<bool, KvError> {
        let PartitionMeta { deleted, trim, .. } = self.partition(partition)?.meta;
        Ok(!deleted && self.straddler(partition, trim)?.is_some_and(|kept| kept <= first))
    }

    /// The log consists of these segments now.
    fn exist(&mut self, segments: &SegmentRanges) -> Result<(), KvError> {
        let before = std::mem::replace(&mut self.shard.segments, segments.clone());
        self.shard_changed = true;
        for gone in before.iter().filter(|segment| !segments.contains(*segment)) {
            let SegmentRow { live_bytes, live_amends, generation, .. } = *self.segment(gone)?;
            // One that is gone and was not freed keeps its rows: what lay in it is still missed.
            if live_bytes + live_amends == 0 {
                self.segments.remove(&gone);
                self.changes.delete(Table::Segment.segment(gone));
                for generation in [0, generation] {
                    let gone = gone.of_generation(generation);
                    let all_but_first = Position::new(gone, 1)..Position::new(gone, u32::MAX);
                    self.forget_losses(
                        &(Table::Loss.place(all_but_first.start)..Table::Loss.place(all_but_first.end)),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Forgets a loss, unless it has become more since.
    pub(crate) fn forget_loss(&mut self, begin: Position, end: u32) -> Result<(), KvError> {
        let key = Table::Loss.place(begin);
        if self.changes.get::<LossRow>(&key)?.is_some_and(|known| known.end <= end) {
            self.changes.delete(key);
        }
        Ok(())
    }

    /// Forgets losses.
    fn forget_losses(&mut self, range: &Range<Key>) -> Result<(), KvError> {
        for (key, _) in self.changes.rows::<LossRow>(range)? {
            self.changes.delete(key);
        }
        Ok(())
    }
}

impl LateRow {
    pub(crate) fn to_run_row(self) -> RunRow {
        RunRow {
            segment: self.position.segment,
            begin: self.position.offset,
            end: self.position.offset + self.len,
            last_esn: self.last_esn,
            blocks: 1,
            bytes: self.len,
            min_timestamp: self.timestamp,
            max_timestamp: self.timestamp,
        }
    }
}

/// Whether a producer snapshot that covers everything below `next` covers more than there is.
pub(crate) fn is_beyond(meta: &PartitionMeta, next: Lsn) -> bool {
    meta.end_of(next.epoch()).is_some_and(|end| next.esn() > end.last_esn.next())
}

pub(super) fn lsn_of(key: &Key) -> Lsn {
    first_lsn(key).expect("keys of blocks end with an LSN")
}

fn raise(row: &mut PartitionRow, marks: EpochMarks) {
    if let Some(tail) = row.tail(marks.epoch) {
        let EpochTail { acked, settled, .. } = *tail;
        (tail.acked, tail.settled) = (acked.max(marks.acked), settled.max(marks.settled));
    }
}

fn count(row: &mut PartitionRow, first: Lsn, blocks: u32, bytes: u32) {
    row.blocks += u64::from(blocks);
    row.bytes += u64::from(bytes);
    row.floor = row.floor.min(first);
}
