//! Storing: a sequencer (or a recoverer) hands blocks to shards.
//!
//! Every request names the shard's incarnation: a disk that was replaced is refused rather than mistaken (trap C4).

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};
use crate::block::{Copyset, Placement, PlacementVersion};
use crate::ids::{Incarnation, PartitionUid, ShardId};
use crate::lsn::{Epoch, Esn, Lsn};
use crate::replication::Durability;

/// Who stores, and so which rules the shard applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum StoreMode {
    /// The epoch's own sequencer: refused once the epoch is sealed.
    Append,
    /// A recoverer of a later epoch: refused below the shard's seal, or beyond a known end.
    Recovery { recoverer: Epoch },
    /// Rebuilding: decided or settled blocks only, never beyond a known end.
    Rebuild,
}

/// A block's placement on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WirePlacement {
    pub version: PlacementVersion,
    /// Shards as numbers, see [`ShardId::to_u32`]; checked when taken for a [`Copyset`].
    pub copyset: Vec<u32>,
    pub acked: Esn,
    pub settled: Esn,
}

impl From<&Placement> for WirePlacement {
    fn from(placement: &Placement) -> Self {
        Self {
            version: placement.version,
            copyset: placement.copyset.shards().iter().map(|shard| shard.to_u32()).collect(),
            acked: placement.acked,
            settled: placement.settled,
        }
    }
}

impl WirePlacement {
    /// The placement, if its copyset is one.
    pub fn to_placement(&self) -> Option<Placement> {
        let copyset = Copyset::new(self.copyset.iter().map(|shard| ShardId::from_u32(*shard)))?;
        Some(Placement { version: self.version, copyset, acked: self.acked, settled: self.settled })
    }
}

/// Store the block in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Store {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub mode: StoreMode,
    pub sync: bool,
    pub placement: WirePlacement,
}

/// Give a block that you have this placement.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Amend {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub first_esn: Esn,
    pub mode: StoreMode,
    pub placement: WirePlacement,
}

/// Answers to stores and amends that were decided together.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Stored {
    pub answers: Vec<StoreAnswer>,
}

/// The answer to one [`Store`] or [`Amend`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct StoreAnswer {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub first_esn: Esn,
    /// It was a producer snapshot; those take no LSN, so `first_esn` may be that of a block of records too.
    pub snapshot: bool,
    /// Of the placement that was asked for.
    pub version: PlacementVersion,
    pub result: Result<Kept, StoreRefusal>,
}

/// How a block is kept when the answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum Kept {
    /// In the shard's write cache; a [`Flushed`] follows.
    Cached,
    /// Durable.
    Flushed,
}

/// Why a shard does not take a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, thiserror::Error)]
pub enum StoreRefusal {
    #[error("sealed by {0}")]
    Sealed(Epoch),
    #[error("the epoch is known to end before it")]
    BeyondEnd,
    #[error("the shard does not have the block that is to be amended")]
    NoPayload,
    #[error("the block is settled already, on others")]
    Settled,
    #[error("another block stands there already")]
    Conflict,
    #[error("the disk behind this shard is another one ({0:?})")]
    Incarnation(Option<Incarnation>),
    #[error("no space")]
    NoSpace,
    #[error("overloaded, retry in {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u32 },
    #[error("out of service")]
    Disabled,
    #[error("the block is damaged")]
    Corrupt,
    #[error("its process is about to end")]
    Draining,
}

/// All blocks of these partitions that this shard has answered [`Kept::Cached`] so far, up to an ESN, are durable now.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Flushed {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub upto: Vec<FlushedUpto>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct FlushedUpto {
    pub partition: PartitionUid,
    pub epoch: Epoch,
    /// First ESN of the last of those blocks.
    pub first_esn: Esn,
}

/// What may be read now, and where epochs ended. Not answered; sent again when a lane comes back.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Release {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partitions: Vec<PartitionRelease>,
}

/// Part of a [`Release`]. The shard makes the ends durable and purges what lies beyond before it moves `released`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PartitionRelease {
    pub partition: PartitionUid,
    pub released: Lsn,
    /// Settled ESN of the epoch that `released` is in.
    pub settled: Esn,
    /// What lies above it must not be trimmed yet: no stored snapshot tells of its producers.
    pub trim_limit: Lsn,
    /// Ends of epochs below `released`, ascending: the newest few, and all of them for whoever was away.
    pub ends: Vec<EpochEnd>,
}

/// Where an epoch ended, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct EpochEnd {
    pub epoch: Epoch,
    pub last_esn: Esn,
    /// Whether an f-majority stood behind the decision. What lies beyond an end that is not is kept aside, not deleted.
    pub authoritative: bool,
}

impl Store {
    pub fn durability(&self) -> Durability {
        if self.sync { Durability::Sync } else { Durability::WriteCache }
    }
}

const COPYSET: &str = "a copyset has 1 to 16 different shards";

impl Validate for Store {
    fn validate(&self) -> Result<(), &'static str> {
        self.placement.to_placement().map(drop).ok_or(COPYSET)
    }
}
message!(Store, 1);

impl Validate for Amend {
    fn validate(&self) -> Result<(), &'static str> {
        self.placement.to_placement().map(drop).ok_or(COPYSET)
    }
}
message!(Amend, 1);

impl Validate for Stored {}
message!(Stored, 2);
impl Validate for Flushed {}
message!(Flushed, 1);

impl Validate for Release {
    fn validate(&self) -> Result<(), &'static str> {
        let ascending = |ends: &[EpochEnd]| ends.windows(2).all(|pair| pair[0].epoch < pair[1].epoch);
        self.partitions.iter().all(|p| ascending(&p.ends)).then_some(()).ok_or("ends are given in ascending order")
    }
}
message!(Release, 2);
