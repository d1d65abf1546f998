//! Why commands are refused: what happened, to what, what to do.

use dlog_proto::wire::ErrorCode;
use dlog_proto::{End, Epoch, Esn, Incarnation, LogId, Lsn, NodeId, PartitionUid, ProcessId, ShardId};
use serde::{Deserialize, Serialize};

use super::attributes::AttributeError;
use super::command::BATCH_LEN_MAX;
use super::logs::{PARTITIONS_MAX, PARTITIONS_PER_LOG_MAX};
use super::nodes::{ADDRESS_LEN_MAX, SHARDS_PER_NODE_MAX};
use super::partition::UNDECIDED_MAX;
use crate::placement::NotEnough;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("a command has at most {BATCH_LEN_MAX} items, not {0}: send several")]
pub struct BatchTooLong(pub u32);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("there is no log {0}")]
pub struct UnknownLog(pub LogId);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum PartitionError {
    #[error("there is no partition {0}")]
    Unknown(PartitionUid),
    #[error("the log of partition {0} was deleted")]
    Deleted(PartitionUid),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RegisterError {
    #[error("the cluster has no id yet: ask again when the metadata leader has given it one")]
    NoCluster,
    #[error("a node id is 1 to 65535, not 0")]
    NodeZero,
    #[error("'{0}' is not an address: host:port of at most {ADDRESS_LEN_MAX} bytes is expected")]
    Address(String),
    #[error("a node has at most {SHARDS_PER_NODE_MAX} shards, not {0}")]
    TooManyShards(u32),
    #[error("shard {0} is registered twice at once")]
    DuplicateShard(ShardId),
    #[error(
        "the disk of shard {shard} was formatted as incarnation {found:?}, but {current:?} is the one in service: \
         put the right disk back, or wipe this one to have it formatted anew"
    )]
    OtherDisk { shard: ShardId, found: Incarnation, current: Incarnation },
    #[error("the disk of shard {shard} ({found:?}) was not formatted for it in this cluster: wipe it, or move it back")]
    ForeignDisk { shard: ShardId, found: Incarnation },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CreateLogError {
    #[error("log {0} exists already")]
    Exists(LogId),
    #[error("a log has 1 to {PARTITIONS_PER_LOG_MAX} partitions, not {0}")]
    Partitions(u32),
    #[error("a cluster has at most {PARTITIONS_MAX} partitions, {have} are there and {asked} more are asked for")]
    ClusterFull { have: u64, asked: u32 },
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    #[error("log {log} cannot be replicated: {short}. Add storage nodes, or ask for fewer copies")]
    NotEnough { log: LogId, short: NotEnough },
    #[error("log {log} and log {other} would be the same Kafka topic '{topic}': choose another name")]
    Ambiguous { log: LogId, other: LogId, topic: String },
    #[error(
        "log {log} would be Kafka topic '{}' in the default namespace, but '{namespace}' is a namespace: choose a name \
         that does not begin with it and a dot", log.name()
    )]
    LikeNamespace { log: LogId, namespace: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SetAttributesError {
    #[error(transparent)]
    Unknown(#[from] UnknownLog),
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    #[error("log {log} cannot be replicated like that: {short}. Add storage nodes, or ask for fewer copies")]
    NotEnough { log: LogId, short: NotEnough },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CreatePartitionsError {
    #[error(transparent)]
    Unknown(#[from] UnknownLog),
    #[error("log {log} has {have} partitions, and cannot have {asked}: they can only become more")]
    NotMore { log: LogId, have: u32, asked: u32 },
    #[error("a log has 1 to {PARTITIONS_PER_LOG_MAX} partitions, not {0}")]
    Partitions(u32),
    #[error("a cluster has at most {PARTITIONS_MAX} partitions, {have} are there and {asked} more are asked for")]
    ClusterFull { have: u64, asked: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ActivateError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("{node} is not registered as a sequencer")]
    NotSequencer { node: NodeId },
    #[error("{node} has been restarted: its process is {registered}, not the one that asks")]
    Stale { node: NodeId, registered: ProcessId },
    #[error("partition {partition} cannot have a nodeset: {short}")]
    NotEnough { partition: PartitionUid, short: NotEnough },
    #[error(
        "partition {partition} has {UNDECIDED_MAX} epochs whose ends are not decided: it needs an f-majority of their \
         shards back before it can have another one"
    )]
    TooManyUndecided { partition: PartitionUid },
    #[error("partition {0} has used up its epochs")]
    EpochsExhausted(PartitionUid),
    #[error("partition {0} stands in the batch twice")]
    Duplicate(PartitionUid),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DecideError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("{epoch} cannot be decided by {recoverer} of partition {partition}: only later epochs end earlier ones")]
    NotLater { partition: PartitionUid, epoch: Epoch, recoverer: Epoch },
    #[error("partition {partition} has no {epoch}; {newest} is its newest")]
    UnknownEpoch { partition: PartitionUid, epoch: Epoch, newest: Epoch },
    #[error("{recoverer} of partition {partition} was succeeded by {newest}, which decides now: stop")]
    Stale { partition: PartitionUid, recoverer: Epoch, newest: Epoch },
    /// `end` is `None` if the epoch has left the table: it was decided empty, or was trimmed.
    #[error("the end of {epoch} of partition {partition} is decided otherwise: take it from the epoch table")]
    AlreadyDecided { partition: PartitionUid, epoch: Epoch, end: Option<End> },
    #[error("{predecessor} of partition {partition} is not decided: epochs end in their order")]
    PredecessorOpen { partition: PartitionUid, predecessor: Epoch },
    #[error(
        "missing copies in {epoch} of partition {partition} are said to be {from} to {to}, but it ends at {last_esn}"
    )]
    BadRange { partition: PartitionUid, epoch: Epoch, from: Esn, to: Esn, last_esn: Esn },
    #[error("{shard} ({incarnation:?}) is not in the nodeset of {epoch} of partition {partition}")]
    NotMember { partition: PartitionUid, epoch: Epoch, shard: ShardId, incarnation: Incarnation },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UnderReplicatedError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(
        "{epoch} of partition {partition} is decided, trimmed or was never there: nothing in it can lose copies now"
    )]
    NotOpen { partition: PartitionUid, epoch: Epoch },
    #[error("{from} to {to} is not a range of records")]
    BadRange { from: Esn, to: Esn },
    #[error("{shard} ({incarnation:?}) is not in the nodeset of {epoch} of partition {partition}")]
    NotMember { partition: PartitionUid, epoch: Epoch, shard: ShardId, incarnation: Incarnation },
    #[error("{epoch} of partition {partition} is not decided: say what its shards have lost when it is")]
    NotDecided { partition: PartitionUid, epoch: Epoch },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TrimError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(
        "partition {partition} cannot be trimmed to {upto}: nothing beyond {first_undecided} can have been released"
    )]
    NotReleased { partition: PartitionUid, upto: Lsn, first_undecided: Epoch },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum DamagedError {
    #[error("{shard} ({incarnation:?}) is not registered: another disk is in its place")]
    NotRegistered { shard: ShardId, incarnation: Incarnation },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CoverError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(
        "{epoch} of partition {partition} was decided empty, or was never there: a later one has to store its producers"
    )]
    Gone { partition: PartitionUid, epoch: Epoch },
    #[error("{predecessor} of partition {partition} is not decided: what it tells of producers cannot be known")]
    PredecessorOpen { partition: PartitionUid, predecessor: Epoch },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum ProducerIdsError {
    #[error("1 to {max} producer ids can be had at once, not {0}", max = super::PRODUCER_IDS_MAX)]
    Count(u32),
    #[error("the cluster has used up its producer ids")]
    Exhausted,
}

impl PartitionError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::NotFound
    }
}

impl RegisterError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoCluster => ErrorCode::Unavailable,
            _ => ErrorCode::Invalid,
        }
    }
}

impl CreateLogError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Exists(_) => ErrorCode::Exists,
            Self::NotEnough { .. } => ErrorCode::NotEnoughNodes,
            _ => ErrorCode::Invalid,
        }
    }
}

impl SetAttributesError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown(_) => ErrorCode::NotFound,
            Self::NotEnough { .. } => ErrorCode::NotEnoughNodes,
            Self::Attribute(_) => ErrorCode::Invalid,
        }
    }
}

impl CreatePartitionsError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown(_) => ErrorCode::NotFound,
            _ => ErrorCode::Invalid,
        }
    }
}

impl ActivateError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Partition(error) => error.code(),
            Self::NotSequencer { .. } | Self::Stale { .. } => ErrorCode::Stale,
            Self::NotEnough { .. } => ErrorCode::NotEnoughNodes,
            Self::TooManyUndecided { .. } => ErrorCode::Unavailable,
            Self::EpochsExhausted(_) | Self::Duplicate(_) => ErrorCode::Invalid,
        }
    }
}

impl DecideError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Partition(error) => error.code(),
            Self::Stale { .. } => ErrorCode::Stale,
            Self::AlreadyDecided { .. } => ErrorCode::Exists,
            Self::PredecessorOpen { .. } => ErrorCode::Unavailable,
            Self::NotLater { .. } | Self::UnknownEpoch { .. } | Self::BadRange { .. } | Self::NotMember { .. } => {
                ErrorCode::Invalid
            }
        }
    }
}

impl UnderReplicatedError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Partition(error) => error.code(),
            Self::NotOpen { .. } => ErrorCode::Stale,
            Self::NotDecided { .. } => ErrorCode::Unavailable,
            Self::BadRange { .. } | Self::NotMember { .. } => ErrorCode::Invalid,
        }
    }
}

impl TrimError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Partition(error) => error.code(),
            Self::NotReleased { .. } => ErrorCode::Invalid,
        }
    }
}

impl CoverError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Partition(error) => error.code(),
            Self::Gone { .. } => ErrorCode::Stale,
            Self::PredecessorOpen { .. } => ErrorCode::Unavailable,
        }
    }
}

impl DamagedError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::Stale
    }
}
