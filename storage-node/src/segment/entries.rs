//! What is in the heads of frames.
//!
//! ```text
//! commit     0  number          u64  from 1, rises by 1 over all segments
//!            8  group_len       u32  bytes of the group, this frame included
//!           12  reserved        u32  0
//!           16  durable_segment u64  everything below this place was durable when the group was written
//!           24  durable_offset  u32
//!           28  reserved        u32  0
//! block      0  placement            as in `dlog_proto::block::Placement`, with its own checksum
//!           ..  block header    64 B as in `dlog_proto::block::BlockHeader`; the body is the block's
//! amend      0  partition       u64
//!            8  epoch           u32
//!           12  first_esn       u32
//!           16  placement
//! partition  0  partition       u64
//!            8  trim            u64
//!           16  seal            u32
//!           20  flags           u32  bit 0: deleted
//!           24  ends: each epoch u32, last_esn u32, flags u32 (bit 0: authoritative)
//! shard      0  incomplete_before u64
//! segments   0  ranges: each first u64, count u64, ascending: the segments that exist, this one included
//! end           nothing
//! ```

use bytes::{Buf, BufMut};
use dlog_proto::block::{BlockHeader, Placement};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};

use super::frame::FrameKind;
use super::{Position, SegmentId};
use crate::entry::{EpochMarks, PartitionMeta, ShardMeta};

/// A decoded head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Head {
    Commit(Commit),
    Block { placement: Placement, header: BlockHeader },
    Amend(Amend),
    Partition(PartitionMeta),
    Shard(ShardMeta),
    Segments(SegmentRanges),
    End,
}

/// The beginning of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) number: u64,
    pub(crate) group_len: u32,
    pub(crate) durable: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Amend {
    pub(crate) partition: PartitionUid,
    pub(crate) epoch: Epoch,
    pub(crate) first_esn: Esn,
    pub(crate) placement: Placement,
}

/// A set of segments, whatever their generations, as ascending ranges of numbers that do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SegmentRanges(Vec<(u64, u64)>);

/// Why a head with a good checksum is not understood: it was written by another version, or by a faulty one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the head of a {0:?} frame is not understood")]
pub(crate) struct HeadError(FrameKind);

impl Head {
    pub(crate) fn decode(kind: FrameKind, bytes: &[u8], body_len: u32) -> Result<Self, HeadError> {
        let head = match kind {
            FrameKind::Block => decode_block(bytes, body_len),
            _ if body_len != 0 => None,
            FrameKind::Commit => Commit::decode(bytes).map(Self::Commit),
            FrameKind::Amend => Amend::decode(bytes).map(Self::Amend),
            FrameKind::Partition => decode_partition(bytes).map(Self::Partition),
            FrameKind::Shard => decode_shard(bytes).map(Self::Shard),
            FrameKind::Segments => SegmentRanges::decode(bytes).map(Self::Segments),
            FrameKind::End => bytes.is_empty().then_some(Self::End),
        };
        head.ok_or(HeadError(kind))
    }
}

fn decode_block(bytes: &[u8], body_len: u32) -> Option<Head> {
    let (placement, len) = Placement::decode(bytes).ok()?;
    if bytes.len() != len + BlockHeader::LEN {
        return None;
    }
    let header = BlockHeader::decode(&bytes[len..]).ok()?;
    (header.body_len == body_len).then_some(Head::Block { placement, header })
}

impl Commit {
    pub(crate) const LEN: usize = 32;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.number);
        out.put_u32_le(self.group_len);
        out.put_u32_le(0);
        out.put_u64_le(self.durable.segment.0);
        out.put_u32_le(self.durable.offset);
        out.put_u32_le(0);
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN {
            return None;
        }
        let (number, group_len, _) = (bytes.get_u64_le(), bytes.get_u32_le(), bytes.get_u32_le());
        let durable = Position::new(SegmentId(bytes.get_u64_le()), bytes.get_u32_le());
        Some(Self { number, group_len, durable })
    }
}

impl Amend {
    pub(crate) const FIXED_LEN: usize = 16;

    pub(crate) fn marks(&self) -> EpochMarks {
        EpochMarks { epoch: self.epoch, acked: self.placement.acked, settled: self.placement.settled }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.get(..Self::FIXED_LEN)?;
        let (placement, len) = Placement::decode(&bytes[Self::FIXED_LEN..]).ok()?;
        (bytes.len() == Self::FIXED_LEN + len).then(|| Self {
            partition: PartitionUid(fields.get_u64_le()),
            epoch: Epoch(fields.get_u32_le()),
            first_esn: Esn(fields.get_u32_le()),
            placement,
        })
    }
}

pub(crate) fn encode_amend(
    partition: PartitionUid,
    epoch: Epoch,
    first_esn: Esn,
    placement: &Placement,
    out: &mut Vec<u8>,
) {
    out.put_u64_le(partition.0);
    out.put_u32_le(epoch.0);
    out.put_u32_le(first_esn.0);
    placement.encode(out);
}

const PARTITION_FIXED_LEN: usize = 24;
const END_LEN: usize = 12;
const DELETED: u32 = 1;
const AUTHORITATIVE: u32 = 1;

pub(crate) fn partition_len(meta: &PartitionMeta) -> usize {
    PARTITION_FIXED_LEN + meta.ends.len() * END_LEN
}

pub(crate) fn encode_partition(meta: &PartitionMeta, out: &mut Vec<u8>) {
    out.put_u64_le(meta.partition.0);
    out.put_u64_le(meta.trim.0);
    out.put_u32_le(meta.seal.0);
    out.put_u32_le(if meta.deleted { DELETED } else { 0 });
    for end in &meta.ends {
        out.put_u32_le(end.epoch.0);
        out.put_u32_le(end.last_esn.0);
        out.put_u32_le(if end.authoritative { AUTHORITATIVE } else { 0 });
    }
}

pub(crate) fn decode_partition(mut bytes: &[u8]) -> Option<PartitionMeta> {
    if bytes.len() < PARTITION_FIXED_LEN || !(bytes.len() - PARTITION_FIXED_LEN).is_multiple_of(END_LEN) {
        return None;
    }
    let (partition, trim) = (PartitionUid(bytes.get_u64_le()), Lsn(bytes.get_u64_le()));
    let (seal, flags) = (Epoch(bytes.get_u32_le()), bytes.get_u32_le());
    let mut ends: Vec<EpochEnd> = Vec::with_capacity(bytes.len() / END_LEN);
    while bytes.has_remaining() {
        let (epoch, last_esn, flags) = (Epoch(bytes.get_u32_le()), Esn(bytes.get_u32_le()), bytes.get_u32_le());
        if flags & !AUTHORITATIVE != 0 || ends.last().is_some_and(|last| last.epoch >= epoch) {
            return None;
        }
        ends.push(EpochEnd { epoch, last_esn, authoritative: flags & AUTHORITATIVE != 0 });
    }
    let deleted = flags & DELETED != 0;
    (flags & !DELETED == 0).then_some(PartitionMeta { partition, seal, trim, ends, deleted })
}

pub(crate) fn encode_shard(meta: &ShardMeta, out: &mut Vec<u8>) {
    out.put_u64_le(meta.incomplete_before);
}

pub(crate) const SHARD_LEN: usize = 8;

pub(crate) fn decode_shard(mut bytes: &[u8]) -> Option<ShardMeta> {
    (bytes.len() == SHARD_LEN).then(|| ShardMeta { incomplete_before: bytes.get_u64_le() })
}

impl SegmentRanges {
    pub(crate) fn encoded_len(&self) -> usize {
        self.0.len() * 16
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (first, count) in &self.0 {
            out.put_u64_le(*first);
            out.put_u64_le(*count);
        }
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(16) {
            return None;
        }
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(bytes.len() / 16);
        while bytes.has_remaining() {
            let (first, count) = (bytes.get_u64_le(), bytes.get_u64_le());
            let behind = ranges.last().is_none_or(|(last, len)| last + len < first);
            if count == 0 || first.checked_add(count).is_none() || !behind {
                return None;
            }
            ranges.push((first, count));
        }
        Some(Self(ranges))
    }

    pub(crate) fn contains(&self, segment: SegmentId) -> bool {
        let at = self.0.partition_point(|(first, _)| *first <= segment.number());
        at > 0 && segment.number() - self.0[at - 1].0 < self.0[at - 1].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.0.iter().flat_map(|(first, count)| (*first..first + count).map(SegmentId))
    }
}

impl FromIterator<SegmentId> for SegmentRanges {
    /// `segments` must ascend.
    fn from_iter<I: IntoIterator<Item = SegmentId>>(segments: I) -> Self {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for segment in segments {
            match ranges.last_mut() {
                Some((first, count)) if *first + *count == segment.number() => *count += 1,
                last => {
                    assert!(last.is_none_or(|(first, count)| *first + *count < segment.number()), "segments ascend");
                    ranges.push((segment.number(), 1));
                }
            }
        }
        Self(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlog_proto::ShardId;
    use dlog_proto::block::{Copyset, PlacementVersion};
    use proptest::prelude::*;

    fn placement() -> Placement {
        Placement {
            version: PlacementVersion { writer_epoch: Epoch(3), wave: 1 },
            copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).unwrap(),
            acked: Esn(4),
            settled: Esn(2),
        }
    }

    fn meta() -> PartitionMeta {
        let end =
            |epoch, last_esn, authoritative| EpochEnd { epoch: Epoch(epoch), last_esn: Esn(last_esn), authoritative };
        PartitionMeta {
            partition: PartitionUid(7),
            seal: Epoch(5),
            trim: Lsn::new(Epoch(1), Esn(9)),
            ends: vec![end(1, 12, true), end(3, 0, false)],
            deleted: true,
        }
    }

    fn hex(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Golden bytes, and back.
    fn golden(kind: FrameKind, head: &Head, encode: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let found = hex(encode);
        assert_eq!(found, expected);
        assert_eq!(Head::decode(kind, &bytes(&found), 0).as_ref(), Ok(head));
    }

    #[test]
    fn golden_commit() {
        let commit = Commit { number: 5, group_len: 96, durable: Position::new(SegmentId(42), 4096) };
        let expected = concat!("0500000000000000", "60000000", "00000000", "2a00000000000000", "00100000", "00000000");
        golden(FrameKind::Commit, &Head::Commit(commit), |out| commit.encode(out), expected);
    }

    #[test]
    fn golden_amend() {
        let amend = Amend { partition: PartitionUid(7), epoch: Epoch(3), first_esn: Esn(10), placement: placement() };
        let expected = ["0700000000000000", "03000000", "0a000000", &hex(|out| placement().encode(out))].concat();
        golden(
            FrameKind::Amend,
            &Head::Amend(amend.clone()),
            |out| encode_amend(amend.partition, amend.epoch, amend.first_esn, &amend.placement, out),
            &expected,
        );
    }

    #[test]
    fn golden_partition() {
        let expected = concat!(
            "0700000000000000",
            "0900000001000000",
            "05000000",
            "01000000",
            "010000000c00000001000000",
            "030000000000000000000000"
        );
        golden(FrameKind::Partition, &Head::Partition(meta()), |out| encode_partition(&meta(), out), expected);
        assert_eq!(partition_len(&meta()), expected.len() / 2);
    }

    #[test]
    fn golden_shard_segments_and_end() {
        let shard = ShardMeta { incomplete_before: 258 };
        golden(FrameKind::Shard, &Head::Shard(shard), |out| encode_shard(&shard, out), "0201000000000000");
        let segments: SegmentRanges = [1, 2, 3, 9].map(SegmentId).into_iter().collect();
        let expected = concat!("0100000000000000", "0300000000000000", "0900000000000000", "0100000000000000");
        golden(FrameKind::Segments, &Head::Segments(segments.clone()), |out| segments.encode(out), expected);
        golden(FrameKind::End, &Head::End, |_| {}, "");
    }

    #[test]
    fn ranges_are_a_set() {
        let segments: SegmentRanges = [1, 2, 3, 9].map(SegmentId).into_iter().collect();
        assert!([1, 3, 9].iter().all(|n| segments.contains(SegmentId(*n))));
        assert!([0, 4, 8, 10].iter().all(|n| !segments.contains(SegmentId(*n))));
        assert_eq!(segments.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 3, 9]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(kind in 1u8..8, bytes in prop::collection::vec(any::<u8>(), 0..200), body_len in 0u32..2) {
            let kinds = [FrameKind::Commit, FrameKind::Block, FrameKind::Amend, FrameKind::Partition, FrameKind::Shard,
                FrameKind::Segments, FrameKind::End];
            let _ = Head::decode(kinds[usize::from(kind) - 1], &bytes, body_len);
        }
    }
}
