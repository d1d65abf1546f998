//! What a coordinator is asked, and what it answers.

use std::time::Duration;

use bytes::Bytes;
use dlog_proto::TimestampMs;
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};

/// A request about one group, or about all.
#[derive(Debug)]
pub(crate) enum GroupRequest {
    Join(Join),
    Sync(Sync),
    Heartbeat { group: String, generation: i32, member: String, instance: Option<String> },
    Leave { group: String, members: Vec<Leaving> },
    Commit { group: String, generation: i32, member: String, instance: Option<String>, offsets: Vec<CommitOffset> },
    Fetch { group: String, wanted: OffsetsWanted },
    DeleteOffsets { group: String, partitions: Vec<(String, i32)> },
    Describe { group: String },
    List,
    Delete { group: String },
}

#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) group: String,
    /// Empty for a new member.
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    /// Names and metadata, the preferred one first.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// A new member is told its id first, and comes back with it (KIP-394).
    pub(crate) needs_known_member: bool,
    /// A leader can be told that there is nothing to assign (KIP-814).
    pub(crate) can_skip_assignment: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Sync {
    pub(crate) group: String,
    pub(crate) generation: i32,
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    /// From the leader: member ids and what they get.
    pub(crate) assignments: Vec<(String, Bytes)>,
}

/// Who leaves: a member by its id, or a static one by its instance.
#[derive(Debug, Clone)]
pub(crate) struct Leaving {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct CommitOffset {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: StoredOffset,
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredOffset {
    pub(crate) offset: i64,
    /// −1 if the client did not say.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
    pub(crate) committed_ms: TimestampMs,
    /// When it may go, if its client said so.
    pub(crate) expires_ms: Option<TimestampMs>,
    /// Of the log that the topic was: one of the same name that is made later begins anew.
    pub(crate) log_uid: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum OffsetsWanted {
    All,
    Of(Vec<(String, i32)>),
}

#[derive(Debug)]
pub(crate) enum GroupAnswer {
    Joined(Result<Joined, JoinRefused>),
    Synced(Result<Synced, ResponseError>),
    Done(Result<(), ResponseError>),
    Left(Vec<Result<(), ResponseError>>),
    /// What was committed of what was wanted.
    Offsets(Vec<(String, i32, Option<StoredOffset>)>),
    /// Per partition, in the order of the request.
    OffsetsDeleted(Result<Vec<Result<(), ResponseError>>, ResponseError>),
    Described(Option<Described>),
    Listed(Vec<Listed>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinRefused {
    pub(crate) error: ResponseError,
    /// The id to come back with, if it got one.
    pub(crate) member: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) member: String,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    pub(crate) skip_assignment: bool,
    /// For the leader: everybody's id, instance and metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<DescribedMember>,
}

#[derive(Debug, Clone)]
pub(crate) struct DescribedMember {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) group: String,
    pub(crate) protocol_type: String,
    pub(crate) state: &'static str,
}
