//! When producer snapshots are due, and how far the log may be trimmed because of them.
//!
//! INV-PRODUCERS-KEPT: shards trim only what a snapshot on a write quorum of disks tells the producers of. Otherwise the records are all
//! that is known of a producer: with them gone, after a change of epoch one that goes on is a stranger, and what it sends again a new
//! batch (trap C11). A snapshot that too few have stored is taken again when the next one is due.
//!
//! Whoever succeeds must find it. So before anything is trimmed because of it, it is on record that it lies in this epoch, which then stays
//! in the epoch table; what is before the epoch may leave. Once per epoch: later snapshots lie on the same nodeset.

use dlog_proto::bugs::{Bug, bug};
use dlog_proto::{Lsn, MemberSet, Quorum, Time};

use crate::settings::Settings;

/// A snapshot that is not on a write quorum yet.
#[derive(Debug)]
struct UnderWay {
    /// Everything below it is in the snapshot.
    position: Lsn,
    stored: MemberSet,
    /// First LSN that was noted and is not in it.
    next_unsaved: Option<Lsn>,
}

/// Whether the metadata tier knows that this epoch covers what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    /// It does not: nothing is stored yet.
    None,
    /// It is to be told.
    Due,
    Proposed,
    OnRecord,
}

#[derive(Debug)]
pub(crate) struct Snapshots {
    /// Of batches since the last one.
    bytes: u64,
    /// When the next one is due, if there is something to save.
    due_at: Time,
    /// First LSN of a batch that no stored snapshot has.
    unsaved: Option<Lsn>,
    last_noted: Lsn,
    under_way: Option<UnderWay>,
    /// What earlier epochs tell is known.
    is_loaded: bool,
    cover: Cover,
}

impl Snapshots {
    /// `is_first`: nothing is before this epoch.
    pub(crate) fn new(now: Time, is_first: bool, settings: &Settings) -> Self {
        let (bytes, unsaved, last_noted) = (0, None, Lsn::ZERO);
        let cover = if is_first { Cover::OnRecord } else { Cover::None };
        let due_at = now + settings.snapshot_time;
        Self { bytes, due_at, unsaved, last_noted, under_way: None, is_loaded: false, cover }
    }

    /// What earlier epochs tell of producers is known. If it is anything, it is stored in this epoch from `due_at` on: until then nothing
    /// is trimmed.
    pub(crate) fn handle_loaded(&mut self, is_empty: bool, due_at: Time) {
        self.is_loaded = true;
        if !is_empty {
            (self.due_at, self.unsaved) = (due_at, Some(Lsn::ZERO));
        } else if self.cover == Cover::None {
            self.cover = Cover::Due;
        }
    }

    /// Whether it is to be put on record now that this epoch covers what is before it. Says so once.
    pub(crate) fn poll_cover(&mut self) -> bool {
        let is_due = self.cover == Cover::Due;
        if is_due {
            self.cover = Cover::Proposed;
        }
        is_due
    }

    /// That is on record.
    pub(crate) fn handle_covered(&mut self) {
        self.cover = Cover::OnRecord;
    }

    pub(crate) fn add_bytes(&mut self, len: u64) {
        self.bytes += len;
    }

    /// A producer's batch got this LSN.
    pub(crate) fn note(&mut self, lsn: Lsn) {
        self.last_noted = lsn;
        self.unsaved.get_or_insert(lsn);
        if let Some(under_way) = &mut self.under_way {
            under_way.next_unsaved.get_or_insert(lsn);
        }
    }

    pub(crate) fn is_due(&self, now: Time, settings: &Settings) -> bool {
        (self.due_at <= now || self.bytes >= settings.snapshot_bytes) && self.is_loaded && self.unsaved.is_some()
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        (self.is_loaded && self.unsaved.is_some()).then_some(self.due_at)
    }

    /// Nobody takes it now.
    pub(crate) fn handle_not_taken(&mut self, now: Time, settings: &Settings) {
        self.due_at = now + settings.snapshot_time;
    }

    /// A snapshot of everything below `position` is on its way.
    pub(crate) fn handle_taken(&mut self, now: Time, position: Lsn, settings: &Settings) {
        (self.bytes, self.due_at) = (0, now + settings.snapshot_time);
        let next_unsaved = (self.last_noted >= position).then_some(position);
        self.under_way = Some(UnderWay { position, stored: MemberSet::EMPTY, next_unsaved });
    }

    /// A member has the snapshot of this position on disk.
    pub(crate) fn handle_stored(&mut self, member: usize, position: Lsn, quorum: Quorum<'_>) {
        let Some(under_way) = self.under_way.as_mut().filter(|known| known.position == position) else { return };
        under_way.stored.insert(member);
        if quorum.is_write_quorum(under_way.stored) {
            self.unsaved = under_way.next_unsaved;
            self.under_way = None;
            if self.cover == Cover::None {
                self.cover = Cover::Due;
            }
        }
    }

    /// Up to where nothing is lost of producers if it is trimmed.
    pub(crate) fn trim_limit(&self, released: Lsn) -> Lsn {
        match self.unsaved {
            _ if !self.is_loaded => Lsn::ZERO,
            _ if self.cover != Cover::OnRecord && !bug(Bug::TrimBeforeCover) => Lsn::ZERO,
            None => released,
            Some(_) if bug(Bug::TrimForgetsProducers) => released,
            Some(first) => released.min(Lsn(first.0.saturating_sub(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dlog_proto::{Epoch, Esn};

    use super::*;

    #[test]
    fn the_first_one_waits_for_its_time_and_nothing_is_trimmed_before() {
        let (settings, now) = (Settings::default(), Time::ZERO);
        let due_at = now + Duration::from_secs(2);
        let mut snapshots = Snapshots::new(now, false, &settings);
        snapshots.handle_loaded(false, due_at);
        let (just_before, released) = (now + Duration::from_millis(1999), Lsn::new(Epoch(2), Esn(7)));
        assert!(!snapshots.is_due(just_before, &settings) && snapshots.is_due(due_at, &settings));
        assert_eq!((snapshots.next_timeout(), snapshots.trim_limit(released)), (Some(due_at), Lsn::ZERO));
        snapshots.handle_taken(due_at, released.next(), &settings);
        assert!(!snapshots.is_due(due_at, &settings), "it is on its way");
        assert_eq!(snapshots.next_timeout(), Some(due_at + settings.snapshot_time));

        // Nothing to save: only that it covers what is before is said, at once.
        let mut snapshots = Snapshots::new(now, false, &settings);
        snapshots.handle_loaded(true, due_at);
        assert!(snapshots.poll_cover() && snapshots.next_timeout().is_none());
    }
}
