//! What can be asked of the state machine. Each command is decided alone, in the order of the Raft log, the same on
//! every replica; what came of it is a [`Response`](super::Response).
//!
//! The layout is postcard's, and the numbers of the variants are their places in the enum: new ones go to the end, and
//! a changed one is a new one. Golden bytes in `golden.rs` pin both.

use std::collections::BTreeMap;
use std::fmt;

use dlog_proto::{
    ClusterId, End, Epoch, Esn, Incarnation, Location, LogId, Lsn, NodeId, PartitionUid, ProcessId, ShardId, ShardRef,
    TimestampMs,
};
use serde::{Deserialize, Serialize};

use super::attributes::LogAttributes;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    InitCluster(InitCluster),
    RegisterNode(RegisterNode),
    CreateLog(CreateLog),
    DeleteLog(DeleteLog),
    SetAttributes(SetAttributes),
    CreatePartitions(CreatePartitions),
    Activate(Activate),
    Decide(Decide),
    UnderReplicated(RecordUnderReplicated),
    Trim(Trim),
    AllocateProducerIds(AllocateProducerIds),
    Cover(Cover),
    Damaged(Damaged),
}

/// Items in one batched command.
pub const BATCH_LEN_MAX: usize = 1000;

/// Gives the cluster its id. The first one wins; others are told what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    pub cluster: ClusterId,
    pub created_ms: TimestampMs,
}

/// A node's process has started: this is where it is, what it does, and which disks it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterNode {
    pub node: NodeId,
    /// Where clients and peers reach it, `host:port`.
    pub address: String,
    /// Where its HTTP listener is; empty if it has none.
    pub http: String,
    pub roles: Roles,
    pub location: Location,
    pub process: ProcessId,
    pub cores: u16,
    /// Share of sequencers and records relative to other nodes; 0 takes none.
    pub weight: u16,
    pub shards: Vec<ShardRegistration>,
}

/// What a node does. Voting is configured apart: see [`MetadataConfig`](crate::MetadataConfig).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Roles {
    pub metadata: bool,
    pub sequencer: bool,
    pub storage: bool,
}

impl Roles {
    pub const ALL: Self = Self { metadata: true, sequencer: true, storage: true };

    pub fn names(self) -> Vec<&'static str> {
        let roles = [(self.metadata, "metadata"), (self.sequencer, "sequencer"), (self.storage, "storage")];
        roles.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        f.write_str(if names.is_empty() { "none".to_owned() } else { names.join(",") }.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRegistration {
    /// Of the shard inside its node, from 0.
    pub index: u16,
    /// What stands on the disk; `None` if it was just formatted and asks for one.
    pub incarnation: Option<Incarnation>,
    /// It was not stopped cleanly and may have lost blocks that were acknowledged from memory (trap C2).
    pub unclean: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateLog {
    pub log: LogId,
    pub partitions: u32,
    pub attributes: LogAttributes,
    pub created_ms: TimestampMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteLog {
    pub log: LogId,
    pub deleted_ms: TimestampMs,
}

/// Sets attributes; `None` takes one back to its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttributes {
    pub log: LogId,
    pub changes: BTreeMap<String, Option<String>>,
}

/// Makes a log have this many partitions. They can only become more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePartitions {
    pub log: LogId,
    pub partitions: u32,
}

/// Gives each partition its next epoch, with the asking process as its sequencer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activate {
    pub sequencer: NodeId,
    /// Must be the node's registered process: an earlier one is gone, whatever it still believes.
    pub process: ProcessId,
    pub partitions: Vec<PartitionUid>,
    /// The sequencer before has been asked to drain; told to those who look, no rule depends on it.
    pub planned: bool,
}

/// Ends earlier epochs, each for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decide {
    pub decisions: Vec<Decision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub partition: PartitionUid,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// Its last record; 0 if it has none.
    pub last_esn: Esn,
    /// Whether an f-majority has answered: then what lies beyond was never acknowledged.
    pub authoritative: bool,
    /// The epoch that decides; must be the partition's newest (trap C9b).
    pub recoverer: Epoch,
    /// What recovery could not copy.
    pub under_replicated: Vec<MissingCopies>,
}

impl Decision {
    /// `missing` names the shards that lack records, each from an ESN on up to the epoch's end.
    pub fn new(
        (partition, epoch): (PartitionUid, Epoch),
        End { last_esn, authoritative }: End,
        recoverer: Epoch,
        missing: &[(ShardRef, Esn)],
    ) -> Self {
        let lacks = |&(ShardRef { shard, incarnation }, from): &(ShardRef, Esn)| MissingCopies {
            shard,
            incarnation,
            from,
            to: last_esn,
        };
        let under_replicated = missing.iter().map(lacks).collect();
        Self { partition, epoch, last_esn, authoritative, recoverer, under_replicated }
    }
}

/// A shard that should have had copies of an epoch's records `from` to `to`, and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MissingCopies {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub from: Esn,
    pub to: Esn,
}

/// Puts on record which shards lack what, before a settled mark moves over it (trap C12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordUnderReplicated {
    pub items: Vec<UnderReplicatedItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnderReplicatedItem {
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub change: UnderReplicatedChange,
}

impl UnderReplicatedItem {
    pub fn new(partition: PartitionUid, epoch: Epoch, shard: ShardRef, change: UnderReplicatedChange) -> Self {
        let ShardRef { shard, incarnation } = shard;
        Self { partition, epoch, shard, incarnation, change }
    }

    pub fn shard_ref(&self) -> ShardRef {
        ShardRef { shard: self.shard, incarnation: self.incarnation }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnderReplicatedChange {
    /// The shard lacks records from here on, until told otherwise.
    Open { from: Esn },
    /// It has what comes after this one.
    Close { to: Esn },
    /// Copies of these were made.
    Repaired { from: Esn, to: Esn },
    /// The shard had records among these, and its disk has lost them. Only of decided epochs: what an undecided one holds, its
    /// sequencer and its recovery still look after, and a shard that starts with a loss is incomplete for it.
    Lost { from: Esn, to: Esn },
}

/// Lets go of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    pub items: Vec<TrimItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TrimItem {
    pub partition: PartitionUid,
    /// The last record that may go; it must have been released.
    pub upto: Lsn,
}

/// Takes producer ids nobody else gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateProducerIds {
    pub count: u32,
}

/// Says where producers are known from: what is before these epochs need not be read for that any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    pub items: Vec<CoverItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CoverItem {
    pub partition: PartitionUid,
    /// A write quorum of its nodeset has a snapshot of what every epoch before it tells of producers, or there was nothing to tell.
    pub epoch: Epoch,
}

/// A shard has found damage where its log was durable: it may lack anything that it was given before (trap C15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Damaged {
    pub shard: ShardId,
    pub incarnation: Incarnation,
}
