//! What is written and not yet in the index.
//!
//! A reader asks the overlay first and the index then: what moves from one to the other in between it sees twice, and never
//! not at all.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use dlog_proto::{Lsn, PartitionUid};
use rustc_hash::FxHashMap;

use super::digest::{GroupDigest, Item, RunNumber, SharedRun};
use super::schema::SnapshotAt;
use crate::entry::{Marks, PartitionMeta, ShardMeta};
use crate::segment::Position;
use crate::segment::entries::Amend;

/// Groups in the order of the log, and what they mean per partition.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    groups: VecDeque<Arc<GroupDigest>>,
    partitions: FxHashMap<PartitionUid, Written>,
    /// Of the shard, with where it stands.
    shard: Option<(Position, ShardMeta)>,
    /// Roughly the memory of all this.
    bytes: usize,
}

/// What was written of a partition lately. Of a thousand partitions that are written to in turn none is in the processor's
/// cache: what is seldom there lies elsewhere.
#[derive(Debug, Default)]
struct Written {
    /// Disjoint and ascending.
    runs: VecDeque<SharedRun>,
    marks: Marks,
    others: Option<Box<Others>>,
}

/// All but runs in order.
#[derive(Debug, Clone, Default)]
struct Others {
    late: VecDeque<SharedRun>,
    amends: VecDeque<(Position, Arc<Amend>)>,
    meta: Option<(Position, Arc<PartitionMeta>)>,
    snapshot: Option<SnapshotAt>,
}

/// What was written of a partition lately, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionOverlay {
    /// Disjoint and ascending.
    pub(crate) runs: VecDeque<SharedRun>,
    /// Runs with something at or below what was there before them.
    pub(crate) late: Vec<SharedRun>,
    pub(crate) amends: VecDeque<(Position, Arc<Amend>)>,
    pub(crate) meta: Option<(Position, Arc<PartitionMeta>)>,
    pub(crate) snapshot: Option<SnapshotAt>,
    pub(crate) marks: Marks,
    /// Where the first run begins that was left out.
    pub(crate) rest: Option<Lsn>,
    is_known: bool,
}

impl Overlay {
    pub(crate) fn add(&mut self, group: Arc<GroupDigest>) {
        self.bytes += weight(&group);
        for item in &group.items {
            let at = |offset| Position::new(group.begin.segment, offset);
            match item {
                Item::Run(number) => {
                    let run = SharedRun::new(&group, *number);
                    self.partition(run.partition).add_run(run);
                }
                Item::Snapshot(snapshot) => {
                    let written = self.partition(snapshot.partition);
                    written.marks.raise(snapshot.marks);
                    let newest = &mut written.others().snapshot;
                    if newest.is_none_or(|known| known.lsn <= snapshot.at.lsn) {
                        *newest = Some(snapshot.at);
                    }
                }
                Item::Amend { offset, amend } => {
                    let written = self.partition(amend.partition);
                    written.marks.raise(amend.marks());
                    written.others().amends.push_back((at(*offset), Arc::clone(amend)));
                }
                Item::Partition { offset, meta } => {
                    self.partition(meta.partition).others().meta = Some((at(*offset), Arc::clone(meta)));
                }
                Item::Shard { offset, meta } => self.shard = Some((at(*offset), *meta)),
                Item::Segments(_) => {}
            }
        }
        self.groups.push_back(group);
    }

    fn partition(&mut self, partition: PartitionUid) -> &mut Written {
        self.partitions.entry(partition).or_default()
    }

    /// The oldest groups that end at or before `upto`, at most `max` of them.
    pub(crate) fn oldest(&self, upto: Position, max: usize) -> Vec<Arc<GroupDigest>> {
        let ready = self.groups.iter().take_while(|group| group.end_position() <= upto);
        ready.take(max).cloned().collect()
    }

    /// Forgets the oldest group: it is in the index.
    pub(crate) fn forget(&mut self, group: &Arc<GroupDigest>) {
        let oldest = self.groups.pop_front().expect("groups leave in order");
        assert!(Arc::ptr_eq(&oldest, group), "groups leave in order");
        self.bytes -= weight(group);
        group.items.iter().for_each(|item| self.forget_item(group, item));
    }

    fn forget_item(&mut self, group: &Arc<GroupDigest>, item: &Item) {
        let at = |offset| Position::new(group.begin.segment, offset);
        let partition = match item {
            Item::Run(number) => group.run(*number).partition,
            Item::Snapshot(snapshot) => snapshot.partition,
            Item::Amend { amend, .. } => amend.partition,
            Item::Partition { meta, .. } => meta.partition,
            Item::Shard { offset, .. } => {
                self.shard.take_if(|(known, _)| *known == at(*offset));
                return;
            }
            Item::Segments(_) => return,
        };
        let Entry::Occupied(mut entry) = self.partitions.entry(partition) else { return };
        let written = entry.get_mut();
        match (item, &mut written.others) {
            (Item::Run(number), _) => written.forget_run(group, *number),
            (Item::Snapshot(it), Some(others)) => {
                others.snapshot.take_if(|known| known.position == it.at.position);
            }
            (Item::Amend { offset, .. }, Some(others)) => {
                others.amends.pop_front_if(|(known, _)| *known == at(*offset));
            }
            (Item::Partition { offset, .. }, Some(others)) => {
                others.meta.take_if(|(known, _)| *known == at(*offset));
            }
            _ => {}
        }
        if written.is_empty() {
            entry.remove();
        }
    }

    pub(crate) fn shard(&self) -> Option<(Position, ShardMeta)> {
        self.shard
    }

    pub(crate) fn meta(&self, partition: PartitionUid) -> Option<(Position, Arc<PartitionMeta>)> {
        self.partitions.get(&partition)?.others.as_ref()?.meta.clone()
    }

    /// What there is of a partition: everything but runs, and those runs that have an LSN in `from..=upto`, of those in
    /// order no more than it takes to have `bytes_max` bytes of blocks.
    pub(crate) fn view(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> PartitionOverlay {
        let Some(written) = self.partitions.get(&partition) else { return PartitionOverlay::default() };
        let begin = written.runs.partition_point(|run| run.last_lsn() < from);
        let (mut room, mut runs, mut rest) = (bytes_max as u64, VecDeque::new(), None);
        for run in written.runs.range(begin..).take_while(|run| run.first_lsn() <= upto) {
            if room == 0 {
                rest = Some(run.first_lsn());
                break;
            }
            // The first may be asked for from its middle on.
            let bytes = run.blocks.iter().filter(|block| Lsn::new(run.epoch, block.last_esn) >= from);
            room = room.saturating_sub(bytes.map(|block| u64::from(block.len)).sum());
            runs.push_back(run.clone());
        }
        let view = PartitionOverlay { runs, marks: written.marks.clone(), rest, is_known: true, ..Default::default() };
        let Some(others) = &written.others else { return view };
        let late = others.late.iter().filter(|run| run.last_lsn() >= from && run.first_lsn() <= upto);
        let (late, amends) = (late.cloned().collect(), others.amends.clone());
        PartitionOverlay { late, amends, meta: others.meta.clone(), snapshot: others.snapshot, ..view }
    }

    /// Roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Written {
    fn others(&mut self) -> &mut Others {
        self.others.get_or_insert_default()
    }

    fn add_run(&mut self, run: SharedRun) {
        self.marks.raise(run.marks());
        if self.runs.back().is_none_or(|last| last.last_lsn() < run.first_lsn()) {
            self.runs.push_back(run);
        } else {
            self.others().late.push_back(run);
        }
    }

    fn forget_run(&mut self, group: &Arc<GroupDigest>, number: RunNumber) {
        // Both kinds leave as they came.
        let is_it = |run: &mut SharedRun| run.is(group, number);
        if self.runs.pop_front_if(is_it).is_none()
            && let Some(others) = &mut self.others
        {
            others.late.pop_front_if(is_it);
        }
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.others.as_ref().is_none_or(|others| others.is_empty())
    }
}

impl Others {
    fn is_empty(&self) -> bool {
        self.late.is_empty() && self.amends.is_empty() && self.meta.is_none() && self.snapshot.is_none()
    }
}

impl PartitionOverlay {
    /// Whether nothing was written lately.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_known
    }
}

fn weight(group: &GroupDigest) -> usize {
    let item = |item: &Item| match item {
        Item::Run(number) => 160 + size_of_val(&*group.run(*number).blocks),
        Item::Partition { meta, .. } => 160 + meta.ends.len() * 12,
        _ => 160,
    };
    group.items.iter().map(item).sum()
}
