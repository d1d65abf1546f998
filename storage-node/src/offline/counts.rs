//! Whether what the index counts is what it lists.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dlog_proto::PartitionUid;

use super::verify::{Fault, FaultKind, Verdict};
use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{AmendRow, LateRow, PartitionRow, Row, RunRow, SegmentRow, Table, partition_of, segment_of};
use crate::segment::SegmentId;

#[derive(Debug, Default)]
struct Counts {
    /// By segment: bytes and amends.
    segments: BTreeMap<SegmentId, SegmentRow>,
}

pub(super) fn check(kv: &dyn Kv, verdict: &mut Verdict) -> Result<(), KvError> {
    let mut counts = Counts::default();
    each::<PartitionRow>(kv, Table::Partition, &mut |key, row| {
        let Some(partition) = partition_of(key) else { return Ok(()) };
        counts.partition(kv, partition, &row, verdict)
    })?;
    each::<RunRow>(kv, Table::Quarantine, &mut |_, row| {
        counts.segment(row.segment).live_bytes += u64::from(row.bytes);
        Ok(())
    })?;
    each::<AmendRow>(kv, Table::Amend, &mut |_, row| {
        counts.segment(row.segment).live_amends += 1;
        Ok(())
    })?;
    each::<SegmentRow>(kv, Table::Segment, &mut |key, row| {
        let listed = segment_of(key).and_then(|segment| counts.segments.remove(&segment)).unwrap_or_default();
        let counted = |row: &SegmentRow| (row.live_bytes, row.live_amends);
        if counted(&listed) != counted(&row) {
            let what = format!("it counts {row:?} of segment {:?} and lists {listed:?}", segment_of(key));
            verdict.add(Fault::new(FaultKind::Index, what));
        }
        Ok(())
    })?;
    for (segment, listed) in counts.segments.iter().filter(|(_, row)| **row != SegmentRow::default()) {
        let what = format!("it counts nothing of segment {segment} and lists {listed:?}");
        verdict.add(Fault::new(FaultKind::Index, what));
    }
    Ok(())
}

impl Counts {
    fn segment(&mut self, segment: SegmentId) -> &mut SegmentRow {
        self.segments.entry(segment.original()).or_default()
    }

    fn partition(
        &mut self,
        kv: &dyn Kv,
        partition: PartitionUid,
        row: &PartitionRow,
        verdict: &mut Verdict,
    ) -> Result<(), KvError> {
        let (mut bytes, mut blocks) = (0, 0);
        if let Some(at) = row.snapshot {
            self.segment(at.position.segment).live_bytes += u64::from(at.len);
        }
        let all = |table: Table| table.blocks(partition, dlog_proto::Lsn::ZERO, dlog_proto::Lsn::MAX);
        let mut count = |segments: &mut Self, run: &RunRow| {
            (bytes, blocks) = (bytes + u64::from(run.bytes), blocks + u64::from(run.blocks));
            segments.segment(run.segment).live_bytes += u64::from(run.bytes);
        };
        in_range::<RunRow>(kv, &all(Table::Run), &mut |_, run| {
            count(self, &run);
            Ok(())
        })?;
        in_range::<LateRow>(kv, &all(Table::Late), &mut |_, late| {
            count(self, &late.to_run_row());
            Ok(())
        })?;
        if (bytes, blocks) != (row.bytes, row.blocks) {
            let (counted, listed) = ((row.bytes, row.blocks), (bytes, blocks));
            let what = format!(
                "it counts {} bytes in {} blocks of partition {}, and lists {} in {}",
                counted.0, counted.1, partition.0, listed.0, listed.1
            );
            verdict.add(Fault::new(FaultKind::Index, what));
        }
        Ok(())
    }
}

type VisitRow<'v, R> = dyn FnMut(&[u8], R) -> Result<(), KvError> + 'v;

fn each<R: Row>(kv: &dyn Kv, table: Table, visit: &mut VisitRow<'_, R>) -> Result<(), KvError> {
    in_range(kv, &table.all(), visit)
}

fn in_range<R: Row>(
    kv: &dyn Kv,
    range: &std::ops::Range<crate::index::kv::Key>,
    visit: &mut VisitRow<'_, R>,
) -> Result<(), KvError> {
    let mut outcome = Ok(());
    kv.scan(&range.start..&range.end, Direction::Ascending, &mut |key, value| {
        outcome = R::decode(value).and_then(|row| visit(key, row));
        if outcome.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    outcome
}
