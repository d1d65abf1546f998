//! All blocks of a partition in ascending order, wherever they lie: in runs, late ones, not indexed yet.
//!
//! A block may be found more than once: it moved from the overlay to the index while it was looked for, or it was stored
//! again because the first copy is damaged. All copies come together, the newest first.

use std::collections::VecDeque;

use dlog_proto::{Epoch, Lsn, PartitionUid};
use smallvec::SmallVec;

use super::ReadError;
use super::frames::{self, Lying, RunItem};
use super::view::View;
use crate::entry::{Fate, PartitionMeta};
use crate::index::digest::{BlockAt, SharedRun};
use crate::index::kv::{Direction, Key};
use crate::index::schema::{LateRow, RunRow, Table, first_lsn};
use crate::index::transaction::scan;
use crate::recovery::Loss;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// Rows that are fetched from the index at a time.
const PAGE_ROWS: usize = 64;

/// The next thing in a partition.
#[derive(Debug)]
pub(super) enum Step {
    Block(Copies),
    Damaged { first: Lsn, last: Lsn },
}

/// The places where one block is.
pub(super) type Copies = SmallVec<[Copy; 1]>;

#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    pub(super) at: Position,
    /// Of its frame.
    len: u32,
    /// If it was read on the way.
    lying: Option<Box<Lying>>,
}

impl Copy {
    /// Its head, read now if it was not before.
    pub(super) fn lying(&self, shared: &Shared) -> Option<Lying> {
        if let Some(lying) = &self.lying {
            return Some((**lying).clone());
        }
        let segment = shared.segments.get(self.at.segment)?;
        frames::at(&segment, self.at, self.len).filter(|lying| lying.first() == self.first && lying.last() == self.last)
    }

    /// Whether it lies in a part of the log that is noted as lost.
    pub(super) fn is_lost(&self, losses: &[Loss]) -> bool {
        let Position { segment, offset } = self.at;
        losses.iter().any(|loss| loss.hits(segment, offset, offset + self.len))
    }

    fn of(segment: SegmentId, epoch: Epoch, block: &BlockAt) -> Self {
        Self {
            first: Lsn::new(epoch, block.first_esn),
            last: Lsn::new(epoch, block.last_esn),
            at: Position::new(segment, block.offset),
            len: block.len,
            lying: None,
        }
    }
}

pub(super) struct Cursor<'r> {
    shared: &'r Shared,
    partition: PartitionUid,
    meta: &'r PartitionMeta,
    from: Lsn,
    upto: Lsn,
    runs: Pages<RunRow>,
    /// Of the runs that were opened.
    opened: VecDeque<RunItem>,
    late: Pages<LateRow>,
    overlay_runs: VecDeque<SharedRun>,
    /// Next block of the first of them.
    overlay_at: usize,
    /// Ascending.
    overlay_late: VecDeque<Copy>,
}

impl<'r> Cursor<'r> {
    pub(super) fn new(shared: &'r Shared, view: &'r View, from: Lsn, upto: Lsn) -> Result<Self, ReadError> {
        let partition = view.partition;
        // Rows of what is trimmed may be there still.
        let begin = from.max(view.floor).max(view.meta.trim);
        let mut overlay_late: Vec<Copy> = (view.overlay.late.iter())
            .flat_map(|run| run.blocks.iter().map(|block| Copy::of(run.segment, run.epoch, block)))
            .filter(|copy| copy.last >= from && copy.first <= upto)
            .collect();
        overlay_late.sort_by_key(|copy| (copy.first, std::cmp::Reverse(copy.at)));
        Ok(Self {
            shared,
            partition,
            meta: &view.meta,
            from,
            upto,
            runs: Pages::new(shared, Table::Run, partition, begin, upto)?,
            opened: VecDeque::new(),
            late: Pages::new(shared, Table::Late, partition, begin, upto)?,
            overlay_runs: view.overlay.runs.clone(),
            overlay_at: 0,
            overlay_late: overlay_late.into(),
        })
    }

    /// The lowest LSN that the next step can begin with, before anything is read for it.
    pub(super) fn peek(&self) -> Option<Lsn> {
        let opened = [self.opened_head(), self.late.head(), self.overlay_head(), self.overlay_late_head()];
        opened.into_iter().flatten().chain(self.runs.head()).min()
    }

    /// Has the next runs read in the background, about as many bytes.
    pub(super) fn read_ahead(&self, bytes: usize) {
        let mut left = bytes as u64;
        for (_, row) in &self.runs.rows {
            if let Some(segment) = self.shared.segments.get(row.segment) {
                segment.read_ahead(row.begin..row.end);
            }
            left = left.saturating_sub(row.bytes.into());
            if left == 0 {
                return;
            }
        }
    }

    /// The next block or damage in `from..=upto` that counts as data. `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Step>, ReadError> {
        loop {
            self.open_runs()?;
            let heads = [self.opened_head(), self.late.head(), self.overlay_head(), self.overlay_late_head()];
            let Some(first) = heads.into_iter().flatten().min() else { return Ok(None) };
            if let Some(RunItem::Damaged { first: damaged, last }) = self.opened.front()
                && *damaged == first
            {
                let last = *last;
                self.opened.pop_front();
                match self.clip(first, last) {
                    Some((first, last)) => return Ok(Some(Step::Damaged { first, last })),
                    None => continue,
                }
            }
            let mut copies = self.take(first)?;
            copies.retain(|copy| copy.last >= self.from && self.meta.fate(copy.first, copy.last) == Fate::Data);
            if !copies.is_empty() {
                copies.sort_by_key(|copy| std::cmp::Reverse(copy.at));
                copies.dedup_by_key(|copy| copy.at);
                return Ok(Some(Step::Block(copies)));
            }
        }
    }

    /// Opens the next run unless something comes before it.
    fn open_runs(&mut self) -> Result<(), ReadError> {
        while let Some(next) = self.runs.head() {
            let before = [self.opened_head(), self.late.head(), self.overlay_head(), self.overlay_late_head()];
            if before.into_iter().flatten().any(|first| first < next) {
                return Ok(());
            }
            let Some((first, row)) = self.runs.pop(self.shared)? else { return Ok(()) };
            let last = Lsn::new(first.epoch(), row.last_esn);
            if last < self.from {
                continue;
            }
            let has_late_blocks = self.late.head().is_some_and(|late| late <= last);
            let items = match self.shared.segments.get(row.segment) {
                Some(segment) => frames::run(&segment, self.partition, first, &row, has_late_blocks),
                None => vec![RunItem::Damaged { first, last }],
            };
            let counts = |item: &RunItem| match item {
                RunItem::Block(lying) => lying.last() >= self.from && lying.first() <= self.upto,
                RunItem::Damaged { first, last } => *last >= self.from && *first <= self.upto,
            };
            self.opened.extend(items.into_iter().filter(counts));
        }
        Ok(())
    }

    fn opened_head(&self) -> Option<Lsn> {
        self.opened.front().map(|item| match item {
            RunItem::Block(lying) => lying.first(),
            RunItem::Damaged { first, .. } => *first,
        })
    }

    fn overlay_head(&self) -> Option<Lsn> {
        let run = self.overlay_runs.front()?;
        let first = Lsn::new(run.epoch, run.blocks[self.overlay_at].first_esn);
        (first <= self.upto).then_some(first)
    }

    fn overlay_late_head(&self) -> Option<Lsn> {
        self.overlay_late.front().map(|copy| copy.first)
    }

    /// All copies of the block that begins at `first`, which is the lowest that any source has.
    fn take(&mut self, first: Lsn) -> Result<Copies, ReadError> {
        let mut copies = Copies::new();
        if self.opened_head() == Some(first)
            && let Some(RunItem::Block(lying)) = self.opened.pop_front()
        {
            let (last, at) = (lying.last(), lying.at);
            copies.push(Copy { first, last, at, len: 0, lying: Some(lying) });
        }
        if self.late.head() == Some(first)
            && let Some((first, row)) = self.late.pop(self.shared)?
        {
            let last = Lsn::new(first.epoch(), row.last_esn);
            copies.push(Copy { first, last, at: row.position, len: row.len, lying: None });
        }
        if self.overlay_head() == Some(first) {
            copies.push(self.take_overlay());
        }
        while self.overlay_late_head() == Some(first) {
            copies.extend(self.overlay_late.pop_front());
        }
        Ok(copies)
    }

    fn take_overlay(&mut self) -> Copy {
        let run = &self.overlay_runs[0];
        let copy = Copy::of(run.segment, run.epoch, &run.blocks[self.overlay_at]);
        self.overlay_at += 1;
        if self.overlay_at == run.blocks.len() {
            self.overlay_runs.pop_front();
            self.overlay_at = 0;
        }
        copy
    }

    /// The part of a damaged range that was asked for and is data.
    fn clip(&self, first: Lsn, last: Lsn) -> Option<(Lsn, Lsn)> {
        let mut last = last.min(self.upto);
        if let Some(end) = self.meta.end_of(first.epoch()) {
            last = last.min(Lsn::new(end.epoch, end.last_esn));
        }
        let first = first.max(self.from).max(Lsn(self.meta.trim.0.saturating_add(1)));
        (first <= last && !self.meta.deleted).then_some((first, last))
    }
}

/// Rows of a table of blocks, fetched a page at a time.
struct Pages<R> {
    table: Table,
    partition: PartitionUid,
    rows: VecDeque<(Lsn, R)>,
    /// Where the next page begins; `None` if there is no other.
    next: Option<Lsn>,
    upto: Lsn,
}

impl<R: crate::index::schema::Row> Pages<R> {
    /// Begins with the row that may contain `from`: the last one that does not begin behind it.
    fn new(shared: &Shared, table: Table, partition: PartitionUid, from: Lsn, upto: Lsn) -> Result<Self, ReadError> {
        let before = table.blocks(partition, Lsn::new(from.epoch(), dlog_proto::Esn::ZERO), from);
        let begin = scan::<R>(&shared.kv, &before, Direction::Descending, 1)?.pop();
        let begin = begin.and_then(|(key, _): (Key, R)| first_lsn(&key)).unwrap_or(from);
        let mut pages = Self { table, partition, rows: VecDeque::new(), next: Some(begin), upto };
        pages.fetch(shared)?;
        Ok(pages)
    }

    fn fetch(&mut self, shared: &Shared) -> Result<(), ReadError> {
        let Some(begin) = self.next.take() else { return Ok(()) };
        if begin > self.upto {
            return Ok(());
        }
        let range = self.table.blocks(self.partition, begin, self.upto);
        let page = scan::<R>(&shared.kv, &range, Direction::Ascending, PAGE_ROWS)?;
        if page.len() == PAGE_ROWS {
            self.next = page.last().and_then(|(key, _)| first_lsn(key)).and_then(|last| last.0.checked_add(1)).map(Lsn);
        }
        self.rows.extend(page.into_iter().filter_map(|(key, row)| Some((first_lsn(&key)?, row))));
        Ok(())
    }

    fn head(&self) -> Option<Lsn> {
        self.rows.front().map(|(first, _)| *first)
    }

    fn pop(&mut self, shared: &Shared) -> Result<Option<(Lsn, R)>, ReadError> {
        let row = self.rows.pop_front();
        if self.rows.is_empty() {
            self.fetch(shared)?;
        }
        Ok(row)
    }
}
