//! What is known of a partition at one moment: the overlay over the index.

use std::sync::Arc;

use dlog_proto::block::Placement;
use dlog_proto::{Lsn, PartitionUid};

use super::ReadError;
use crate::entry::{Marks, PartitionMeta};
use crate::index::kv::{Direction, Kv};
use crate::index::overlay::PartitionOverlay;
use crate::index::schema::{AmendRow, Row, SnapshotAt, Table, first_lsn};
use crate::index::step::is_beyond;
use crate::index::transaction::scan;
use crate::shared::Shared;
use crate::upkeep::partition_row;

#[derive(Debug)]
pub(super) struct View {
    pub(super) partition: PartitionUid,
    pub(super) meta: PartitionMeta,
    pub(super) overlay: PartitionOverlay,
    /// Nothing of it in the index begins below.
    pub(super) floor: Lsn,
    /// Whether anything at all is known of the partition.
    pub(super) is_known: bool,
    pub(super) indexed_snapshot: Option<SnapshotAt>,
    pub(super) marks: Marks,
    _reading: Arc<()>,
}

impl View {
    /// Runs of the overlay are those with an LSN in `from..=upto`, see [`Overlay::view`](crate::index::overlay::Overlay::view).
    /// The overlay is asked first.
    pub(super) fn new(
        shared: &Shared,
        partition: PartitionUid,
        from: Lsn,
        upto: Lsn,
        bytes_max: usize,
    ) -> Result<Self, ReadError> {
        let reading = shared.reading();
        let mut overlay = shared.overlay().view(partition, from, upto, bytes_max);
        let hint = shared.hint(partition);
        let row = partition_row(&shared.kv, partition)?;
        let is_known = row.is_some() || !overlay.is_empty();
        let mut marks = row.as_ref().map(|row| row.marks()).unwrap_or_default();
        marks.merge(&overlay.marks);
        if is_known {
            let stored = shared.kv.get(&Table::Hints.partition(partition))?;
            let stored = stored.as_deref().map(Marks::decode).transpose()?;
            stored.iter().chain(&hint).for_each(|hint| marks.merge(hint));
        }
        let floor = row.as_ref().map_or(Lsn::ZERO, |row| row.floor);
        let indexed_snapshot = row.as_ref().and_then(|row| row.snapshot);
        // What was in the overlay may be in the index by now, and be superseded there.
        let meta = match (overlay.meta.take(), row) {
            (Some((at, meta)), row) if row.as_ref().is_none_or(|row| row.meta_at.is_none_or(|known| known < at)) => {
                (*meta).clone()
            }
            (_, Some(row)) => row.meta,
            (_, None) => PartitionMeta::new(partition),
        };
        Ok(Self { partition, meta, overlay, floor, is_known, indexed_snapshot, marks, _reading: reading })
    }

    /// Where the newest producer snapshot is, if there is one that counts.
    pub(super) fn snapshot(&self) -> Option<SnapshotAt> {
        let snapshots = [self.overlay.snapshot, self.indexed_snapshot];
        let counts = |at: &SnapshotAt| !self.meta.deleted && !is_beyond(&self.meta, at.lsn);
        // The newest has taken the place of those before it, also if it turns out to lie beyond an end: the index keeps one.
        snapshots.into_iter().flatten().max_by_key(|at| (at.lsn, at.position)).filter(counts)
    }

    /// Newest placements that are not those of the frames, for blocks that begin in `first..=last`.
    pub(super) fn amends(&self, shared: &Shared, first: Lsn, last: Lsn) -> Result<Amends, ReadError> {
        let range = Table::Amend.blocks(self.partition, first, last);
        let rows = scan::<AmendRow>(&shared.kv, &range, Direction::Ascending, usize::MAX)?;
        let mut amends: Vec<(Lsn, Placement)> =
            rows.into_iter().filter_map(|(key, row)| Some((first_lsn(&key)?, row.placement))).collect();
        for (_, amend) in &self.overlay.amends {
            let lsn = Lsn::new(amend.epoch, amend.first_esn);
            if (first..=last).contains(&lsn) {
                amends.push((lsn, amend.placement.clone()));
            }
        }
        amends.sort_by_key(|(lsn, placement)| (*lsn, placement.version));
        Ok(Amends(amends))
    }
}

/// Ascending by LSN, then by version.
#[derive(Debug, Default)]
pub(super) struct Amends(Vec<(Lsn, Placement)>);

impl Amends {
    /// The newest placement of the block that begins here and has this one in its frame.
    pub(super) fn newest(&self, first: Lsn, framed: Placement) -> Placement {
        let behind = self.0.partition_point(|(lsn, _)| *lsn <= first);
        match self.0[..behind].last() {
            Some((lsn, amended)) if *lsn == first && amended.version > framed.version => amended.clone(),
            _ => framed,
        }
    }
}
