//! What can go wrong with a request.

use std::time::Duration;

use dlog_proto::transport::{CloseReason, ConnectError, HostPort, LaneClosed};
use dlog_proto::wire::{ErrorCode, Failed, MessageError};
use dlog_proto::{LogId, PartitionId, PartitionUid};

/// Why a request was not answered as wished.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// Every server that is known was tried.
    #[error("no server answered: {}", list(.tried))]
    NoServer { tried: Vec<(HostPort, String)> },
    #[error("{what} took longer than {:.1} s{}", .after.as_secs_f64(), last(.last_error))]
    TimedOut { what: &'static str, after: Duration, last_error: Option<String> },
    #[error("{}", .0.message)]
    Failed(#[from] Failed),
    #[error("there is no log {0}: create it with `dlog log create {0} --partitions 1 --replication 1`")]
    UnknownLog(LogId),
    #[error("{log} has no partition {partition}: its partitions are 0 to {last}")]
    UnknownPartition { log: LogId, partition: PartitionId, last: u32 },
    #[error("partition {0} is gone: its log was deleted")]
    PartitionGone(PartitionUid),
    #[error("offset {offset} is not there yet or no longer: {log} partition {partition} has {first} to {end}")]
    OffsetOutOfRange { log: LogId, partition: PartitionId, offset: u64, first: u64, end: u64 },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("the server's answer was not understood ({0}): is it of another version?")]
    NotUnderstood(String),
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the same request may be answered by another server, or later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Failed(failed) => failed.code.is_transient(),
            Self::Connect(error) => !matches!(
                error,
                ConnectError::NoTrust { .. } | ConnectError::Untrusted { .. } | ConnectError::NotDlog { .. }
            ),
            Self::NoServer { .. } | Self::Lost(_) => true,
            _ => false,
        }
    }

    /// Whether it says that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::UnknownLog(_) | Self::UnknownPartition { .. } | Self::PartitionGone(_) => true,
            Self::Failed(failed) => failed.code == ErrorCode::NotFound,
            _ => false,
        }
    }
}

impl From<LaneClosed> for ClientError {
    fn from(closed: LaneClosed) -> Self {
        Self::Lost(closed.to_string())
    }
}

impl From<CloseReason> for ClientError {
    fn from(reason: CloseReason) -> Self {
        Self::Lost(reason.to_string())
    }
}

impl From<MessageError> for ClientError {
    fn from(error: MessageError) -> Self {
        Self::NotUnderstood(error.to_string())
    }
}

fn list(tried: &[(HostPort, String)]) -> String {
    let each: Vec<String> = tried.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    each.join("; ")
}

fn last(error: &Option<String>) -> String {
    error.as_ref().map(|error| format!(" (last trouble: {error})")).unwrap_or_default()
}
