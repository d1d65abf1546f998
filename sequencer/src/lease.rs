//! The metadata tier's word that a process's epochs are the newest: what logs that prefer availability are acknowledged under (trap C13).
//!
//! Their recovery may decide without meeting a shard that has the newest records, so no refused store tells the old sequencer that it was
//! succeeded. Time does instead.
//!
//! INV-LEASE: a sequencer acknowledges and releases until [`LeaseTimes::used`] after the question; whoever takes over waits for
//! [`LeaseTimes::waited`] before it decides. What was taken over before the question is in the state that the answer names, and nobody
//! relies on the answer who was not told of that state first; what is taken over later is decided later than `waited` after the question.
//! Clocks may differ, their speeds by a tenth.

use std::collections::VecDeque;
use std::time::Duration;

use dlog_proto::Time;
use dlog_proto::bugs::{Bug, bug};

/// How long recovery of a log that prefers availability waits.
pub const LEASE: Duration = Duration::from_secs(1);

/// Answers that wait for their view, at most: the newest.
const WAITING_MAX: usize = 8;

/// What follows from how long a lease is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Recovery waits this long.
    pub waited: Duration,
    /// An answer is relied on for this long after its question.
    pub used: Duration,
    /// How often it is asked.
    pub every: Duration,
}

impl LeaseTimes {
    pub fn of(waited: Duration) -> Self {
        Self { waited, used: waited * 9 / 10, every: waited / 4 }
    }
}

/// An answer of the metadata tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// When it was asked, by this process's clock.
    pub asked: Time,
    /// Revision of a state that has everything that happened before the question.
    pub revision: u64,
}

/// A process's lease: from answers and views to what its sequencers may rely on.
#[derive(Debug)]
pub struct LeaseKeeper {
    times: LeaseTimes,
    /// Answers whose state the sequencers were not told of yet.
    waiting: VecDeque<LeaseGrant>,
    until: Time,
}

impl LeaseKeeper {
    pub fn new(times: LeaseTimes) -> Self {
        Self { times, waiting: VecDeque::new(), until: Time::ZERO }
    }

    pub fn handle_granted(&mut self, grant: LeaseGrant) {
        if self.waiting.back() != Some(&grant) {
            self.waiting.push_back(grant);
            self.waiting.drain(..self.waiting.len().saturating_sub(WAITING_MAX));
        }
    }

    /// The sequencers were told of everything up to `revision`. Until when they may go on, if that is longer than they know.
    pub fn handle_told(&mut self, revision: u64) -> Option<Time> {
        let is_told = |grant: &LeaseGrant| grant.revision <= revision || bug(Bug::LeaseBeforeView);
        let asked = self.waiting.iter().filter(|grant| is_told(grant)).map(|grant| grant.asked).max()?;
        self.waiting.retain(|grant| !is_told(grant));
        let until = asked + self.times.used;
        let is_longer = until > self.until;
        self.until = self.until.max(until);
        is_longer.then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_waits_for_what_it_rests_on_and_counts_from_the_question() {
        let times = LeaseTimes::of(Duration::from_secs(1));
        let mut keeper = LeaseKeeper::new(times);
        let asked = Time::from_millis(500);
        keeper.handle_granted(LeaseGrant { asked, revision: 7 });
        assert_eq!(keeper.handle_told(6), None, "who was succeeded is in revision 7, perhaps");
        assert_eq!(keeper.handle_told(7), Some(asked + times.used));
        assert_eq!(keeper.handle_told(8), None, "told once");
        keeper.handle_granted(LeaseGrant { asked: Time::from_millis(400), revision: 8 });
        assert_eq!(keeper.handle_told(8), None, "a late answer takes nothing back");
    }

    #[test]
    fn clocks_whose_speeds_differ_by_a_tenth_agree_on_who_is_over() {
        let times = LeaseTimes::of(LEASE);
        assert!(times.used * 11 / 10 < times.waited, "used on the slowest clock ends before waited on the fastest");
    }

    #[test]
    fn answers_that_nobody_is_told_of_do_not_pile_up() {
        let mut keeper = LeaseKeeper::new(LeaseTimes::of(LEASE));
        (1..=100).for_each(|n| keeper.handle_granted(LeaseGrant { asked: Time::from_millis(n), revision: n }));
        assert!(keeper.waiting.len() <= WAITING_MAX);
        assert!(keeper.handle_told(100).is_some());
    }
}
