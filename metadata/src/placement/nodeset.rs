//! The nodeset of a new epoch.
//!
//! Shards are taken one by one. While a scope that the log asks for spans too few domains, a shard of a new domain
//! there is preferred, largest scope first; then a shard of a domain that has too few members; then one on a node used
//! least; then the better draw. One domain more than asked for is aimed at, and in each as many members as make a
//! placement possible with the fewest domains: so the loss of a domain does not stop writes (LogDevice's rule, for
//! `count + 1` domains).
//!
//! Partitions fall into [`PLACEMENT_GROUPS`] groups, and those of a group draw alike. A cluster then has some thousand
//! different nodesets instead of one per partition: the metadata tier keeps each once, and fewer sets of disks hold all
//! copies of something.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use dlog_proto::{Location, Member, Nodeset, PartitionUid, Quorum, Replication, Scope};
use serde::{Deserialize, Serialize};

use super::draw::{SEED_NODESET, cost};

/// How many groups of partitions draw their nodesets alike.
pub const PLACEMENT_GROUPS: u64 = 4096;

/// Too few shards or domains for the copies that a log asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub struct NotEnough {
    /// What there is too little of; `None` for shards.
    pub scope: Option<Scope>,
    pub have: u32,
    pub need: u32,
}

impl std::fmt::Display for NotEnough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scope, have, need } = self;
        let what = scope.map_or("shard", Scope::name);
        write!(f, "{need} {what}s with writable disks are needed and there are {have}")
    }
}

/// How many shards a nodeset has where the log does not say: `2R + 1`, so that a whole copyset can be down and another
/// one still be found. LogDevice takes all shards; but recovery needs `N − W + 1` of them to answer, and that gets
/// harder with N.
pub fn default_nodeset_size(replication: &Replication) -> u8 {
    replication.quorum.replication_factor.saturating_mul(2).saturating_add(1)
}

/// Draws the nodeset of an epoch of `partition` from all shards that could take records. `size` is what the log asks
/// for; there may be fewer shards, but never less than its copies need.
pub fn choose_nodeset(
    partition: PartitionUid,
    shards: &[Member],
    replication: &Replication,
    size: Option<u8>,
) -> Result<Nodeset, NotEnough> {
    Ok(Pool::new(shards, replication)?.choose(placement_group(partition), size))
}

/// Whether `shards` can hold the copies that a log asks for.
pub(crate) fn check_enough(shards: &[Member], replication: &Replication) -> Result<(), NotEnough> {
    Pool::new(shards, replication).map(|_| ())
}

/// Partitions of a group have the same nodeset, as long as shards and attributes are the same.
pub(crate) fn placement_group(partition: PartitionUid) -> u64 {
    partition.0 % PLACEMENT_GROUPS
}

/// Shards enough for a replication, with what is the same for all groups worked out once.
pub(crate) struct Pool<'a> {
    candidates: Vec<Candidate<'a>>,
    /// The scopes asked for, largest first.
    scopes: Vec<Asked>,
    replication: Replication,
}

struct Candidate<'a> {
    member: &'a Member,
    /// The number of its domain in each asked scope.
    domains: Vec<usize>,
    node: usize,
}

struct Asked {
    scope: Scope,
    /// Over how many domains copies are spread.
    count: usize,
    /// How many domains there are.
    domains: usize,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(shards: &'a [Member], replication: &Replication) -> Result<Self, NotEnough> {
        let mut numbering: Vec<_> = replication.across.keys().rev().map(|scope| Numbering::new(*scope)).collect();
        let mut nodes = Numbering::new(Scope::Node);
        let candidate = |member: &'a Member| Candidate {
            member,
            domains: numbering.iter_mut().map(|numbers| numbers.number(member)).collect(),
            node: nodes.number(member),
        };
        let candidates: Vec<_> = shards.iter().filter(|m| m.weight > 0).map(candidate).collect();
        let asked = replication.across.iter().rev().zip(&numbering);
        let asked = asked.map(|((scope, count), numbers)| Asked {
            scope: *scope,
            count: usize::from(*count),
            domains: numbers.numbers.len(),
        });
        let pool = Self { candidates, scopes: asked.collect(), replication: replication.clone() };
        pool.check_enough()?;
        Ok(pool)
    }

    fn check_enough(&self) -> Result<(), NotEnough> {
        let not_enough = |scope, have: usize, need: usize| NotEnough { scope, have: have as u32, need: need as u32 };
        if let Some(short) = self.scopes.iter().find(|asked| asked.domains < asked.count) {
            return Err(not_enough(Some(short.scope), short.domains, short.count));
        }
        let (have, need) = (self.candidates.len(), self.replication.factor());
        if have < need { Err(not_enough(None, have, need)) } else { Ok(()) }
    }

    /// How many shards a nodeset has where a log asks for `size`.
    fn len(&self, size: Option<u8>) -> usize {
        let size = usize::from(size.unwrap_or_else(|| default_nodeset_size(&self.replication)));
        size.max(self.replication.factor()).min(self.len_max())
    }

    fn len_max(&self) -> usize {
        self.candidates.len().min(Nodeset::LEN_MAX)
    }

    pub(crate) fn choose(&self, group: u64, size: Option<u8>) -> Nodeset {
        let nodeset = self.pick(group, self.len(size));
        if Quorum::new(&nodeset, &self.replication).is_fully_replicated(nodeset.all()) {
            nodeset
        } else {
            // The size asked for is below what the scopes need.
            self.pick(group, self.len_max())
        }
    }

    fn pick(&self, group: u64, size: usize) -> Nodeset {
        let mut rest: Vec<&Candidate<'a>> = self.candidates.iter().collect();
        rest.sort_by_cached_key(|c| {
            (cost(SEED_NODESET, group, c.member.shard.to_u32(), c.member.weight), c.member.shard)
        });
        let mut use_counts = UseCounts::new(self);
        let mut picked = Vec::with_capacity(size);
        while picked.len() < size {
            // The first of the worthiest, for they are in the order of their draws.
            let best = (0..rest.len()).rev().max_by_key(|i| use_counts.worth(self, rest[*i]));
            let chosen = rest.remove(best.expect("size is at most the number of candidates"));
            use_counts.add(chosen);
            picked.push(chosen.member.clone());
        }
        Nodeset::new(picked).expect("1 to LEN_MAX different shards")
    }
}

/// How often domains and nodes are used by what was picked.
struct UseCounts {
    /// Per asked scope and domain.
    domains: Vec<Vec<usize>>,
    /// Per asked scope, domains in use.
    spanned: Vec<usize>,
    nodes: Vec<usize>,
}

impl UseCounts {
    fn new(pool: &Pool<'_>) -> Self {
        let domains = pool.scopes.iter().map(|asked| vec![0; asked.domains]).collect();
        Self { domains, spanned: vec![0; pool.scopes.len()], nodes: vec![0; pool.candidates.len()] }
    }

    /// More is better: new domains where they are wanted (the largest scope weighs most), then domains that are too
    /// thin, then nodes used less.
    fn worth(&self, pool: &Pool<'_>, candidate: &Candidate<'_>) -> (u32, bool, Reverse<usize>) {
        let mut new_domains = 0;
        for (s, asked) in pool.scopes.iter().enumerate() {
            let wanted = self.spanned[s] < asked.domains.min(asked.count + 1);
            new_domains = new_domains << 1 | u32::from(wanted && self.domains[s][candidate.domains[s]] == 0);
        }
        let is_thin = pool.scopes.first().is_some_and(|largest| {
            let members_min = pool.replication.factor() + 1 - largest.count;
            (1..members_min).contains(&self.domains[0][candidate.domains[0]])
        });
        (new_domains, is_thin, Reverse(self.nodes[candidate.node]))
    }

    fn add(&mut self, candidate: &Candidate<'_>) {
        for (s, domain) in candidate.domains.iter().enumerate() {
            self.spanned[s] += usize::from(self.domains[s][*domain] == 0);
            self.domains[s][*domain] += 1;
        }
        self.nodes[candidate.node] += 1;
    }
}

/// Numbers the domains of a scope in the order in which they are first seen.
struct Numbering {
    scope: Scope,
    numbers: BTreeMap<Vec<String>, usize>,
}

impl Numbering {
    fn new(scope: Scope) -> Self {
        Self { scope, numbers: BTreeMap::new() }
    }

    fn number(&mut self, member: &Member) -> usize {
        let domain = match self.scope {
            Scope::Node => vec![member.shard.node.to_string()],
            scope => domain(&member.location, scope),
        };
        let next = self.numbers.len();
        *self.numbers.entry(domain).or_insert(next)
    }
}

/// As in [`Nodeset`]: a domain is told by its label and those of all around it; places without a label are one domain.
fn domain(location: &Location, scope: Scope) -> Vec<String> {
    if location.label(scope).is_none() {
        return Vec::new();
    }
    let around = Scope::ALL.into_iter().filter(|s| *s >= scope);
    around.map(|s| location.label(s).unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Incarnation, QuorumConfig, ShardId};

    use super::*;

    /// Nodes 1.. with a shard each, in racks as given.
    fn shards(racks: &[u16]) -> Vec<Member> {
        let member = |(i, rack): (usize, &u16)| Member {
            shard: ShardId::new(i as u16 + 1, 0),
            incarnation: Incarnation(1),
            location: format!("rack=r{rack}").parse().unwrap(),
            weight: 1,
        };
        racks.iter().enumerate().map(member).collect()
    }

    fn replication(factor: u8, racks: Option<u8>) -> Replication {
        let mut replication = Replication::new(QuorumConfig::majority(factor));
        replication.across.extend(racks.map(|count| (Scope::Rack, count)));
        replication
    }

    fn uids() -> impl Iterator<Item = PartitionUid> {
        (1..=PLACEMENT_GROUPS).map(PartitionUid)
    }

    #[test]
    fn a_small_cluster_is_one_nodeset() {
        let (shards, replication) = (shards(&[0, 0, 0]), replication(3, None));
        for uid in uids().take(100) {
            assert_eq!(choose_nodeset(uid, &shards, &replication, None).unwrap().len(), 3);
        }
    }

    #[test]
    fn shards_get_their_share() {
        let (mut shards, replication) = (shards(&[0; 20]), replication(3, None));
        shards[0].weight = 2;
        let mut counts = vec![0u32; 21];
        for uid in uids() {
            let nodeset = choose_nodeset(uid, &shards, &replication, Some(4)).unwrap();
            assert_eq!(nodeset.len(), 4);
            nodeset.members().iter().for_each(|m| counts[usize::from(m.shard.node.0)] += 1);
        }
        let share = PLACEMENT_GROUPS as u32 * 4 / 21;
        assert!(counts[2..].iter().all(|count| count.abs_diff(share) < share / 8), "{counts:?}");
        assert!(counts[1] > share * 17 / 10, "twice the weight: {counts:?}");
    }

    #[test]
    fn little_moves_when_a_node_goes_or_comes() {
        let (all, replication) = (shards(&[0; 20]), replication(3, None));
        for uid in uids().take(1000) {
            let choose = |shards| choose_nodeset(uid, shards, &replication, Some(5)).unwrap();
            let (with, without) = (choose(&all), choose(&all[..19]));
            let kept = with.members().iter().filter(|m| without.index_of(m.shard).is_some()).count();
            assert_eq!(kept, 5 - usize::from(with.index_of(ShardId::new(20, 0)).is_some()));
        }
    }

    #[test]
    fn racks_are_spread_so_that_one_can_be_lost() {
        let (shards, replication) = (shards(&[1, 1, 1, 1, 2, 2, 2, 3, 3, 3]), replication(3, Some(2)));
        for uid in uids().take(500) {
            let nodeset = choose_nodeset(uid, &shards, &replication, None).unwrap();
            assert_eq!((nodeset.len(), nodeset.domain_count(Scope::Rack)), (7, 3));
            for rack in 0..3 {
                let left = (0..7).filter(|m| nodeset.domain_of(Scope::Rack, *m) != rack).collect();
                assert!(
                    Quorum::new(&nodeset, &replication).is_fully_replicated(left),
                    "all copies without rack {rack}"
                );
            }
        }
    }

    #[test]
    fn nodes_come_before_a_nodes_second_shard() {
        let mut all = shards(&[0; 4]);
        all.extend(shards(&[0; 4]).into_iter().map(|m| Member { shard: ShardId::new(m.shard.node.0, 1), ..m }));
        for uid in uids().take(200) {
            let nodeset = choose_nodeset(uid, &all, &replication(2, None), Some(4)).unwrap();
            assert_eq!(nodeset.domain_count(Scope::Node), 4);
        }
        assert_eq!(choose_nodeset(PartitionUid(1), &all, &replication(3, None), Some(100)).unwrap().len(), 8);
    }

    #[test]
    fn a_size_below_what_the_copies_need_is_raised() {
        let shards = shards(&[1, 2, 3, 4]);
        let nodeset = choose_nodeset(PartitionUid(1), &shards, &replication(3, Some(3)), Some(1)).unwrap();
        assert_eq!((nodeset.len(), nodeset.domain_count(Scope::Rack)), (3, 3));
    }

    #[test]
    fn too_few_is_said_in_numbers() {
        let short = |racks: &[u16], replication| {
            choose_nodeset(PartitionUid(1), &shards(racks), &replication, None).unwrap_err().to_string()
        };
        let expected = "3 nodes with writable disks are needed and there are 2";
        assert_eq!(short(&[1, 2], replication(3, None)), expected);
        let expected = "2 racks with writable disks are needed and there are 1";
        assert_eq!(short(&[1, 1, 1], replication(3, Some(2))), expected);
        let mut loose = replication(3, None);
        loose.across.clear();
        assert_eq!(short(&[1, 2], loose), "3 shards with writable disks are needed and there are 2");
        assert_eq!(short(&[], replication(1, None)), "1 nodes with writable disks are needed and there are 0");
    }

    #[test]
    fn results_are_pinned() {
        let shards = shards(&[0; 12]);
        let nodes = |uid| {
            let nodeset = choose_nodeset(PartitionUid(uid), &shards, &replication(1, None), None).unwrap();
            nodeset.members().iter().map(|m| m.shard.node.0).collect::<Vec<_>>()
        };
        assert_eq!((1..=4).map(nodes).collect::<Vec<_>>(), PINNED);
    }

    const PINNED: [[u16; 3]; 4] = [[4, 7, 12], [1, 4, 9], [1, 3, 8], [1, 9, 10]];
}
