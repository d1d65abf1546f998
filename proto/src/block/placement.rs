//! The placement part of a block: who has copies, and what its writer knew.
//!
//! ```text
//!  0  writer_epoch  u32  the epoch of the sequencer that placed it: the block's own, or a later one's recovery
//!  4  wave          u32  from 1, rises with every try
//!  8  acked         u32  highest acknowledged ESN of the block's epoch, as known to the writer
//! 12  settled       u32  highest settled ESN of the block's epoch, as known to the writer
//! 16  copyset_len   u8   1 to 16
//! 17  reserved      3 B  0
//! 20  copyset       u32 each: node in the high 16 bits, shard in the low
//! ..  crc           u32  CRC-32 of all before it
//! ```

use std::fmt;

use bytes::{Buf, BufMut};
use rkyv::{Archive, Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::ShardId;
use crate::lsn::{Epoch, Esn};
use crate::replication::QuorumConfig;

/// The shards chosen to hold a block's copies, each once, in the order in which single-copy delivery asks them.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Copyset(SmallVec<[ShardId; 4]>);

impl Copyset {
    pub const LEN_MAX: usize = QuorumConfig::REPLICATION_MAX as usize;

    /// `None` if there are none, too many, or one stands twice.
    pub fn new(shards: impl IntoIterator<Item = ShardId>) -> Option<Self> {
        let shards: SmallVec<[ShardId; 4]> = shards.into_iter().take(Self::LEN_MAX + 1).collect();
        let legal = (1..=Self::LEN_MAX).contains(&shards.len())
            && shards.iter().enumerate().all(|(i, shard)| !shards[..i].contains(shard));
        legal.then_some(Self(shards))
    }

    pub fn shards(&self) -> &[ShardId] {
        &self.0
    }

    pub fn contains(&self, shard: ShardId) -> bool {
        self.0.contains(&shard)
    }
}

impl fmt::Debug for Copyset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        for (i, shard) in self.0.iter().enumerate() {
            write!(f, "{}{shard}", if i == 0 { "" } else { " " })?;
        }
        write!(f, "]")
    }
}

/// Which of two placements of a block is the newer: the one of the later writer's epoch, then of the later wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize)]
pub struct PlacementVersion {
    pub writer_epoch: Epoch,
    pub wave: u32,
}

/// The replaceable part of a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    pub version: PlacementVersion,
    pub copyset: Copyset,
    /// Highest acknowledged ESN of the block's epoch, as the writer knew it.
    pub acked: Esn,
    /// Highest settled ESN of the block's epoch, as the writer knew it.
    pub settled: Esn,
}

/// Why bytes are not a placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("a placement needs {needed} bytes, there are {available}")]
    Truncated { needed: usize, available: usize },
    #[error("a copyset has 1 to {max} different shards", max = Copyset::LEN_MAX)]
    Copyset,
    #[error("placement checksum does not match: the bytes were damaged")]
    Crc,
}

impl Placement {
    const FIXED_LEN: usize = 20;
    /// Length of the longest encoded placement, in bytes.
    pub const LEN_MAX: usize = Self::FIXED_LEN + 4 * Copyset::LEN_MAX + 4;

    pub fn encoded_len(&self) -> usize {
        Self::FIXED_LEN + 4 * self.copyset.shards().len() + 4
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32_le(self.version.writer_epoch.0);
        out.put_u32_le(self.version.wave);
        out.put_u32_le(self.acked.0);
        out.put_u32_le(self.settled.0);
        out.put_u8(self.copyset.shards().len() as u8);
        out.put_bytes(0, 3);
        self.copyset.shards().iter().for_each(|shard| out.put_u32_le(shard.to_u32()));
        let crc = crc32fast::hash(&out[start..]);
        out.put_u32_le(crc);
    }

    /// Decodes a placement at the start of `bytes` and says how long it was.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), PlacementError> {
        let truncated = |needed| PlacementError::Truncated { needed, available: bytes.len() };
        let mut fields = bytes.get(..Self::FIXED_LEN).ok_or_else(|| truncated(Self::FIXED_LEN))?;
        let version = PlacementVersion { writer_epoch: Epoch(fields.get_u32_le()), wave: fields.get_u32_le() };
        let (acked, settled) = (Esn(fields.get_u32_le()), Esn(fields.get_u32_le()));
        let copyset_len = usize::from(fields.get_u8());
        if copyset_len > Copyset::LEN_MAX {
            return Err(PlacementError::Copyset);
        }
        let crc_at = Self::FIXED_LEN + 4 * copyset_len;
        let mut rest = bytes.get(Self::FIXED_LEN..crc_at + 4).ok_or_else(|| truncated(crc_at + 4))?;
        let shards: SmallVec<[ShardId; 4]> = (0..copyset_len).map(|_| ShardId::from_u32(rest.get_u32_le())).collect();
        if rest.get_u32_le() != crc32fast::hash(&bytes[..crc_at]) {
            return Err(PlacementError::Crc);
        }
        let copyset = Copyset::new(shards).ok_or(PlacementError::Copyset)?;
        Ok((Self { version, copyset, acked, settled }, crc_at + 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn placement() -> Placement {
        Placement {
            version: PlacementVersion { writer_epoch: Epoch(3), wave: 2 },
            copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 1)]).unwrap(),
            acked: Esn(40),
            settled: Esn(39),
        }
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        placement().encode(&mut bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let expected =
            ["03000000", "02000000", "28000000", "27000000", "02", "000000", "00000100", "01000200", "adf1999b"];
        assert_eq!(hex, expected.concat());
        assert_eq!(Placement::decode(&bytes), Ok((placement(), bytes.len())));
        assert_eq!(placement().encoded_len(), bytes.len());
    }

    #[test]
    fn copysets_are_bounded_and_without_repetition() {
        let shards = |n: u16| (1..=n).map(|node| ShardId::new(node, 0));
        assert!(Copyset::new(shards(0)).is_none());
        assert!(Copyset::new(shards(16)).is_some());
        assert!(Copyset::new(shards(17)).is_none());
        assert!(Copyset::new([ShardId::new(1, 0), ShardId::new(1, 0)]).is_none());
        assert_eq!(format!("{:?}", Copyset::new(shards(2)).unwrap()), "[n1s0 n2s0]");
    }

    #[test]
    fn a_later_recovery_beats_any_wave() {
        let version = |writer_epoch, wave| PlacementVersion { writer_epoch: Epoch(writer_epoch), wave };
        assert!(version(4, 1) > version(3, 9) && version(3, 2) > version(3, 1));
    }

    proptest! {
        #[test]
        fn damage_and_garbage_are_noticed(garbage in prop::collection::vec(any::<u8>(), 0..100), bit: prop::sample::Index) {
            let _ = Placement::decode(&garbage);
            let mut bytes = Vec::new();
            placement().encode(&mut bytes);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Placement::decode(&bytes).is_err());
        }
    }
}
