//! Sealing and recovery: what a new epoch's sequencer asks shards about the epochs before it.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};
use super::store::EpochEnd;
use crate::block::PlacementVersion;
use crate::bugs::{Bug, bug};
use crate::epoch_table::EpochEntry;
use crate::ids::{Incarnation, PartitionUid, ShardId};
use crate::lsn::{Epoch, Esn, Lsn};
use crate::replication::Durability;

/// Refuse every store and amend of epochs below those named here, durably, and say what you have of the earlier ones.
/// One request for all partitions of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Seal {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partitions: Vec<SealPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SealPartition {
    pub partition: PartitionUid,
    /// The sealing epoch; it may write itself. An epoch recovers once: whoever starts over gets a new one.
    pub epoch: Epoch,
    /// Earlier epochs whose ends are not decided, ascending: report on these.
    pub undecided: Vec<Epoch>,
}

/// The answer to a [`Seal`]: given when the seal and everything admitted before it are durable (trap C1).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Sealed {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub lost: LostBefore,
    pub partitions: Vec<SealedPartition>,
}

/// What a shard has lost, as metadata revisions: for epochs activated before them, what it lacks proves nothing. 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Archive, Serialize, Deserialize)]
pub struct LostBefore {
    /// Blocks that were only cached, to a machine crash: concerns logs that are write-cached (trap C2).
    pub cached: u64,
    /// What was durable, to damage: concerns all (trap C15).
    pub durable: u64,
}

impl LostBefore {
    /// Whether the shard may lack something of this epoch that it was given.
    pub fn concerns(&self, entry: &EpochEntry) -> bool {
        let is_cached = entry.replication.durability == Durability::WriteCache;
        (is_cached && entry.activated_at < self.cached && !bug(Bug::IncompleteCounts)) || self.is_damaged_for(entry)
    }

    /// Whether it may lack something of this epoch that was durable.
    pub fn is_damaged_for(&self, entry: &EpochEntry) -> bool {
        entry.activated_at < self.durable && !bug(Bug::DamageCounts)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SealedPartition {
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub result: Result<SealedState, SealRefusal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, thiserror::Error)]
pub enum SealRefusal {
    #[error("sealed by a later epoch, {0}")]
    Sealed(Epoch),
    #[error("the disk behind this shard is another one ({0:?})")]
    Incarnation(Option<Incarnation>),
    #[error("out of service")]
    Disabled,
}

/// What a shard has of a partition, as of its seal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct SealedState {
    pub trim: Lsn,
    /// Of each undecided epoch that was asked about, in that order.
    pub epochs: Vec<SealedEpoch>,
    /// Position of the newest producer snapshot held: everything below `(epoch, next ESN)` is in it.
    pub snapshot: Option<Lsn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SealedEpoch {
    pub epoch: Epoch,
    pub acked: Esn,
    pub settled: Esn,
    pub known_end: Option<EpochEnd>,
    /// Blocks held above `settled`, ascending.
    pub blocks: Vec<BlockSummary>,
}

/// A block as a seal's answer lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct BlockSummary {
    pub first_esn: Esn,
    pub span: u32,
    /// Of the immutable part: equal checksums are equal blocks.
    pub crc: u32,
    pub len: u32,
    pub version: PlacementVersion,
    /// See [`ShardId::to_u32`].
    pub copyset: Vec<u32>,
}

/// Send me this block.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FetchBlock {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub target: FetchTarget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum FetchTarget {
    Records {
        epoch: Epoch,
        first_esn: Esn,
    },
    /// The newest producer snapshot.
    ProducerSnapshot,
}

/// The answer to a [`FetchBlock`]: the block is the payload, if it was found and is whole.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FetchedBlock {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    pub target: FetchTarget,
    pub found: bool,
}

/// Which producers wrote the blocks that you have after `after`, up to these ends?
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReadProducers {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    /// Of the asker.
    pub epoch: Epoch,
    /// Position of the snapshot that is known already; [`Lsn::MAX`] to be told only which one you have.
    pub after: Lsn,
    /// Of every epoch from that of `after`, ascending: nothing beyond them counts.
    pub ends: Vec<EpochEnd>,
}

/// The answer to a [`ReadProducers`]: an encoded [`ProducerTable`](crate::producer::ProducerTable) is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ProducersRead {
    pub shard: ShardId,
    pub incarnation: Incarnation,
    pub partition: PartitionUid,
    /// Of the asker.
    pub epoch: Epoch,
    /// As it was asked.
    pub after: Lsn,
    pub lost: LostBefore,
    /// Position of the newest producer snapshot that the shard has.
    pub snapshot: Option<Lsn>,
    /// Whether the disk is the one that was asked, and could be read.
    pub ok: bool,
}

impl Validate for Seal {
    fn validate(&self) -> Result<(), &'static str> {
        let ascending = |p: &SealPartition| {
            p.undecided.windows(2).all(|pair| pair[0] < pair[1])
                && p.undecided.last().is_none_or(|last| *last < p.epoch)
        };
        self.partitions.iter().all(ascending).then_some(()).ok_or("epochs are given in ascending order, below the seal")
    }
}
message!(Seal, 1);

impl Validate for Sealed {}
message!(Sealed, 2);
impl Validate for FetchBlock {}
message!(FetchBlock, 1);
impl Validate for FetchedBlock {}
message!(FetchedBlock, 1);
impl Validate for ReadProducers {}
message!(ReadProducers, 1);
impl Validate for ProducersRead {}
message!(ProducersRead, 2);
