//! DLog's shared language: what things are called, how they lie on disk and wire, and when answers are enough.

pub mod block;
pub mod bugs;
pub mod clock;
mod epoch_table;
mod ids;
mod lsn;
mod nodeset;
pub mod producer;
mod quorum;
pub mod record;
mod replication;
mod time;
pub mod transport;
pub mod wire;

pub use epoch_table::{End, EpochEntry, EpochTable};
pub use ids::{
    ClusterId, DEFAULT_NAMESPACE, Incarnation, LogId, NodeId, ParseError, PartitionId, PartitionUid, ProcessId,
    RequestId, ShardId, ShardRef,
};
pub use lsn::{Epoch, Esn, LogOffset, Lsn};
pub use nodeset::{Location, Member, MemberSet, Nodeset, NodesetError, Scope};
pub use quorum::{Authority, Quorum, ShardStatus, Statuses};
pub use replication::{Durability, QuorumConfig, Replication, ReplicationError};
pub use time::{Time, TimestampMs};
