//! What travels in the simulation: the domain messages of `proto`, without their encoding.

use bytes::Bytes;
use dlog_metadata::state::{Command, Response, State};
use dlog_proto::block::Block;
use dlog_proto::producer::ProducerTable;
use dlog_proto::wire::{
    Acks, Amend, AppendError, AppendOk, FetchBlock, FetchedBlock, Flushed, ProducersRead, ReadBlock, ReadClaim,
    ReadProducers, ReadStarted, Release, Seal, Sealed, StartRead, Store, StoreAnswer,
};
use dlog_proto::{EpochTable, NodeId, PartitionUid, ProcessId, RequestId, ShardId, Time};
use dlog_sequencer::LeaseGrant;

/// Messages of one lane arrive in order; those of different lanes do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    Control,
    Append(PartitionUid),
    Store,
    Read(ShardId),
    Lease,
}

#[derive(Debug)]
pub(crate) enum Message {
    Append {
        partition: PartitionUid,
        round: u32,
        batch: u64,
        acks: Acks,
        bytes: Bytes,
    },
    Appended {
        #[expect(dead_code, reason = "for the trace")]
        partition: PartitionUid,
        round: u32,
        batch: u64,
        outcome: Result<AppendOk, AppendError>,
    },

    Store(Store, Block),
    Amend(Amend),
    Seal(Seal),
    Release(Release),
    Fetch(FetchBlock),
    ReadProducers(ReadProducers),
    Stored(StoreAnswer),
    Flushed(#[expect(dead_code, reason = "for the trace")] ShardId, Flushed),
    Sealed(Sealed),
    Fetched(FetchedBlock, Option<Block>),
    ProducersRead(ProducersRead, Option<ProducerTable>),

    /// On a stream of its own, as the others of reading: the number tells one from those before it.
    StartRead(u64, StartRead),
    StopRead(u64, ShardId),
    ReadStarted(u64, ReadStarted),
    ReadBlock(u64, ShardId, ReadBlock, Block),
    ReadClaim(u64, #[expect(dead_code, reason = "for the trace")] ShardId, ReadClaim),

    Propose {
        request: RequestId,
        command: Command,
    },
    Proposed {
        request: RequestId,
        state: Box<State>,
        response: Response,
    },
    /// Whether this process's epochs are the newest: by its clock, when it asks.
    WantLease(Time),
    Lease(LeaseGrant),
    /// The metadata tier tells a node how things stand.
    View {
        state: Box<State>,
        alive: Vec<(NodeId, ProcessId)>,
    },
    /// A client wants to know who sequences a partition.
    WhoSequences(PartitionUid),
    Sequences(#[expect(dead_code, reason = "for the trace")] PartitionUid, Option<NodeId>),
    WantTable(PartitionUid),
    Table(Box<EpochTable>),
}
