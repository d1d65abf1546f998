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
mod filled;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod walk;

/// Number of a segment, from 1, rising, never used again; and in the high 16 bits its generation: 0 as the commits wrote it,
/// one more each time that it is [rewritten](crate::rewrite). Shown as `42` and `42.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SegmentId(pub u64);

impl SegmentId {
    const NUMBER_BITS: u32 = 48;

    pub const fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }

    pub const fn generation(self) -> u16 {
        (self.0 >> Self::NUMBER_BITS) as u16
    }

    /// The segment after it, as the commits write it.
    pub const fn next(self) -> Self {
        Self(self.number() + 1)
    }

    /// The same, as the commits wrote it.
    pub(crate) const fn original(self) -> Self {
        Self(self.number())
    }

    /// The same in this generation.
    pub(crate) const fn of_generation(self, generation: u16) -> Self {
        Self(self.number() | (generation as u64) << Self::NUMBER_BITS)
    }

    /// The same in its next generation; `None` if there were too many.
    pub(crate) fn rewritten(self) -> Option<Self> {
        self.0.checked_add(1 << Self::NUMBER_BITS).map(Self)
    }

    pub(crate) fn file_name(self) -> String {
        match self.generation() {
            0 => format!("{:020}.seg", self.number()),
            generation => format!("{:020}.{generation}.seg", self.number()),
        }
    }

    /// The segment that a file of this name should be.
    pub(crate) fn of_file_name(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".seg")?;
        let (digits, generation) = match stem.split_once('.') {
            Some((digits, generation)) => (digits, u16::from_str(generation).ok().filter(|number| *number > 0)?),
            None => (stem, 0),
        };
        let id = u64::from_str(digits).ok().filter(|number| *number < 1 << Self::NUMBER_BITS);
        let id = id.map(|number| Self(u64::from(generation) << Self::NUMBER_BITS | number));
        // Only names that are written so: no signs, no leading zeros too many.
        id.filter(|id| id.file_name() == name)
    }
}

impl PartialOrd for SegmentId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SegmentId {
    /// In the order of the log: by number, then by generation.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.number(), self.generation()).cmp(&(other.number(), other.generation()))
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation() {
            0 => write!(f, "{}", self.number()),
            generation => write!(f, "{}.{generation}", self.number()),
        }
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
        let second = SegmentId(42).rewritten().unwrap().rewritten().unwrap();
        assert_eq!(
            (second.file_name().as_str(), second.to_string()),
            ("00000000000000000042.2.seg", "42.2".to_owned())
        );
        assert_eq!(SegmentId::of_file_name("00000000000000000042.2.seg"), Some(second));
        assert!(SegmentId(42) < second && second < SegmentId(43) && second.next() == SegmentId(43));
        for other in [
            "00000000000000000042.0.seg",
            "00000000000000000042.02.seg",
            "42.seg",
            "0000000000000000004x.seg",
            "+0000000000000000042.seg",
            "00000000000000000042",
            "lock",
        ] {
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
