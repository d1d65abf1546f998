//! Why the tier does not start, and why it does not answer.

use std::io;
use std::path::PathBuf;

use dlog_proto::NodeId;
use dlog_proto::wire::{ErrorCode, Failed};

use crate::raft::WalError;
use crate::state::{CodecError, QueryError};

/// Why this node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration cannot be: {0}")]
    Config(String),
    #[error(transparent)]
    Log(#[from] WalError),
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the metadata log in {} begins after entry {purged}, and no snapshot holds what was before{}. This replica \
         must not take part as it is. If a majority of the voters is well, remove the directory on this node only, and \
         it is made again from the others",
        path.display(), damaged.iter().map(|what| format!(" ({what})")).collect::<String>()
    )]
    SnapshotMissing { path: PathBuf, purged: u64, damaged: Vec<String> },
    #[error(
        "there are metadata snapshots in {} but no log, so this replica has forgotten its votes and must not take \
         part. Put the log back; or, if a majority of the voters is well, remove the whole directory on this node only, \
         and it is made again from the others",
        path.display()
    )]
    LogMissing { path: PathBuf },
    #[error("the metadata tier cannot start: {0}")]
    Raft(String),
}

/// Why the tier does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Tried until the deadline. A command may have been carried out: to try again with the same request is safe.
    #[error("the metadata tier does not answer: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Invalid(String),
    /// This node does not lead; where the one is that does, if known.
    #[error("this node does not lead the metadata tier{}", and_who_does(leader.as_ref()))]
    NotLeader { leader: Option<(NodeId, String)> },
    /// The request is too old to tell whether it was carried out.
    #[error("the answer to this request is no longer known: look whether it took effect, and ask anew if not")]
    Forgotten,
    /// This node's replica has failed, and the process should stop.
    #[error("this node's replica of the metadata has stopped: {0}")]
    Stopped(String),
    #[error(transparent)]
    Query(#[from] QueryError),
}

fn and_who_does(leader: Option<&(NodeId, String)>) -> String {
    leader.map_or_else(String::new, |(node, address)| format!(", {node} at {address} does"))
}

impl MetadataError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::NotLeader { .. } => ErrorCode::Unavailable,
            Self::Forgotten => ErrorCode::Stale,
            Self::Stopped(_) => ErrorCode::Internal,
            Self::Query(error) => error.code(),
        }
    }

    pub fn to_failed(&self) -> Failed {
        Failed::new(self.code(), self.to_string())
    }
}

impl From<CodecError> for MetadataError {
    fn from(error: CodecError) -> Self {
        Self::Invalid(format!("the command or question {error}"))
    }
}
