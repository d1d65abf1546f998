//! The immutable part of a block.
//!
//! ```text
//!  0  magic                u32  "DLB1"
//!  4  version              u8   1
//!  5  kind                 u8   0 records, 1 producer snapshot
//!  6  flags                u16  0
//!  8  partition            u64
//! 16  epoch                u32
//! 20  first_esn            u32  from 1
//! 24  span                 u32  how many LSNs; 0 for a producer snapshot
//! 28  batch_count          u32
//! 32  min_timestamp        i64  ms, of the records
//! 40  max_timestamp        i64  ms, of the records
//! 48  sequencer_timestamp  i64  ms, when the block was made; never falls inside an epoch
//! 56  body_len             u32
//! 60  crc                  u32  CRC-32 of bytes 0..60 and the body
//! 64  body
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::PartitionUid;
use crate::lsn::{Epoch, Esn, Lsn};
use crate::time::TimestampMs;
use crate::wire::Payload;

/// What a block's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockKind {
    /// Record batches.
    Records = 0,
    /// What is known of producers once everything below `first_esn` is applied. Takes no LSN.
    ProducerSnapshot = 1,
}

/// Fixed-size head of a block, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHeader {
    pub kind: BlockKind,
    pub partition: PartitionUid,
    pub epoch: Epoch,
    pub first_esn: Esn,
    pub span: u32,
    pub batch_count: u32,
    pub min_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub sequencer_timestamp: TimestampMs,
    pub body_len: u32,
    pub crc: u32,
}

/// Why bytes are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("a block needs {needed} bytes, there are {available}")]
    Truncated { needed: usize, available: usize },
    #[error("not a block (it begins with {0:#010x})")]
    Magic(u32),
    #[error("block version {0}, this process knows 1: upgrade it")]
    Version(u8),
    #[error("block of unknown kind {0}")]
    Kind(u8),
    #[error("block flags {0:#06x} are not understood: upgrade this process")]
    Flags(u16),
    #[error("block body of {len} bytes is over the limit of {max}")]
    TooLong { len: u32, max: u32 },
    #[error("block claims LSNs e{epoch}n{first} to {span} further, which cannot be")]
    Range { epoch: u32, first: u32, span: u32 },
    #[error("block checksum {computed:#010x} where {stored:#010x} is written: the bytes were damaged")]
    Crc { stored: u32, computed: u32 },
    #[error("{0} bytes follow the block")]
    Trailing(usize),
}

impl BlockHeader {
    /// Length of the encoded header, in bytes.
    pub const LEN: usize = 64;
    /// Longest body, in bytes.
    pub const BODY_LEN_MAX: u32 = 32 << 20;

    const MAGIC: u32 = u32::from_le_bytes(*b"DLB1");
    const VERSION: u8 = 1;

    pub fn first_lsn(&self) -> Lsn {
        Lsn::new(self.epoch, self.first_esn)
    }

    pub fn last_esn(&self) -> Esn {
        self.first_esn.last_of(self.span)
    }

    pub fn last_lsn(&self) -> Lsn {
        Lsn::new(self.epoch, self.last_esn())
    }

    /// Length of the whole immutable part, in bytes.
    pub fn block_len(&self) -> usize {
        Self::LEN + self.body_len as usize
    }

    fn put_without_crc(&self, out: &mut impl BufMut) {
        out.put_u32_le(Self::MAGIC);
        out.put_u8(Self::VERSION);
        out.put_u8(self.kind as u8);
        out.put_u16_le(0);
        out.put_u64_le(self.partition.0);
        out.put_u32_le(self.epoch.0);
        out.put_u32_le(self.first_esn.0);
        out.put_u32_le(self.span);
        out.put_u32_le(self.batch_count);
        out.put_i64_le(self.min_timestamp);
        out.put_i64_le(self.max_timestamp);
        out.put_i64_le(self.sequencer_timestamp);
        out.put_u32_le(self.body_len);
    }

    /// Decodes a header. Checks everything but the checksum, which needs the body.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let Some(mut fields) = bytes.get(..Self::LEN) else {
            return Err(BlockError::Truncated { needed: Self::LEN, available: bytes.len() });
        };
        let magic = fields.get_u32_le();
        if magic != Self::MAGIC {
            return Err(BlockError::Magic(magic));
        }
        let version = fields.get_u8();
        if version != Self::VERSION {
            return Err(BlockError::Version(version));
        }
        let kind = match fields.get_u8() {
            0 => BlockKind::Records,
            1 => BlockKind::ProducerSnapshot,
            other => return Err(BlockError::Kind(other)),
        };
        let flags = fields.get_u16_le();
        if flags != 0 {
            return Err(BlockError::Flags(flags));
        }
        let header = Self {
            kind,
            partition: PartitionUid(fields.get_u64_le()),
            epoch: Epoch(fields.get_u32_le()),
            first_esn: Esn(fields.get_u32_le()),
            span: fields.get_u32_le(),
            batch_count: fields.get_u32_le(),
            min_timestamp: fields.get_i64_le(),
            max_timestamp: fields.get_i64_le(),
            sequencer_timestamp: fields.get_i64_le(),
            body_len: fields.get_u32_le(),
            crc: fields.get_u32_le(),
        };
        header.check_ranges()?;
        Ok(header)
    }

    fn check_ranges(&self) -> Result<(), BlockError> {
        if self.body_len > Self::BODY_LEN_MAX {
            return Err(BlockError::TooLong { len: self.body_len, max: Self::BODY_LEN_MAX });
        }
        let span_fits = match self.kind {
            BlockKind::Records => self.span > 0 && self.first_esn.0.checked_add(self.span - 1).is_some(),
            BlockKind::ProducerSnapshot => self.span == 0,
        };
        if self.epoch == Epoch::ZERO || self.first_esn == Esn::ZERO || !span_fits {
            let (epoch, first, span) = (self.epoch.0, self.first_esn.0, self.span);
            return Err(BlockError::Range { epoch, first, span });
        }
        Ok(())
    }
}

/// A block in memory: the decoded header and the bytes of the whole immutable part. Cloning it copies no bytes.
#[derive(Debug, Clone)]
pub struct Block {
    header: BlockHeader,
    /// Header and body, in the pieces in which they were made.
    bytes: Payload,
}

impl Block {
    /// Puts header and body under their checksum. `head` is what the body begins with (it shares its allocation with the
    /// header), `rest` the remaining pieces. `header.body_len` and `header.crc` are set here.
    ///
    /// # Panics
    /// If the body is longer than [`BlockHeader::BODY_LEN_MAX`] or the header's numbers cannot be: a sequencer made them.
    pub(super) fn seal(mut header: BlockHeader, mut head: BytesMut, rest: &Payload) -> Self {
        let body_len = head.len() - BlockHeader::LEN + rest.len();
        header.body_len = u32::try_from(body_len).expect("bodies are bounded");
        header.check_ranges().expect("a sequencer gives out LSNs that can be");
        let mut fields = &mut head[..BlockHeader::LEN];
        header.put_without_crc(&mut fields);
        header.crc = checksum(&head, rest.chunks());
        (&mut head[BlockHeader::LEN - 4..BlockHeader::LEN]).put_u32_le(header.crc);
        let bytes = std::iter::once(head.freeze()).chain(rest.chunks().iter().cloned()).collect();
        Self { header, bytes }
    }

    /// Takes bytes from network or disk for a block, after checking all of them. They must be exactly one block; nothing is
    /// copied if the first piece holds the whole header.
    pub fn decode(bytes: Payload) -> Result<Self, BlockError> {
        let bytes = match bytes.chunks() {
            [first, ..] if first.len() >= BlockHeader::LEN => bytes,
            _ => bytes.into_contiguous().into(),
        };
        let (first, rest) =
            bytes.chunks().split_first().ok_or(BlockError::Truncated { needed: BlockHeader::LEN, available: 0 })?;
        let header = BlockHeader::decode(first)?;
        let (needed, available) = (header.block_len(), bytes.len());
        if available < needed {
            return Err(BlockError::Truncated { needed, available });
        }
        if available > needed {
            return Err(BlockError::Trailing(available - needed));
        }
        let computed = checksum(first, rest);
        if computed != header.crc {
            return Err(BlockError::Crc { stored: header.crc, computed });
        }
        Ok(Self { header, bytes })
    }

    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Header and body as they go to wire and disk.
    pub fn bytes(&self) -> &Payload {
        &self.bytes
    }

    /// The body in one piece; copies if it is in several.
    pub fn body(&self) -> Bytes {
        let mut whole = self.bytes.clone().into_contiguous();
        whole.advance(BlockHeader::LEN);
        whole
    }
}

/// Over everything but the checksum itself. `first` begins with a whole header.
fn checksum(first: &[u8], rest: &[Bytes]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&first[..BlockHeader::LEN - 4]);
    crc.update(&first[BlockHeader::LEN..]);
    rest.iter().for_each(|chunk| crc.update(chunk));
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(body: &[u8]) -> Block {
        let header = BlockHeader {
            kind: BlockKind::Records,
            partition: PartitionUid(0x0102_0304_0506_0708),
            epoch: Epoch(3),
            first_esn: Esn(42),
            span: 2,
            batch_count: 1,
            min_timestamp: 1000,
            max_timestamp: 2000,
            sequencer_timestamp: 3000,
            body_len: 0,
            crc: 0,
        };
        let mut head = BytesMut::zeroed(BlockHeader::LEN);
        head.put_slice(&body[..body.len() / 2]);
        Block::seal(header, head, &Bytes::copy_from_slice(&body[body.len() / 2..]).into())
    }

    #[test]
    fn golden_bytes() {
        let bytes = block(b"body").bytes().clone().into_contiguous();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let expected = [
            "444c4231",
            "01",
            "00",
            "0000",
            "0807060504030201",
            "03000000",
            "2a000000",
            "02000000",
            "01000000",
            "e803000000000000",
            "d007000000000000",
            "b80b000000000000",
            "04000000",
            "69ec0d98",
            "626f6479",
        ];
        assert_eq!(hex, expected.concat());
        assert_eq!(Block::decode(bytes.into()).unwrap().header().last_lsn().to_string(), "e3n43");
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let refused = |at: usize, value: &[u8]| {
            let mut bytes = block(b"body").bytes().clone().into_contiguous().to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            BlockHeader::decode(&bytes).unwrap_err()
        };
        assert!(matches!(refused(16, &[0; 4]), BlockError::Range { epoch: 0, .. }));
        assert!(matches!(refused(20, &[0; 4]), BlockError::Range { first: 0, .. }));
        assert!(matches!(refused(20, &[0xff; 4]), BlockError::Range { .. }), "the last LSN would overflow");
        assert!(matches!(refused(24, &[0; 4]), BlockError::Range { span: 0, .. }));
        assert!(matches!(refused(56, &[0xff; 4]), BlockError::TooLong { .. }));
        assert!(matches!(refused(5, &[9]), BlockError::Kind(9)));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..100), bit: prop::sample::Index) {
            let mut bytes = block(&body).bytes().clone().into_contiguous().to_vec();
            prop_assert!(Block::decode(Bytes::from(bytes.clone()).into()).is_ok());
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Block::decode(Bytes::from(bytes).into()).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), with_magic: bool) {
            let mut garbage = if with_magic { b"DLB1\x01\x00\x00\x00".to_vec() } else { Vec::new() };
            garbage.extend(bytes);
            let _ = Block::decode(Bytes::from(garbage.clone()).into());
            let half = garbage.len() / 2;
            let pieces = [Bytes::copy_from_slice(&garbage[..half]), Bytes::copy_from_slice(&garbage[half..])];
            let _ = Block::decode(pieces.into_iter().collect());
        }
    }
}
