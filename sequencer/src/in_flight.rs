//! A block on its way: from its first wave until it is settled.

use dlog_proto::block::{Block, PlacementVersion};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{Acks, Kept};
use dlog_proto::{Durability, Epoch, Esn, MemberSet, Quorum, Time, TimestampMs};
use smallvec::SmallVec;

use crate::output::Token;

/// Somebody who waits for a batch of this block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) token: Token,
    pub(crate) acks: Acks,
    /// Of the batch's first record.
    pub(crate) esn: Esn,
    pub(crate) append_time: TimestampMs,
    pub(crate) duplicate: bool,
}

/// How far a block has come. Each level holds for a block only after it holds for all blocks before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// One shard has it.
    Once,
    /// A write quorum has it, at the durability that the log asks for.
    Acked,
    /// A write quorum has it on disk: it may be read.
    Released,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) block: Block,
    pub(crate) waiters: SmallVec<[Waiter; 2]>,
    /// Of the current placement.
    pub(crate) wave: u32,
    /// Where the current placement puts the copies.
    pub(crate) copyset: MemberSet,
    /// Members whose copy is missing from the copyset and must be on record as such before the block is settled.
    pub(crate) missing: MemberSet,
    /// Asked for the current placement, no answer yet.
    pub(crate) asked: MemberSet,
    /// Have the current placement.
    pub(crate) current: MemberSet,
    /// Have the block, under whatever placement.
    pub(crate) holders: MemberSet,
    /// Of the holders, those that have it on disk.
    pub(crate) flushed: MemberSet,
    pub(crate) first_sent_at: Time,
    pub(crate) wave_sent_at: Time,
    /// When the current wave gives up on those that have not answered.
    pub(crate) deadline: Time,
    /// How often a deadline passed and there was nobody else to ask.
    pub(crate) waits: u32,
    /// When members that could not be asked are tried again.
    pub(crate) retry_at: Time,
}

impl InFlight {
    pub(crate) fn new(block: Block, waiters: SmallVec<[Waiter; 2]>, now: Time) -> Self {
        Self {
            block,
            waiters,
            wave: 0,
            copyset: MemberSet::EMPTY,
            missing: MemberSet::EMPTY,
            asked: MemberSet::EMPTY,
            current: MemberSet::EMPTY,
            holders: MemberSet::EMPTY,
            flushed: MemberSet::EMPTY,
            first_sent_at: now,
            wave_sent_at: now,
            deadline: Time::MAX,
            waits: 0,
            retry_at: Time::MAX,
        }
    }

    pub(crate) fn first_esn(&self) -> Esn {
        self.block.header().first_esn
    }

    pub(crate) fn last_esn(&self) -> Esn {
        self.block.header().last_esn()
    }

    pub(crate) fn len(&self) -> usize {
        self.block.bytes().len()
    }

    pub(crate) fn version(&self, epoch: Epoch) -> PlacementVersion {
        PlacementVersion { writer_epoch: epoch, wave: self.wave }
    }

    /// Notes that `member` has the block; `current` says whether under the current placement.
    pub(crate) fn note_kept(&mut self, member: usize, kept: Kept, current: bool) {
        self.holders.insert(member);
        if kept == Kept::Flushed {
            self.flushed.insert(member);
        }
        if current || bug(Bug::OldWaveCounts) {
            self.asked.remove(member);
            self.current.insert(member);
        }
    }

    /// Whether this block for itself has come to `level`. Copies of different waves count together.
    pub(crate) fn reaches(&self, level: Level, quorum: Quorum<'_>, durability: Durability) -> bool {
        match (level, durability) {
            (Level::Once, _) => !self.holders.is_empty(),
            (Level::Acked, _) if bug(Bug::AckBelowQuorum) => !self.holders.is_empty(),
            (Level::Released, _) if bug(Bug::ReleaseFromMemory) => quorum.is_write_quorum(self.holders),
            (Level::Acked, Durability::WriteCache) => quorum.is_write_quorum(self.holders),
            (Level::Acked, Durability::Sync) | (Level::Released, _) => quorum.is_write_quorum(self.flushed),
        }
    }

    /// Whether every member of the copyset has the current placement on disk. Together with the copyset being complete, or
    /// what is missing being on record, that is what *settled* means.
    pub(crate) fn copyset_is_flushed(&self) -> bool {
        let kept = if bug(Bug::SettleFromMemory) { self.current } else { self.current.intersection(self.flushed) };
        !self.copyset.is_empty() && self.copyset.is_subset_of(kept)
    }
}
