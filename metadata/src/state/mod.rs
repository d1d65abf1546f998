//! The state machine of the metadata tier: a pure core. No IO, clock, task, random number or global; what comes out
//! depends on nothing but the commands and their order, so that every replica is the same.
//!
//! ```text
//! Command ──► State::apply(revision, request, command) ──► Response
//!                   │
//!                   └─► take_changes(): what is not as it was
//! ```
//!
//! A clone is cheap (`shared_map`), so whoever reads holds a state of its own that nobody changes.
//!
//! Invariants stand where they are kept and are checked by [`State::check_invariants`]:
//! - INV-EPOCH-*: `partition`
//! - INV-INCARNATION: `nodes`
//! - INV-TOPIC: `names`
//! - INV-UR-RANGES: `under_replicated`
//! - INV-INTERNED: nodesets and replications are kept exactly as long as epochs use them.
//! - INV-LOG-PARTITIONS: a partition belongs to one log, which names it at its index; uids are never given twice.
//! - INV-REQUESTS: applying a request again changes nothing and answers the same (`requests`).
//! - INV-ONE-END: an epoch of a partition has one end, for ever. Over time, so it is tested with a history
//!   (`random.rs`).

mod attributes;
mod changes;
mod chosen;
mod codec;
mod command;
mod epochs;
mod errors;
mod interned;
mod invariants;
mod known_keys;
mod logs;
mod names;
mod nodes;
mod partition;
mod query;
mod requests;
mod response;
mod shared_map;
mod snapshot;
mod tables;
mod under_replicated;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dlog_proto::{ClusterId, Incarnation, LogId, NodeId, Nodeset, PartitionUid, Replication, RequestId, TimestampMs};
use serde::{Deserialize, Serialize};

pub use attributes::{AttributeError, LogAttributes};
pub use changes::Changes;
pub use codec::{CodecError, decode, encode};
pub use command::{
    Activate, AllocateProducerIds, BATCH_LEN_MAX, Command, Cover, CoverItem, CreateLog, CreatePartitions, Damaged,
    Decide, Decision, DeleteLog, InitCluster, MissingCopies, RecordUnderReplicated, RegisterNode, Roles, SetAttributes,
    ShardRegistration, Trim, TrimItem, UnderReplicatedChange, UnderReplicatedItem,
};
pub use errors::{
    ActivateError, BatchTooLong, CoverError, CreateLogError, CreatePartitionsError, DamagedError, DecideError,
    PartitionError, ProducerIdsError, RegisterError, SetAttributesError, TrimError, UnderReplicatedError, UnknownLog,
};
pub use logs::{DeletedLog, LogInfo, LogUid, PARTITIONS_MAX, PARTITIONS_PER_LOG_MAX};
pub use names::topic_of;
pub use nodes::{NodeInfo, SHARDS_PER_NODE_MAX, ShardInfo, ShardState};
pub use partition::{Partition, UNDECIDED_MAX};
pub use query::{ClusterAnswer, Query, QueryAnswer, QueryError};
pub use response::{Activated, Activation, DecideOutcome, Decided, LogCreated, Registered, RegisteredShard, Response};
pub use tables::PackedTables;
pub use under_replicated::{MissingAt, MissingRange, UnderReplicated};

pub(crate) use changes::RecentChanges;

use chosen::ChosenNodesets;
use interned::Interned;
use requests::{Requests, Seen};
use shared_map::SharedMap;

/// Producer ids that can be had at once.
pub const PRODUCER_IDS_MAX: u32 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub id: ClusterId,
    pub created_ms: TimestampMs,
}

/// The last numbers that were given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Counters {
    log: u64,
    partition: u64,
    incarnation: Incarnation,
    /// The next one to give out: producer ids start from 0.
    next_producer: i64,
}

/// All that the metadata tier knows.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Index of the last Raft entry that was applied.
    revision: u64,
    cluster: Option<ClusterInfo>,
    counters: Counters,
    nodes: Arc<BTreeMap<NodeId, Arc<NodeInfo>>>,
    logs: SharedMap<LogUid, Arc<LogInfo>>,
    partitions: SharedMap<PartitionUid, Arc<Partition>>,
    nodesets: Interned<Nodeset>,
    replications: Interned<Replication>,
    under_replicated: SharedMap<PartitionUid, Arc<UnderReplicated>>,
    /// By revision of the deletion.
    deleted: Arc<BTreeMap<(u64, LogUid), Arc<DeletedLog>>>,
    requests: Requests,

    // What follows from the above.
    names: SharedMap<LogId, LogUid>,
    /// How many logs are in each namespace.
    namespaces: SharedMap<String, u32>,
    chosen: ChosenNodesets,
    /// What changed since somebody took it.
    touched: Changes,
}

impl State {
    /// Carries out a command. `revision` is the index of the Raft entry that it came in, and does not go back. A
    /// request that was carried out before is not again: it gets its answer.
    pub fn apply(&mut self, revision: u64, request: Option<RequestId>, command: Command) -> Response {
        self.advance(revision);
        let mut response = match request.map_or(Seen::New, |request| self.requests.look_up(request)) {
            Seen::Before(response) => response,
            Seen::Forgotten => Response::Forgotten,
            Seen::New => {
                let response = self.run(command);
                if let Some(request) = request {
                    self.requests.remember(request, response.clone());
                }
                response
            }
        };
        if let Response::Activate(Ok(activated)) = &mut response {
            self.fill_tables(activated);
        }
        response
    }

    /// An entry of the Raft log that is no command was applied.
    pub fn advance(&mut self, revision: u64) {
        assert!(revision >= self.revision, "entries are applied in their order");
        self.revision = revision;
    }

    fn run(&mut self, command: Command) -> Response {
        match command {
            Command::InitCluster(command) => Response::InitCluster(self.init_cluster(&command)),
            Command::RegisterNode(command) => Response::RegisterNode(self.register_node(command)),
            Command::CreateLog(command) => Response::CreateLog(self.create_log(command)),
            Command::DeleteLog(command) => Response::DeleteLog(self.delete_log(command)),
            Command::SetAttributes(command) => Response::SetAttributes(self.set_attributes(&command)),
            Command::CreatePartitions(command) => Response::CreatePartitions(self.create_partitions(&command)),
            Command::Activate(command) => Response::Activate(self.activate(&command)),
            Command::Decide(command) => Response::Decide(self.decide(&command)),
            Command::UnderReplicated(command) => Response::UnderReplicated(self.record_under_replicated(&command)),
            Command::Trim(command) => Response::Trim(self.trim(&command)),
            Command::AllocateProducerIds(command) => Response::AllocateProducerIds(self.allocate(command.count)),
            Command::Cover(command) => Response::Cover(self.cover(&command)),
            Command::Damaged(command) => Response::Damaged(self.note_damage(command)),
        }
    }

    fn init_cluster(&mut self, command: &InitCluster) -> ClusterId {
        if let Some(cluster) = self.cluster {
            return cluster.id;
        }
        let &InitCluster { cluster: id, created_ms } = command;
        self.cluster = Some(ClusterInfo { id, created_ms });
        self.touched.cluster = true;
        id
    }

    fn allocate(&mut self, count: u32) -> Result<Range<i64>, ProducerIdsError> {
        if !(1..=PRODUCER_IDS_MAX).contains(&count) {
            return Err(ProducerIdsError::Count(count));
        }
        let first = self.counters.next_producer;
        self.counters.next_producer = first.checked_add(count.into()).ok_or(ProducerIdsError::Exhausted)?;
        Ok(first..self.counters.next_producer)
    }

    /// Index of the last Raft entry that was applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn cluster(&self) -> Option<ClusterInfo> {
        self.cluster
    }

    pub fn node(&self, node: NodeId) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(&node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Arc<NodeInfo>)> {
        self.nodes.iter().map(|(node, info)| (*node, info))
    }

    pub fn logs_len(&self) -> usize {
        self.logs.len()
    }

    pub fn partitions_len(&self) -> usize {
        self.partitions.len()
    }

    /// What changed since this was last called.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.touched)
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
