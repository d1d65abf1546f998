//! What is lost where the log is damaged.
//!
//! The log is damaged in places; the cluster wants to know which records of which partitions that are. The index tells what
//! lay there, whole runs of blocks at a time; what of them can be read still, or lies somewhere else as well, is not lost.

use std::ops::ControlFlow;

use dlog_proto::{Esn, Lsn, PartitionUid};

use super::cursor::{Cursor, Step};
use super::view::View;
use super::{ReadError, Reader};
use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{AmendRow, LateRow, PartitionRow, Row, RunRow, Table, first_lsn, partition_of};
use crate::recovery::{Loss, losses, shard_row};
use crate::segment::{Position, SegmentId};

/// Ranges of one epoch that are kept apart; the closest become one.
const RANGES_MAX: usize = 16;

/// Records of one epoch that the shard had and has not. It may say too much, never too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    pub partition: PartitionUid,
    pub first: Lsn,
    pub last: Lsn,
}

impl Reader {
    /// Damage where the log was durable, as long as its segments are needed and until it is
    /// [forgotten](crate::commit::Committer::forget_losses): what the start found, and what was found since.
    pub fn losses(&self) -> Result<Vec<Loss>, ReadError> {
        Ok(losses(&self.shared.kv)?)
    }

    /// The records that damaged parts of the log held and that cannot be read now, for each of them by partition and LSN. Goes
    /// through the whole index, once, and reads the blocks around the damage. What the index was not told of before it was
    /// damaged is not known.
    pub fn lost_ranges(&self, losses: &[Loss]) -> Result<Vec<Vec<LostRange>>, ReadError> {
        let (kv, mut hit) = (&self.shared.kv, vec![Vec::new(); losses.len()]);
        let mut look = |key: &[u8], (segment, begin, end): (SegmentId, u32, u32), last_esn| {
            for (loss, hit) in losses.iter().zip(&mut hit) {
                if loss.hits(segment, begin, end) {
                    hit.extend(range(key, last_esn));
                }
            }
        };
        each::<RunRow>(kv, Table::Run, &mut |key, row| look(key, (row.segment, row.begin, row.end), row.last_esn))?;
        each::<LateRow>(kv, Table::Late, &mut |key, row| {
            let Position { segment, offset } = row.position;
            look(key, (segment, offset, offset + row.len), row.last_esn);
        })?;
        hit.into_iter().map(|hit| self.unreadable_of(hit)).collect()
    }

    fn unreadable_of(&self, mut hit: Vec<LostRange>) -> Result<Vec<LostRange>, ReadError> {
        hit.sort_unstable();
        let mut lost = Vec::new();
        for range in hit {
            for range in self.shared.steady(|| self.unreadable(range))? {
                add(&mut lost, range);
            }
        }
        Ok(lost)
    }

    /// What of a range should be there and cannot be read.
    fn unreadable(&self, range: LostRange) -> Result<Vec<LostRange>, ReadError> {
        let LostRange { partition, first, last } = range;
        let view = View::new(&self.shared, partition, first, last, usize::MAX)?;
        let mut cursor = Cursor::new(&self.shared, &view, first, last)?;
        let mut lost = Vec::new();
        while let Some(step) = cursor.next()? {
            match step {
                Step::Block(copies) if self.read_copies(&copies).is_some() => {}
                Step::Block(copies) => lost.push(LostRange { first: copies[0].first, last: copies[0].last, ..range }),
                Step::Damaged { first, last } => lost.push(LostRange { first, last, ..range }),
            }
        }
        Ok(lost)
    }

    /// Those of these parts of the log in which something lies that is needed. Goes through the whole index, once.
    pub(crate) fn needed(&self, losses: Vec<Loss>) -> Result<Vec<Loss>, KvError> {
        let (kv, mut found) = (&self.shared.kv, vec![false; losses.len()]);
        let mut look = |segment, begin, end| {
            for (loss, found) in losses.iter().zip(&mut found) {
                *found |= loss.hits(segment, begin, end);
            }
        };
        for table in [Table::Run, Table::Quarantine] {
            each::<RunRow>(kv, table, &mut |_, row| look(row.segment, row.begin, row.end))?;
        }
        each::<LateRow>(kv, Table::Late, &mut |_, row| {
            let Position { segment, offset } = row.position;
            look(segment, offset, offset + row.len);
        })?;
        each::<PartitionRow>(kv, Table::Partition, &mut |_, row| {
            if let Some(at) = row.meta_at {
                look(at.segment, at.offset, at.offset + 1);
            }
            if let Some(at) = row.snapshot {
                look(at.position.segment, at.position.offset, at.position.offset + at.len);
            }
        })?;
        // Which amend of a segment it is, the index does not say.
        each::<AmendRow>(kv, Table::Amend, &mut |_, row| look(row.segment, 0, u32::MAX))?;
        let shard = shard_row(kv)?.at;
        look(shard.segment, shard.offset, shard.offset + 1);
        Ok(losses.into_iter().zip(found).filter_map(|(loss, found)| found.then_some(loss)).collect())
    }
}

impl Loss {
    /// Whether something that lies there is concerned.
    pub(super) fn hits(&self, segment: SegmentId, begin: u32, end: u32) -> bool {
        let Self { begin: place, end: lost_end } = *self;
        // A segment that is missing is missing in every generation.
        let is_whole = place.offset == 0 && lost_end == u32::MAX;
        let is_same = segment == place.segment || is_whole && segment.original() == place.segment.original();
        is_same && begin < lost_end && end > place.offset
    }
}

fn range(key: &[u8], last_esn: Esn) -> Option<LostRange> {
    let (partition, first) = (partition_of(key)?, first_lsn(key)?);
    Some(LostRange { partition, first, last: Lsn::new(first.epoch(), last_esn) })
}

/// Adds a range that begins at or behind those before it in its epoch.
fn add(lost: &mut Vec<LostRange>, next: LostRange) {
    let of_epoch = |range: &&LostRange| range.partition == next.partition && range.first.epoch() == next.first.epoch();
    if let Some(last) =
        lost.last_mut().filter(|last| of_epoch(&&**last) && next.first.0 <= last.last.0.saturating_add(1))
    {
        last.last = last.last.max(next.last);
        return;
    }
    lost.push(next);
    let begin = lost.len() - lost.iter().rev().take_while(of_epoch).count();
    if lost.len() - begin > RANGES_MAX {
        let gap = |at: &usize| lost[at + 1].first.0 - lost[*at].last.0;
        let closest = (begin..lost.len() - 1).min_by_key(gap).expect("more than one range");
        lost[closest].last = lost[closest + 1].last;
        lost.remove(closest + 1);
    }
}

fn each<R: Row>(kv: &dyn Kv, table: Table, visit: &mut dyn FnMut(&[u8], R)) -> Result<(), KvError> {
    let (all, mut outcome) = (table.all(), Ok(()));
    kv.scan(&all.start..&all.end, Direction::Ascending, &mut |key, value| {
        outcome = R::decode(value).map(|row| visit(key, row));
        if outcome.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlog_proto::Epoch;

    #[test]
    fn close_ranges_become_one_and_nothing_is_left_out() {
        let lsn = |esn| Lsn::new(Epoch(1), Esn(esn));
        let range = |first, last| LostRange { partition: PartitionUid(1), first: lsn(first), last: lsn(last) };
        let mut lost = Vec::new();
        add(&mut lost, range(1, 2));
        add(&mut lost, range(3, 4));
        add(&mut lost, range(4, 4));
        assert_eq!(lost, [range(1, 4)]);
        (1..=20).for_each(|n| add(&mut lost, range(n * 10, n * 10 + n % 7)));
        assert_eq!((lost.len(), lost[0], lost[15].last), (RANGES_MAX, range(1, 4), lsn(206)));
        assert!((1..=20).all(|n| lost.iter().any(|range| range.first <= lsn(n * 10) && lsn(n * 10) <= range.last)));
        add(&mut lost, LostRange { partition: PartitionUid(2), ..range(1, 1) });
        assert_eq!(lost.len(), RANGES_MAX + 1, "other partitions have ranges of their own");
    }
}
