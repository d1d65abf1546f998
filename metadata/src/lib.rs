//! DLog's metadata tier: who may sequence, which nodes may store, where each epoch ends.
//!
//! - [`state`]: the state machine, a pure core. Commands in, answers out.
//! - [`placement`]: who sequences a partition, which shards keep it; pure functions.
//! - [`liveness`]: who lives; a pure core.
//! - `raft`: openraft on a log and snapshots of our own.
//! - `service`: all of it as a node uses it: [`Metadata`].

pub mod liveness;
pub mod placement;
mod raft;
mod service;
pub mod state;

pub use raft::{Damage, PeerError, PeerFuture, PeerTransport, WalError};
pub use service::{
    COMMAND_LEN_MAX, Metadata, MetadataConfig, MetadataError, Operation, ReplicaStatus, Snapshots, StartError, Timings,
};
