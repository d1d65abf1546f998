//! What came of a command. Batched commands answer per item, in the order of the items.

use std::ops::Range;

use dlog_proto::{ClusterId, End, Epoch, Esn, Incarnation, LogOffset, Lsn, PartitionUid};
use serde::{Deserialize, Serialize};

use super::errors::{
    ActivateError, BatchTooLong, CoverError, CreateLogError, CreatePartitionsError, DamagedError, DecideError,
    PartitionError, ProducerIdsError, RegisterError, SetAttributesError, TrimError, UnderReplicatedError, UnknownLog,
};
use super::logs::LogUid;
use super::tables::PackedTables;

/// As for [`Command`](super::Command): new variants go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The request is older than what is remembered of its process, so whether it was done before cannot be told. Look,
    /// and ask anew if need be.
    Forgotten,
    InitCluster(ClusterId),
    RegisterNode(Result<Registered, RegisterError>),
    CreateLog(Result<LogCreated, CreateLogError>),
    DeleteLog(Result<LogUid, UnknownLog>),
    SetAttributes(Result<(), SetAttributesError>),
    CreatePartitions(Result<LogCreated, CreatePartitionsError>),
    Activate(Result<Activated, BatchTooLong>),
    Decide(Result<Vec<Result<Decided, DecideError>>, BatchTooLong>),
    UnderReplicated(Result<Vec<Result<(), UnderReplicatedError>>, BatchTooLong>),
    Trim(Result<Vec<Result<Lsn, TrimError>>, BatchTooLong>),
    AllocateProducerIds(Result<Range<i64>, ProducerIdsError>),
    /// The epoch that covers what is before it, of each.
    Cover(Result<Vec<Result<Epoch, CoverError>>, BatchTooLong>),
    /// For epochs activated before this revision, what the shard lacks proves nothing.
    Damaged(Result<u64, DamagedError>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub cluster: ClusterId,
    /// Of each shard, in the order in which they were registered: write it to disks that have none.
    pub shards: Vec<RegisteredShard>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegisteredShard {
    pub index: u16,
    pub incarnation: Incarnation,
    /// For epochs activated before this revision, the shard may have lost blocks (trap C2). 0 if it never did.
    pub incomplete_before: u64,
    /// The same, of anything that was durable (trap C15).
    pub damaged_before: u64,
}

/// Partitions that were made; their uids follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogCreated {
    pub log: LogUid,
    pub first_partition: PartitionUid,
    pub partitions: u32,
}

/// New epochs, and the tables of their partitions from the oldest undecided epoch on. For the whole history, look at
/// the state once it has reached the revision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Activated {
    pub results: Vec<Result<Activation, ActivateError>>,
    /// One per epoch that was given.
    pub tables: PackedTables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Activation {
    pub partition: PartitionUid,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The end that stands, for ever.
    pub end: End,
    /// Offset of the first record after the epoch; `None` if a trim has taken the epoch away.
    pub end_offset: Option<LogOffset>,
}

impl Decided {
    /// An epoch that had no records.
    pub(super) fn empty(authoritative: bool, end_offset: Option<LogOffset>) -> Self {
        Self { end: End { last_esn: Esn::ZERO, authoritative }, end_offset }
    }
}

/// What an answer to a [`Decision`](super::Decision) means to who recovers the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecideOutcome {
    /// It ends here, whoever decided it.
    Ended(End),
    /// A later epoch recovers it now.
    Superseded(Epoch),
}

impl DecideOutcome {
    /// # Errors
    ///
    /// Those that no recovery in its right mind is answered.
    pub fn of(answer: Result<Decided, DecideError>) -> Result<Self, DecideError> {
        match answer {
            Ok(decided) => Ok(Self::Ended(decided.end)),
            // What has left the table was decided empty, or was trimmed.
            Err(DecideError::AlreadyDecided { end, .. }) => {
                Ok(Self::Ended(end.unwrap_or(End { last_esn: Esn::ZERO, authoritative: true })))
            }
            Err(DecideError::Stale { newest, .. }) => Ok(Self::Superseded(newest)),
            Err(error) => Err(error),
        }
    }
}

impl Response {
    /// How much there is to remember of it, in items.
    pub(super) fn weight(&self) -> u64 {
        let items = match self {
            Self::RegisterNode(Ok(registered)) => registered.shards.len(),
            Self::Activate(Ok(activated)) => activated.results.len(),
            Self::Decide(Ok(results)) => results.len(),
            Self::UnderReplicated(Ok(results)) => results.len(),
            Self::Trim(Ok(results)) => results.len(),
            Self::Cover(Ok(results)) => results.len(),
            _ => 0,
        };
        1 + items as u64
    }
}

/// The partition of an item that failed.
pub(super) fn unknown(partition: PartitionUid, deleted: bool) -> PartitionError {
    if deleted { PartitionError::Deleted(partition) } else { PartitionError::Unknown(partition) }
}
