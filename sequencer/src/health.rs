//! Which shards of a nodeset a sequencer writes to right now.
//!
//! A hint, never a proof: passing over a shard only changes where copies go. LogDevice's NodeSetState and graylist: a
//! refusal passes a shard over for a time that depends on its reason, unless too few others are there; a shard that did not
//! answer in time is greylisted and comes back on probation, or as soon as it answers. Unlike LogDevice's, the list is not
//! cleared when it grows long: half of the nodeset may be dead, with nobody left to say so. Where those that are not on it are
//! too few, the others are tried in turn, see [`Health::others`].

use std::time::Duration;

use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::StoreRefusal;
use dlog_proto::{MemberSet, Time};

/// How long a refusal stands when too few others are there.
const PARDON: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default)]
struct Member {
    connected: bool,
    /// Its disk was replaced: never again in this epoch.
    gone: bool,
    refused_until: Time,
    /// When it may be asked again nevertheless, if too few others are there.
    pardoned_at: Time,
    slow_until: Time,
    /// Smoothed time from store to answer; zero until the first.
    latency: Duration,
}

/// What is known of each member.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    members: Vec<Member>,
    greylist: Duration,
}

impl Health {
    /// Everybody is taken for connected until told otherwise.
    pub(crate) fn new(members: usize, greylist: Duration) -> Self {
        let member = Member { connected: true, ..Member::default() };
        Self { members: vec![member; members], greylist }
    }

    /// Members that a store may be sent to.
    pub(crate) fn usable(&self, now: Time) -> MemberSet {
        self.reachable(|m| m.refused_until <= now && m.slow_until <= now)
    }

    /// All other members, in the order in which they should be tried: those that can be asked first, and of these those whose silence
    /// was noticed longest ago. So whoever lives has its turn.
    pub(crate) fn others(&self, now: Time) -> Vec<usize> {
        let usable = self.usable(now);
        let mut others: Vec<usize> = (0..self.members.len()).filter(|m| !usable.contains(*m)).collect();
        others.sort_by_key(|m| {
            let Member { connected, gone, refused_until, pardoned_at, slow_until, .. } = self.members[*m];
            (gone, !connected, refused_until.min(pardoned_at).max(now), slow_until)
        });
        others
    }

    /// Members that may be asked: slow ones too, if nobody else is there.
    pub(crate) fn askable(&self, now: Time) -> MemberSet {
        self.reachable(|m| m.refused_until <= now)
    }

    /// Members that may be asked if those that answer are too few for a write quorum: those too that refused a while ago. What was the
    /// matter may be over long before it is time to look again.
    pub(crate) fn last_resort(&self, now: Time) -> MemberSet {
        self.reachable(|m| m.refused_until.min(m.pardoned_at) <= now)
    }

    fn reachable(&self, is_meant: impl Fn(&Member) -> bool) -> MemberSet {
        let is_meant = |m: &Member| m.connected && !m.gone && is_meant(m);
        self.members.iter().enumerate().filter(|(_, m)| is_meant(m)).map(|(i, _)| i).collect()
    }

    pub(crate) fn set_connected(&mut self, member: usize, connected: bool) {
        let member = &mut self.members[member];
        member.connected = connected;
        // What was the matter may be over: it may be another process.
        if connected {
            (member.slow_until, member.refused_until) = (Time::ZERO, Time::ZERO);
        }
    }

    pub(crate) fn note_answer(&mut self, member: usize, latency: Duration) {
        let member = &mut self.members[member];
        member.latency = if member.latency.is_zero() { latency } else { (member.latency * 7 + latency) / 8 };
        member.slow_until = Time::ZERO;
    }

    pub(crate) fn note_refusal(&mut self, member: usize, refusal: &StoreRefusal, now: Time) {
        let pass_over = match refusal {
            StoreRefusal::Overloaded { retry_after_ms } => Duration::from_millis(u64::from(*retry_after_ms).min(5_000)),
            StoreRefusal::NoSpace => Duration::from_secs(60),
            // Until its next process is there.
            StoreRefusal::Disabled | StoreRefusal::Draining => Duration::from_secs(30),
            StoreRefusal::Conflict | StoreRefusal::Corrupt => Duration::from_secs(1),
            StoreRefusal::Incarnation(_) => {
                self.members[member].gone = true;
                return;
            }
            // Not the shard's fault: the caller acts on these.
            StoreRefusal::Sealed(_) | StoreRefusal::BeyondEnd | StoreRefusal::NoPayload | StoreRefusal::Settled => {
                return;
            }
        };
        let member = &mut self.members[member];
        member.refused_until = member.refused_until.max(now + pass_over);
        member.pardoned_at = now + PARDON;
    }

    pub(crate) fn note_timeout(&mut self, member: usize, now: Time) {
        if bug(Bug::SlowNotPassedOver) {
            return;
        }
        self.members[member].slow_until = if bug(Bug::NoProbation) { Time::MAX } else { now + self.greylist };
    }

    /// The slowest usual latency among `members`.
    pub(crate) fn latency(&self, members: MemberSet) -> Duration {
        members.iter().map(|m| self.members[m].latency).max().unwrap_or_default()
    }

    /// When a member that is passed over may be used again, if that is known.
    pub(crate) fn next_change(&self, now: Time) -> Option<Time> {
        let changes = self.members.iter().flat_map(|m| [m.refused_until, m.pardoned_at, m.slow_until]);
        changes.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000);

    #[test]
    fn refusals_pass_a_shard_over_for_a_while() {
        let mut health = Health::new(3, Duration::from_secs(10));
        health.note_refusal(0, &StoreRefusal::Overloaded { retry_after_ms: 100 }, NOW);
        health.note_refusal(1, &StoreRefusal::Incarnation(None), NOW);
        health.note_refusal(2, &StoreRefusal::NoPayload, NOW);
        assert_eq!(health.usable(NOW), MemberSet::single(2));
        let later = health.next_change(NOW).unwrap();
        assert_eq!(later, NOW + Duration::from_millis(100));
        assert_eq!(health.usable(later), [0, 2].into_iter().collect(), "a replaced disk never comes back");
        assert_eq!(health.askable(NOW), MemberSet::single(2), "nobody is asked while it refuses");
    }

    #[test]
    fn where_nobody_else_is_left_a_refusal_stands_for_half_a_second() {
        let mut health = Health::new(3, Duration::from_secs(10));
        health.note_refusal(0, &StoreRefusal::NoSpace, NOW);
        health.note_refusal(1, &StoreRefusal::Incarnation(None), NOW);
        assert_eq!(health.last_resort(NOW), MemberSet::single(2));
        let later = health.next_change(NOW).unwrap();
        assert_eq!(later, NOW + PARDON);
        assert_eq!(health.last_resort(later), [0, 2].into_iter().collect());
        assert_eq!(health.askable(later), MemberSet::single(2), "as long as there are others, it has its minute");
        health.note_refusal(0, &StoreRefusal::NoSpace, later);
        assert_eq!(health.last_resort(later), MemberSet::single(2), "still no space");
    }

    #[test]
    fn slow_shards_are_passed_over_however_many_they_are() {
        let mut health = Health::new(4, Duration::from_secs(10));
        health.note_timeout(3, NOW);
        health.note_timeout(1, NOW + Duration::from_millis(1));
        let now = NOW + Duration::from_millis(2);
        assert_eq!(health.usable(now), [0, 2].into_iter().collect());
        assert_eq!(health.others(now), [3, 1], "the one that was found silent longer ago is tried first");
        health.note_answer(3, Duration::from_millis(1));
        assert!(health.usable(now).contains(3), "an answer is a proof of life");
        assert_eq!(health.usable(now + Duration::from_secs(10)).len(), 4, "on probation");
    }

    #[test]
    fn whoever_cannot_be_asked_is_tried_last() {
        let mut health = Health::new(5, Duration::from_secs(10));
        health.note_refusal(0, &StoreRefusal::Incarnation(None), NOW);
        health.set_connected(1, false);
        health.note_refusal(2, &StoreRefusal::NoSpace, NOW);
        health.note_timeout(3, NOW);
        assert_eq!(health.others(NOW), [3, 2, 1, 0]);
        assert_eq!(health.askable(NOW), [3, 4].into_iter().collect());
    }

    #[test]
    fn a_lost_connection_counts_at_once() {
        let mut health = Health::new(2, Duration::from_secs(10));
        health.set_connected(0, false);
        assert_eq!(health.usable(NOW), MemberSet::single(1));
        health.set_connected(0, true);
        assert_eq!(health.usable(NOW).len(), 2);
    }

    #[test]
    fn who_refused_because_its_process_ended_is_welcome_with_its_next_one() {
        let mut health = Health::new(2, Duration::from_secs(10));
        health.note_refusal(0, &StoreRefusal::Draining, NOW);
        assert_eq!(health.usable(NOW), MemberSet::single(1));
        health.set_connected(0, false);
        health.set_connected(0, true);
        assert_eq!(health.usable(NOW).len(), 2);
        health.note_refusal(0, &StoreRefusal::Incarnation(None), NOW);
        health.set_connected(0, true);
        assert_eq!(health.usable(NOW), MemberSet::single(1), "its disk is another one for ever");
    }
}
