//! What a partition may give up, by age and by size.
//!
//! The engine trims nothing by itself: a trim is an entry of the partition, and whoever writes those asks here how far it may
//! go. Age is counted from the sequencer's timestamp, because producers may claim any; whole runs at a time, so that what is
//! asked often costs little.

use dlog_proto::{Lsn, PartitionUid, TimestampMs};

use super::view::View;
use super::{ReadError, Reader};
use crate::index::kv::Direction;
use crate::index::schema::{LateRow, RunRow, Table, first_lsn};
use crate::index::transaction::scan;
use crate::upkeep::partition_row;

/// Rows that are looked at in one call: the next call goes on from the new trim point.
const ROWS_MAX: usize = 4096;

/// How long and how much of a partition is kept; `None` is for ever, and without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub age_ms_max: Option<u64>,
    /// Bytes of the shard's own copies; at least so much is kept.
    pub bytes_max: Option<u64>,
}

impl Reader {
    /// Up to where the partition may be trimmed now: above its trim point, and never above what is released. `None` if there is
    /// nothing to give up, or the index does not know of it yet.
    pub fn retention_point(
        &self,
        partition: PartitionUid,
        retention: &Retention,
        now_ms: TimestampMs,
    ) -> Result<Option<Lsn>, ReadError> {
        self.shared.steady(|| self.retention_point_once(partition, retention, now_ms))
    }

    fn retention_point_once(
        &self,
        partition: PartitionUid,
        retention: &Retention,
        now_ms: TimestampMs,
    ) -> Result<Option<Lsn>, ReadError> {
        let Some(row) = partition_row(&self.shared.kv, partition)? else { return Ok(None) };
        let cutoff = retention.age_ms_max.map(|age| now_ms.saturating_sub_unsigned(age));
        let mut surplus = retention.bytes_max.map_or(0, |max| row.bytes.saturating_sub(max));
        if row.meta.deleted || (surplus == 0 && cutoff.is_none()) {
            return Ok(None);
        }
        let mut point = Lsn::ZERO;
        for Piece { first, last, bytes, newest_ms } in self.oldest(partition, row.floor)? {
            let is_too_old = cutoff.is_some_and(|cutoff| newest_ms < cutoff);
            let is_too_much = surplus > 0 && bytes <= surplus;
            if !is_too_old && !is_too_much {
                // It may begin inside the one before, if it came late.
                point = point.min(Lsn(first.0.saturating_sub(1)));
                break;
            }
            surplus = surplus.saturating_sub(bytes);
            point = point.max(last);
        }
        let view = View::new(&self.shared, partition, Lsn::MAX, Lsn::MAX, 0)?;
        let point = point.min(view.marks.released);
        Ok((point > view.meta.trim).then_some(point))
    }

    /// The first runs and late blocks, ascending by their first LSNs.
    fn oldest(&self, partition: PartitionUid, floor: Lsn) -> Result<Vec<Piece>, ReadError> {
        let range = |table: Table| table.blocks(partition, floor, Lsn::MAX);
        let runs = scan::<RunRow>(&self.shared.kv, &range(Table::Run), Direction::Ascending, ROWS_MAX)?;
        let late = scan::<LateRow>(&self.shared.kv, &range(Table::Late), Direction::Ascending, ROWS_MAX)?;
        // Behind the last row of a full page, the other table alone would not be all.
        let is_full = |rows: usize| rows == ROWS_MAX;
        let ends = [runs.last().filter(|_| is_full(runs.len())).map(|(key, _)| key)]
            .into_iter()
            .chain([late.last().filter(|_| is_full(late.len())).map(|(key, _)| key)]);
        let upto = ends.flatten().filter_map(|key| first_lsn(key)).min().unwrap_or(Lsn::MAX);
        let late = late.into_iter().map(|(key, row)| (key, row.to_run_row()));
        let mut pieces: Vec<Piece> = (runs.into_iter().chain(late))
            .filter_map(|(key, row)| Some(Piece::new(first_lsn(&key)?, &row)))
            .filter(|piece| piece.first <= upto)
            .collect();
        pieces.sort_by_key(|piece| piece.first);
        Ok(pieces)
    }
}

struct Piece {
    first: Lsn,
    last: Lsn,
    bytes: u64,
    newest_ms: TimestampMs,
}

impl Piece {
    fn new(first: Lsn, row: &RunRow) -> Self {
        let last = Lsn::new(first.epoch(), row.last_esn);
        Self { first, last, bytes: row.bytes.into(), newest_ms: row.max_timestamp }
    }
}
