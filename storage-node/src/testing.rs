//! Blocks and placements for tests.

use bytes::Bytes;
use dlog_proto::block::{Block, BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::{Epoch, Esn, PartitionUid, ShardId};

/// A block of one record whose body is `len` bytes that depend on all of its numbers.
pub(crate) fn block(partition: u64, epoch: u32, first_esn: u32, len: usize) -> Block {
    wide_block(partition, epoch, first_esn, 1, len)
}

/// As [`block`], with `span` LSNs.
pub(crate) fn wide_block(partition: u64, epoch: u32, first_esn: u32, span: u32, len: usize) -> Block {
    let mut rng = fastrand::Rng::with_seed(partition << 40 ^ u64::from(epoch) << 32 ^ u64::from(first_esn));
    let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len.max(17)).collect();
    let timestamp = i64::from(epoch) * 1_000_000 + i64::from(first_esn);
    let mut builder = BlockBuilder::new(PartitionUid(partition), Epoch(epoch), Esn(first_esn), timestamp);
    builder.push(&Bytes::from(body), span, (timestamp, timestamp));
    builder.finish()
}

/// A placement of this version.
pub(crate) fn placement(writer_epoch: u32, wave: u32) -> Placement {
    Placement {
        version: PlacementVersion { writer_epoch: Epoch(writer_epoch), wave },
        copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0), ShardId::new(3, 0)]).expect("three shards"),
        acked: Esn(0),
        settled: Esn(0),
    }
}
