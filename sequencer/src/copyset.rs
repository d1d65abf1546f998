//! Choosing copysets: weighted random over the shards that take writes, spread as the log asks, sticky for a run of blocks.

use std::time::Duration;

use dlog_proto::{MemberSet, Nodeset, Quorum, Replication, Scope, Time};
use fastrand::Rng;

/// Draws `count` members out of `usable`, keeping all of `keep`, spread over the domains that the replication asks for. `None`
/// if there is no such set that [`Quorum::is_fully_replicated`] (for `count` = R) or [`Quorum::is_write_quorum`] (for less)
/// accepts.
///
/// Members come in weighted random order (Efraimidis and Spirakis, 2006); of the members left, the one that reaches the most
/// new domains, larger scopes first, is taken next. That finds a spread set whenever scopes nest, as locations do.
pub(crate) fn draw(
    nodeset: &Nodeset,
    replication: &Replication,
    usable: MemberSet,
    keep: MemberSet,
    count: usize,
    rng: &mut Rng,
) -> Option<MemberSet> {
    let weighted = |m: usize| {
        let weight = f64::from(nodeset.member(m).weight);
        (rng.f64().max(f64::MIN_POSITIVE).ln() / weight, m)
    };
    let mut candidates: Vec<(f64, usize)> =
        usable.without(keep).iter().filter(|m| nodeset.member(*m).weight > 0).map(weighted).collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut chosen = keep;
    while chosen.len() < count {
        // The first of those that reach most: `max_by_key` would take the last.
        let best = candidates.iter().map(|(_, m)| reach(nodeset, replication, chosen, *m)).max()?;
        let at = candidates.iter().position(|(_, m)| reach(nodeset, replication, chosen, *m) == best)?;
        chosen.insert(candidates.remove(at).1);
    }
    let quorum = Quorum::new(nodeset, replication);
    let legal =
        if count >= replication.factor() { quorum.is_fully_replicated(chosen) } else { quorum.is_write_quorum(chosen) };
    legal.then_some(chosen)
}

/// For each scope from the largest: whether `member` is in a domain that `chosen` does not reach yet, and should.
fn reach(nodeset: &Nodeset, replication: &Replication, chosen: MemberSet, member: usize) -> [bool; Scope::ALL.len()] {
    let mut reached = [false; Scope::ALL.len()];
    for (scope, count) in &replication.across {
        let spanned = nodeset.domains_spanned(*scope, chosen);
        let with = nodeset.domains_spanned(*scope, chosen.union(MemberSet::single(member)));
        reached[Scope::ALL.len() - 1 - *scope as usize] = spanned < usize::from(*count) && with > spanned;
    }
    reached
}

/// The copyset that new blocks get, for a run of them: readers and rebuilding skip in runs.
#[derive(Debug, Clone)]
pub(crate) struct StickyCopyset {
    bytes: usize,
    time: Duration,
    current: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    members: MemberSet,
    bytes_left: usize,
    until: Time,
}

impl StickyCopyset {
    pub(crate) fn new(bytes: usize, time: Duration) -> Self {
        Self { bytes, time, current: None }
    }

    /// The members for the next block of `len` bytes: those of the run while it lasts and all of them are usable, else what
    /// `draw` gives.
    pub(crate) fn next(
        &mut self,
        now: Time,
        len: usize,
        usable: MemberSet,
        draw: impl FnOnce() -> Option<MemberSet>,
    ) -> Option<MemberSet> {
        if let Some(run) = &mut self.current
            && run.bytes_left >= len
            && now < run.until
            && run.members.is_subset_of(usable)
        {
            run.bytes_left -= len;
            return Some(run.members);
        }
        let members = draw()?;
        let bytes_left = self.bytes.saturating_sub(len);
        self.current = Some(Run { members, bytes_left, until: now + self.time });
        Some(members)
    }

    /// Draws anew for the next block.
    pub(crate) fn end_run(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dlog_proto::{Durability, Incarnation, Member, QuorumConfig, ShardId};
    use proptest::prelude::*;

    use super::*;

    fn nodeset(racks: &[u8], weights: &[u16]) -> Nodeset {
        let member = |(i, rack): (usize, &u8)| Member {
            shard: ShardId::new(i as u16 + 1, 0),
            incarnation: Incarnation(1),
            location: format!("rack=r{rack}").parse().unwrap(),
            weight: weights.get(i).copied().unwrap_or(1),
        };
        Nodeset::new(racks.iter().enumerate().map(member).collect()).unwrap()
    }

    fn replication(r: u8, across: &[(Scope, u8)]) -> Replication {
        Replication {
            quorum: QuorumConfig::majority(r),
            across: across.iter().copied().collect::<BTreeMap<_, _>>(),
            durability: Durability::Sync,
        }
    }

    #[test]
    fn load_follows_the_weights() {
        let nodeset = nodeset(&[0; 4], &[1, 1, 2, 0]);
        let replication = replication(1, &[]);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut taken = [0; 4];
        for _ in 0..10_000 {
            let chosen = draw(&nodeset, &replication, nodeset.all(), MemberSet::EMPTY, 1, &mut rng).unwrap();
            chosen.iter().for_each(|m| taken[m] += 1);
        }
        assert!((2300..2700).contains(&taken[0]) && (4700..5300).contains(&taken[2]), "{taken:?}");
        assert_eq!(taken[3], 0, "a weight of 0 takes none");
    }

    #[test]
    fn what_is_kept_stays_and_the_rest_completes_the_spread() {
        let nodeset = nodeset(&[0, 0, 0, 1], &[]);
        let replication = replication(2, &[(Scope::Rack, 2)]);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let chosen = draw(&nodeset, &replication, nodeset.all(), MemberSet::single(1), 2, &mut rng);
            assert_eq!(chosen, Some([1, 3].into_iter().collect()));
        }
        let without_rack_1 = nodeset.all().without(MemberSet::single(3));
        assert_eq!(draw(&nodeset, &replication, without_rack_1, MemberSet::EMPTY, 2, &mut rng), None);
    }

    #[test]
    fn a_run_lasts_until_it_is_spent_or_a_shard_drops_out() {
        let mut sticky = StickyCopyset::new(100, Duration::from_secs(1));
        let (ab, bc) = (MemberSet::first(2), [1, 2].into_iter().collect::<MemberSet>());
        let all = MemberSet::first(3);
        assert_eq!(sticky.next(Time::ZERO, 60, all, || Some(ab)), Some(ab));
        assert_eq!(sticky.next(Time::ZERO, 40, all, || None), Some(ab), "the run lasts");
        assert_eq!(sticky.next(Time::ZERO, 1, all, || Some(bc)), Some(bc), "spent");
        assert_eq!(sticky.next(Time::ZERO, 1, ab, || Some(ab)), Some(ab), "c dropped out");
        assert_eq!(sticky.next(Time::from_millis(1_000), 1, all, || Some(bc)), Some(bc), "too old");
    }

    proptest! {
        // Whenever some spread set exists, one is found.
        #[test]
        fn a_spread_set_is_found_if_there_is_one(
            racks in prop::collection::vec(0u8..4, 1..8), r in 1u8..5, count in 1u8..4, usable: u8, seed: u64,
        ) {
            let nodeset = nodeset(&racks, &[]);
            let replication = replication(r, &[(Scope::Node, r), (Scope::Rack, count.min(r))]);
            let usable: MemberSet = (0..racks.len()).filter(|m| usable >> m & 1 == 1).collect();
            let quorum = Quorum::new(&nodeset, &replication);
            let found = draw(&nodeset, &replication, usable, MemberSet::EMPTY, r.into(), &mut fastrand::Rng::with_seed(seed));
            if let Some(found) = found {
                prop_assert!(found.is_subset_of(usable) && found.len() == usize::from(r));
                prop_assert!(quorum.is_fully_replicated(found));
            } else {
                prop_assert!(!quorum.is_fully_replicated(usable), "{usable:?} of racks {racks:?}");
            }
        }
    }
}
