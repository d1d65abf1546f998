//! Which replica a consumer should read from: one in its own rack (KIP-392).

use dlog_proto::{NodeId, PartitionUid};
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;

use crate::broker::Broker;
use crate::cluster::Cluster;

/// First version with the consumer's rack in the request and the preferred replica in the answer. Older consumers read
/// from leaders only.
const READS_REPLICAS: i16 = 11;

/// Who fetches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    /// Whether it may be served by a replica that does not lead.
    pub(crate) reads_replicas: bool,
    rack: Option<StrBytes>,
}

impl Asker {
    pub(crate) fn of(version: i16, request: &FetchRequest) -> Self {
        // Brokers say who they are, in one place or, from version 15 on, the other. Nobody here does, and whoever did would
        // not know what a preferred replica is.
        let is_consumer = request.replica_id.0 < 0 && request.replica_state.replica_id.0 < 0;
        let reads_replicas = version >= READS_REPLICAS && is_consumer;
        let rack = Some(request.rack_id.clone()).filter(|rack| reads_replicas && !rack.is_empty());
        Self { reads_replicas, rack }
    }

    pub(crate) fn has_rack(&self) -> bool {
        self.rack.is_some()
    }

    /// The replica that it should read from instead of this node, which leads; `None` if this node is as good as any. One
    /// that does not live, or that its sequencer cannot store on, is never named: it would not hear what is released.
    pub(crate) async fn preferred(
        &self,
        cluster: &Cluster,
        broker: &dyn Broker,
        partition: PartitionUid,
    ) -> Option<NodeId> {
        let mut replicas = self.nearer(cluster, broker.node(), partition);
        if !replicas.is_empty() {
            let usable = broker.usable_nodes(partition).await;
            replicas.retain(|node| usable.contains(node));
        }
        choose(partition, replicas)
    }

    /// The replicas in its rack, unless the leader is there too.
    fn nearer(&self, cluster: &Cluster, leader: NodeId, partition: PartitionUid) -> Vec<NodeId> {
        let Some(rack) = self.rack.as_deref().filter(|rack| cluster.rack(leader) != Some(*rack)) else {
            return Vec::new();
        };
        let mut replicas = cluster.replicas(partition).in_sync;
        replicas.retain(|node| *node != leader && cluster.rack(*node) == Some(rack));
        replicas
    }
}

/// The same one each time, as long as the replicas are the same; partitions are spread over them.
fn choose(partition: PartitionUid, mut replicas: Vec<NodeId>) -> Option<NodeId> {
    replicas.sort_unstable();
    let turn = partition.0.checked_rem(replicas.len() as u64)?;
    replicas.get(turn as usize).copied()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;

    use super::*;

    #[test]
    fn partitions_are_spread_over_the_replicas_of_a_rack() {
        let nodes = |all: &[u16]| all.iter().copied().map(NodeId).collect::<Vec<_>>();
        let chosen = |partition, all: &[u16]| choose(PartitionUid(partition), nodes(all)).map(|node| node.0);
        assert_eq!((chosen(0, &[5, 2]), chosen(1, &[5, 2]), chosen(2, &[5, 2])), (Some(2), Some(5), Some(2)));
        assert_eq!(chosen(1, &[2, 5]), chosen(1, &[5, 2]), "whatever the order");
        assert_eq!((chosen(7, &[3]), chosen(7, &[])), (Some(3), None));
    }

    #[test]
    fn only_consumers_that_know_of_it_are_sent_to_replicas() {
        let mut request = FetchRequest::default();
        request.rack_id = StrBytes::from_static_str("r1");
        assert_eq!(Asker::of(11, &request).rack.as_deref(), Some("r1"));
        let old = Asker::of(10, &request);
        assert!(!old.reads_replicas && old.rack.is_none());
        let mut follower = request.clone();
        follower.replica_id = BrokerId(2);
        assert!(!Asker::of(11, &follower).reads_replicas && Asker::of(11, &follower).rack.is_none());
        let mut follower = request.clone();
        follower.replica_state.replica_id = BrokerId(2);
        assert!(!Asker::of(15, &follower).reads_replicas);
        request.rack_id = StrBytes::default();
        let without = Asker::of(17, &request);
        assert!(without.reads_replicas && without.rack.is_none(), "no rack is not the empty rack");
    }
}
