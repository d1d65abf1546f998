//! Dropping the rows of what was trimmed, some at a time.
//!
//! A trim counts as soon as its entry is written: readers see the trim point. What the index still lists below it only takes
//! space. There may be a hundred million rows of a partition that is deleted, so they are dropped in pieces, between which
//! the index follows the log. `floor` says how far they are dropped: a piece raises it with what it drops, in one batch.
//!
//! Blocks are disjoint, and so are runs of an epoch that came in order. So one run and one late block at most begin at or
//! before the trim point and end behind it: they stay, and with them what lies between where they begin and the trim point,
//! until that is looked at as a whole, in the end.

use dlog_proto::{Esn, Lsn, PartitionUid};

use super::kv::{Key, KvError};
use super::schema::{AmendRow, LateRow, Row, RunRow, Table, partition_of};
use super::step::{Step, lsn_of};

impl Step<'_> {
    /// Drops up to about so many rows of what was trimmed. `false` if there are none. In a step of its own, before anything
    /// else.
    pub(crate) fn trim(&mut self, rows_max: usize) -> Result<bool, KvError> {
        let partitions = self.changes.stored::<()>(&Table::Trimmed.all(), rows_max)?;
        let mut left = rows_max;
        for (key, ()) in &partitions {
            let Some(partition) = partition_of(key) else { continue };
            let Some(dropped) = self.trim_partition(partition, left)? else { break };
            self.changes.delete(*key);
            left = left.saturating_sub(dropped.max(1));
            if left == 0 {
                break;
            }
        }
        Ok(!partitions.is_empty())
    }

    /// How many rows were dropped, or `None` if there are more.
    fn trim_partition(&mut self, partition: PartitionUid, rows_max: usize) -> Result<Option<usize>, KvError> {
        let row = self.partition(partition)?;
        let (floor, trim) = (row.floor, if row.meta.deleted { Lsn::MAX } else { row.meta.trim });
        let straddler = self.straddler(partition, trim)?;
        let upto = straddler.map_or(trim, |first| Lsn(first.0 - 1));
        let page = Page::fetch(self, partition, (floor, upto), rows_max)?;
        let dropped = page.blocks.len() + page.amends.len();
        if let Some(next) = self.drop_page(partition, page, trim)? {
            self.partition(partition)?.floor = next;
            return Ok(None);
        }
        let behind = Lsn(trim.0.saturating_add(1));
        self.partition(partition)?.floor = match straddler {
            Some(first) => self.trim_around(partition, first, trim)?.min(behind),
            None => behind,
        };
        Ok(Some(dropped))
    }

    /// Where the first run or late block begins that begins at or before `trim` and ends behind it.
    pub(super) fn straddler(&mut self, partition: PartitionUid, trim: Lsn) -> Result<Option<Lsn>, KvError> {
        let before = |table: Table| table.blocks(partition, Lsn::new(trim.epoch(), Esn::ZERO), trim);
        let run = self.changes.last_row::<RunRow>(&before(Table::Run))?;
        let late = self.changes.last_row::<LateRow>(&before(Table::Late))?;
        let run = run.filter(|(_, run)| run.last_esn > trim.esn()).map(|(key, _)| lsn_of(&key));
        let late = late.filter(|(_, late)| late.last_esn > trim.esn()).map(|(key, _)| lsn_of(&key));
        Ok(run.into_iter().chain(late).min())
    }

    /// Where the next page begins, if there is one.
    fn drop_page(&mut self, partition: PartitionUid, page: Page, trim: Lsn) -> Result<Option<Lsn>, KvError> {
        // Blocks that overlap are a fault of whoever stored them: nothing is dropped that reaches behind the trim point.
        for (key, run) in page.blocks.into_iter().filter(|(key, run)| is_trimmed(key, run, trim)) {
            self.changes.delete(key);
            self.drop_data(partition, &run)?;
        }
        page.amends.into_iter().try_for_each(|(key, amend)| self.drop_amend(key, &amend))?;
        Ok(page.next)
    }

    /// Drops what lies wholly in `first..=trim`, where something begins that does not. The answer is where the first of what
    /// stays begins.
    fn trim_around(&mut self, partition: PartitionUid, first: Lsn, trim: Lsn) -> Result<Lsn, KvError> {
        let range = |table: Table| table.blocks(partition, first, trim);
        for (key, late) in self.changes.rows::<LateRow>(&range(Table::Late))? {
            if is_trimmed(&key, &late.to_run_row(), trim) {
                self.changes.delete(key);
                self.drop_data(partition, &late.to_run_row())?;
            }
        }
        // The last one may be that of the one block that is kept for its later records.
        let mut amends = self.changes.rows::<AmendRow>(&range(Table::Amend))?;
        amends.pop();
        amends.into_iter().try_for_each(|(key, amend)| self.drop_amend(key, &amend))?;
        Ok(first)
    }

    /// Drops what was kept aside and is trimmed now. There is little of it: no more than was on its way when an epoch ended.
    pub(super) fn trim_quarantined(&mut self, partition: PartitionUid, trim: Lsn) -> Result<(), KvError> {
        for (key, run) in self.changes.rows::<RunRow>(&Table::Quarantine.blocks(partition, Lsn::ZERO, trim))? {
            if is_trimmed(&key, &run, trim) {
                self.changes.delete(key);
                self.segment(run.segment)?.drop_bytes(u64::from(run.bytes));
            }
        }
        Ok(())
    }

    fn drop_amend(&mut self, key: Key, amend: &AmendRow) -> Result<(), KvError> {
        self.changes.delete(key);
        self.segment(amend.segment)?.drop_amend();
        Ok(())
    }
}

/// Rows that begin in a range, up to where all tables were looked through.
struct Page {
    /// Runs, and late blocks.
    blocks: Vec<(Key, RunRow)>,
    amends: Vec<(Key, AmendRow)>,
    next: Option<Lsn>,
}

impl Page {
    fn fetch(
        step: &Step<'_>,
        partition: PartitionUid,
        (from, upto): (Lsn, Lsn),
        rows_max: usize,
    ) -> Result<Self, KvError> {
        if from > upto {
            return Ok(Self { blocks: Vec::new(), amends: Vec::new(), next: None });
        }
        let range = |table: Table| table.blocks(partition, from, upto);
        let mut blocks = step.changes.stored::<RunRow>(&range(Table::Run), rows_max)?;
        let late = step.changes.stored::<LateRow>(&range(Table::Late), rows_max)?;
        let mut amends = step.changes.stored::<AmendRow>(&range(Table::Amend), rows_max)?;
        // Behind the last row of a full page there may be more.
        let ends = [end_of(&blocks, rows_max), end_of(&late, rows_max), end_of(&amends, rows_max)];
        let end = ends.into_iter().flatten().min();
        blocks.extend(late.into_iter().map(|(key, late)| (key, late.to_run_row())));
        if let Some(end) = end {
            blocks.retain(|(key, _)| lsn_of(key) <= end);
            amends.retain(|(key, _)| lsn_of(key) <= end);
        }
        Ok(Self { blocks, amends, next: end.and_then(|end| end.0.checked_add(1)).map(Lsn) })
    }
}

/// Where the last row begins, if there are as many as there may be.
fn end_of<R: Row>(rows: &[(Key, R)], rows_max: usize) -> Option<Lsn> {
    rows.last().filter(|_| rows.len() >= rows_max).map(|(key, _)| lsn_of(key))
}

pub(super) fn is_trimmed(key: &Key, run: &RunRow, trim: Lsn) -> bool {
    Lsn::new(lsn_of(key).epoch(), run.last_esn) <= trim
}

#[cfg(test)]
mod tests {
    use dlog_proto::{ClusterId, Epoch, Incarnation, ShardId};

    use super::*;
    use crate::index::kv::{Direction, Kv};
    use crate::index::memory::MemoryKv;
    use crate::index::schema::SegmentRow;
    use crate::index::transaction::scan;
    use crate::segment::header::Identity;
    use crate::segment::{Position, SegmentId};
    use crate::testing::placement;

    const PARTITION: PartitionUid = PartitionUid(7);
    const SEGMENT: SegmentId = SegmentId(1);
    const BYTES: u32 = 100;

    fn lsn(esn: u32) -> Lsn {
        Lsn::new(Epoch(3), Esn(esn))
    }

    /// Runs of ten records, `1..=10` and on, a late block in every second of them, and amends of both; trimmed up to `trim`.
    fn index(runs: u32, trim: u32) -> MemoryKv {
        let kv = MemoryKv::new();
        let mut step = Step::new(&kv).unwrap();
        let row = |last_esn| RunRow {
            segment: SEGMENT,
            begin: 4096,
            end: 8192,
            last_esn: Esn(last_esn),
            blocks: 1,
            bytes: BYTES,
            min_timestamp: 1,
            max_timestamp: 1,
        };
        for at in 0..runs {
            let first = 10 * at + 1;
            step.changes.put(Table::Run.block(PARTITION, lsn(first)), &row(first + 9));
            let amend = AmendRow { segment: SEGMENT, placement: placement(3, 1) };
            step.changes.put(Table::Amend.block(PARTITION, lsn(first)), &amend);
            if at % 2 == 0 {
                let position = Position::new(SEGMENT, 4096);
                let late = LateRow { position, len: BYTES, last_esn: Esn(first + 5), timestamp: 1 };
                step.changes.put(Table::Late.block(PARTITION, lsn(first + 4)), &late);
                step.changes.put(Table::Amend.block(PARTITION, lsn(first + 4)), &amend);
            }
        }
        let blocks = runs + runs.div_ceil(2);
        step.segment(SEGMENT).unwrap().live_bytes = (blocks * BYTES).into();
        step.segment(SEGMENT).unwrap().live_amends = blocks.into();
        let row = step.partition(PARTITION).unwrap();
        (row.bytes, row.blocks) = ((blocks * BYTES).into(), blocks.into());
        row.meta.trim = lsn(trim);
        step.changes.put(Table::Trimmed.partition(PARTITION), &());
        apply(&kv, step);
        kv
    }

    fn apply(kv: &MemoryKv, step: Step<'_>) {
        let identity = Identity { cluster: ClusterId(1), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
        kv.apply(&step.finish(identity, Position::ZERO, 1)).unwrap();
    }

    /// Where rows begin.
    fn left<R: Row>(kv: &MemoryKv, table: Table) -> Vec<u32> {
        let rows = scan::<R>(kv, &table.all(), Direction::Ascending, usize::MAX).unwrap();
        rows.iter().map(|(key, _)| lsn_of(key).esn().0).collect()
    }

    /// Drops what is trimmed, and says how often it took.
    fn trim(kv: &MemoryKv, rows_max: usize) -> usize {
        let mut times = 0;
        loop {
            let before = left::<RunRow>(kv, Table::Run).len();
            let mut step = Step::new(kv).unwrap();
            if !step.trim(rows_max).unwrap() {
                return times;
            }
            let row = step.partition(PARTITION).unwrap();
            let (floor, blocks) = (row.floor.esn().0, row.blocks);
            apply(kv, step);
            times += 1;
            let (runs, late) = (left::<RunRow>(kv, Table::Run), left::<LateRow>(kv, Table::Late));
            assert!(before - runs.len() <= rows_max, "a piece is no longer than that");
            assert_eq!(blocks as usize, runs.len() + late.len(), "what is counted is what is listed");
            assert!(runs.iter().chain(&late).all(|first| *first >= floor), "nothing is left below the floor");
        }
    }

    #[test]
    fn any_pieces_come_to_the_same() {
        for upto in [0, 1, 9, 10, 11, 14, 15, 16, 20, 95, 125, 126, 199, 200, 300] {
            let at_once = index(20, upto);
            assert_eq!(trim(&at_once, 1000), 1);
            for rows_max in [1, 2, 3, 7] {
                let in_pieces = index(20, upto);
                trim(&in_pieces, rows_max);
                assert_eq!(in_pieces.dump(), at_once.dump(), "trimmed up to {upto}, {rows_max} rows at a time");
            }
        }
    }

    #[test]
    fn what_reaches_behind_the_trim_point_stays() {
        let kv = index(4, 25);
        trim(&kv, 2);
        assert_eq!(left::<RunRow>(&kv, Table::Run), [21, 31]);
        assert_eq!(left::<LateRow>(&kv, Table::Late), [25], "25 and 26 are one block");
        assert_eq!(left::<AmendRow>(&kv, Table::Amend), [25, 31], "the last one may be that of the block that is kept");
        let row: SegmentRow = Step::new(&kv).unwrap().changes.get(&Table::Segment.segment(SEGMENT)).unwrap().unwrap();
        assert_eq!((row.live_bytes, row.live_amends), (u64::from(3 * BYTES), 2));
    }
}
