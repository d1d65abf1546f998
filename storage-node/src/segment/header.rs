//! The first page of a segment.
//!
//! ```text
//!  0  magic        u32   "DLS1"
//!  4  version      u16   1
//!  6  reserved     u16   0
//!  8  cluster      u128
//! 24  node         u16
//! 26  shard        u16
//! 28  incarnation  u32
//! 32  segment      u64   its number, as in the file's name
//! 40  len          u32   of the file
//! 44  binding      u32   goes into the checksum of every frame
//! 48  created      i64   ms since 1970, by the node's clock; for people
//! 56  reserved     u32   0
//! 60  crc          u32   CRC-32 of bytes 0..60
//! ```
//!
//! It stands at 0 and again at 2048: without the binding no frame can be verified, so one damaged sector must not take it.
//! The rest of the page is zeros. Frames begin at 4096.

use bytes::{Buf, BufMut};
use dlog_proto::{ClusterId, Incarnation, NodeId, ShardId};

use super::{Binding, SegmentId};

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub incarnation: Incarnation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: Identity,
    pub(crate) segment: SegmentId,
    pub(crate) len: u32,
    pub(crate) binding: Binding,
    pub(crate) created_ms: i64,
}

/// Why a page is not a segment's first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it is not the first page of a segment, or both copies of its header are damaged")]
    Damaged,
    #[error("it is a segment of version {0}, this process knows 1: upgrade it")]
    Version(u16),
}

impl Identity {
    pub(crate) const LEN: usize = 24;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u128_le(self.cluster.0);
        out.put_u16_le(self.shard.node.0);
        out.put_u16_le(self.shard.shard);
        out.put_u32_le(self.incarnation.0);
    }

    /// # Panics
    /// If there are fewer than [`Identity::LEN`] bytes.
    pub(crate) fn decode(fields: &mut &[u8]) -> Self {
        Self {
            cluster: ClusterId(fields.get_u128_le()),
            shard: ShardId { node: NodeId(fields.get_u16_le()), shard: fields.get_u16_le() },
            incarnation: Incarnation(fields.get_u32_le()),
        }
    }
}

impl SegmentHeader {
    /// Length of the page: frames begin here.
    pub(crate) const PAGE_LEN: u32 = 4096;
    const LEN: usize = 64;
    const COPIES: [usize; 2] = [0, 2048];
    const MAGIC: u32 = u32::from_le_bytes(*b"DLS1");
    const VERSION: u16 = 1;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(Self::LEN);
        copy.put_u32_le(Self::MAGIC);
        copy.put_u16_le(Self::VERSION);
        copy.put_u16_le(0);
        self.identity.encode(&mut copy);
        copy.put_u64_le(self.segment.0);
        copy.put_u32_le(self.len);
        copy.put_u32_le(self.binding.0);
        copy.put_i64_le(self.created_ms);
        copy.put_u32_le(0);
        copy.put_u32_le(crc32fast::hash(&copy));
        let mut page = vec![0; Self::PAGE_LEN as usize];
        for at in Self::COPIES {
            page[at..at + Self::LEN].copy_from_slice(&copy);
        }
        page
    }

    /// Decodes a page; one good copy is enough.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        let copies = Self::COPIES.map(|at| page.get(at..at + Self::LEN).map_or(Err(HeaderError::Damaged), Self::copy));
        let [first, second] = copies;
        match (first, second) {
            (Ok(header), _) | (_, Ok(header)) => Ok(header),
            (Err(HeaderError::Damaged), Err(error)) | (Err(error), _) => Err(error),
        }
    }

    /// How many of the copies in a page are good.
    pub(crate) fn good_copies(page: &[u8]) -> usize {
        let is_good = |at: &usize| page.get(*at..*at + Self::LEN).is_some_and(|copy| Self::copy(copy).is_ok());
        Self::COPIES.iter().filter(|at| is_good(at)).count()
    }

    fn copy(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (mut fields, mut crc) = (bytes, &bytes[Self::LEN - 4..]);
        if fields.get_u32_le() != Self::MAGIC || crc32fast::hash(&bytes[..Self::LEN - 4]) != crc.get_u32_le() {
            return Err(HeaderError::Damaged);
        }
        let version = fields.get_u16_le();
        if version != Self::VERSION {
            return Err(HeaderError::Version(version));
        }
        fields.advance(2);
        Ok(Self {
            identity: Identity::decode(&mut fields),
            segment: SegmentId(fields.get_u64_le()),
            len: fields.get_u32_le(),
            binding: Binding(fields.get_u32_le()),
            created_ms: fields.get_i64_le(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn identity() -> Identity {
        Identity { cluster: ClusterId(0x0102_0304), shard: ShardId::new(7, 1), incarnation: Incarnation(9) }
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: identity(),
            segment: SegmentId(42),
            len: 65536,
            binding: Binding(0xabcd_ef01),
            created_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn golden_bytes() {
        let page = header().encode();
        assert_eq!(page.len(), 4096);
        let hex: String = page[..64].iter().map(|b| format!("{b:02x}")).collect();
        let expected = [
            "444c5331",
            "0100",
            "0000",
            "04030201000000000000000000000000",
            "0700",
            "0100",
            "09000000",
            "2a00000000000000",
            "00000100",
            "01efcdab",
            "0068e5cf8b010000",
            "00000000",
        ];
        assert_eq!(hex[..120], expected.concat());
        assert_eq!(page[..64], page[2048..2112]);
        assert_eq!(SegmentHeader::decode(&page), Ok(header()));
    }

    #[test]
    fn a_newer_version_is_called_so() {
        let mut page = header().encode();
        for at in SegmentHeader::COPIES {
            page[at + 4] = 2;
            let crc = crc32fast::hash(&page[at..at + 60]);
            page[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Version(2)));
    }

    proptest! {
        #[test]
        fn one_copy_may_be_damaged(damage in prop::collection::vec(any::<u8>(), 1..512), second: bool) {
            let mut page = header().encode();
            let at = if second { 2048 } else { 0 };
            page[at..at + damage.len()].copy_from_slice(&damage);
            prop_assert_eq!(SegmentHeader::decode(&page), Ok(header()));
        }

        #[test]
        fn garbage_never_panics(page in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = SegmentHeader::decode(&page);
        }
    }
}
