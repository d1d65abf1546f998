//! Segments: the files that hold a shard's log.
//!
//! A segment is a file of fixed length, `00000000000000000042.seg`, written once from front to back: a header page
//! ([`header`]), then frames ([`frame`]) back to back, each at a multiple of 8. Frames come in groups, one per group commit;
//! each group begins with a commit frame. When the next group does not fit, the segment gets an end frame, is made durable,
//! and the log goes on in the segment with the next number. So:
//!
//! - A segment that has a successor with a group in it is durable up to its end frame. Only the last one can be torn.
//! - A commit frame says how far the log was durable when it was written. Damage below any such mark is loss: somebody may
//!   have been told that it is safe. Damage above all of them is a torn tail, and nobody was.
//!
//! Files are reused under new numbers, so that the file system has nothing to allocate, and a file may be full of frames
//! of its earlier lives. They cannot be taken for today's: every segment has a [`Binding`], which goes into the checksum of
//! each frame.
//!
//! All numbers are little-endian.

use std::fmt;
use std::str::FromStr;

pub(crate) mod encode;
pub(crate) mod entries;
pub(crate) mod file;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod walk;

/// Number of a segment, from 1, rising; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u64);

impl SegmentId {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(crate) fn file_name(self) -> String {
        format!("{:020}.seg", self.0)
    }

    /// The segment that a file of this name should be.
    pub(crate) fn of_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        u64::from_str(digits).ok().map(Self)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in the log. Shown as `42:4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub segment: SegmentId,
    pub offset: u32,
}

impl Position {
    pub const ZERO: Self = Self { segment: SegmentId(0), offset: 0 };

    pub const fn new(segment: SegmentId, offset: u32) -> Self {
        Self { segment, offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// Ties frames to one life of one file.
///
/// Distinct for the segments of a shard, because it is a bijection of the segment's number: two checksums over equal bytes
/// that differ only in these 32 bits always differ, so a frame left over at its old place in a reused file *never* passes
/// for one of the file's new life. And unknown to whoever stores records, because the bijection is picked by random bits: a
/// record made to look like a frame passes for one, where damage sends a scan into it, once in 2^32 tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding(pub(crate) u32);

impl Binding {
    pub(crate) fn new(segment: SegmentId, secret: u64) -> Self {
        let multiplier = (secret >> 32) as u32 | 1;
        let mut x = (segment.0 as u32).wrapping_mul(multiplier) ^ secret as u32;
        // The steps of murmur3's finalizer; each is a bijection of 32 bits.
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        Self(x ^ (x >> 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_numbers_of_twenty_digits() {
        assert_eq!(SegmentId(42).file_name(), "00000000000000000042.seg");
        assert_eq!(SegmentId::of_file_name("00000000000000000042.seg"), Some(SegmentId(42)));
        for other in ["42.seg", "0000000000000000004x.seg", "+0000000000000000042.seg", "00000000000000000042", "lock"]
        {
            assert_eq!(SegmentId::of_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn bindings_of_a_shard_are_distinct() {
        let bindings: std::collections::HashSet<_> =
            (0..100_000).map(|n| Binding::new(SegmentId(n), 0x1234_5678_9abc_def0).0).collect();
        assert_eq!(bindings.len(), 100_000);
        assert_ne!(Binding::new(SegmentId(1), 1), Binding::new(SegmentId(1), 1 << 40));
    }
}
