//! What tests of several modules begin with.

use dlog_proto::{Incarnation, Location, Member, Nodeset, ShardId};

/// The first shards of these nodes, nowhere in particular.
pub(crate) fn nodeset(nodes: impl IntoIterator<Item = u16>) -> Nodeset {
    let member = |node| Member {
        shard: ShardId::new(node, 0),
        incarnation: Incarnation(1),
        location: Location::default(),
        weight: 1,
    };
    Nodeset::new(nodes.into_iter().map(member).collect()).expect("different shards")
}
