//! The file `marker`: whose directory it is, and how it was left.
//!
//! ```text
//!  0  magic        u32   "DLM1"
//!  4  version      u16   1: of everything in the directory
//!  6  flags        u16   bit 0: stopped cleanly; bit 1: the index is damaged, rebuild it; bit 2: the write cache was lost, and
//!                        that is not on record yet
//!  8  cluster      u128
//! 24  node         u16
//! 26  shard        u16
//! 28  incarnation  u32
//! 32  secret       u64   random; picks the segments' bindings
//! 40  boot         u128  of the machine when it was written
//! 56  end_segment  u64   of the log, if it was stopped cleanly: everything before is durable
//! 64  end_offset   u32
//! 68  crc          u32   CRC-32 of bytes 0..68
//! ```
//!
//! Replaced as a whole (on a full disk: overwritten, in one sector), and durable before the directory is used in the way that it says.

use std::io;

use bytes::{Buf, BufMut};

use crate::disk::{Disk, read_file, replace_file};
use crate::segment::header::Identity;
use crate::segment::{Position, SegmentId};

pub(crate) const MARKER_FILE: &str = "marker";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) identity: Identity,
    pub(crate) secret: u64,
    pub(crate) boot: u128,
    pub(crate) clean: bool,
    pub(crate) rebuild_index: bool,
    /// INV-CACHE-LOSS: set by the start that finds the loss, before anything else is done, and not taken away before the metadata
    /// tier knows. Whoever is killed in between would else take the news with him, and the next start, which finds nothing wrong,
    /// would be believed about what the shard lacks (trap C2).
    pub(crate) lost_write_cache: bool,
    pub(crate) end: Position,
}

/// Why a file is not a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MarkerError {
    #[error("it is damaged")]
    Damaged,
    #[error("the directory has format {0}, this process knows 1: upgrade it")]
    Version(u16),
}

impl Marker {
    const LEN: usize = 72;
    const MAGIC: u32 = u32::from_le_bytes(*b"DLM1");
    const VERSION: u16 = 1;
    const CLEAN: u16 = 1;
    const REBUILD_INDEX: u16 = 2;
    const LOST_WRITE_CACHE: u16 = 4;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u32_le(Self::MAGIC);
        out.put_u16_le(Self::VERSION);
        let flag = |set, flag| if set { flag } else { 0 };
        out.put_u16_le(
            flag(self.clean, Self::CLEAN)
                | flag(self.rebuild_index, Self::REBUILD_INDEX)
                | flag(self.lost_write_cache, Self::LOST_WRITE_CACHE),
        );
        self.identity.encode(&mut out);
        out.put_u64_le(self.secret);
        out.put_u128_le(self.boot);
        out.put_u64_le(self.end.segment.0);
        out.put_u32_le(self.end.offset);
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MarkerError> {
        if bytes.len() < 8 {
            return Err(MarkerError::Damaged);
        }
        let mut fields = bytes;
        if fields.get_u32_le() != Self::MAGIC {
            return Err(MarkerError::Damaged);
        }
        // The version first: a later one may have another length.
        let (version, flags) = (fields.get_u16_le(), fields.get_u16_le());
        if version != Self::VERSION {
            return Err(MarkerError::Version(version));
        }
        if bytes.len() != Self::LEN || crc32fast::hash(&bytes[..Self::LEN - 4]).to_le_bytes() != bytes[Self::LEN - 4..]
        {
            return Err(MarkerError::Damaged);
        }
        Ok(Self {
            identity: Identity::decode(&mut fields),
            secret: fields.get_u64_le(),
            boot: fields.get_u128_le(),
            clean: flags & Self::CLEAN != 0,
            rebuild_index: flags & Self::REBUILD_INDEX != 0,
            lost_write_cache: flags & Self::LOST_WRITE_CACHE != 0,
            end: Position::new(SegmentId(fields.get_u64_le()), fields.get_u32_le()),
        })
    }

    /// Reads a directory's marker, if it has one.
    pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Result<Self, MarkerError>>> {
        Ok(read_file(disk, MARKER_FILE, 4096)?.map(|bytes| Self::decode(&bytes)))
    }

    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let bytes = self.encode();
        match replace_file(disk, MARKER_FILE, &bytes) {
            // A full disk must not keep a shard from being opened, and trimmed. In place it needs no space, and is less than a
            // sector; torn all the same, it is damaged and the worst is assumed.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => overwrite(disk, &bytes).map_err(|_| error),
            outcome => outcome,
        }
    }
}

/// Writes over the marker that is there.
fn overwrite(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(MARKER_FILE)?;
    if file.len() != bytes.len() as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_at(0, &[io::IoSlice::new(bytes)])?;
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::segment::header::tests::identity;
    use proptest::prelude::*;

    fn marker() -> Marker {
        Marker {
            identity: identity(),
            secret: 5,
            boot: 6,
            clean: true,
            rebuild_index: false,
            lost_write_cache: true,
            end: Position::new(SegmentId(3), 4096),
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = marker().encode().iter().map(|b| format!("{b:02x}")).collect();
        let expected = [
            "444c4d31",
            "0100",
            "0500",
            "04030201000000000000000000000000",
            "0700",
            "0100",
            "09000000",
            "0500000000000000",
            "06000000000000000000000000000000",
            "0300000000000000",
            "00100000",
        ];
        assert_eq!(hex[..136], expected.concat());
        let disk = SimulatedDisk::new();
        assert_eq!(Marker::read(&disk).unwrap(), None);
        marker().write(&disk).unwrap();
        assert_eq!(Marker::read(&disk).unwrap(), Some(Ok(marker())));
    }

    #[test]
    fn a_newer_format_is_called_so_whatever_its_length() {
        let mut bytes = marker().encode();
        bytes[4] = 2;
        assert_eq!(Marker::decode(&bytes[..20]), Err(MarkerError::Version(2)));
    }

    proptest! {
        #[test]
        fn damage_is_noticed_and_nothing_panics(bit in 0usize..72 * 8, garbage in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = marker().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Marker::decode(&bytes).is_err());
            let _ = Marker::decode(&garbage);
        }
    }
}
