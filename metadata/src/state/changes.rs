//! What commands have changed, for those who follow.

use std::collections::{BTreeSet, VecDeque};

use dlog_proto::{NodeId, PartitionUid};
use serde::{Deserialize, Serialize};

use super::logs::LogUid;

/// Things that are not as they were: look at the state for how they are now. What was deleted is not there any more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changes {
    pub cluster: bool,
    pub nodes: BTreeSet<NodeId>,
    pub logs: BTreeSet<LogUid>,
    pub partitions: BTreeSet<PartitionUid>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        !self.cluster && self.nodes.is_empty() && self.logs.is_empty() && self.partitions.is_empty()
    }

    fn len(&self) -> usize {
        self.nodes.len() + self.logs.len() + self.partitions.len()
    }

    pub fn merge(&mut self, other: &Self) {
        self.cluster |= other.cluster;
        self.nodes.extend(&other.nodes);
        self.logs.extend(&other.logs);
        self.partitions.extend(&other.partitions);
    }
}

/// The changes of recent revisions, bounded.
#[derive(Debug, Default)]
pub(crate) struct RecentChanges {
    sets: VecDeque<(u64, Changes)>,
    items: usize,
    /// Everything after this revision is in `sets`.
    complete_after: u64,
}

impl RecentChanges {
    const SETS_MAX: usize = 4096;
    const ITEMS_MAX: usize = 400_000;

    /// Starts over: whoever has seen less than `revision` must look at everything.
    pub(crate) fn reset(&mut self, revision: u64) {
        *self = Self { complete_after: revision, ..Self::default() };
    }

    pub(crate) fn push(&mut self, revision: u64, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        self.items += changes.len();
        self.sets.push_back((revision, changes));
        while self.sets.len() > Self::SETS_MAX || (self.items > Self::ITEMS_MAX && self.sets.len() > 1) {
            let (revision, changes) = self.sets.pop_front().expect("not empty");
            self.items -= changes.len();
            self.complete_after = revision;
        }
    }

    /// What changed after `revision`; `None` if that is too long ago to tell.
    pub(crate) fn after(&self, revision: u64) -> Option<Changes> {
        (revision >= self.complete_after).then(|| {
            let from = self.sets.partition_point(|(r, _)| *r <= revision);
            let mut merged = Changes::default();
            self.sets.range(from..).for_each(|(_, changes)| merged.merge(changes));
            merged
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(uid: u64) -> Changes {
        Changes { partitions: BTreeSet::from([PartitionUid(uid)]), ..Changes::default() }
    }

    #[test]
    fn recent_changes_add_up_and_old_ones_are_told_apart() {
        let mut recent = RecentChanges::default();
        recent.reset(10);
        for revision in 11..=20 {
            recent.push(revision, partition(revision));
        }
        assert_eq!(recent.after(9), None);
        assert_eq!(recent.after(10).unwrap().partitions.len(), 10);
        assert_eq!(recent.after(19), Some(partition(20)));
        assert!(recent.after(20).unwrap().is_empty() && recent.after(99).unwrap().is_empty());
        for revision in 21..=20 + RecentChanges::SETS_MAX as u64 {
            recent.push(revision, partition(revision));
        }
        assert_eq!(recent.after(19), None);
        assert_eq!(recent.after(20).unwrap().partitions.len(), RecentChanges::SETS_MAX);
    }
}
