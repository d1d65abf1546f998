//! Frames: how entries lie in a segment.
//!
//! ```text
//!  0  magic     u8   0xDF
//!  1  kind      u8   see `FrameKind`
//!  2  check     u16  of binding, offset and bytes 0, 1 and 4..12: cheap to test at every place of a damaged segment
//!  4  head_len  u32
//!  8  body_len  u32
//! 12  crc       u32  CRC-32 of binding (u32), offset in the segment (u32), bytes 0..12 and the head
//! 16  head           what the entry is, see `entries`
//! ..  body           bytes with a checksum of their own in the head
//! ..  zeros up to a multiple of 8
//! ```
//!
//! Binding and offset are not stored: a reader knows them, and a frame that is not exactly where it was written, in the life
//! of the file in which it was written, is none.
//!
//! A walk needs no body to go from frame to frame, and a damaged body has a head that says what was lost.

use bytes::{Buf, BufMut};
use dlog_proto::block::BlockHeader;

use super::Binding;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Begins a group.
    Commit = 1,
    Block = 2,
    Amend = 3,
    Partition = 4,
    Shard = 5,
    /// Which segments the log consists of.
    Segments = 6,
    /// Nothing follows in this segment.
    End = 7,
}

impl FrameKind {
    pub(crate) fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Commit,
            2 => Self::Block,
            3 => Self::Amend,
            4 => Self::Partition,
            5 => Self::Shard,
            6 => Self::Segments,
            7 => Self::End,
            _ => return None,
        })
    }
}

/// The fixed part of a frame, believed once `check` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) head_len: u32,
    pub(crate) body_len: u32,
    crc: u32,
}

/// Where frames are: the binding of their segment and their offset in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) binding: Binding,
    pub(crate) offset: u32,
}

impl Place {
    fn check(self, kind: u8, head_len: u32, body_len: u32) -> u16 {
        let place = u64::from(self.binding.0) << 32 | u64::from(self.offset);
        let lengths = u64::from(head_len) << 32 | u64::from(body_len);
        let mut x = place ^ lengths.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(kind) << 56;
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (x >> 48) as u16
    }

    /// Of a frame's fixed part up to its checksum, and its head.
    fn crc(self, fixed: &[u8], head: &[u8]) -> u32 {
        // In one piece: the checksum of many short ones costs more.
        let mut first = [0; 8 + FrameHeader::CRC_AT];
        first[..4].copy_from_slice(&self.binding.0.to_le_bytes());
        first[4..8].copy_from_slice(&self.offset.to_le_bytes());
        first[8..].copy_from_slice(fixed);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&first);
        crc.update(head);
        crc.finalize()
    }
}

impl FrameHeader {
    pub(crate) const LEN: usize = 16;
    const CRC_AT: usize = 12;
    const MAGIC: u8 = 0xDF;
    /// Longest head, in bytes: more decided ends or segments than there can be.
    pub(crate) const HEAD_LEN_MAX: u32 = 1 << 20;
    const BODY_LEN_MAX: u32 = BlockHeader::BODY_LEN_MAX;

    /// Length of the whole frame with its padding, in bytes.
    pub(crate) const fn frame_len(&self) -> u32 {
        frame_len(self.head_len as usize, self.body_len as usize) as u32
    }

    /// Where the body begins, counted from the frame.
    pub(crate) const fn body_at(&self) -> u32 {
        Self::LEN as u32 + self.head_len
    }

    /// Whether a header could begin here, at first sight.
    pub(crate) fn may_begin(bytes: &[u8]) -> bool {
        matches!(bytes, [Self::MAGIC, kind, ..] if FrameKind::of(*kind).is_some())
    }

    /// The header that `bytes` begin with. Only `check` is tested: [`verify`](Self::verify) tests the rest.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> Option<Self> {
        let mut fields = bytes.get(..Self::LEN)?;
        if fields.get_u8() != Self::MAGIC {
            return None;
        }
        let number = fields.get_u8();
        let kind = FrameKind::of(number)?;
        let (check, head_len, body_len) = (fields.get_u16_le(), fields.get_u32_le(), fields.get_u32_le());
        let plausible = head_len <= Self::HEAD_LEN_MAX && body_len <= Self::BODY_LEN_MAX;
        (plausible && check == place.check(number, head_len, body_len)).then(|| Self {
            kind,
            head_len,
            body_len,
            crc: fields.get_u32_le(),
        })
    }

    /// Whether `bytes`, the frame up to the end of its head, are what was written here.
    pub(crate) fn verify(&self, bytes: &[u8], place: Place) -> bool {
        place.crc(&bytes[..Self::CRC_AT], &bytes[Self::LEN..Self::LEN + self.head_len as usize]) == self.crc
    }
}

/// Length of a frame with its padding, in bytes.
pub(crate) const fn frame_len(head_len: usize, body_len: usize) -> usize {
    (FrameHeader::LEN + head_len + body_len).next_multiple_of(8)
}

/// Writes a frame's header and head behind what is in `out`. The head is what `put` appends.
pub(crate) fn put_frame(
    out: &mut Vec<u8>,
    place: Place,
    kind: FrameKind,
    body_len: u32,
    put: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.put_bytes(0, FrameHeader::LEN);
    put(out);
    let (header, head) = out[start..].split_at_mut(FrameHeader::LEN);
    let head_len = head.len() as u32;
    assert!(head_len <= FrameHeader::HEAD_LEN_MAX && body_len <= FrameHeader::BODY_LEN_MAX, "entries are bounded");
    assert!(place.offset.is_multiple_of(8), "frames are aligned");
    header[0] = FrameHeader::MAGIC;
    header[1] = kind as u8;
    header[2..4].copy_from_slice(&place.check(kind as u8, head_len, body_len).to_le_bytes());
    header[4..8].copy_from_slice(&head_len.to_le_bytes());
    header[8..12].copy_from_slice(&body_len.to_le_bytes());
    let crc = place.crc(&header[..FrameHeader::CRC_AT], head);
    header[FrameHeader::CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentId;
    use proptest::prelude::*;

    const PLACE: Place = Place { binding: Binding(0x1122_3344), offset: 4096 };

    fn frame(place: Place) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, place, FrameKind::Amend, 5, |out| out.put_slice(b"a head"));
        bytes
    }

    fn holds(bytes: &[u8], place: Place) -> bool {
        FrameHeader::decode(bytes, place).is_some_and(|header| {
            let head_end = header.body_at() as usize;
            bytes.len() >= head_end && header.verify(bytes, place)
        })
    }

    #[test]
    fn golden_bytes() {
        let hex: String = frame(PLACE).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, concat!("df", "03", "88c7", "06000000", "05000000", "d445785f", "612068656164"));
        let header = FrameHeader::decode(&frame(PLACE), PLACE).unwrap();
        assert_eq!((header.head_len, header.body_len, header.frame_len()), (6, 5, 32));
        assert!(holds(&frame(PLACE), PLACE));
    }

    #[test]
    fn a_frame_of_an_earlier_life_never_passes() {
        // The cheap check lets one in 65,536 through; the checksum lets none.
        let (secret, offset) = (0x0dd0_5eed_1234_5678, 8192);
        let old = frame(Place { binding: Binding::new(SegmentId(5), secret), offset });
        let mut cheap = 0;
        for segment in 6..300_000 {
            let place = Place { binding: Binding::new(SegmentId(segment), secret), offset };
            cheap += u32::from(FrameHeader::decode(&old, place).is_some());
            assert!(!holds(&old, place));
        }
        assert!(cheap < 20);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(bit in 0usize..22 * 8) {
            let mut bytes = frame(PLACE);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!holds(&bytes, PLACE));
        }

        #[test]
        fn elsewhere_it_is_no_frame(offset in 0u32..1 << 20) {
            prop_assume!(offset != PLACE.offset);
            let place = Place { offset, ..PLACE };
            prop_assert!(!holds(&frame(PLACE), place));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = holds(&bytes, PLACE);
        }
    }
}
