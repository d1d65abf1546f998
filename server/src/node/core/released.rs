//! How far the shards of this node know partitions to be released, for those outside of the cores who want to hear of it as it
//! moves. Kept for partitions that somebody asked for.
//!
//! Marks only rise, so it does not matter which shard says what first: whoever asks for a partition is in the table before the
//! shards are asked where they are, and they tell of every later move themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dlog_proto::{Lsn, PartitionUid, ShardId};
use tokio::sync::watch;

/// Partitions that are kept before it is looked for those that nobody waits for.
const KEPT_MIN: usize = 10_000;

#[derive(Debug)]
struct Watched {
    marks: HashMap<PartitionUid, watch::Sender<Lsn>>,
    /// With so many, those that nobody waits for are forgotten.
    kept_max: usize,
    /// Shards out of service: they hear nothing any more.
    failed: BTreeSet<ShardId>,
}

/// The marks of all shards of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReleasedMarks(Arc<RwLock<Watched>>);

impl Default for ReleasedMarks {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Watched { marks: HashMap::new(), kept_max: KEPT_MIN, failed: BTreeSet::new() })))
    }
}

impl ReleasedMarks {
    fn read(&self) -> RwLockReadGuard<'_, Watched> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Watched> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a shard hears what is released.
    pub(crate) fn is_told(&self, shard: ShardId) -> bool {
        !self.read().failed.contains(&shard)
    }

    /// A shard is out of service until the process starts again.
    pub(super) fn fail(&self, shard: ShardId) {
        self.write().failed.insert(shard);
    }

    /// A partition's mark, now and as it rises. `true` if it was not kept yet: then the shards have to be asked for it.
    pub(crate) fn watch(&self, partition: PartitionUid) -> (watch::Receiver<Lsn>, bool) {
        if let Some(mark) = self.read().marks.get(&partition) {
            return (mark.subscribe(), false);
        }
        let mut watched = self.write();
        if watched.marks.len() >= watched.kept_max {
            watched.marks.retain(|_, mark| mark.receiver_count() > 0);
            watched.kept_max = KEPT_MIN.max(2 * watched.marks.len());
        }
        let mut is_new = false;
        let mark = watched.marks.entry(partition).or_insert_with(|| {
            is_new = true;
            watch::Sender::new(Lsn::ZERO)
        });
        (mark.subscribe(), is_new)
    }

    /// A shard knows that a partition is released up to there.
    pub(super) fn tell(&self, partition: PartitionUid, released: Lsn) {
        if let Some(mark) = self.read().marks.get(&partition) {
            mark.send_if_modified(|known| {
                let rises = *known < released;
                *known = released.max(*known);
                rises
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Epoch, Esn};

    use super::*;

    #[test]
    fn marks_rise_whichever_shard_tells_them_and_are_kept_for_those_who_asked() {
        let (marks, uid) = (ReleasedMarks::default(), PartitionUid(7));
        let at = |epoch, esn| Lsn::new(Epoch(epoch), Esn(esn));
        marks.tell(uid, at(1, 9));
        let (mut heard, is_new) = marks.watch(uid);
        assert_eq!((*heard.borrow_and_update(), is_new), (Lsn::ZERO, true), "nobody had asked");
        marks.tell(uid, at(2, 1));
        marks.tell(uid, at(1, 9));
        assert_eq!(*heard.borrow_and_update(), at(2, 1));
        marks.tell(uid, at(2, 1));
        assert!(!heard.has_changed().unwrap(), "nothing is news");
        drop(heard);
        let (heard, is_new) = marks.watch(uid);
        assert_eq!((*heard.borrow(), is_new), (at(2, 1), false), "it is kept between two requests");
    }

    #[test]
    fn what_nobody_waits_for_makes_room() {
        let marks = ReleasedMarks::default();
        let (_heard, _) = marks.watch(PartitionUid(0));
        (1..=KEPT_MIN as u64).for_each(|uid| drop(marks.watch(PartitionUid(uid))));
        assert_eq!(marks.0.read().unwrap().marks.len(), 2, "who waits, and who came last");
        assert!(!marks.watch(PartitionUid(0)).1);
    }

    #[test]
    fn a_shard_that_failed_is_told_nothing() {
        let marks = ReleasedMarks::default();
        marks.fail(ShardId::new(1, 2));
        assert!(!marks.is_told(ShardId::new(1, 2)) && marks.is_told(ShardId::new(1, 1)));
    }
}
