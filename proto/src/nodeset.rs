//! Nodesets: the shards from which an epoch's copysets are drawn, and where they stand.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, ParseError, ShardId, ShardRef};

/// A level of the machine park whose loss a log may ask to survive, from small to large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Node,
    Rack,
    Row,
    Datacenter,
    Region,
}

impl Scope {
    pub const ALL: [Self; 5] = [Self::Node, Self::Rack, Self::Row, Self::Datacenter, Self::Region];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Row => "row",
            Self::Datacenter => "datacenter",
            Self::Region => "region",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == s)
            .ok_or_else(|| ParseError::new(s, "a scope (node, rack, row, datacenter or region)"))
    }
}

/// Where a node stands: a label per scope above the node. Written `region=eu,datacenter=fra1,rack=r7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Location(BTreeMap<Scope, String>);

impl Location {
    pub fn label(&self, scope: Scope) -> Option<&str> {
        self.0.get(&scope).map(String::as_str)
    }

    /// Names the domain of `scope` that this place is in: its label and those of everything around it, because a rack
    /// `r1` of one datacenter is not the rack `r1` of another. `None` if the place has no label there.
    fn domain(&self, scope: Scope) -> Option<Vec<String>> {
        self.label(scope)?;
        let around = Scope::ALL.into_iter().filter(|s| *s >= scope);
        Some(around.map(|s| self.label(s).unwrap_or_default().to_owned()).collect())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (scope, label)) in self.0.iter().rev().enumerate() {
            write!(f, "{}{scope}={label}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Location {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let err = || ParseError::new(s, "a location such as region=eu,datacenter=fra1,rack=r7");
        let mut labels = BTreeMap::new();
        for part in s.split(',').filter(|part| !part.is_empty()) {
            let (scope, label) = part.split_once('=').ok_or_else(err)?;
            let scope: Scope = scope.trim().parse()?;
            let label = label.trim();
            let new = scope != Scope::Node && !label.is_empty() && labels.insert(scope, label.to_owned()).is_none();
            if !new || label.len() > 64 {
                return Err(err());
            }
        }
        Ok(Self(labels))
    }
}

/// One shard of a nodeset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub shard: ShardId,
    /// The disk that is meant: another incarnation of the same shard is not a member.
    pub incarnation: Incarnation,
    pub location: Location,
    /// Share of the records it should get, relative to the others; 0 takes none.
    pub weight: u16,
}

impl Member {
    pub fn shard_ref(&self) -> ShardRef {
        ShardRef { shard: self.shard, incarnation: self.incarnation }
    }
}

/// The shards from which an epoch's copysets are drawn; at most [`Nodeset::LEN_MAX`], ordered by shard id, each once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Member>", into = "Vec<Member>")]
pub struct Nodeset {
    members: Vec<Member>,
    /// Per scope, the number of the domain that each member is in.
    domains: [Vec<u8>; Scope::ALL.len()],
    /// Per scope, how many domains there are.
    domain_counts: [u8; Scope::ALL.len()],
}

/// Why shards cannot be a nodeset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesetError {
    #[error("a nodeset has 1 to {max} shards, not {0}", max = Nodeset::LEN_MAX)]
    Len(usize),
    #[error("a nodeset names each shard once, but {0} stands in it twice")]
    Duplicate(ShardId),
}

impl Nodeset {
    /// A member is a bit of a [`MemberSet`] and an index of 7 bits; LogDevice has the same limit in spirit (nodesets beyond
    /// some tens of shards only cost).
    pub const LEN_MAX: usize = 127;

    pub fn new(mut members: Vec<Member>) -> Result<Self, NodesetError> {
        if members.is_empty() || members.len() > Self::LEN_MAX {
            return Err(NodesetError::Len(members.len()));
        }
        members.sort_by_key(|m| m.shard);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].shard == pair[1].shard) {
            return Err(NodesetError::Duplicate(pair[0].shard));
        }
        let numbered = Scope::ALL.map(|scope| number_domains(&members, scope));
        let domain_counts = [0, 1, 2, 3, 4].map(|s| numbered[s].iter().max().map_or(0, |max| max + 1));
        Ok(Self { members, domains: numbered, domain_counts })
    }

    #[expect(clippy::len_without_is_empty, reason = "a nodeset is never empty")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The shard at `index`, and the disk that is meant.
    pub fn shard_ref(&self, index: usize) -> ShardRef {
        self.members[index].shard_ref()
    }

    /// Where exactly this shard stands, with this disk.
    pub fn index_of_ref(&self, shard: ShardRef) -> Option<usize> {
        self.index_of(shard.shard).filter(|index| self.shard_ref(*index) == shard)
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Where `shard` stands in this nodeset.
    pub fn index_of(&self, shard: ShardId) -> Option<usize> {
        self.members.binary_search_by_key(&shard, |m| m.shard).ok()
    }

    pub fn all(&self) -> MemberSet {
        MemberSet::first(self.members.len())
    }

    /// The set of those of `shards` that are members.
    pub fn set_of(&self, shards: impl IntoIterator<Item = ShardId>) -> MemberSet {
        shards.into_iter().filter_map(|shard| self.index_of(shard)).collect()
    }

    pub fn domain_count(&self, scope: Scope) -> usize {
        self.domain_counts[scope as usize].into()
    }

    /// The number of the domain of `scope` that a member is in, below [`Self::domain_count`].
    pub fn domain_of(&self, scope: Scope, member: usize) -> usize {
        self.domains[scope as usize][member].into()
    }

    /// How many domains of `scope` have a member in `set`.
    pub fn domains_spanned(&self, scope: Scope, set: MemberSet) -> usize {
        set.iter().fold(0u128, |seen, member| seen | 1 << self.domain_of(scope, member)).count_ones() as usize
    }
}

/// Numbers the domains of a scope in the order in which members first show them.
fn number_domains(members: &[Member], scope: Scope) -> Vec<u8> {
    let mut numbers = BTreeMap::new();
    let mut number = |member: &Member| {
        // Shards without a label are one domain together: nothing is promised that labels do not show.
        let domain = match scope {
            Scope::Node => vec![member.shard.node.to_string()],
            _ => member.location.domain(scope).unwrap_or_default(),
        };
        // At most LEN_MAX members, so at most LEN_MAX domains.
        let next = numbers.len() as u8;
        *numbers.entry(domain).or_insert(next)
    };
    members.iter().map(&mut number).collect()
}

impl TryFrom<Vec<Member>> for Nodeset {
    type Error = NodesetError;
    fn try_from(members: Vec<Member>) -> Result<Self, NodesetError> {
        Self::new(members)
    }
}

impl From<Nodeset> for Vec<Member> {
    fn from(nodeset: Nodeset) -> Self {
        nodeset.members
    }
}

/// A set of members of one nodeset, by their index in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MemberSet(u128);

impl MemberSet {
    pub const EMPTY: Self = Self(0);

    /// The members 0 to `len − 1`.
    pub const fn first(len: usize) -> Self {
        assert!(len <= Nodeset::LEN_MAX, "a nodeset has at most LEN_MAX members");
        Self((1 << len) - 1)
    }

    pub const fn single(member: usize) -> Self {
        assert!(member < Nodeset::LEN_MAX, "a nodeset has at most LEN_MAX members");
        Self(1 << member)
    }

    pub const fn contains(self, member: usize) -> bool {
        member < Nodeset::LEN_MAX && self.0 >> member & 1 == 1
    }

    pub const fn insert(&mut self, member: usize) {
        self.0 |= Self::single(member).0;
    }

    pub const fn remove(&mut self, member: usize) {
        self.0 &= !Self::single(member).0;
    }

    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in `self` and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let member = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                member
            })
        })
    }
}

impl FromIterator<usize> for MemberSet {
    fn from_iter<I: IntoIterator<Item = usize>>(members: I) -> Self {
        members.into_iter().fold(Self::EMPTY, |set, member| set.union(Self::single(member)))
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u16, shard: u16, location: &str) -> Member {
        let location = location.parse().unwrap();
        Member { shard: ShardId::new(node, shard), incarnation: Incarnation(1), location, weight: 1 }
    }

    #[test]
    fn domains_are_told_apart_by_all_that_is_around_them() {
        let nodeset = Nodeset::new(vec![
            member(2, 0, "datacenter=a,rack=r1"),
            member(1, 0, "datacenter=a,rack=r1"),
            member(3, 0, "datacenter=b,rack=r1"),
            member(1, 1, "datacenter=a,rack=r1"),
            member(4, 0, ""),
        ])
        .unwrap();
        assert_eq!(nodeset.member(0).shard, ShardId::new(1, 0), "ordered by shard");
        assert_eq!(nodeset.domain_count(Scope::Node), 4);
        assert_eq!(nodeset.domain_count(Scope::Rack), 3, "a/r1, b/r1 and the one without a label");
        assert_eq!(nodeset.domain_count(Scope::Region), 1, "no labels: one domain");
        assert_eq!(nodeset.domains_spanned(Scope::Node, nodeset.set_of([ShardId::new(1, 0), ShardId::new(1, 1)])), 1);
        assert_eq!(nodeset.domains_spanned(Scope::Rack, nodeset.all()), 3);
    }

    #[test]
    fn bad_nodesets_and_locations_are_refused() {
        assert_eq!(Nodeset::new(vec![]), Err(NodesetError::Len(0)));
        let twice = vec![member(1, 0, ""), member(1, 0, "rack=x")];
        assert_eq!(Nodeset::new(twice), Err(NodesetError::Duplicate(ShardId::new(1, 0))));
        for bad in ["rack", "rack=", "node=x", "planet=earth", "rack=a,rack=b"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
        let location: Location = "rack=r7,region=eu".parse().unwrap();
        assert_eq!(location.to_string(), "region=eu,rack=r7");
    }

    #[test]
    fn member_sets_are_sets() {
        let mut set: MemberSet = [1, 5, 126].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 5, 126]);
        set.remove(5);
        assert!(!set.contains(5) && set.contains(126) && !set.contains(500));
        assert!(set.is_subset_of(MemberSet::first(127)));
        assert_eq!(MemberSet::first(3).without(MemberSet::single(1)).len(), 2);
    }
}
