//! Who sequences a partition, and which shards keep it: pure functions of what is given, the same on every node.
//!
//! Both use weighted rendezvous hashing. Each candidate draws a number from (what is placed, candidate), the weight
//! bends the draw, the best draw wins. When a candidate comes or goes, only what it wins or held moves.
//!
//! The state machine calls [`choose_nodeset`] while it applies commands, so every replica must come to the same result
//! for ever: all arithmetic is on integers, and the tests pin results. To change a function here is to make replicas of
//! different versions disagree; a new rule needs a new command.

mod assign;
mod draw;
mod nodeset;

use dlog_proto::{NodeId, PartitionUid};

pub use assign::Candidates;
pub use nodeset::{NotEnough, PLACEMENT_GROUPS, choose_nodeset, default_nodeset_size};

pub(crate) use nodeset::{Pool, check_enough, placement_group};

use draw::{SEED_SEQUENCER, cost};

/// The node that should sequence a partition, out of candidates with their weights; those of weight 0 are passed over.
///
/// ```
/// use dlog_metadata::placement::sequencer_for;
/// use dlog_proto::{NodeId, PartitionUid};
/// assert_eq!(sequencer_for(PartitionUid(7), &[(NodeId(1), 1), (NodeId(2), 0)]), Some(NodeId(1)));
/// assert_eq!(sequencer_for(PartitionUid(7), &[]), None);
/// ```
pub fn sequencer_for(partition: PartitionUid, candidates: &[(NodeId, u16)]) -> Option<NodeId> {
    let draw = |(node, weight): &(NodeId, u16)| (cost(SEED_SEQUENCER, partition.0, node.0.into(), *weight), *node);
    candidates.iter().filter(|(_, weight)| *weight > 0).map(draw).min().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn nodes(weights: &[u16]) -> Vec<(NodeId, u16)> {
        weights.iter().enumerate().map(|(i, weight)| (NodeId(i as u16 + 1), *weight)).collect()
    }

    fn counts(candidates: &[(NodeId, u16)]) -> BTreeMap<NodeId, u32> {
        let mut counts = BTreeMap::new();
        for uid in 1..=20_000 {
            *counts.entry(sequencer_for(PartitionUid(uid), candidates).unwrap()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn partitions_are_shared_out_by_weight() {
        let counts = counts(&nodes(&[1, 1, 2, 4, 0]));
        for (node, share) in [(1, 2500), (2, 2500), (3, 5000), (4, 10_000)] {
            let got = counts[&NodeId(node)];
            assert!(got.abs_diff(share) < share / 20, "n{node}: {got} of {share}");
        }
        assert!(!counts.contains_key(&NodeId(5)));
    }

    #[test]
    fn only_what_a_node_held_moves_when_it_goes() {
        let (all, rest) = (nodes(&[1; 10]), nodes(&[1; 9]));
        for uid in (1..5000).map(PartitionUid) {
            let before = sequencer_for(uid, &all).unwrap();
            assert!(before == NodeId(10) || sequencer_for(uid, &rest) == Some(before));
        }
    }

    #[test]
    fn the_order_of_candidates_does_not_matter_and_results_are_pinned() {
        let mut candidates = nodes(&[1, 1, 1]);
        let first: Vec<u16> = (1..=16).map(|uid| sequencer_for(PartitionUid(uid), &candidates).unwrap().0).collect();
        candidates.reverse();
        let second: Vec<u16> = (1..=16).map(|uid| sequencer_for(PartitionUid(uid), &candidates).unwrap().0).collect();
        assert_eq!(first, second);
        assert_eq!(first, PINNED);
    }

    const PINNED: [u16; 16] = [2, 2, 2, 1, 2, 2, 3, 3, 1, 1, 3, 2, 1, 1, 1, 2];
}
