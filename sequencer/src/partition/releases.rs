//! What shards are told of a partition: how far it may be read and trimmed, and where its epochs ended.
//!
//! INV-RELEASE: nothing of this epoch is released before every earlier epoch is decided; `released` never goes back.

use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{EpochEnd, Kept, PartitionRelease, StoreAnswer};
use dlog_proto::{Epoch, EpochTable, Esn, Lsn, Quorum, ShardRef, Time, TimestampMs};

use super::{PartitionSequencer, Past};
use crate::output::Output;

/// Ends that are told with every release, at most: the newest.
const ENDS_TOLD_ALWAYS: usize = 16;
/// Ends that are told to a shard that comes, at most: the newest. Bounds a release to some 50 kB.
pub(super) const ENDS_KEPT_MAX: usize = 4096;

/// What shards are told of this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    released: Lsn,
    settled: Esn,
    /// See [`PartitionRelease::trim_limit`].
    trim_limit: Lsn,
}

impl PartitionSequencer {
    /// Last LSN that may be read, once the earlier epochs are decided.
    pub fn released(&self) -> Option<Lsn> {
        let known = !matches!(self.past, Past::Recovering(_)) || bug(Bug::ReleaseBeforeRecovery);
        known.then(|| Lsn::new(self.epoch, self.released))
    }

    /// INV-RELEASE.
    pub(super) fn release(&mut self) {
        let Some(released) = self.released() else { return };
        let marks =
            Marks { released, settled: self.appender.settled(), trim_limit: self.snapshots.trim_limit(released) };
        if self.last_release == Some(marks) {
            return;
        }
        let last = self.last_release.replace(marks);
        assert!(last.is_none_or(|last| last.released <= released), "released never goes back");
        // Who has records of earlier epochs only waits for two things: that they may be read, and that all of them may be trimmed.
        let begin = Lsn::new(self.epoch, Esn::ZERO);
        let is_for_all = last.is_none_or(|last| last.trim_limit < begin && marks.trim_limit >= begin);
        let (to, ends_max) = match is_for_all {
            true => (&self.listeners, ENDS_KEPT_MAX),
            false => (&self.told_always, ENDS_TOLD_ALWAYS),
        };
        let to = to.iter().copied().filter(|s| self.connected.contains(&s.shard)).collect();
        self.send_release(to, marks, ends_max);
    }

    pub(super) fn send_release(&mut self, to: Vec<ShardRef>, marks: Marks, ends_max: usize) {
        let Marks { released, settled, trim_limit } = marks;
        let ends = self.decided[self.decided.len().saturating_sub(ends_max)..].to_vec();
        let release = PartitionRelease { partition: self.partition, released, settled, trim_limit, ends };
        self.out.push_back(Output::Release { to, release });
    }

    /// Stores what is known of producers, if it is time.
    pub(super) fn take_snapshot(&mut self, now: Time, now_ms: TimestampMs) {
        if !self.snapshots.is_due(now, &self.settings) {
            return;
        }
        let acked = self.appender.acked();
        let expiry = i64::try_from(self.settings.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        self.producers.expire(now_ms.saturating_sub(expiry));
        // Only what is acknowledged or decided: a snapshot must be true whatever becomes of this epoch.
        let mut known = self.producers.clone();
        if !bug(Bug::SnapshotOfUnacknowledged) {
            known.retain_upto(Lsn::new(self.epoch, acked));
        }
        let members = self.appender.draw_copyset(now, &mut self.rng);
        let Some(copyset) = Copyset::new(members.iter().map(|m| self.appender.shard_ref(*m).shard)) else {
            // Nobody takes it now: tried again when the next one is due.
            self.snapshots.handle_not_taken(now, &self.settings);
            return;
        };
        let snapshot =
            BlockBuilder::producer_snapshot(self.partition, self.epoch, acked.next(), now_ms, known.encode());
        let version = PlacementVersion { writer_epoch: self.epoch, wave: 1 };
        let placement = Placement { version, copyset, acked, settled: self.appender.settled() };
        // Synced, whatever the log says: what it covers may be trimmed.
        members.into_iter().for_each(|member| self.store(member, &placement, snapshot.clone(), true));
        self.snapshots.handle_taken(now, Lsn::new(self.epoch, acked.next()), &self.settings);
    }

    pub(super) fn handle_snapshot_stored(&mut self, answer: &StoreAnswer) {
        let from = ShardRef { shard: answer.shard, incarnation: answer.incarnation };
        let is_kept = answer.epoch == self.epoch && answer.result == Ok(Kept::Flushed);
        if let Some(member) = self.appender.nodeset().index_of_ref(from).filter(|_| is_kept) {
            let quorum = Quorum::new(self.appender.nodeset(), self.appender.replication());
            self.snapshots.handle_stored(member, Lsn::new(answer.epoch, answer.first_esn), quorum);
        }
    }
}

/// Ends of earlier epochs that whoever decided them may not have told every shard of. Epochs that ended empty leave the table; with
/// what authority is not known then, so what lies in them is kept aside rather than deleted.
pub(crate) fn earlier_ends(table: &EpochTable) -> Vec<EpochEnd> {
    if bug(Bug::OldEndsNotTold) {
        return Vec::new();
    }
    let mut ends: Vec<EpochEnd> = Vec::new();
    // What is missing from there on was decided empty. What is missing below may be trimmed: where it ended, nobody can say any more,
    // nor is anything of it kept.
    let mut known = Epoch(table.trim.epoch().min(table.covered).0.saturating_sub(1));
    for entry in &table.epochs {
        let oldest = entry.epoch.0.saturating_sub(ENDS_KEPT_MAX as u32).max(known.0 + 1);
        let empty = |epoch| EpochEnd { epoch: Epoch(epoch), last_esn: Esn::ZERO, authoritative: false };
        ends.extend((oldest..entry.epoch.0).map(empty));
        ends.extend(entry.epoch_end());
        known = known.max(entry.epoch);
    }
    ends.drain(..ends.len().saturating_sub(ENDS_KEPT_MAX));
    ends
}
