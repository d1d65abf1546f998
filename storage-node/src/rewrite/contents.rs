//! What stands in a segment.

use dlog_proto::block::{BlockKind, Placement};
use dlog_proto::{Lsn, PartitionUid};

use super::select::Order;
use crate::segment::entries::Head;
use crate::segment::walk::Walk;

/// More blocks than this are not sorted: with blocks so small that a segment holds more of them, so would be every run.
const BLOCKS_MAX: usize = 1 << 20;

/// The place of a frame, in the old file and in the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from: u32,
    pub(super) len: u32,
    /// 0 until it is known.
    pub(super) to: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BlockRef {
    pub(super) partition: PartitionUid,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    pub(super) moved: Moved,
}

/// An entry that is no block of records.
#[derive(Debug, Clone)]
pub(super) enum Other {
    /// A producer snapshot.
    Snapshot(PartitionUid),
    Amend(PartitionUid, Lsn, Placement),
    Partition(PartitionUid),
    Shard,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) blocks: Vec<BlockRef>,
    pub(super) others: Vec<(Other, Moved)>,
    /// Highest number of a group.
    pub(super) last_commit: u64,
    /// What of it is needed.
    pub(super) order: Order,
}

impl Contents {
    /// Reads on, about so many bytes. `true` at the end; `Err` says why the segment cannot be rewritten.
    pub(super) fn survey(&mut self, walk: &mut Walk, bytes: u32) -> Result<bool, String> {
        let upto = walk.offset().saturating_add(bytes);
        while walk.offset() < upto {
            let Some(found) = walk.next() else { return Err(format!("it is damaged at {}", walk.offset())) };
            let moved = Moved { from: found.offset, len: found.len, to: 0 };
            match found.head {
                Head::End => return Ok(true),
                Head::Commit(commit) => self.last_commit = self.last_commit.max(commit.number),
                Head::Segments(_) => {}
                Head::Block { header, .. } if header.kind == BlockKind::Records => {
                    let (partition, first, last) = (header.partition, header.first_lsn(), header.last_lsn());
                    self.blocks.push(BlockRef { partition, first, last, moved });
                    if self.blocks.len() > BLOCKS_MAX {
                        return Err("its blocks are too many and too small".to_owned());
                    }
                }
                Head::Block { header, .. } => {
                    self.others.push((Other::Snapshot(header.partition), moved));
                }
                Head::Amend(amend) => {
                    let first = Lsn::new(amend.epoch, amend.first_esn);
                    self.others.push((Other::Amend(amend.partition, first, amend.placement), moved));
                }
                Head::Partition(meta) => self.others.push((Other::Partition(meta.partition), moved)),
                Head::Shard(_) => self.others.push((Other::Shard, moved)),
            }
        }
        Ok(false)
    }

    /// The blocks of a partition, as a range of `blocks`, which are sorted.
    pub(super) fn blocks_of(&self, partition: PartitionUid) -> std::ops::Range<usize> {
        let begin = self.blocks.partition_point(|block| block.partition < partition);
        let len = self.blocks[begin..].partition_point(|block| block.partition == partition);
        begin..begin + len
    }
}
