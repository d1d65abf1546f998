//! Quorum arithmetic. Every question of the form "are these enough?" is answered here and nowhere else.
//!
//! A *legal placement* of a record is a set of at least W shards that spans min(count, W) domains at every scope of
//! `replicate_across`. An *f-majority* is a set of shards that every legal placement intersects, so that what none of
//! them has, nobody was ever told was stored. W's counts are used throughout: with R's, a set of shards may be called an
//! f-majority that an acknowledged record with W < R copies misses (trap C14).
//!
//! INV-QUORUM: a set that [`Quorum::is_write_quorum`] accepts intersects every set that [`Quorum::answers`] calls
//! authoritative, for strict quorum configurations. Tested against brute force over small topologies below.

use crate::bugs::{Bug, bug};
use crate::nodeset::{MemberSet, Nodeset, Scope};
use crate::replication::Replication;

/// What the rest of the cluster knows about a shard's data (LogDevice's authoritative status).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShardStatus {
    /// Has everything it was given. Its silence blocks.
    FullyAuthoritative,
    /// Lost data that is not rebuilt yet: what it has counts, what it lacks proves nothing.
    UnderReplicated,
    /// Cannot be reached but may come back whole. Readers wait for it, recovery does not.
    Unavailable,
    /// Everything it held has been copied elsewhere. Leaves the arithmetic, in decided epochs only (trap C10).
    AuthoritativeEmpty,
}

/// How much a set of answers proves about what no answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// Not enough answers, and shards are missing that could still answer.
    None,
    /// Everybody who can answer did, and it is no f-majority: absence may be loss.
    NonAuthoritative,
    /// An f-majority: what no answer holds was never acknowledged.
    Incomplete,
    /// An f-majority, and nobody is missing.
    Complete,
}

impl Authority {
    /// Whether absence from the answers proves absence.
    pub fn is_authoritative(self) -> bool {
        self >= Self::Incomplete
    }
}

/// What is known of each member when answers are counted. Members in none of the sets are fully authoritative.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statuses {
    pub under_replicated: MemberSet,
    pub unavailable: MemberSet,
    pub authoritative_empty: MemberSet,
}

impl Statuses {
    pub fn set(&mut self, member: usize, status: ShardStatus) {
        for set in [&mut self.under_replicated, &mut self.unavailable, &mut self.authoritative_empty] {
            set.remove(member);
        }
        match status {
            ShardStatus::FullyAuthoritative => {}
            ShardStatus::UnderReplicated => self.under_replicated.insert(member),
            ShardStatus::Unavailable => self.unavailable.insert(member),
            ShardStatus::AuthoritativeEmpty => self.authoritative_empty.insert(member),
        }
    }
}

/// The quorum system of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct Quorum<'a> {
    nodeset: &'a Nodeset,
    replication: &'a Replication,
}

impl<'a> Quorum<'a> {
    pub fn new(nodeset: &'a Nodeset, replication: &'a Replication) -> Self {
        Self { nodeset, replication }
    }

    /// Whether `holders` are enough copies to acknowledge: W of them, in min(count, W) domains at every scope asked for, so
    /// that no single domain's loss takes an acknowledged record.
    pub fn is_write_quorum(self, holders: MemberSet) -> bool {
        self.spans(holders, self.replication.write_quorum())
    }

    /// Whether `holders` are all the copies the log asks for: R of them, spread as asked.
    pub fn is_fully_replicated(self, holders: MemberSet) -> bool {
        self.spans(holders, self.replication.factor())
    }

    fn spans(self, holders: MemberSet, copies: usize) -> bool {
        let spread = |(scope, count): (&Scope, &u8)| {
            self.nodeset.domains_spanned(*scope, holders) >= copies.min(usize::from(*count))
        };
        holders.len() >= copies && self.replication.across.iter().all(spread)
    }

    /// Whether `set` intersects every legal placement: all but W − 1 shards, or, at some scope, all but min(count, W) − 1
    /// domains with every shard in it. Less by the shortfall where the log's read quorum is below `R − W + 1`.
    pub fn is_f_majority(self, set: MemberSet) -> bool {
        self.answers(set, Statuses::default()).is_authoritative()
    }

    /// How much `complete` proves: the members that answered and have everything they were given.
    pub fn answers(self, complete: MemberSet, statuses: Statuses) -> Authority {
        let members = self.nodeset.all().without(statuses.authoritative_empty);
        let complete = complete.intersection(members).without(statuses.under_replicated);
        let able = members.without(statuses.under_replicated).without(statuses.unavailable);
        let nobody_missing = able.is_subset_of(complete);
        match (self.intersects_all(complete, members), nobody_missing) {
            (true, true) => Authority::Complete,
            (true, false) => Authority::Incomplete,
            (false, true) => Authority::NonAuthoritative,
            (false, false) => Authority::None,
        }
    }

    fn intersects_all(self, complete: MemberSet, members: MemberSet) -> bool {
        let copies = if bug(Bug::FMajorityWithR) { self.replication.factor() } else { self.replication.write_quorum() };
        let shortfall = self.shortfall() + usize::from(bug(Bug::SealsOneTooFew));
        // Domains may be missed as long as they are fewer than the domains that every placement spans.
        let enough = |domains: usize, whole: usize, spanned: usize| domains - whole < spanned + shortfall;
        let by_domain = |(scope, count): (&Scope, &u8)| {
            let domains = self.nodeset.domains_spanned(*scope, members);
            let broken = self.nodeset.domains_spanned(*scope, members.without(complete));
            enough(domains, domains - broken, copies.min(usize::from(*count)))
        };
        enough(members.len(), complete.len(), copies) || self.replication.across.iter().any(by_domain)
    }

    /// By how much the log's read quorum stays below what always meets the write quorum; 0 unless the log chose
    /// availability before consistency.
    fn shortfall(self) -> usize {
        let q = self.replication.quorum;
        usize::from((q.replication_factor + 1 - q.write_quorum).saturating_sub(q.read_quorum))
    }

    /// Whether `complete` would be authoritative by the strict rule, whatever the log's read quorum. A decision for which this
    /// is false was bought with consistency and is flagged.
    pub fn is_strictly_authoritative(self, complete: MemberSet, statuses: Statuses) -> bool {
        let mut strict = self.replication.clone();
        strict.quorum.read_quorum = strict.quorum.replication_factor;
        Quorum::new(self.nodeset, &strict).answers(complete, statuses).is_authoritative()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Incarnation, ShardId};
    use crate::nodeset::Member;
    use crate::replication::{Durability, QuorumConfig};

    fn nodeset(racks: &[u8]) -> Nodeset {
        let member = |(i, rack): (usize, &u8)| Member {
            shard: ShardId::new(i as u16 + 1, 0),
            incarnation: Incarnation(1),
            location: format!("rack=r{rack}").parse().unwrap(),
            weight: 1,
        };
        Nodeset::new(racks.iter().enumerate().map(member).collect()).unwrap()
    }

    fn replication(r: u8, w: u8, across_racks: Option<u8>) -> Replication {
        let quorum = QuorumConfig { replication_factor: r, write_quorum: w, read_quorum: r + 1 - w };
        let across = across_racks.map(|count| (Scope::Rack, count)).into_iter().collect::<BTreeMap<_, _>>();
        Replication { quorum, across, durability: Durability::Sync }
    }

    fn subsets(n: usize) -> impl Iterator<Item = MemberSet> {
        (0u32..1 << n).map(move |bits| (0..n).filter(|i| bits >> i & 1 == 1).collect())
    }

    #[test]
    fn majority_of_three() {
        let nodeset = nodeset(&[0, 1, 2]);
        let replication = replication(3, 2, None);
        let quorum = Quorum::new(&nodeset, &replication);
        assert!(quorum.is_write_quorum(MemberSet::first(2)) && !quorum.is_write_quorum(MemberSet::first(1)));
        assert!(quorum.is_fully_replicated(MemberSet::first(3)) && !quorum.is_fully_replicated(MemberSet::first(2)));
        assert_eq!(quorum.answers(MemberSet::first(1), Statuses::default()), Authority::None);
        assert_eq!(quorum.answers(MemberSet::first(2), Statuses::default()), Authority::Incomplete);
        assert_eq!(quorum.answers(MemberSet::first(3), Statuses::default()), Authority::Complete);
    }

    #[test]
    fn f_majority_counts_what_the_write_quorum_promises_not_the_replication() {
        // Trap C14: with R's counts {1} would be an f-majority of racks [1, 0, 0], and the placement {0, 2}... misses it.
        let nodeset = nodeset(&[1, 0, 0]);
        let replication = replication(3, 2, Some(2));
        let quorum = Quorum::new(&nodeset, &replication);
        assert!(quorum.is_write_quorum([0, 2].into_iter().collect()));
        assert!(!quorum.is_f_majority(MemberSet::single(1)));
        assert!(
            quorum.is_f_majority(MemberSet::single(0)),
            "the only shard of its rack, and every placement spans both"
        );
    }

    #[test]
    fn a_shard_that_lost_data_cannot_prove_absence() {
        let nodeset = nodeset(&[0, 1, 2]);
        let replication = replication(3, 2, None);
        let quorum = Quorum::new(&nodeset, &replication);
        let mut statuses = Statuses::default();
        statuses.set(0, ShardStatus::UnderReplicated);
        assert_eq!(quorum.answers(MemberSet::first(2), statuses), Authority::None, "member 2 may still answer");
        statuses.set(2, ShardStatus::Unavailable);
        assert_eq!(quorum.answers(MemberSet::first(2), statuses), Authority::NonAuthoritative);
        statuses.set(0, ShardStatus::AuthoritativeEmpty);
        statuses.set(2, ShardStatus::FullyAuthoritative);
        assert_eq!(quorum.answers([1, 2].into_iter().collect(), statuses), Authority::Complete);
    }

    #[test]
    fn a_lower_read_quorum_asks_fewer_and_says_so() {
        let nodeset = nodeset(&[0, 1, 2]);
        let mut available = replication(3, 1, None);
        available.quorum.read_quorum = 1;
        let quorum = Quorum::new(&nodeset, &available);
        assert!(quorum.is_f_majority(MemberSet::single(2)));
        assert!(!quorum.is_strictly_authoritative(MemberSet::single(2), Statuses::default()));
        assert!(quorum.is_strictly_authoritative(MemberSet::first(3), Statuses::default()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        // INV-QUORUM by brute force: no legal placement misses an f-majority, and the rule is not needlessly strict when
        // only the number of copies matters.
        #[test]
        fn every_write_quorum_meets_every_f_majority(
            racks in prop::collection::vec(0u8..4, 1..7), r in 1u8..5, w in 1u8..5, across in prop::option::of(1u8..4),
        ) {
            let (w, across) = (w.min(r), across.map(|count| count.min(r)));
            let nodeset = nodeset(&racks);
            let replication = replication(r, w, across);
            let quorum = Quorum::new(&nodeset, &replication);
            for asked in subsets(racks.len()) {
                let missed = subsets(racks.len()).any(|placement| {
                    quorum.is_write_quorum(placement) && placement.intersection(asked).is_empty()
                });
                if quorum.is_f_majority(asked) {
                    prop_assert!(!missed, "{asked:?} of racks {racks:?} R={r} W={w} across {across:?}");
                } else if across.is_none() && !asked.is_empty() {
                    prop_assert!(missed, "{asked:?} would have been enough");
                }
            }
        }

        #[test]
        fn more_answers_never_prove_less(racks in prop::collection::vec(0u8..3, 2..6), w in 1u8..4) {
            let nodeset = nodeset(&racks);
            let replication = replication(w.max(3), w, Some(2));
            let quorum = Quorum::new(&nodeset, &replication);
            for set in subsets(racks.len()) {
                for member in 0..racks.len() {
                    let more = set.union(MemberSet::single(member));
                    prop_assert!(quorum.answers(more, Statuses::default()) >= quorum.answers(set, Statuses::default()));
                }
            }
        }
    }
}
