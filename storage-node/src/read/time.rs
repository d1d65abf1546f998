//! Finding by time: the sequencer's clock never falls inside an epoch, so an epoch can be halved.

use dlog_proto::{Epoch, Esn, Lsn, TimestampMs};

use super::cursor::{Cursor, Step};
use super::view::View;
use super::{ReadError, Reader};
use crate::index::kv::Direction;
use crate::index::schema::{RunRow, Table, first_lsn};
use crate::index::transaction::scan;

impl Reader {
    /// First LSN of the first data block at or after `from` that was made at or after this time.
    pub fn find_time(
        &self,
        partition: dlog_proto::PartitionUid,
        from: Lsn,
        timestamp: TimestampMs,
    ) -> Result<Option<Lsn>, ReadError> {
        self.shared.steady(|| self.find_time_once(partition, from, timestamp))
    }

    fn find_time_once(
        &self,
        partition: dlog_proto::PartitionUid,
        from: Lsn,
        timestamp: TimestampMs,
    ) -> Result<Option<Lsn>, ReadError> {
        let view = View::new(&self.shared, partition, from, Lsn::MAX, usize::MAX)?;
        let mut from = from.max(view.floor);
        loop {
            let begin = self.skip_runs(&view, from, timestamp)?;
            // Of this epoch only blocks that are not in runs can still be too early, and those of the run that was found.
            let mut cursor = Cursor::new(&self.shared, &view, begin, Lsn::MAX)?;
            let epoch = loop {
                let Some(Step::Block(copies)) = cursor.next()? else { break None };
                if copies[0].first.epoch() != begin.epoch() {
                    break Some(copies[0].first.epoch());
                }
                let lying = copies.iter().find_map(|copy| copy.lying(&self.shared));
                if lying.is_some_and(|lying| lying.header.sequencer_timestamp >= timestamp) {
                    return Ok(Some(copies[0].first));
                }
            };
            match epoch {
                Some(epoch) => from = Lsn::new(epoch, Esn(1)),
                None => return Ok(None),
            }
        }
    }

    /// Where, in the epoch of `from`, to begin: behind the last indexed run that is wholly too early.
    fn skip_runs(&self, view: &View, from: Lsn, timestamp: TimestampMs) -> Result<Lsn, ReadError> {
        let epoch = from.epoch();
        let (mut begin, mut low, mut high) = (from, from, Lsn::new(epoch, Esn::MAX));
        while low <= high {
            let middle = Lsn(low.0 + (high.0 - low.0) / 2);
            match self.run_before(view, epoch, middle)? {
                Some((first, row)) if row.max_timestamp >= timestamp => {
                    if first <= low {
                        break;
                    }
                    high = Lsn(first.0 - 1);
                }
                Some((_, row)) => {
                    begin = begin.max(Lsn::new(epoch, row.last_esn.next()));
                    low = begin.max(Lsn(middle.0 + 1));
                }
                None => low = Lsn(middle.0 + 1),
            }
        }
        Ok(begin)
    }

    /// The last run of an epoch that begins at or before an LSN.
    fn run_before(&self, view: &View, epoch: Epoch, upto: Lsn) -> Result<Option<(Lsn, RunRow)>, ReadError> {
        let range = Table::Run.blocks(view.partition, Lsn::new(epoch, Esn::ZERO).max(view.floor), upto);
        let row = scan::<RunRow>(&self.shared.kv, &range, Direction::Descending, 1)?.pop();
        Ok(row.and_then(|(key, row)| Some((first_lsn(&key)?, row))))
    }
}
