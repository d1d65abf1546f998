//! Everything that the index holds: keys and values.
//!
//! A key begins with one byte for its table. What orders is big-endian, so that keys sort as their numbers do; values are
//! little-endian. All of it but `Hints` is a function of the log up to the checkpoint, and is equal when it is derived again, once
//! `Trimmed` is empty.

#[cfg(test)]
mod golden;
mod partition;
mod rows;

use std::ops::Range;

use bytes::{Buf, BufMut};
use dlog_proto::{Lsn, PartitionUid};

use super::kv::{Key, KvError};
use crate::segment::{Position, SegmentId};

pub(crate) use partition::{EpochTail, PartitionRow, SnapshotAt};
pub(crate) use rows::{AmendRow, CheckpointRow, LateRow, LossRow, RunRow, SegmentRow, ShardRow};

/// The tables. Their numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Table {
    /// How far the index is complete.
    ///
    /// Key: nothing.
    /// Value: version u8 (1), cluster u128, node u16, shard u16, incarnation u32, segment u64, offset u32, next commit u64.
    Checkpoint = b'c',
    /// What holds for the shard.
    ///
    /// Key: nothing.
    /// Value: segment u64, offset u32 (of the entry; 0 if there is none), incomplete_before u64, then the segments that exist as
    /// in a segments frame.
    Shard = b'h',
    /// What holds for a partition.
    ///
    /// Key: partition u64.
    /// Value: see [`PartitionRow`].
    Partition = b'p',
    /// Blocks of one partition and epoch that one group commit wrote, in ascending order.
    ///
    /// Key: partition u64, epoch u32, first ESN u32.
    /// Value: see [`RunRow`].
    Run = b'r',
    /// A block that came after one with a higher ESN of its epoch.
    ///
    /// Key: partition u64, epoch u32, first ESN u32.
    /// Value: see [`LateRow`].
    Late = b'l',
    /// What lies beyond an end that was decided without authority: kept, not served.
    ///
    /// Key: partition u64, epoch u32, first ESN u32.
    /// Value: as in `Run`.
    Quarantine = b'q',
    /// A block's newest placement, if it is not the one in its frame.
    ///
    /// Key: partition u64, epoch u32, first ESN u32.
    /// Value: segment u64 (of the amend), placement.
    Amend = b'a',
    /// A partition of which rows are left that were trimmed: they go some at a time.
    ///
    /// Key: partition u64.
    /// Value: nothing.
    Trimmed = b't',
    /// How much of a segment is still needed, and which generation of it the index leads to.
    ///
    /// Key: number of the segment u64.
    /// Value: live_bytes u64, live_amends u64, generation u16, stretches u32.
    Segment = b's',
    /// Damage found where the log was durable.
    ///
    /// Key: segment u64, offset u32.
    /// Value: end u32.
    Loss = b'x',
    /// Marks that are not in the log.
    ///
    /// Key: partition u64.
    /// Value: released u64, then per epoch: epoch u32, acked u32, settled u32.
    Hints = b'm',
}

impl Table {
    pub(crate) fn key(self) -> Key {
        key(self as u8)
    }

    /// All of the table.
    pub(crate) fn all(self) -> Range<Key> {
        self.key()..key(self as u8 + 1)
    }

    pub(crate) fn partition(self, partition: PartitionUid) -> Key {
        self.key().and(&partition.0.to_be_bytes())
    }

    pub(crate) fn block(self, partition: PartitionUid, first: Lsn) -> Key {
        self.partition(partition).and(&first.0.to_be_bytes())
    }

    /// Keys of blocks whose first LSN is in `first..=last`.
    pub(crate) fn blocks(self, partition: PartitionUid, first: Lsn, last: Lsn) -> Range<Key> {
        let end = match last.0.checked_add(1) {
            Some(end) => self.block(partition, Lsn(end)),
            None => self.after_partition(partition),
        };
        self.block(partition, first)..end
    }

    fn after_partition(self, partition: PartitionUid) -> Key {
        partition.0.checked_add(1).map_or_else(|| self.all().end, |next| self.partition(PartitionUid(next)))
    }

    pub(crate) fn segment(self, segment: SegmentId) -> Key {
        self.key().and(&segment.0.to_be_bytes())
    }

    pub(crate) fn place(self, position: Position) -> Key {
        self.segment(position.segment).and(&position.offset.to_be_bytes())
    }
}

fn key(table: u8) -> Key {
    Key::new(&[table]).expect("one byte is not too long")
}

/// The first LSN in a key of a block.
pub(crate) fn first_lsn(key: &[u8]) -> Option<Lsn> {
    let mut fields = key.get(9..17)?;
    Some(Lsn(fields.get_u64()))
}

/// The partition in a key.
pub(crate) fn partition_of(key: &[u8]) -> Option<PartitionUid> {
    let mut fields = key.get(1..9)?;
    Some(PartitionUid(fields.get_u64()))
}

/// The segment in a key.
pub(crate) fn segment_of(key: &[u8]) -> Option<SegmentId> {
    let mut fields = key.get(1..9)?;
    Some(SegmentId(fields.get_u64()))
}

/// The place in a key.
pub(crate) fn place_of(key: &[u8]) -> Option<Position> {
    let mut fields = key.get(1..13)?;
    Some(Position::new(SegmentId(fields.get_u64()), fields.get_u32()))
}

/// A value of the index.
pub(crate) trait Row: Sized {
    fn encode(&self) -> Vec<u8>;
    fn parse(fields: &mut &[u8]) -> Option<Self>;

    /// RocksDB verifies checksums: what does not parse was written by another version or is damaged all the same. Either
    /// way the index is of no use.
    fn decode(mut bytes: &[u8]) -> Result<Self, KvError> {
        let row = Self::parse(&mut bytes).filter(|_| bytes.is_empty());
        row.ok_or_else(|| KvError(format!("a {} is not understood", std::any::type_name::<Self>())))
    }
}

/// That the key is there says it.
impl Row for () {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn parse(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

/// `fields` if there are at least `len` of them: what makes the getters below it safe.
fn at_least<'a, 'b>(fields: &'a mut &'b [u8], len: usize) -> Option<&'a mut &'b [u8]> {
    (fields.len() >= len).then_some(fields)
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.put_u64_le(position.segment.0);
    out.put_u32_le(position.offset);
}

fn get_position(fields: &mut &[u8]) -> Position {
    Position::new(SegmentId(fields.get_u64_le()), fields.get_u32_le())
}
