//! When a record that does not come may be called lost.
//!
//! INV-NO-FALSE-GAP: a missing record inside a decided or released range is called lost only if an f-majority of the
//! nodeset says that it has none. Nothing else makes a gap but the trim point: an epoch's content has no holes.
//! INV-GAP-ASKED-AGAIN: where less than an f-majority by the strict rule can say so (disks are lost or damaged, or the log prefers
//! availability and the others were waited for long enough), every answer that a gap rests on was given after the last of the missing
//! shards was given up. For one of them may have had the record, and recovery copied it to others that had said before that they have none.

use std::time::Duration;

use dlog_proto::bugs::{Bug, bug};
use dlog_proto::{Authority, EpochEntry, Lsn, MemberSet, Quorum, Statuses, Time};

use super::{GapReason, ReaderCore};

/// How often a record that some shard has and cannot read is asked for before it is called lost.
const DAMAGE_RETRIES: u32 = 3;

/// What the shards of an epoch's nodeset say about the record at the cursor, which did not come.
struct Testimony {
    authority: Authority,
    /// An f-majority by the strict rule says that it has none.
    is_proven: bool,
    /// Who said nothing about it yet, and may.
    silent: MemberSet,
    /// Everybody who did not say that he has none.
    missing: MemberSet,
    /// Last LSN that all of it speaks of.
    upto: Lsn,
    /// Somebody has it, and could not read it.
    is_damaged: bool,
}

enum Ruling {
    Wait,
    /// Single-copy delivery did not bring it: whoever has it is to send it.
    AskEverybody,
    /// A copy that cannot be read now may be later: a disk's passing error must not become a loss.
    AskForDamaged,
    /// INV-GAP-ASKED-AGAIN, without waiting for these.
    AskWithout(MemberSet),
    Lost,
}

impl ReaderCore {
    /// Calls what is missing at the cursor lost, as far as `limit`, or has it asked for again. Whether the cursor moved.
    pub(super) fn declare_gap(&mut self, now: Time, limit: Lsn) -> bool {
        let Some(entry) = self.table.epoch(self.cursor.epoch()) else { return false };
        let stuck = now.since(*self.stuck_since.get_or_insert(now));
        let testimony = self.testimony(entry, limit);
        match self.ruling(&testimony, stuck) {
            Ruling::Wait => return false,
            Ruling::AskEverybody => self.known_down = None,
            Ruling::AskForDamaged => self.damage_retries += 1,
            Ruling::AskWithout(given_up) => self.given_up = Some(given_up),
            Ruling::Lost => {
                let buffered = self.buffer.range(self.cursor..).next().map(|(first, _)| Lsn(first.0 - 1));
                let to = buffered.map_or(testimony.upto, |before| before.min(testimony.upto)).min(self.until);
                self.gap(to, GapReason::DataLoss);
                return true;
            }
        }
        self.rewind(now);
        false
    }

    fn testimony(&self, entry: &EpochEntry, limit: Lsn) -> Testimony {
        let (mut passed, mut silent, mut statuses) = (MemberSet::EMPTY, MemberSet::EMPTY, Statuses::default());
        let (mut upto, mut is_damaged) = (limit, false);
        for (i, member) in entry.nodeset.members().iter().enumerate() {
            let Some(state) = self.shards.get(&member.shard_ref()) else { continue };
            if state.lost {
                statuses.under_replicated.insert(i);
            } else if state.next > self.cursor {
                // Who has lost something may have what lies behind: it is still to come.
                upto = upto.min(Lsn(state.next.0 - 1));
                let could_not_read = state.unproven_upto >= self.cursor;
                is_damaged |= could_not_read;
                let speaks = if could_not_read || state.lost_before.is_damaged_for(entry) {
                    &mut statuses.under_replicated
                } else {
                    &mut passed
                };
                speaks.insert(i);
            } else if state.open {
                silent.insert(i);
            }
        }
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        let one_will_do = bug(Bug::GapFromOneShard) && !passed.is_empty();
        Testimony {
            authority: if one_will_do { Authority::Complete } else { quorum.answers(passed, statuses) },
            is_proven: one_will_do || quorum.is_strictly_authoritative(passed, statuses),
            silent,
            missing: entry.nodeset.all().without(passed),
            upto,
            is_damaged,
        }
    }

    /// What is to be done about a record that has been waited for as long as `stuck`.
    fn ruling(&self, testimony: &Testimony, stuck: Duration) -> Ruling {
        let Testimony { authority, is_proven, silent, missing, is_damaged, .. } = *testimony;
        let (has_waited, is_silent) = (stuck >= self.settings.slow_shard, !silent.is_empty());
        if self.known_down.is_some() && !bug(Bug::GapFromSingleCopies) {
            // Single-copy delivery proves nothing; if nobody is left to send it, or somebody is slow, everybody is asked.
            let nobody_is_left = authority != Authority::None && !is_silent;
            return if nobody_is_left || has_waited { Ruling::AskEverybody } else { Ruling::Wait };
        }
        // In a log that prefers availability, who is away for a moment or slow may have it; when everybody is asked again, who was silent
        // before is not waited for.
        let is_awaited = match self.given_up {
            Some(given_up) => !silent.is_subset_of(given_up),
            None => authority == Authority::Incomplete && !is_proven,
        };
        let is_early = authority == Authority::Incomplete && is_silent && stuck < self.settings.gap_grace;
        if authority == Authority::None || is_early || (is_awaited && !has_waited) {
            return Ruling::Wait;
        }
        if is_damaged && self.damage_retries < DAMAGE_RETRIES {
            return if has_waited { Ruling::AskForDamaged } else { Ruling::Wait };
        }
        let given_up = self.given_up.unwrap_or(MemberSet::EMPTY);
        if !is_proven && !missing.is_subset_of(given_up) && !bug(Bug::GapFromOldAnswers) {
            return Ruling::AskWithout(given_up.union(missing));
        }
        Ruling::Lost
    }
}
