//! Leading the index to a segment's next generation.

use dlog_proto::{Lsn, PartitionUid};

use super::Written;
use super::contents::Other;
use super::select::{Leading, late_offsets, leading};
use crate::entry::Fate;
use crate::index::kv::{Kv, KvError};
use crate::index::schema::{AmendRow, LateRow, Row, RunRow, Table};
use crate::index::step::Step;
use crate::segment::Position;

impl Written {
    /// Adds what changes in the index to `step`. The inner error says why the index cannot be led there.
    pub(crate) fn switch(&self, kv: &dyn Kv, step: &mut Step<'_>) -> Result<Result<(), String>, KvError> {
        let (from, to) = (self.source.id, self.target.id);
        let mut next = 0;
        while let Some(block) = self.contents.blocks.get(next) {
            let partition = block.partition;
            if let Err(why) = self.partition(kv, step, partition)? {
                return Ok(Err(why));
            }
            next = self.contents.blocks_of(partition).end;
        }
        for (other, moved) in self.contents.others.iter().filter(|(_, moved)| moved.to != 0) {
            let (from, to) = (Position::new(from, moved.from), Position::new(to, moved.to));
            self.other(kv, step, other, from, to)?;
        }
        let row = step.segment(to)?;
        (row.generation, row.stretches) = (to.generation(), self.stretches);
        Ok(Ok(()))
    }

    fn partition(
        &self,
        kv: &dyn Kv,
        step: &mut Step<'_>,
        partition: PartitionUid,
    ) -> Result<Result<(), String>, KvError> {
        let mut rows = leading(kv, self.source.id, partition, &self.contents)?;
        let late = late_offsets(&rows);
        for leading in &mut rows {
            let blocks = self.contents.blocks_in(partition, leading, &late);
            let moved = || blocks.iter().map(|at| self.contents.blocks[*at].moved);
            let is_whole = leading.is_double() || blocks.len() == leading.row.blocks as usize;
            let (Some(begin), true) = (moved().map(|moved| moved.to).min().filter(|to| *to != 0), is_whole) else {
                return Ok(Err(format!(
                    "the index leads to other blocks of partition {} at {}",
                    partition.0, leading.first
                )));
            };
            let end = moved().map(|moved| moved.to + moved.len).max().unwrap_or(begin);
            leading.row = RunRow { segment: self.target.id, begin, end, ..leading.row };
        }
        let meta = step.partition(partition)?.meta.clone();
        let is_data = |leading: &Leading| {
            let last = Lsn::new(leading.first.epoch(), leading.row.last_esn);
            // Not one that reaches beyond an end: who reads it leaves part of it out.
            meta.fate(leading.first, last) == Fate::Data && meta.fate(last, last) == Fate::Data
        };
        let mut merged: Vec<Leading> = Vec::with_capacity(rows.len());
        for leading in rows {
            match merged.last_mut() {
                Some(last) if follows(last, &leading) && is_data(last) && is_data(&leading) => {
                    step.changes.delete(leading.key);
                    merge(&mut last.row, &leading.row);
                }
                _ => merged.push(leading),
            }
        }
        for Leading { table, key, row, .. } in merged {
            match table {
                Table::Late => step.changes.put(key, &to_late(&row)),
                _ => step.changes.put(key, &row),
            }
        }
        Ok(Ok(()))
    }

    fn other(
        &self,
        kv: &dyn Kv,
        step: &mut Step<'_>,
        other: &Other,
        from: Position,
        to: Position,
    ) -> Result<(), KvError> {
        match other {
            Other::Snapshot(partition) => {
                let row = step.partition(*partition)?;
                if let Some(known) = row.snapshot.as_mut().filter(|known| known.position == from) {
                    known.position = to;
                }
            }
            Other::Partition(partition) => {
                let row = step.partition(*partition)?;
                if row.meta_at == Some(from) {
                    row.meta_at = Some(to);
                }
            }
            Other::Amend(partition, first, placement) => {
                let key = Table::Amend.block(*partition, *first);
                let row = kv.get(&key)?.as_deref().map(AmendRow::decode).transpose()?;
                if row.is_some_and(|row| row.segment == from.segment && row.placement == *placement) {
                    step.changes.put(key, &AmendRow { segment: to.segment, placement: placement.clone() });
                }
            }
            Other::Shard => step.move_shard(from, to),
        }
        Ok(())
    }
}

/// Whether the second run lies right behind the first, in the file and in the partition.
fn follows(first: &Leading, second: &Leading) -> bool {
    first.table == Table::Run
        && second.table == Table::Run
        && first.first.epoch() == second.first.epoch()
        && first.row.end.next_multiple_of(8) == second.row.begin
}

fn merge(run: &mut RunRow, more: &RunRow) {
    run.end = more.end;
    run.last_esn = more.last_esn;
    run.blocks += more.blocks;
    run.bytes += more.bytes;
    run.min_timestamp = run.min_timestamp.min(more.min_timestamp);
    run.max_timestamp = run.max_timestamp.max(more.max_timestamp);
}

fn to_late(row: &RunRow) -> LateRow {
    let position = Position::new(row.segment, row.begin);
    LateRow { position, len: row.end - row.begin, last_esn: row.last_esn, timestamp: row.max_timestamp }
}
