//! What is written and not yet in the index.
//!
//! A reader asks the overlay first and the index then: what moves from one to the other in between it sees twice, and never
//! not at all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use dlog_proto::{Lsn, PartitionUid};

use super::digest::{GroupDigest, Item, Run};
use super::schema::SnapshotAt;
use crate::entry::{Marks, PartitionMeta, ShardMeta};
use crate::segment::Position;
use crate::segment::entries::Amend;

/// Groups in the order of the log, and what they mean per partition.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    groups: VecDeque<Arc<GroupDigest>>,
    partitions: HashMap<PartitionUid, PartitionOverlay>,
    /// Of the shard, with where it stands.
    shard: Option<(Position, ShardMeta)>,
    /// Roughly the memory of all this.
    bytes: usize,
}

/// What was written of a partition lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionOverlay {
    /// Disjoint and ascending.
    pub(crate) runs: VecDeque<Arc<Run>>,
    /// Runs with something at or below what was there before them.
    pub(crate) late: Vec<Arc<Run>>,
    pub(crate) amends: Vec<(Position, Arc<Amend>)>,
    pub(crate) meta: Option<(Position, Arc<PartitionMeta>)>,
    pub(crate) snapshot: Option<SnapshotAt>,
    pub(crate) marks: Marks,
    /// In a view: where the first run begins that was left out.
    pub(crate) rest: Option<Lsn>,
}

impl Overlay {
    pub(crate) fn add(&mut self, group: Arc<GroupDigest>) {
        self.bytes += weight(&group);
        for item in &group.items {
            match item {
                Item::Run(run) => self.partition(run.partition).add_run(run),
                Item::Snapshot { partition, at, marks } => {
                    let overlay = self.partition(*partition);
                    overlay.marks.raise(*marks);
                    if overlay.snapshot.is_none_or(|known| known.lsn <= at.lsn) {
                        overlay.snapshot = Some(*at);
                    }
                }
                Item::Amend { offset, amend, .. } => {
                    let at = Position::new(group.begin.segment, *offset);
                    let overlay = self.partition(amend.partition);
                    overlay.marks.raise(amend.marks());
                    overlay.amends.push((at, Arc::clone(amend)));
                }
                Item::Partition { offset, meta } => {
                    let at = Position::new(group.begin.segment, *offset);
                    self.partition(meta.partition).meta = Some((at, Arc::clone(meta)));
                }
                Item::Shard { offset, meta } => {
                    self.shard = Some((Position::new(group.begin.segment, *offset), *meta));
                }
                Item::Segments(_) => {}
            }
        }
        self.groups.push_back(group);
    }

    fn partition(&mut self, partition: PartitionUid) -> &mut PartitionOverlay {
        self.partitions.entry(partition).or_default()
    }

    /// The oldest groups that end at or before `upto`, at most `max` of them.
    pub(crate) fn oldest(&self, upto: Position, max: usize) -> Vec<Arc<GroupDigest>> {
        let ready = self.groups.iter().take_while(|group| group.end_position() <= upto);
        ready.take(max).cloned().collect()
    }

    /// Forgets the oldest groups: they are in the index.
    pub(crate) fn forget(&mut self, groups: &[Arc<GroupDigest>]) {
        for group in groups {
            let oldest = self.groups.pop_front().expect("groups leave in order");
            assert!(Arc::ptr_eq(&oldest, group), "groups leave in order");
            self.bytes -= weight(group);
            for item in &group.items {
                self.forget_item(group, item);
            }
        }
    }

    fn forget_item(&mut self, group: &GroupDigest, item: &Item) {
        let at = |offset| Position::new(group.begin.segment, offset);
        let partition = match item {
            Item::Run(run) => run.partition,
            Item::Snapshot { partition, .. } => *partition,
            Item::Amend { amend, .. } => amend.partition,
            Item::Partition { meta, .. } => meta.partition,
            Item::Shard { offset, .. } => {
                self.shard.take_if(|(known, _)| *known == at(*offset));
                return;
            }
            Item::Segments(_) => return,
        };
        let Some(overlay) = self.partitions.get_mut(&partition) else { return };
        match item {
            Item::Run(run) => overlay.forget_run(run),
            Item::Snapshot { at, .. } => drop(overlay.snapshot.take_if(|known| known.position == at.position)),
            Item::Amend { offset, .. } => overlay.amends.retain(|(known, _)| *known != at(*offset)),
            Item::Partition { offset, .. } => drop(overlay.meta.take_if(|(known, _)| *known == at(*offset))),
            Item::Shard { .. } | Item::Segments(_) => {}
        }
        if overlay.is_empty() {
            self.partitions.remove(&partition);
        }
    }

    pub(crate) fn shard(&self) -> Option<(Position, ShardMeta)> {
        self.shard
    }

    pub(crate) fn meta(&self, partition: PartitionUid) -> Option<(Position, Arc<PartitionMeta>)> {
        self.partitions.get(&partition)?.meta.clone()
    }

    /// What there is of a partition: everything but runs, and those runs that have an LSN in `from..=upto`, of those in
    /// order no more than it takes to have `bytes_max` bytes of blocks.
    pub(crate) fn view(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> PartitionOverlay {
        let Some(overlay) = self.partitions.get(&partition) else { return PartitionOverlay::default() };
        let begin = overlay.runs.partition_point(|run| run.last_lsn() < from);
        let (mut room, mut runs, mut rest) = (bytes_max as u64, VecDeque::new(), None);
        for run in overlay.runs.range(begin..).take_while(|run| run.first_lsn() <= upto) {
            if room == 0 {
                rest = Some(run.first_lsn());
                break;
            }
            // The first may be asked for from its middle on.
            let bytes = run.blocks.iter().filter(|block| Lsn::new(run.epoch, block.last_esn) >= from);
            room = room.saturating_sub(bytes.map(|block| u64::from(block.len)).sum());
            runs.push_back(Arc::clone(run));
        }
        let late = overlay.late.iter().filter(|run| run.last_lsn() >= from && run.first_lsn() <= upto);
        PartitionOverlay {
            runs,
            late: late.cloned().collect(),
            amends: overlay.amends.clone(),
            meta: overlay.meta.clone(),
            snapshot: overlay.snapshot,
            marks: overlay.marks.clone(),
            rest,
        }
    }

    /// Roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl PartitionOverlay {
    fn add_run(&mut self, run: &Arc<Run>) {
        self.marks.raise(run.marks());
        if self.runs.back().is_none_or(|last| last.last_lsn() < run.first_lsn()) {
            self.runs.push_back(Arc::clone(run));
        } else {
            self.late.push(Arc::clone(run));
        }
    }

    fn forget_run(&mut self, run: &Arc<Run>) {
        if self.runs.front().is_some_and(|first| Arc::ptr_eq(first, run)) {
            self.runs.pop_front();
        } else {
            self.late.retain(|late| !Arc::ptr_eq(late, run));
        }
    }

    /// Whether nothing was written lately.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.late.is_empty()
            && self.amends.is_empty()
            && self.meta.is_none()
            && self.snapshot.is_none()
    }
}

fn weight(group: &GroupDigest) -> usize {
    let item = |item: &Item| match item {
        Item::Run(run) => 160 + run.blocks.len() * size_of_val(&run.blocks[0]),
        Item::Partition { meta, .. } => 160 + meta.ends.len() * 12,
        _ => 160,
    };
    group.items.iter().map(item).sum()
}
