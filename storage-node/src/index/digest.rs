//! What a group of frames means for the index: made when a group is written, and made again, equal, when it is scanned.

use std::collections::hash_map::Entry;
use std::ops::Deref;
use std::sync::Arc;

use dlog_proto::block::{BlockHeader, BlockKind, Placement};
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, TimestampMs};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::schema::{LateRow, RunRow, SnapshotAt};
use crate::entry::{EpochMarks, PartitionMeta, ShardMeta};
use crate::segment::entries::{Amend, SegmentRanges};
use crate::segment::{Position, SegmentId};

/// One group.
#[derive(Debug, Clone)]
pub(crate) struct GroupDigest {
    pub(crate) commit: u64,
    pub(crate) begin: Position,
    /// Behind its last frame.
    pub(crate) end: u32,
    /// In the order of their first blocks.
    runs: Vec<Run>,
    /// In the order of the log; a run stands where its first block does, and no partition entry lies inside a run of the
    /// same partition.
    pub(crate) items: Vec<Item>,
    /// How often, from one block to the next, the partition changed; the first counts as well.
    pub(crate) stretches: u32,
}

/// Small, because there are many.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Run(RunNumber),
    Snapshot(Box<Snapshot>),
    Amend { offset: u32, amend: Arc<Amend> },
    Partition { offset: u32, meta: Arc<PartitionMeta> },
    Shard { offset: u32, meta: ShardMeta },
    Segments(Box<SegmentRanges>),
}

/// A producer snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) partition: PartitionUid,
    pub(crate) at: SnapshotAt,
    /// Of its placement.
    pub(crate) marks: EpochMarks,
}

/// Which run of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunNumber(u32);

/// A run, with the group that it lies in: when every block is a run of its own, an allocation for each would cost more than
/// all else.
#[derive(Debug, Clone)]
pub(crate) struct SharedRun {
    group: Arc<GroupDigest>,
    number: RunNumber,
}

/// Blocks of one partition and epoch in one group, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) partition: PartitionUid,
    pub(crate) epoch: Epoch,
    pub(crate) segment: SegmentId,
    pub(crate) blocks: SmallVec<[BlockAt; 1]>,
    /// Highest marks of its placements.
    pub(crate) acked: Esn,
    pub(crate) settled: Esn,
}

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) first_esn: Esn,
    pub(crate) last_esn: Esn,
    /// Of its frame.
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// Of the sequencer.
    pub(crate) timestamp: TimestampMs,
}

impl GroupDigest {
    pub(crate) fn end_position(&self) -> Position {
        Position::new(self.begin.segment, self.end)
    }

    pub(crate) fn run(&self, number: RunNumber) -> &Run {
        &self.runs[number.0 as usize]
    }
}

impl SharedRun {
    pub(crate) fn new(group: &Arc<GroupDigest>, number: RunNumber) -> Self {
        Self { group: Arc::clone(group), number }
    }

    /// Whether this is that run, and not one that is equal.
    pub(crate) fn is(&self, group: &Arc<GroupDigest>, number: RunNumber) -> bool {
        self.number == number && Arc::ptr_eq(&self.group, group)
    }
}

impl Deref for SharedRun {
    type Target = Run;

    fn deref(&self) -> &Run {
        self.group.run(self.number)
    }
}

impl Run {
    fn new(partition: PartitionUid, epoch: Epoch, segment: SegmentId) -> Self {
        Self { partition, epoch, segment, blocks: SmallVec::new(), acked: Esn::ZERO, settled: Esn::ZERO }
    }

    /// Whether a block with this ESN may follow.
    fn takes(&self, epoch: Epoch, first_esn: Esn) -> bool {
        self.epoch == epoch && self.last().last_esn < first_esn
    }

    fn first(&self) -> &BlockAt {
        &self.blocks[0]
    }

    fn last(&self) -> &BlockAt {
        &self.blocks[self.blocks.len() - 1]
    }

    pub(crate) fn first_lsn(&self) -> Lsn {
        Lsn::new(self.epoch, self.first().first_esn)
    }

    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn::new(self.epoch, self.last().last_esn)
    }

    pub(crate) fn marks(&self) -> EpochMarks {
        EpochMarks { epoch: self.epoch, acked: self.acked, settled: self.settled }
    }

    pub(crate) fn to_row(&self) -> RunRow {
        let timestamps = self.blocks.iter().map(|block| block.timestamp);
        RunRow {
            segment: self.segment,
            begin: self.first().offset,
            end: self.last().offset + self.last().len,
            last_esn: self.last().last_esn,
            blocks: self.blocks.len() as u32,
            bytes: self.blocks.iter().map(|block| block.len).sum(),
            min_timestamp: timestamps.clone().min().expect("a run has a block"),
            max_timestamp: timestamps.max().expect("a run has a block"),
        }
    }

    pub(crate) fn late_rows(&self) -> impl Iterator<Item = (Lsn, LateRow)> + '_ {
        self.blocks.iter().map(|block| (Lsn::new(self.epoch, block.first_esn), block.to_late_row(self.segment)))
    }
}

impl BlockAt {
    pub(crate) fn to_late_row(self, segment: SegmentId) -> LateRow {
        LateRow {
            position: Position::new(segment, self.offset),
            len: self.len,
            last_esn: self.last_esn,
            timestamp: self.timestamp,
        }
    }
}

/// Puts a digest together, frame by frame.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    runs: Vec<Run>,
    items: Vec<Item>,
    /// Per partition the run that its next block goes to, and the one for blocks that come too late for it.
    open: FxHashMap<PartitionUid, OpenRuns>,
    /// The partition of the last block, and its run: many blocks of one partition often come together.
    last: Option<(PartitionUid, usize)>,
    /// The partition of the last block, and how often it changed.
    stretch: (Option<PartitionUid>, u32),
}

#[derive(Debug, Clone, Copy)]
struct OpenRuns {
    newest: usize,
    late: Option<usize>,
}

impl Digester {
    pub(crate) fn block(&mut self, at: Position, len: u32, placement: &Placement, header: &BlockHeader) {
        let partition = header.partition;
        if self.stretch.0 != Some(partition) {
            self.stretch = (Some(partition), self.stretch.1 + 1);
        }
        if header.kind == BlockKind::ProducerSnapshot {
            let at = SnapshotAt { lsn: header.first_lsn(), position: at, len };
            let marks = EpochMarks { epoch: header.epoch, acked: placement.acked, settled: placement.settled };
            self.items.push(Item::Snapshot(Box::new(Snapshot { partition, at, marks })));
            return;
        }
        let block = BlockAt {
            first_esn: header.first_esn,
            last_esn: header.last_esn(),
            offset: at.offset,
            len,
            timestamp: header.sequencer_timestamp,
        };
        let run = self.run_for(partition, header.epoch, at.segment, block.first_esn);
        let run = &mut self.runs[run];
        run.blocks.push(block);
        run.acked = run.acked.max(placement.acked);
        run.settled = run.settled.max(placement.settled);
    }

    fn run_for(&mut self, partition: PartitionUid, epoch: Epoch, segment: SegmentId, first_esn: Esn) -> usize {
        let runs = &mut self.runs;
        if let Some((last, run)) = self.last
            && last == partition
            && runs[run].takes(epoch, first_esn)
        {
            return run;
        }
        let mut begin = |runs: &mut Vec<Run>| {
            self.items.push(Item::Run(RunNumber(runs.len() as u32)));
            runs.push(Run::new(partition, epoch, segment));
            runs.len() - 1
        };
        let run = match self.open.entry(partition) {
            Entry::Occupied(open) if runs[open.get().newest].takes(epoch, first_esn) => open.get().newest,
            Entry::Occupied(mut open) if runs[open.get().newest].epoch == epoch => {
                return match open.get().late {
                    Some(late) if runs[late].takes(epoch, first_esn) => late,
                    _ => *open.get_mut().late.insert(begin(runs)),
                };
            }
            open => {
                let newest = begin(runs);
                open.insert_entry(OpenRuns { newest, late: None });
                newest
            }
        };
        self.last = Some((partition, run));
        run
    }

    pub(crate) fn amend(&mut self, offset: u32, amend: Amend) {
        self.items.push(Item::Amend { offset, amend: Arc::new(amend) });
    }

    pub(crate) fn partition(&mut self, offset: u32, meta: PartitionMeta) {
        self.open.remove(&meta.partition);
        self.last = None;
        self.items.push(Item::Partition { offset, meta: Arc::new(meta) });
    }

    pub(crate) fn shard(&mut self, offset: u32, meta: ShardMeta) {
        self.items.push(Item::Shard { offset, meta });
    }

    pub(crate) fn segments(&mut self, segments: SegmentRanges) {
        self.items.push(Item::Segments(Box::new(segments)));
    }

    /// The digest of what was put in since the last time.
    pub(crate) fn finish(&mut self, commit: u64, begin: Position, end: u32) -> GroupDigest {
        self.open.clear();
        self.last = None;
        let (_, stretches) = std::mem::take(&mut self.stretch);
        // The next group is often like this one.
        let runs = Vec::with_capacity(self.runs.len());
        let items = Vec::with_capacity(self.items.len());
        let (runs, items) = (std::mem::replace(&mut self.runs, runs), std::mem::replace(&mut self.items, items));
        GroupDigest { commit, begin, end, runs, items, stretches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlog_proto::ShardId;
    use dlog_proto::block::{Copyset, PlacementVersion};

    const SEGMENT: SegmentId = SegmentId(3);

    struct Script {
        digester: Digester,
        offset: u32,
    }

    impl Script {
        fn new() -> Self {
            Self { digester: Digester::default(), offset: 4096 }
        }

        fn block(&mut self, partition: u64, epoch: u32, first_esn: u32) -> &mut Self {
            let header = BlockHeader {
                kind: BlockKind::Records,
                partition: PartitionUid(partition),
                epoch: Epoch(epoch),
                first_esn: Esn(first_esn),
                span: 2,
                batch_count: 1,
                min_timestamp: 0,
                max_timestamp: 0,
                sequencer_timestamp: i64::from(first_esn) * 10,
                body_len: 0,
                crc: 0,
            };
            let placement = Placement {
                version: PlacementVersion { writer_epoch: Epoch(epoch), wave: 1 },
                copyset: Copyset::new([ShardId::new(1, 0)]).unwrap(),
                acked: Esn(first_esn - 1),
                settled: Esn(0),
            };
            self.digester.block(Position::new(SEGMENT, self.offset), 100, &placement, &header);
            self.offset += 104;
            self
        }

        fn meta(&mut self, partition: u64) -> &mut Self {
            self.digester.partition(self.offset, PartitionMeta::new(PartitionUid(partition)));
            self.offset += 64;
            self
        }

        /// Items as `partition/epoch:esn,esn…` and `partition!`.
        fn finish(&mut self) -> String {
            let digest = self.digester.finish(1, Position::new(SEGMENT, 4096), self.offset);
            let show = |item: &Item| match item {
                Item::Run(number) => {
                    let run = digest.run(*number);
                    let esns: Vec<_> = run.blocks.iter().map(|block| block.first_esn.to_string()).collect();
                    format!("{}/{}:{}", run.partition.0, run.epoch.0, esns.join(","))
                }
                Item::Partition { meta, .. } => format!("{}!", meta.partition.0),
                other => format!("{other:?}"),
            };
            digest.items.iter().map(show).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn blocks_of_a_partition_make_a_run_whatever_lies_between() {
        let found = Script::new().block(1, 1, 1).block(2, 1, 1).block(1, 1, 3).block(2, 1, 9).block(1, 1, 5).finish();
        assert_eq!(found, "1/1:1,3,5 2/1:1,9");
    }

    #[test]
    fn what_comes_too_late_does_not_end_the_run() {
        let found = Script::new().block(1, 1, 10).block(1, 1, 3).block(1, 1, 5).block(1, 1, 12).block(1, 1, 1).finish();
        assert_eq!(found, "1/1:10,12 1/1:3,5 1/1:1");
    }

    #[test]
    fn an_epoch_and_a_partition_entry_begin_a_new_run() {
        let found = Script::new().block(1, 1, 1).block(1, 2, 1).meta(2).block(1, 2, 3).meta(1).block(1, 2, 5).finish();
        assert_eq!(found, "1/1:1 1/2:1,3 2! 1! 1/2:5");
    }

    #[test]
    fn a_run_knows_where_it_lies_and_how_far_its_placements_saw() {
        let mut script = Script::new();
        script.block(1, 1, 1).block(2, 1, 1).block(1, 1, 3);
        let digest = script.digester.finish(1, Position::new(SEGMENT, 4096), script.offset);
        let Item::Run(number) = digest.items[0] else { panic!() };
        let run = digest.run(number);
        let row = run.to_row();
        assert_eq!((row.begin, row.end, row.bytes, row.blocks), (4096, 4096 + 2 * 104 + 100, 200, 2));
        assert_eq!((row.min_timestamp, row.max_timestamp, row.last_esn), (10, 30, Esn(4)));
        assert_eq!(
            (run.acked, run.first_lsn().to_string(), run.last_lsn().to_string()),
            (Esn(2), "e1n1".into(), "e1n4".into())
        );
    }
}
