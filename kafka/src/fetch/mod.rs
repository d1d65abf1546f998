//! Reading for consumers: where a partition ends, sessions, open streams.

mod readers;
mod session;
mod waiting;

use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use dlog_proto::wire::Tail;
use dlog_proto::{Epoch, LogOffset, Lsn, PartitionUid};
use kafka_protocol::ResponseError;

pub(crate) use readers::{ReadRequest, Readers};
pub(crate) use session::{Key, Plan, SessionRequest, Sessions, Shown, TopicKey, Wanted};
pub(crate) use waiting::Changes;

use crate::cluster::Cluster;
use crate::gateway::Shared;

/// Where a partition ends, as its sequencer on this node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) epoch: Epoch,
    /// Offset after the last record that may be read.
    pub(crate) high_watermark: u64,
    /// Last LSN that may be read.
    pub(crate) released: Lsn,
}

impl End {
    /// `None` while the ends of earlier epochs are not decided.
    pub(crate) fn of(tail: &Tail) -> Option<Self> {
        let (released, LogOffset(next)) = (tail.released?, tail.next_offset?);
        let unreleased = u64::from(tail.acked.esn().0.saturating_sub(released.esn().0));
        Some(Self { epoch: tail.acked.epoch(), high_watermark: next.saturating_sub(unreleased), released })
    }
}

/// A partition that is led here, and where it ends.
pub(crate) fn local_end(
    shared: &Shared,
    topic: &str,
    index: i32,
) -> Result<(Arc<LogInfo>, PartitionUid, End), ResponseError> {
    let unknown = ResponseError::UnknownTopicOrPartition;
    let info = Cluster::of(&*shared.broker).topic(topic).ok_or(unknown)?;
    let index = usize::try_from(index).map_err(|_| unknown)?;
    let uid = *info.partitions.get(index).ok_or(unknown)?;
    let tail = shared.broker.tail(uid).ok_or(ResponseError::NotLeaderOrFollower)?;
    let end = End::of(&tail.borrow()).ok_or(ResponseError::OffsetNotAvailable)?;
    Ok((info, uid, end))
}

/// Whether client and sequencer mean the same epoch (KIP-320); −1 is not checked.
pub(crate) fn check_epoch(asked: i32, current: Epoch) -> Result<(), ResponseError> {
    let current = current.0 as i32;
    match asked {
        -1 => Ok(()),
        asked if asked < current => Err(ResponseError::FencedLeaderEpoch),
        asked if asked > current => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}
