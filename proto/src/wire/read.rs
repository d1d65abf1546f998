//! Reading: one lane per shard and reader. The lane's flow control is the reader's window.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};
use super::seal::LostBefore;
use super::store::WirePlacement;
use crate::ids::{Incarnation, PartitionUid, ShardId};
use crate::lsn::{LogOffset, Lsn};
use crate::time::TimestampMs;

/// Send me your released blocks of a partition from an LSN on. The first message of a read lane; a later one with a higher
/// `version` starts over, and voids what was sent before.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StartRead {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub version: u32,
    pub from: Lsn,
    /// Last LSN asked for.
    pub until: Lsn,
    pub mode: ReadMode,
}

/// Which of a block's holders send it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum ReadMode {
    /// Every holder.
    AllSendAll,
    /// The first of its copyset, in the order that all shards compute alike, that is not in this list.
    SingleCopy { known_down: Vec<ShardId> },
}

/// The answer to a [`StartRead`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReadStarted {
    pub shard: ShardId,
    pub version: u32,
    pub status: ReadStatus,
    pub released: Lsn,
    pub trim: Lsn,
    /// What the shard lacks proves nothing where this [concerns](LostBefore::is_damaged_for) the epoch.
    pub lost: LostBefore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, thiserror::Error)]
pub enum ReadStatus {
    #[error("ok")]
    Ok,
    #[error("the disk behind this shard is another one")]
    Incarnation,
    #[error("out of service")]
    Disabled,
}

/// A released block that this shard has: the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReadBlock {
    pub version: u32,
    pub placement: WirePlacement,
    pub released: Lsn,
}

/// This shard has sent all that it has to send up to here.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReadClaim {
    pub version: u32,
    /// Last LSN that the claim covers.
    pub upto: Lsn,
    pub kind: ClaimKind,
    pub released: Lsn,
    pub trim: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum ClaimKind {
    /// It never had, or no longer needs to have, what it did not send.
    NoRecords,
    /// It lost data in this range: what it did not send proves nothing.
    UnderReplicated,
}

/// Which shards of this node have the block with this LSN?
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DescribeBlock {
    pub partition: PartitionUid,
    pub lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BlockDescribed {
    pub copies: Vec<CopyDescription>,
}

/// One shard's copy of a block.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CopyDescription {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub first: Lsn,
    pub span: u32,
    pub crc: u32,
    pub len: u32,
    pub placement: WirePlacement,
}

/// Where is the first released block, at or after `from`, that the sequencer made at or after this time?
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FindTime {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub from: Lsn,
    pub timestamp: TimestampMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TimeFound {
    pub status: ReadStatus,
    /// First LSN of that block.
    pub lsn: Option<Lsn>,
}

/// Where does the partition end? Asked of its sequencer.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GetTail {
    pub partition: PartitionUid,
}

/// The answer to a [`GetTail`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Tail {
    /// Highest acknowledged LSN; ESN 0 if nothing was acknowledged in this epoch yet.
    pub acked: Lsn,
    /// Highest LSN that may be read, once the ends of all earlier epochs are decided.
    pub released: Option<Lsn>,
    /// Offset after `acked`, once the ends of all earlier epochs are decided.
    pub next_offset: Option<LogOffset>,
}

impl Validate for GetTail {}
message!(GetTail, 1);
impl Validate for Tail {}
message!(Tail, 1);
impl Validate for StartRead {}
message!(StartRead, 1);
impl Validate for ReadStarted {}
message!(ReadStarted, 2);

impl Validate for ReadBlock {
    fn validate(&self) -> Result<(), &'static str> {
        self.placement.to_placement().map(drop).ok_or("a copyset has 1 to 16 different shards")
    }
}
message!(ReadBlock, 1);

impl Validate for ReadClaim {}
message!(ReadClaim, 1);
impl Validate for DescribeBlock {}
message!(DescribeBlock, 1);
impl Validate for BlockDescribed {}
message!(BlockDescribed, 1);
impl Validate for FindTime {}
message!(FindTime, 1);
impl Validate for TimeFound {}
message!(TimeFound, 1);
