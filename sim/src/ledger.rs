//! What shards really hold, and what was promised about it: the ground truth that invariants compare promises with.

use std::collections::{BTreeMap, BTreeSet};

use dlog_metadata::state::State;
use dlog_proto::block::{Copyset, PlacementVersion};
use dlog_proto::{Durability, Epoch, EpochEntry, Esn, Lsn, MemberSet, PartitionUid, ShardRef};

/// A promise, at the moment when it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Claim {
    /// A sequencer acknowledges an append at this LSN. `copies` is how many the append asked for.
    Acknowledged { partition: PartitionUid, lsn: Lsn, by: Epoch, copies: Copies },
    /// A sequencer tells shards what may be read and what may be trimmed, and what is settled in its epoch.
    Released { partition: PartitionUid, released: Lsn, settled: Esn, trim_limit: Lsn },
    /// A sequencer tells shards, or the metadata tier has decided, where an epoch ended.
    Ended { partition: PartitionUid, epoch: Epoch, last_esn: Esn, authoritative: bool, recoverer: Option<Epoch> },
    /// A shard tells a reader in single-copy mode that it has nothing more up to here.
    Silent { partition: PartitionUid, upto: Lsn },
    /// A shard trims a partition.
    Trimmed { trim: Lsn, released: Lsn },
}

/// How many copies an acknowledgement stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    One,
    Quorum,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub version: PlacementVersion,
    pub copyset: Copyset,
}

/// One block on one shard.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    /// The newest placement that was ever on disk; `None`: it was in memory only.
    pub durable: Option<Placed>,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub partition: PartitionUid,
    pub first: Lsn,
    pub last: Lsn,
    /// Every shard that ever had it, lost ones too.
    pub copies: BTreeMap<ShardRef, Copy>,
}

/// How far an epoch's promises were checked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Promised {
    /// With one copy.
    pub once: Esn,
    pub acked: Esn,
    pub released: Esn,
    pub settled: Esn,
    /// As placements told shards, perhaps before a release does.
    pub settled_in_placements: Esn,
    pub end: Option<(Esn, bool)>,
    /// Who found the end.
    pub recoverer: Option<Epoch>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    blocks: BTreeMap<(PartitionUid, Lsn), Held>,
    /// Disks that are gone for good.
    pub lost: BTreeSet<ShardRef>,
    /// Where shards whose logs were damaged are to be sealed anew; `None`: the metadata tier has not told them yet.
    pub seal_anew: BTreeMap<ShardRef, Option<BTreeMap<PartitionUid, Epoch>>>,
    /// Copies on a disk that was damaged which cannot be read any more.
    damaged: BTreeSet<(ShardRef, PartitionUid, Lsn)>,
    pub promised: BTreeMap<(PartitionUid, Epoch), Promised>,
    /// Highest seal that a shard has answered.
    pub seals: BTreeMap<(ShardRef, PartitionUid), Epoch>,
    /// Ends that a shard has written down.
    pub known_ends: BTreeMap<(ShardRef, PartitionUid, Epoch), Esn>,
    /// What it said of an epoch's settled mark when it was first sealed: blocks below it are not told of.
    pub told: BTreeMap<(ShardRef, PartitionUid, Epoch), Esn>,
    /// On whose answers a recoverer's decision about an epoch rests.
    pub answered: BTreeMap<(PartitionUid, Epoch, Epoch), BTreeSet<ShardRef>>,
    entries: BTreeMap<(PartitionUid, Epoch), EpochEntry>,
}

impl Ledger {
    /// A shard has taken a block or a placement of one into its queue.
    pub(crate) fn note_cached(&mut self, partition: PartitionUid, first: Lsn, last: Lsn, shard: ShardRef) {
        let held = self.blocks.entry((partition, first)).or_insert_with(|| Held {
            partition,
            first,
            last,
            copies: BTreeMap::new(),
        });
        held.copies.entry(shard).or_default();
    }

    /// It is on the shard's disk.
    pub(crate) fn note_durable(&mut self, partition: PartitionUid, first: Lsn, shard: ShardRef, placed: Placed) {
        let Some(held) = self.blocks.get_mut(&(partition, first)) else { return };
        self.damaged.remove(&(shard, partition, first));
        let copy = held.copies.entry(shard).or_default();
        if copy.durable.as_ref().is_none_or(|known| known.version < placed.version) {
            copy.durable = Some(placed);
        }
    }

    /// A disk was damaged: finds out what it still has.
    pub(crate) fn note_damage(&mut self, shard: ShardRef, mut can_read: impl FnMut(PartitionUid, Lsn) -> bool) {
        let is_here = |held: &Held| held.copies.get(&shard).is_some_and(|copy| copy.durable.is_some());
        let here =
            self.blocks.iter().filter(|(_, held)| is_here(held)).map(|((partition, first), _)| (*partition, *first));
        let broken = here.filter(|(partition, first)| !can_read(*partition, *first));
        self.damaged.extend(broken.map(|(partition, first)| (shard, partition, first)));
    }

    /// Blocks of an epoch that share an LSN with `from` to `upto`, ascending.
    pub(crate) fn blocks(
        &self,
        partition: PartitionUid,
        epoch: Epoch,
        from: Esn,
        upto: Esn,
    ) -> impl Iterator<Item = (Lsn, &Held)> {
        let range = (partition, Lsn::new(epoch, Esn::ZERO))..=(partition, Lsn::new(epoch, upto));
        let blocks = self.blocks.range(range).map(|((_, first), held)| (*first, held));
        blocks.filter(move |(_, held)| held.last.esn() >= from)
    }

    /// Shards that have it on a disk that is not lost, and can read it.
    pub(crate) fn survivors<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = ShardRef> + 'a {
        let alive = |(shard, copy): (&ShardRef, &Copy)| {
            let is_damaged = self.damaged.contains(&(*shard, held.partition, held.first));
            (copy.durable.is_some() && !self.lost.contains(shard) && !is_damaged).then_some(*shard)
        };
        held.copies.iter().filter_map(alive)
    }

    /// All blocks, by partition and first LSN.
    pub(crate) fn all_blocks(&self) -> impl Iterator<Item = (PartitionUid, Lsn, &Held)> {
        self.blocks.iter().map(|((partition, first), held)| (*partition, *first, held))
    }

    /// Survivors on shards that a decision rests on.
    pub(crate) fn heard<'a>(
        &'a self,
        held: &'a Held,
        answered: Option<&'a BTreeSet<ShardRef>>,
    ) -> impl Iterator<Item = ShardRef> + 'a {
        self.survivors(held).filter(move |shard| answered.is_none_or(|answered| answered.contains(shard)))
    }

    /// As [`Self::entry`], of an epoch that something was claimed about.
    pub(crate) fn known_entry(&self, partition: PartitionUid, epoch: Epoch) -> Option<&EpochEntry> {
        self.entries.get(&(partition, epoch))
    }

    /// An epoch's nodeset and replication, which never change.
    pub(crate) fn entry(&mut self, state: &State, partition: PartitionUid, epoch: Epoch) -> Option<EpochEntry> {
        if !self.entries.contains_key(&(partition, epoch)) {
            for entry in state.table(partition)?.epochs {
                self.entries.entry((partition, entry.epoch)).or_insert(entry);
            }
        }
        self.entries.get(&(partition, epoch)).cloned()
    }
}

impl Held {
    /// Members of the epoch's nodeset that ever had it, on disk or, if `cached` is enough, in memory.
    pub(crate) fn members(&self, entry: &EpochEntry, cached: bool) -> MemberSet {
        let has = |(shard, copy): (&ShardRef, &Copy)| {
            let member = entry.nodeset.index_of_ref(*shard)?;
            (cached || copy.durable.is_some()).then_some(member)
        };
        self.copies.iter().filter_map(has).collect()
    }

    /// The newest placement that is on some disk.
    pub(crate) fn newest(&self) -> Option<&Placed> {
        self.copies.values().filter_map(|copy| copy.durable.as_ref()).max_by_key(|placed| placed.version)
    }
}

/// Whether an acknowledgement of this log stands for copies in memory.
pub(crate) fn is_cached(entry: &EpochEntry) -> bool {
    entry.replication.durability == Durability::WriteCache
}
