//! Who should sequence a partition: the same answer everywhere, from the same state and liveness.

use std::collections::BTreeMap;

use dlog_proto::wire::Liveness;
use dlog_proto::{NodeId, PartitionUid, ProcessId};

use super::sequencer_for;
use crate::state::State;

/// Who lives and may sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    /// Processes that live and are not about to stop.
    staying: BTreeMap<NodeId, ProcessId>,
    weighted: Vec<(NodeId, u16)>,
}

impl Candidates {
    pub fn new(state: &State, liveness: &Liveness) -> Self {
        let stays = |alive: &&dlog_proto::wire::AliveNode| !alive.stopping;
        let staying: BTreeMap<NodeId, ProcessId> =
            liveness.alive.iter().filter(stays).map(|alive| (alive.node, alive.process)).collect();
        let sequences = |(node, info): (NodeId, &std::sync::Arc<crate::state::NodeInfo>)| {
            let lives = staying.get(&node) == Some(&info.process);
            (lives && info.roles.sequencer && info.weight > 0).then_some((node, info.weight))
        };
        let weighted = state.nodes().filter_map(sequences).collect();
        Self { staying, weighted }
    }

    /// The node that should sequence `partition`: whoever does, as long as its process lives and stays (a partition does not move
    /// without need); else the one that rendezvous hashing draws among those who may. `None` if nobody may.
    pub fn assign(&self, state: &State, partition: PartitionUid) -> Option<NodeId> {
        let newest = state.partition(partition)?.newest();
        let stays = newest.filter(|(_, node, process)| self.staying.get(node) == Some(process));
        match stays {
            Some((_, node, _)) => Some(node),
            None => sequencer_for(partition, &self.weighted),
        }
    }
}
