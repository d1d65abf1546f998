//! What a sequencer wants done.

use dlog_proto::block::Block;
use dlog_proto::wire::{
    Amend, AppendError, AppendOk, FetchBlock, PartitionRelease, ReadProducers, SealPartition, Store,
};
use dlog_proto::{Epoch, Esn, PartitionUid, ShardId, ShardRef};

/// Stands for whoever waits for an append; means nothing to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// An effect. The shell carries it out; the simulator lets it happen in virtual time.
#[derive(Debug)]
pub enum Output {
    /// To a shard: these five.
    Store {
        store: Store,
        block: Block,
    },
    Amend(Amend),
    Seal {
        to: ShardRef,
        seal: SealPartition,
    },
    Fetch(FetchBlock),
    ReadProducers(ReadProducers),
    /// To every shard in the list.
    Release {
        to: Vec<ShardRef>,
        release: PartitionRelease,
    },
    /// To whoever waits for this append.
    Reply {
        token: Token,
        outcome: Result<AppendOk, AppendError>,
    },
    /// To the metadata tier; the answer comes back through `handle_…`.
    Propose(Proposal),
    /// For the log of the process.
    Event(Event),
}

/// What a sequencer asks of the metadata tier. What is missing is to be put on record in the order in which it is asked for, one after the
/// other: a late [`Proposal::CloseMissing`] would close what was opened again since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// `epoch` ends here.
    Decide(Decision),
    /// Records of `epoch` from this ESN on may lack the copy that `shard` would have had.
    OpenMissing { partition: PartitionUid, epoch: Epoch, shard: ShardRef, from: Esn },
    /// The same holds no longer for records above this ESN.
    CloseMissing { partition: PartitionUid, epoch: Epoch, shard: ShardRef, to: Esn },
    /// What is before `epoch` tells no more of producers than a snapshot on a write quorum of its nodeset does.
    Cover { partition: PartitionUid, epoch: Epoch },
    /// A new epoch for this partition: the current one cannot go on.
    NewEpoch { partition: PartitionUid, current: Epoch, reason: NewEpochReason },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewEpochReason {
    /// The epoch's sequence numbers are nearly used up.
    EpochFull,
    /// Too few shards of its nodeset take writes.
    NoShards,
    /// Its nodeset or replication is to be another, or somebody asked for it.
    Planned,
}

/// A recovery's verdict on an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub last_esn: Esn,
    /// Whether an f-majority stood behind it.
    pub authoritative: bool,
    pub recoverer: Epoch,
    /// Shards on whose answers it rests.
    pub answered: Vec<ShardRef>,
    /// Shards that would have copies of records which they lack, and from which ESN on.
    pub missing: Vec<(ShardRef, Esn)>,
}

/// Something a person may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another epoch has taken over.
    Preempted { epoch: Epoch, by: Epoch },
    /// Fewer shards take writes than an acknowledgement needs.
    Stalled { epoch: Epoch, usable: usize, needed: usize },
    /// A shard answered that another block stands where ours should: must never happen.
    Conflict { shard: ShardId, epoch: Epoch, first_esn: Esn },
    /// Recovery of the earlier epochs goes on for longer than it should.
    RecoveryWaits { epoch: Epoch, answered: usize, of: usize },
    /// An epoch was decided.
    Decided { epoch: Epoch, last_esn: Esn, authoritative: bool },
    /// All earlier epochs are decided and read: appends of every kind go on.
    Recovered { epoch: Epoch },
}
