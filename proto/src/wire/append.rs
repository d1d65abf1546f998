//! Appending: a client hands record batches to a partition's sequencer.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};
use crate::ids::{NodeId, PartitionUid};
use crate::lsn::{Epoch, LogOffset, Lsn};
use crate::time::TimestampMs;

/// How many copies an append waits for, where it asks for something else than its log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum Acks {
    /// The log's write quorum.
    #[default]
    Quorum = 0,
    /// One copy: faster, and lost with it.
    One = 1,
    /// Every copy.
    All = 2,
}

/// Append the record batch in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Append {
    pub partition: PartitionUid,
    pub acks: Acks,
    /// Answer with the offset too, even if that means waiting until the ends of all earlier epochs are decided.
    pub with_offset: bool,
}

/// The answer to the [`Append`] with the same `corr`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Appended {
    pub partition: PartitionUid,
    pub outcome: Result<AppendOk, AppendError>,
}

/// Where a batch stands now: acknowledged, durable at the level the log asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct AppendOk {
    /// Of the first record; the others follow.
    pub lsn: Lsn,
    /// Of the first record, where the sequencer knows it already: it must know where every earlier epoch ended.
    pub offset: Option<LogOffset>,
    /// The time the sequencer gave the batch, if its log keeps append times; −1 otherwise.
    pub append_time: TimestampMs,
    /// It was there already: this was a retry.
    pub duplicate: bool,
}

/// Why a batch was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, thiserror::Error)]
pub enum AppendError {
    #[error("this node does not sequence the partition{}", .node.map(|n| format!("; {n} does")).unwrap_or_default())]
    NotSequencer { node: Option<NodeId>, epoch: Epoch },
    #[error("no such partition: the log was deleted, or the cluster is another one")]
    UnknownPartition,
    #[error("the partition's earlier epochs are being recovered ({reason}): retry")]
    Recovering { reason: String, retry_after_ms: u32 },
    #[error(
        "the partition takes no more right now, for too much of it waits or lacks copies: retry in {retry_after_ms} ms; if that lasts, see \
         `dlog cluster status`: nodes that should keep copies are down, and without a majority of the metadata tier's voters that cannot be \
         put on record"
    )]
    Overloaded { retry_after_ms: u32 },
    #[error("not enough storage shards take writes ({available} of at least {needed}): retry when nodes are back")]
    NotEnoughShards { available: u8, needed: u8 },
    #[error("a batch of {len} bytes is over the limit of {max}")]
    TooLarge { len: u32, max: u32 },
    #[error("the batch does not hold together: {reason}")]
    Invalid { reason: String },
    #[error("the batch's checksum does not match: the bytes were damaged on the way")]
    Corrupt,
    #[error("sequence {found} where {expected} is next for producer {producer}")]
    OutOfOrder { producer: i64, expected: i32, found: i32 },
    #[error("producer {producer} is not known here and does not start at sequence 0: its state expired; get a new id")]
    UnknownProducer { producer: i64 },
    #[error("producer {producer} was fenced: epoch {current} has taken over")]
    Fenced { producer: i64, current: i16 },
    #[error("the sequencer gave way to another before the batch was acknowledged: retry there")]
    Preempted { node: Option<NodeId>, epoch: Epoch },
}

/// What a client does about an [`AppendError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Ask this node, or whoever the cluster names, for the partition's sequencer and send again.
    Elsewhere { hint: Option<NodeId> },
    /// Send again here after this many milliseconds.
    After { ms: u32 },
    /// Sending the same bytes again gets the same answer.
    Never,
}

impl AppendError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotSequencer { node, .. } | Self::Preempted { node, .. } => Retry::Elsewhere { hint: *node },
            Self::Recovering { retry_after_ms, .. } | Self::Overloaded { retry_after_ms } => {
                Retry::After { ms: *retry_after_ms }
            }
            Self::NotEnoughShards { .. } => Retry::After { ms: 100 },
            Self::Corrupt => Retry::After { ms: 0 },
            Self::UnknownPartition
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::OutOfOrder { .. }
            | Self::UnknownProducer { .. }
            | Self::Fenced { .. } => Retry::Never,
        }
    }
}

impl Validate for Append {}
message!(Append, 1);
impl Validate for Appended {}
message!(Appended, 1);
