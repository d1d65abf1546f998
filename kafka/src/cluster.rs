//! The metadata tier's state in Kafka's words: brokers, topics, leaders, replicas, offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dlog_metadata::state::{LogInfo, LogUid, NodeInfo, ShardState, State, topic_of};
use dlog_proto::transport::HostPort;
use dlog_proto::{ClusterId, EpochTable, LogId, LogOffset, NodeId, PartitionUid, ProcessId, Scope};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::broker::Broker;

/// The namespace of logs that are not for users.
pub(crate) const INTERNAL_NAMESPACE: &str = "__dlog";

/// The cluster at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) view: Arc<State>,
    alive: BTreeMap<NodeId, ProcessId>,
}

/// A node, as clients reach it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) node: NodeId,
    pub(crate) host: StrBytes,
    pub(crate) port: u16,
    pub(crate) rack: Option<StrBytes>,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// `None` while nobody does.
    pub(crate) node: Option<NodeId>,
    /// Of the newest epoch, whoever has it; −1 before the first.
    pub(crate) epoch: i32,
}

/// Where a partition's copies are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) all: Vec<NodeId>,
    pub(crate) in_sync: Vec<NodeId>,
    pub(crate) offline: Vec<NodeId>,
}

impl Cluster {
    pub(crate) fn of(broker: &dyn Broker) -> Self {
        let alive = broker.liveness().alive;
        let alive = alive.iter().map(|alive| (alive.node, alive.process)).collect();
        Self { view: broker.view(), alive }
    }

    /// As it is when nobody lives.
    #[cfg(test)]
    pub(crate) fn deserted(view: State) -> Self {
        Self { view: Arc::new(view), alive: BTreeMap::new() }
    }

    fn is_alive(&self, node: NodeId, info: &NodeInfo) -> bool {
        self.alive.get(&node) == Some(&info.process)
    }

    /// The nodes that live and where they are.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let alive = self.view.nodes().filter(|(node, info)| self.is_alive(*node, info));
        alive.filter_map(|(node, info)| endpoint(node, info)).collect()
    }

    pub(crate) fn endpoint(&self, node: NodeId) -> Option<Endpoint> {
        let info = self.view.node(node).filter(|info| self.is_alive(node, info))?;
        endpoint(node, info)
    }

    /// The rack of a node that lives, if it has one.
    pub(crate) fn rack(&self, node: NodeId) -> Option<&str> {
        let info = self.view.node(node).filter(|info| self.is_alive(node, info))?;
        info.location.label(Scope::Rack)
    }

    /// Any node can do what Kafka's controller does; all of them name the same one.
    pub(crate) fn controller(&self) -> Option<NodeId> {
        self.endpoints().first().map(|endpoint| endpoint.node)
    }

    /// How many nodes could hold copies.
    pub(crate) fn storage_nodes(&self) -> usize {
        let nodes: BTreeSet<NodeId> = self.view.writable_shards().iter().map(|member| member.shard.node).collect();
        nodes.len()
    }

    pub(crate) fn id(&self) -> StrBytes {
        StrBytes::from_string(self.view.cluster().map(|cluster| cluster_id(cluster.id)).unwrap_or_default())
    }

    /// A topic by its name; internal logs are none.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<LogInfo>> {
        let log = self.view.log_of_topic(name).filter(|log| log.namespace() != INTERNAL_NAMESPACE)?;
        self.view.log(&log).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<Arc<LogInfo>> {
        let uid = log_uid(self.view.cluster()?.id, id)?;
        self.view.log_by_uid(uid).filter(|info| info.log.namespace() != INTERNAL_NAMESPACE).cloned()
    }

    pub(crate) fn topic_id(&self, topic: &LogInfo) -> Uuid {
        self.view.cluster().map_or(Uuid::nil(), |cluster| topic_id(cluster.id, topic.uid))
    }

    /// All topics by name.
    pub(crate) fn topics(&self) -> Vec<Arc<LogInfo>> {
        let public = |info: &&Arc<LogInfo>| info.log.namespace() != INTERNAL_NAMESPACE;
        self.view.logs(None).filter(public).cloned().collect()
    }

    /// The log that a new topic would be. `None` if it cannot be one.
    pub(crate) fn log_for_topic(&self, name: &str) -> Option<LogId> {
        let is_internal = |log: &LogId| {
            log.namespace() == INTERNAL_NAMESPACE
                || log.name().strip_prefix(INTERNAL_NAMESPACE).is_some_and(|rest| rest.starts_with('.'))
        };
        self.view.log_for_topic(name).filter(|log| !is_internal(log))
    }

    pub(crate) fn leader(&self, partition: PartitionUid) -> Leader {
        let newest = self.view.partition(partition).and_then(|partition| partition.newest());
        let Some((epoch, node, process)) = newest else { return Leader { node: None, epoch: -1 } };
        let leads = self.alive.get(&node) == Some(&process);
        Leader { node: leads.then_some(node), epoch: epoch.0 as i32 }
    }

    /// The nodes of the newest epoch's nodeset. Before the first epoch: those it would be drawn from.
    pub(crate) fn replicas(&self, partition: PartitionUid) -> Replicas {
        let table = self.view.table(partition);
        let newest = table.as_ref().and_then(EpochTable::newest);
        let members = match newest {
            Some(newest) => newest.nodeset.members().to_vec(),
            None => self.view.writable_shards(),
        };
        let mut replicas = Replicas::default();
        for member in members {
            let node = member.shard.node;
            if replicas.all.last() == Some(&node) || replicas.all.contains(&node) {
                continue;
            }
            let info = self.view.node(node).filter(|info| self.is_alive(node, info));
            let takes = info.is_some_and(|info| {
                info.shards
                    .get(&member.shard.shard)
                    .is_some_and(|shard| shard.state == ShardState::Enabled && shard.served)
            });
            replicas.all.push(node);
            match info {
                Some(_) if takes => replicas.in_sync.push(node),
                Some(_) => {}
                None => replicas.offline.push(node),
            }
        }
        // Tools expect a replica in sync that leads; with all shards away there is none, and no leader can append.
        replicas
    }
}

fn endpoint(node: NodeId, info: &NodeInfo) -> Option<Endpoint> {
    let address: HostPort = info.address.parse().ok()?;
    let rack = info.location.label(Scope::Rack).map(|rack| StrBytes::from_string(rack.to_owned()));
    Some(Endpoint { node, host: StrBytes::from_string(address.host().to_owned()), port: address.port(), rack })
}

pub(crate) fn topic_name(info: &LogInfo) -> StrBytes {
    StrBytes::from_string(topic_of(&info.log))
}

/// Whether Kafka takes this for a topic's name.
pub(crate) fn is_legal_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

/// Kafka's form of a cluster's id: 22 characters of URL-safe base64.
fn cluster_id(id: ClusterId) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits and four of padding: 22 digits of six.
    let digit = |i: u32| {
        let shift = 122 - 6 * i as i32;
        let bits = if shift >= 0 { id.0 >> shift } else { id.0 << -shift };
        char::from(DIGITS[(bits & 63) as usize])
    };
    (0..22).map(digit).collect()
}

const VERSION_4: u64 = 0x4000;
const VARIANT: u64 = 1 << 63;
/// What the variant's two bits leave of a log's number. Logs are numbered from 1.
const UID_BITS: u64 = (1 << 62) - 1;

/// A topic's id: a version 4 UUID made of the cluster's id and the log's number, so that it needs no table.
fn topic_id(cluster: ClusterId, log: LogUid) -> Uuid {
    Uuid::from_u64_pair(id_high(cluster), VARIANT | log.0 & UID_BITS)
}

fn id_high(cluster: ClusterId) -> u64 {
    (cluster.0 >> 64) as u64 & !0xf000 | VERSION_4
}

fn log_uid(cluster: ClusterId, id: Uuid) -> Option<LogUid> {
    let (high, low) = id.as_u64_pair();
    (high == id_high(cluster) && low & !UID_BITS == VARIANT).then_some(LogUid(low & UID_BITS))
}

/// The offset of the first record that can be read.
pub(crate) fn log_start(table: &EpochTable) -> LogOffset {
    table.offset_of(table.oldest()).unwrap_or(LogOffset(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_what_kafka_prints() {
        // base64url of the bytes 00 01 02 … 0f, without padding.
        let id = ClusterId(u128::from_be_bytes(std::array::from_fn(|i| i as u8)));
        assert_eq!(cluster_id(id), "AAECAwQFBgcICQoLDA0ODw");
        assert_eq!(cluster_id(ClusterId(u128::MAX)), "_____________________w");
    }

    #[test]
    fn topic_ids_lead_back_to_their_logs() {
        let cluster = ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        for uid in [1, 77, UID_BITS] {
            let id = topic_id(cluster, LogUid(uid));
            assert_eq!(log_uid(cluster, id), Some(LogUid(uid)));
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(log_uid(ClusterId(!cluster.0), id), None, "of another cluster");
        }
        assert_eq!(log_uid(cluster, Uuid::nil()), None);
    }

    #[test]
    fn names_are_checked_as_kafka_does() {
        assert!(["a", "a.b_c-9", &"x".repeat(249)].iter().all(|name| is_legal_name(name)));
        assert!(["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)].iter().all(|name| !is_legal_name(name)));
    }
}
