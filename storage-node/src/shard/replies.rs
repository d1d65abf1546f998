//! Answers that wait for the disk.

use std::collections::{BTreeMap, VecDeque};

use dlog_proto::wire::{FlushedUpto, PartitionRelease, SealedState, StoreAnswer};
use dlog_proto::{Epoch, Esn, PartitionUid};

use super::Asker;
use crate::entry::EntrySeq;

/// Something to be said or done when an entry is on the disk.
#[derive(Debug)]
pub(super) enum Reply {
    Stored { to: Asker, answer: StoreAnswer },
    Sealed { to: Asker, partition: PartitionUid, epoch: Epoch, told: SealedState },
    Release(PartitionRelease),
}

/// When an answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// When the entry survives the process.
    Written,
    /// When it survives the machine.
    Durable,
}

#[derive(Debug, Default)]
pub(super) struct Replies {
    written: EntrySeq,
    durable: EntrySeq,
    /// Ascending by entry, as the others.
    on_written: VecDeque<(EntrySeq, Reply)>,
    on_durable: VecDeque<(EntrySeq, Reply)>,
    /// Blocks that were answered as cached.
    cached: VecDeque<(EntrySeq, (Asker, FlushedUpto))>,
    /// Highest first ESN of those that are durable by now and not told, because one below it is not durable yet.
    untold: BTreeMap<(Asker, PartitionUid, Epoch), Esn>,
    /// Per partition, the last entry that a release waits for.
    releases: BTreeMap<PartitionUid, EntrySeq>,
}

impl Replies {
    pub(super) fn is_durable(&self, seq: EntrySeq) -> bool {
        seq <= self.durable
    }

    /// Notes how far the disk is.
    pub(super) fn advance(&mut self, written: EntrySeq, durable: EntrySeq) {
        self.durable = self.durable.max(durable);
        self.written = self.written.max(written).max(self.durable);
    }

    /// Keeps `reply` until `seq` is where it has to be. It may be due already.
    pub(super) fn push(&mut self, seq: EntrySeq, due: Due, reply: Reply) {
        if let Reply::Release(release) = &reply {
            self.releases.insert(release.partition, seq);
        }
        match due {
            Due::Written => insert(&mut self.on_written, seq, reply),
            Due::Durable => insert(&mut self.on_durable, seq, reply),
        }
    }

    /// Notes that a block was answered as cached: its asker is told when it is flushed.
    pub(super) fn push_cached(&mut self, seq: EntrySeq, to: Asker, upto: FlushedUpto) {
        insert(&mut self.cached, seq, (to, upto));
    }

    /// The entry that releases of this partition wait for, if there are such.
    pub(super) fn release_waits_for(&self, partition: PartitionUid) -> Option<EntrySeq> {
        self.releases.get(&partition).copied()
    }

    /// The next reply that is due, and the entry it waited for.
    pub(super) fn pop_due(&mut self) -> Option<(EntrySeq, Reply)> {
        let (seq, reply) =
            pop(&mut self.on_durable, self.durable).or_else(|| pop(&mut self.on_written, self.written))?;
        if let Reply::Release(release) = &reply
            && self.releases.get(&release.partition) == Some(&seq)
        {
            self.releases.remove(&release.partition);
        }
        Some((seq, reply))
    }

    /// What became durable of what was answered as cached: of each asker, partition and epoch, an ESN up to which all is. Blocks come
    /// in any order (a later wave brings an earlier one), so that the highest durable one says nothing of those below it.
    pub(super) fn take_flushed(&mut self) -> BTreeMap<Asker, Vec<FlushedUpto>> {
        let durable = self.cached.partition_point(|(seq, _)| *seq <= self.durable);
        if durable == 0 {
            return BTreeMap::new();
        }
        for (_, (to, upto)) in self.cached.drain(..durable) {
            let highest = self.untold.entry((to, upto.partition, upto.epoch)).or_default();
            *highest = upto.first_esn.max(*highest);
        }
        let mut lowest: BTreeMap<(Asker, PartitionUid, Epoch), Esn> = BTreeMap::new();
        for (_, (to, upto)) in &self.cached {
            let lowest = lowest.entry((*to, upto.partition, upto.epoch)).or_insert(upto.first_esn);
            *lowest = upto.first_esn.min(*lowest);
        }
        let mut flushed: BTreeMap<Asker, Vec<FlushedUpto>> = BTreeMap::new();
        self.untold.retain(|key, highest| {
            let (to, partition, epoch) = *key;
            let cached = lowest.get(key).filter(|lowest| **lowest <= *highest);
            let first_esn = cached.map_or(*highest, |lowest| Esn(lowest.0 - 1));
            flushed.entry(to).or_default().push(FlushedUpto { partition, epoch, first_esn });
            cached.is_some()
        });
        flushed
    }
}

fn insert<T>(queue: &mut VecDeque<(EntrySeq, T)>, seq: EntrySeq, item: T) {
    if queue.back().is_none_or(|(last, _)| *last <= seq) {
        queue.push_back((seq, item));
    } else {
        let at = queue.partition_point(|(other, _)| *other <= seq);
        queue.insert(at, (seq, item));
    }
}

fn pop<T>(queue: &mut VecDeque<(EntrySeq, T)>, upto: EntrySeq) -> Option<(EntrySeq, T)> {
    if queue.front()?.0 > upto {
        return None;
    }
    queue.pop_front()
}
