//! Talking to the metadata tier. Commands, queries and their answers are typed in the `metadata` crate and travel as
//! payload: the bytes of a command here are the bytes of the Raft entry that carries it.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};
use crate::ids::{NodeId, ProcessId, RequestId};

/// Propose the command in the payload. Answered by [`Proposed`] or [`Failed`](super::Failed).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Propose {
    /// The same for every retry of a command.
    pub request: RequestId,
}

/// The command was applied at this revision; what came of it is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Proposed {
    pub revision: u64,
}

/// Answer the query in the payload. Answered by [`Answer`] or [`Failed`](super::Failed).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Query {
    pub freshness: Freshness,
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum Freshness {
    /// Whatever the asked node has seen.
    Local,
    /// At least this revision.
    AtLeast(u64),
    /// Everything that was applied anywhere before the question was asked.
    Linearizable,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Answer {
    pub revision: u64,
}

/// Tell me what changes; the filter is the payload. Every change is a [`Change`] on the same lane.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Watch {
    /// What the asker has seen.
    pub after: u64,
}

/// What changed is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Change {
    pub revision: u64,
}

/// A node lives. Sent to the metadata leader on the liveness lane.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Heartbeat {
    pub node: NodeId,
    pub process: ProcessId,
    /// Stops soon: take over what it does.
    pub stopping: bool,
}

/// Who lives, as the metadata leader sees it. Sent on every change, and as the answer to each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Liveness {
    /// Raft term of the leader and number of the change in it: the higher is the newer.
    pub term: u64,
    pub version: u64,
    pub alive: Vec<AliveNode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct AliveNode {
    pub node: NodeId,
    pub process: ProcessId,
    pub stopping: bool,
}

/// A Raft request; openraft's request is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Raft {
    pub rpc: RaftRpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum RaftRpc {
    Vote = 1,
    Append = 2,
    Snapshot = 3,
    /// How far is your log? Asked by a voter that starts without one.
    Status = 4,
    /// A command on its way to the leader.
    Propose = 5,
    /// Up to where must a read see everything? Asked of the leader.
    ReadIndex = 6,
}

/// openraft's answer is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RaftAnswer {
    pub rpc: RaftRpc,
}

impl Validate for Propose {}
message!(Propose, 1);
impl Validate for Proposed {}
message!(Proposed, 1);
impl Validate for Query {}
message!(Query, 1);
impl Validate for Answer {}
message!(Answer, 1);
impl Validate for Watch {}
message!(Watch, 1);
impl Validate for Change {}
message!(Change, 1);
impl Validate for Heartbeat {}
message!(Heartbeat, 1);
impl Validate for Liveness {}
message!(Liveness, 1);
impl Validate for Raft {}
message!(Raft, 1);
impl Validate for RaftAnswer {}
message!(RaftAnswer, 1);
