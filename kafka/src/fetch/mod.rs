//! Reading for consumers: where a partition ends, sessions, open streams.

mod batch;
mod memory;
mod preferred;
mod readers;
mod replica;
mod session;
mod waiting;

use std::sync::Arc;

use dlog_metadata::state::LogInfo;
use dlog_proto::wire::Tail;
use dlog_proto::{Epoch, EpochTable, LogOffset, Lsn, PartitionUid};
use kafka_protocol::ResponseError;

pub(crate) use memory::{FetchMemories, FetchMemory};
pub(crate) use preferred::Asker;
pub(crate) use readers::{ReadRequest, Readers};
pub(crate) use replica::replica_end;
pub(crate) use session::{Key, Plan, SessionRequest, Sessions, Shown, TopicKey, Wanted};
pub(crate) use waiting::Changes;

use crate::cluster::Cluster;
use crate::gateway::Shared;

/// Where a partition ends, as its sequencer on this node says, or as a [replica](replica_end) knows.
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

    /// Last LSN of an epoch that may be read; `None` as long as it is not known where an earlier epoch ended.
    pub(crate) fn last_readable(&self, table: &EpochTable, epoch: Epoch) -> Option<Lsn> {
        if epoch == self.released.epoch() {
            return Some(self.released);
        }
        let end = table.epoch(epoch)?.end?;
        Some(Lsn::new(epoch, end.last_esn))
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

#[cfg(test)]
pub(crate) mod tests {
    use dlog_proto::{
        EpochEntry, Esn, Incarnation, Location, Member, NodeId, Nodeset, ProcessId, QuorumConfig, Replication, ShardId,
    };

    use super::*;

    fn entry(epoch: u32, last_esn: Option<u32>) -> EpochEntry {
        based_entry(epoch, Some(0), last_esn)
    }

    pub(crate) fn based_entry(epoch: u32, base: Option<u64>, last_esn: Option<u32>) -> EpochEntry {
        let shard = ShardId { node: NodeId(1), shard: 0 };
        let member = Member { shard, incarnation: Incarnation(1), location: Location::default(), weight: 1 };
        EpochEntry {
            epoch: Epoch(epoch),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: Arc::new(Nodeset::new(vec![member]).unwrap()),
            replication: Arc::new(Replication::new(QuorumConfig::majority(1))),
            base_offset: base.map(LogOffset),
            end: last_esn.map(|last| dlog_proto::End { last_esn: Esn(last), authoritative: true }),
            activated_at: 0,
        }
    }

    pub(crate) fn table_of(epochs: Vec<EpochEntry>) -> EpochTable {
        EpochTable { partition: PartitionUid(1), revision: 1, trim: Lsn::ZERO, covered: Epoch::ZERO, epochs }
    }

    /// INV-READ-RELEASED, for those who read without the client: what a zombie wrote beyond the end of an earlier epoch
    /// may lie on a shard.
    #[test]
    fn only_what_is_released_or_decided_is_read_from_local_shards() {
        let table = table_of(vec![entry(1, Some(9)), entry(2, None), entry(3, None)]);
        let lsn = |epoch, esn| Lsn::new(Epoch(epoch), Esn(esn));
        let end = End { epoch: Epoch(3), high_watermark: 40, released: lsn(3, 7) };
        assert_eq!(end.last_readable(&table, Epoch(3)), Some(lsn(3, 7)), "what is released");
        assert_eq!(end.last_readable(&table, Epoch(1)), Some(lsn(1, 9)), "to its end");
        assert_eq!(end.last_readable(&table, Epoch(2)), None, "this table does not say where it ended");
        assert_eq!(end.last_readable(&table, Epoch(4)), None);
    }
}
