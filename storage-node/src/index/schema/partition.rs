//! What the index knows of a partition.

use bytes::{Buf, BufMut};
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use smallvec::SmallVec;

use super::{Row, at_least, get_position, put_position};
use crate::entry::{EpochMarks, Marks, PartitionMeta};
use crate::segment::Position;
use crate::segment::entries::{decode_partition, encode_partition};

/// What the index knows of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EpochTail {
    pub(crate) epoch: Epoch,
    /// Highest ESN in a run.
    pub(crate) last_esn: Esn,
    pub(crate) acked: Esn,
    pub(crate) settled: Esn,
}

/// Where the newest producer snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotAt {
    pub(crate) lsn: Lsn,
    pub(crate) position: Position,
    /// Of its frame.
    pub(crate) len: u32,
}

/// A partition.
///
/// ```text
///  0  meta segment u64, offset u32      of the newest partition entry; 0 if there is none
/// 12  snapshot lsn u64                  0 if there is none
/// 20  snapshot segment u64, offset u32, len u32
/// 36  bytes u64                         of the frames of its live blocks, whole runs at a time
/// 44  blocks u64
/// 52  floor u64                         no run, late block or amend of it begins below this LSN
/// 60  tails u8, each epoch u32, last_esn u32, acked u32, settled u32; ascending, the newest of them
/// ..  meta                              as in a partition frame
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionRow {
    pub(crate) meta_at: Option<Position>,
    pub(crate) snapshot: Option<SnapshotAt>,
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) floor: Lsn,
    pub(crate) tails: SmallVec<[EpochTail; 1]>,
    pub(crate) meta: PartitionMeta,
}

impl PartitionRow {
    pub(crate) fn new(partition: PartitionUid) -> Self {
        let (meta, tails) = (PartitionMeta::new(partition), SmallVec::new());
        Self { meta_at: None, snapshot: None, bytes: 0, blocks: 0, floor: Lsn::ZERO, tails, meta }
    }

    /// What is known of this epoch. `None` if it is older than the oldest of those that are kept, and there is no room.
    pub(crate) fn tail(&mut self, epoch: Epoch) -> Option<&mut EpochTail> {
        let at = self.tails.partition_point(|tail| tail.epoch < epoch);
        if self.tails.get(at).is_none_or(|tail| tail.epoch != epoch) {
            if self.tails.len() < Marks::EPOCHS_MAX {
                self.tails.insert(at, EpochTail { epoch, ..EpochTail::default() });
                return Some(&mut self.tails[at]);
            }
            if at == 0 {
                return None;
            }
            self.tails.insert(at, EpochTail { epoch, ..EpochTail::default() });
            self.tails.remove(0);
            return Some(&mut self.tails[at - 1]);
        }
        Some(&mut self.tails[at])
    }

    pub(crate) fn marks(&self) -> Marks {
        let of = |tail: &EpochTail| EpochMarks { epoch: tail.epoch, acked: tail.acked, settled: tail.settled };
        Marks { released: Lsn::ZERO, epochs: self.tails.iter().map(of).collect() }
    }
}

impl Row for PartitionRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(61 + self.tails.len() * 16 + 24 + self.meta.ends.len() * 12);
        put_position(&mut out, self.meta_at.unwrap_or_default());
        let snapshot = self.snapshot.unwrap_or(SnapshotAt { lsn: Lsn::ZERO, position: Position::ZERO, len: 0 });
        out.put_u64_le(snapshot.lsn.0);
        put_position(&mut out, snapshot.position);
        out.put_u32_le(snapshot.len);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.blocks);
        out.put_u64_le(self.floor.0);
        out.put_u8(self.tails.len() as u8);
        for tail in &self.tails {
            out.put_u32_le(tail.epoch.0);
            out.put_u32_le(tail.last_esn.0);
            out.put_u32_le(tail.acked.0);
            out.put_u32_le(tail.settled.0);
        }
        encode_partition(&self.meta, &mut out);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 61)?;
        let meta_at = Some(get_position(fields)).filter(|at| *at != Position::ZERO);
        let lsn = Lsn(fields.get_u64_le());
        let snapshot = SnapshotAt { lsn, position: get_position(fields), len: fields.get_u32_le() };
        let (bytes, blocks, floor) = (fields.get_u64_le(), fields.get_u64_le(), Lsn(fields.get_u64_le()));
        let tails = usize::from(fields.get_u8());
        let fields = at_least(fields, tails * 16)?;
        let tail = |_| EpochTail {
            epoch: Epoch(fields.get_u32_le()),
            last_esn: Esn(fields.get_u32_le()),
            acked: Esn(fields.get_u32_le()),
            settled: Esn(fields.get_u32_le()),
        };
        let tails = (0..tails).map(tail).collect();
        let meta = decode_partition(std::mem::take(fields))?;
        let snapshot = (lsn != Lsn::ZERO).then_some(snapshot);
        Some(Self { meta_at, snapshot, bytes, blocks, floor, tails, meta })
    }
}
