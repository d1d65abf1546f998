//! Which shards of a nodeset a sequencer writes to right now.
//!
//! A hint, never a proof: passing over a shard only changes where copies go. LogDevice's NodeSetState and graylist: a
//! refusal passes a shard over for a time that depends on its reason; a shard that did not answer in time is greylisted and
//! comes back on probation; if more than a quarter of the nodeset (and at least two shards) would be greylisted, the trouble
//! is more likely ours, and the list is cleared.

use std::time::Duration;

use dlog_proto::wire::StoreRefusal;
use dlog_proto::{MemberSet, Time};

#[derive(Debug, Clone, Default)]
struct Member {
    connected: bool,
    /// Its disk was replaced: never again in this epoch.
    gone: bool,
    refused_until: Time,
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
        let usable = |m: &Member| m.connected && !m.gone && m.refused_until <= now && m.slow_until <= now;
        self.members.iter().enumerate().filter(|(_, m)| usable(m)).map(|(i, _)| i).collect()
    }

    /// Members that may be asked: slow ones too, if nobody else is there.
    pub(crate) fn askable(&self, now: Time) -> MemberSet {
        let askable = |m: &Member| m.connected && !m.gone && m.refused_until <= now;
        self.members.iter().enumerate().filter(|(_, m)| askable(m)).map(|(i, _)| i).collect()
    }

    pub(crate) fn set_connected(&mut self, member: usize, connected: bool) {
        let member = &mut self.members[member];
        member.connected = connected;
        if connected {
            member.slow_until = Time::ZERO;
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
            StoreRefusal::Disabled => Duration::from_secs(30),
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
    }

    pub(crate) fn note_timeout(&mut self, member: usize, now: Time) {
        self.members[member].slow_until = now + self.greylist;
        let slow = self.members.iter().filter(|m| m.slow_until > now).count();
        if slow >= 2 && slow * 4 > self.members.len() {
            self.members.iter_mut().for_each(|m| m.slow_until = Time::ZERO);
        }
    }

    /// The slowest usual latency among `members`.
    pub(crate) fn latency(&self, members: MemberSet) -> Duration {
        members.iter().map(|m| self.members[m].latency).max().unwrap_or_default()
    }

    /// When a member that is passed over may be used again, if that is known.
    pub(crate) fn next_change(&self, now: Time) -> Option<Time> {
        self.members.iter().flat_map(|m| [m.refused_until, m.slow_until]).filter(|until| *until > now).min()
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
    fn one_slow_shard_is_passed_over_but_not_all() {
        let mut health = Health::new(6, Duration::from_secs(10));
        health.note_timeout(4, NOW);
        assert!(!health.usable(NOW).contains(4));
        health.note_timeout(5, NOW);
        assert_eq!(health.usable(NOW).len(), 6, "two of six: the trouble is more likely ours");
        health.note_timeout(4, NOW);
        health.note_answer(4, Duration::from_millis(1));
        assert!(health.usable(NOW).contains(4), "an answer is a proof of life");
    }

    #[test]
    fn a_lost_connection_counts_at_once() {
        let mut health = Health::new(2, Duration::from_secs(10));
        health.set_connected(0, false);
        assert_eq!(health.usable(NOW), MemberSet::single(1));
        health.set_connected(0, true);
        assert_eq!(health.usable(NOW).len(), 2);
    }
}
