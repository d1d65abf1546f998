//! What peers say to each other: frames on a lane, and the messages in them.

mod append;
mod failed;
mod frame;
mod message;
mod meta;
mod read;
mod seal;
mod store;

pub use append::{Acks, Append, AppendError, AppendOk, Appended, Retry};
pub use failed::{ErrorCode, Failed};
pub use frame::{Frame, FrameDecoder, FrameError, FrameLimits, HEADER_LEN, Payload};
pub use message::{Message, MessageError, MessageKind};
pub use meta::{
    AliveNode, Answer, Change, Freshness, Heartbeat, Liveness, Propose, Proposed, Query, Raft, RaftAnswer, RaftRpc,
    Watch,
};
pub use read::{
    BlockDescribed, ClaimKind, CopyDescription, DescribeBlock, FindTime, GetTail, ReadBlock, ReadClaim, ReadMode,
    ReadStarted, ReadStatus, StartRead, Tail, TimeFound,
};
pub use seal::{
    BlockSummary, FetchBlock, FetchTarget, FetchedBlock, LostBefore, ProducersRead, ReadProducers, Seal, SealPartition,
    SealRefusal, Sealed, SealedEpoch, SealedPartition, SealedState,
};
pub use store::{
    Amend, EpochEnd, Flushed, FlushedUpto, Kept, PartitionRelease, Release, Store, StoreAnswer, StoreMode,
    StoreRefusal, Stored, WirePlacement,
};

#[cfg(test)]
mod golden;
