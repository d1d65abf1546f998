//! What tests of several modules begin with.

pub(crate) mod rig;

use std::sync::Arc;

use dlog_proto::{
    End, Epoch, EpochEntry, EpochTable, Esn, Incarnation, Location, LogOffset, Lsn, Member, NodeId, Nodeset,
    PartitionUid, ProcessId, QuorumConfig, Replication, ShardId,
};

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

/// A table of epochs 1 to `newest` on shards n1s0 to n3s0; `ends` of the first of them.
pub(crate) fn table(quorum: QuorumConfig, newest: u32, ends: &[u32]) -> EpochTable {
    let nodeset = Arc::new(nodeset(1..=3));
    let replication = Arc::new(Replication::new(quorum));
    let mut base = Some(0);
    let entry = |epoch: u32| {
        let end = ends.get(epoch as usize - 1).copied();
        let entry = EpochEntry {
            epoch: Epoch(epoch),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: nodeset.clone(),
            replication: replication.clone(),
            base_offset: base.map(LogOffset),
            end: end.map(|last| End { last_esn: Esn(last), authoritative: true }),
            activated_at: 0,
        };
        base = base.and_then(|base| Some(base + u64::from(end?)));
        entry
    };
    EpochTable {
        partition: PartitionUid(1),
        revision: 1,
        trim: Lsn::ZERO,
        covered: Epoch::ZERO,
        epochs: (1..=newest).map(entry).collect(),
    }
}
