//! Which of a segment's frames are needed, and in which order they are written again.

use std::collections::HashSet;

use dlog_proto::{Esn, Lsn, PartitionUid};

use super::contents::{Contents, Moved, Other};
use crate::index::kv::{Direction, Key, Kv, KvError};
use crate::index::schema::{AmendRow, LateRow, Row, RunRow, Table, first_lsn};
use crate::index::transaction::scan;
use crate::recovery::shard_row;
use crate::segment::{Position, SegmentId};
use crate::upkeep::partition_row;

/// Partitions, or entries of other kinds, that are looked up in one step.
const STEP_ITEMS: usize = 512;

/// Goes through the contents of a segment.
pub(super) struct Selecting {
    contents: Contents,
    /// Blocks and others that were looked at.
    blocks_done: usize,
    others_done: usize,
}

/// A row of the index that leads to the segment.
pub(super) struct Leading {
    pub(super) table: Table,
    pub(super) key: Key,
    pub(super) first: Lsn,
    pub(super) row: RunRow,
}

impl Leading {
    /// Whether it names part of a run that is listed as well.
    pub(super) fn is_double(&self) -> bool {
        self.table == Table::Quarantine && self.row.bytes == 0
    }
}

impl Selecting {
    pub(super) fn new(mut contents: Contents) -> Self {
        contents.blocks.sort_unstable_by_key(|block| (block.partition, block.first, block.moved.from));
        Self { contents, blocks_done: 0, others_done: 0 }
    }

    /// `true` at the end; the inner error says why the segment cannot be rewritten.
    pub(super) fn step(&mut self, kv: &dyn Kv, segment: SegmentId) -> Result<Result<bool, String>, KvError> {
        for _ in 0..STEP_ITEMS {
            if let Some((other, moved)) = self.contents.others.get(self.others_done) {
                if is_needed(kv, other, Position::new(segment, moved.from))? {
                    self.contents.order.push_other(self.others_done);
                }
                self.others_done += 1;
            } else if let Some(block) = self.contents.blocks.get(self.blocks_done) {
                let partition = block.partition;
                if let Err(why) = self.partition(kv, segment, partition)? {
                    return Ok(Err(why));
                }
                self.blocks_done = self.contents.blocks_of(partition).end;
            } else {
                return Ok(Ok(true));
            }
        }
        Ok(Ok(false))
    }

    pub(super) fn into_contents(self) -> Contents {
        self.contents
    }

    fn partition(
        &mut self,
        kv: &dyn Kv,
        segment: SegmentId,
        partition: PartitionUid,
    ) -> Result<Result<(), String>, KvError> {
        let mut rows = leading(kv, segment, partition, &self.contents)?;
        let late = late_offsets(&rows);
        // Runs first, then what came late: read again, the log has the same runs.
        rows.sort_by_key(|leading| (leading.table != Table::Run, leading.table != Table::Late, leading.first));
        for leading in rows.iter().filter(|leading| !leading.is_double()) {
            let blocks = self.contents.blocks_in(partition, leading, &late);
            if blocks.len() != leading.row.blocks as usize {
                let why = format!(
                    "the index knows {} blocks from {} on, there are {}",
                    leading.row.blocks,
                    leading.first,
                    blocks.len()
                );
                return Ok(Err(why));
            }
            self.contents.order.push_row(blocks);
        }
        Ok(Ok(()))
    }
}

/// Offsets of blocks that have rows of their own.
pub(super) fn late_offsets(rows: &[Leading]) -> HashSet<u32> {
    rows.iter().filter(|leading| leading.table == Table::Late).map(|leading| leading.row.begin).collect()
}

impl Contents {
    /// The blocks that a row leads to, ascending.
    pub(super) fn blocks_in(&self, partition: PartitionUid, leading: &Leading, late: &HashSet<u32>) -> Vec<usize> {
        let (row, all) = (&leading.row, self.blocks_of(partition));
        let begin = all.start + self.blocks[all.clone()].partition_point(|block| block.first < leading.first);
        let last = Lsn::new(leading.first.epoch(), row.last_esn);
        let is_its = |at: &usize| {
            let from = self.blocks[*at].moved.from;
            match leading.table {
                Table::Late => from == row.begin,
                _ => (row.begin..row.end).contains(&from) && !late.contains(&from),
            }
        };
        (begin..all.end).take_while(|at| self.blocks[*at].first <= last).filter(is_its).collect()
    }
}

/// All rows of a partition that lead to the segment.
pub(super) fn leading(
    kv: &dyn Kv,
    segment: SegmentId,
    partition: PartitionUid,
    contents: &Contents,
) -> Result<Vec<Leading>, KvError> {
    let blocks = &contents.blocks[contents.blocks_of(partition)];
    let (Some(first), Some(last)) = (blocks.first(), blocks.iter().map(|block| block.last).max()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for table in [Table::Run, Table::Quarantine] {
        // A run may begin with blocks that stand before.
        let before = table.blocks(partition, Lsn::new(first.first.epoch(), Esn::ZERO), first.first);
        let begin = scan::<RunRow>(kv, &before, Direction::Descending, 1)?.pop().and_then(|(key, _)| first_lsn(&key));
        let range = table.blocks(partition, begin.unwrap_or(first.first), last);
        let rows = scan::<RunRow>(kv, &range, Direction::Ascending, usize::MAX)?;
        found.extend(
            rows.into_iter().filter_map(|(key, row)| Some(Leading { table, first: first_lsn(&key)?, key, row })),
        );
    }
    let range = Table::Late.blocks(partition, first.first, last);
    let rows = scan::<LateRow>(kv, &range, Direction::Ascending, usize::MAX)?;
    let late = |(key, row): (Key, LateRow)| {
        Some(Leading { table: Table::Late, first: first_lsn(&key)?, key, row: row.to_run_row() })
    };
    found.extend(rows.into_iter().filter_map(late));
    found.retain(|leading| leading.row.segment == segment);
    Ok(found)
}

fn is_needed(kv: &dyn Kv, other: &Other, at: Position) -> Result<bool, KvError> {
    Ok(match other {
        Other::Snapshot(partition) => {
            partition_row(kv, *partition)?.and_then(|row| row.snapshot).is_some_and(|known| known.position == at)
        }
        Other::Partition(partition) => partition_row(kv, *partition)?.is_some_and(|row| row.meta_at == Some(at)),
        Other::Amend(partition, first, placement) => {
            let row = kv.get(&Table::Amend.block(*partition, *first))?;
            let row = row.as_deref().map(AmendRow::decode).transpose()?;
            row.is_some_and(|row| row.segment == at.segment && row.placement == *placement)
        }
        Other::Shard => shard_row(kv)?.at == at,
    })
}

/// What is written, in order.
#[derive(Debug, Default)]
pub(super) struct Order {
    pieces: Vec<Piece>,
    /// Ends of the parts of `pieces` that must not be taken apart.
    ends: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    Block(usize),
    Other(usize),
}

impl Order {
    fn push_other(&mut self, other: usize) {
        self.pieces.push(Piece::Other(other));
        self.ends.push(self.pieces.len());
    }

    fn push_row(&mut self, blocks: Vec<usize>) {
        self.pieces.extend(blocks.into_iter().map(Piece::Block));
        self.ends.push(self.pieces.len());
    }

    /// Parts that stay together, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[Piece]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.pieces[begin..*end])
    }
}

impl Contents {
    pub(super) fn moved(&mut self, piece: Piece) -> &mut Moved {
        match piece {
            Piece::Block(at) => &mut self.blocks[at].moved,
            Piece::Other(at) => &mut self.others[at].1,
        }
    }
}
