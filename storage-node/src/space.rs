//! Room for what comes: a block is admitted only when the space for it is there, so a full disk is an answer and never a
//! failed write.
//!
//! `available` is what the active segment and the prepared ones can surely hold, minus what is promised. A segment surely
//! holds its length less its header, its end frame and the longest entry: it is left only when the next entry does not
//! fit, so less than one longest entry is wasted. What is promised for an entry is its frame and a commit frame of its own,
//! which is the most that it can take.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::commit::ReserveRefused;
use crate::entry::Entry;
use crate::segment::encode::{COMMIT_FRAME_LEN, END_FRAME_LEN, entry_frame_len};
use crate::segment::header::SegmentHeader;

/// Shared by those who promise space and those who make it.
#[derive(Debug)]
pub(crate) struct Space {
    available: AtomicI64,
    /// The last try to make room failed for lack of space.
    full: AtomicBool,
    /// Somebody was refused since the last time that room was made.
    wanted: AtomicBool,
    segment_len: u32,
    entry_len_max: u32,
    meta_reserve: i64,
}

impl Space {
    pub(crate) fn new(segment_len: u32, entry_len_max: u32) -> Self {
        Self {
            available: AtomicI64::new(0),
            full: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            segment_len,
            entry_len_max,
            meta_reserve: i64::from(segment_len / 16),
        }
    }

    /// What is promised for an entry.
    pub(crate) fn needed(entry: &Entry) -> usize {
        entry_frame_len(entry) + COMMIT_FRAME_LEN
    }

    /// What a segment can surely hold behind `offset`.
    pub(crate) fn room_behind(&self, segment_len: u32, offset: u32) -> i64 {
        let left = i64::from(segment_len) - i64::from(offset) - END_FRAME_LEN as i64;
        (left - i64::from(self.entry_len_max) - COMMIT_FRAME_LEN as i64).max(0)
    }

    /// What a segment can surely hold that nothing was written to.
    pub(crate) fn room_of(&self, segment_len: u32) -> i64 {
        self.room_behind(segment_len, SegmentHeader::PAGE_LEN)
    }

    /// Promises space for an entry.
    pub(crate) fn reserve(&self, entry: &Entry) -> Result<(), ReserveRefused> {
        let (len, max) = (entry_frame_len(entry), self.entry_len_max as usize);
        if len > max {
            return Err(ReserveRefused::TooLong { len, max });
        }
        let keep = match entry {
            Entry::Block { .. } | Entry::Amend { .. } => self.meta_reserve,
            Entry::Partition(_) | Entry::Shard(_) => 0,
        };
        let needed = Self::needed(entry) as i64;
        let take = |available: i64| (available - needed >= keep).then_some(available - needed);
        match self.available.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.wanted.store(true, Ordering::Release);
                let full = self.full.load(Ordering::Acquire);
                Err(if full { ReserveRefused::NoSpace } else { ReserveRefused::NotReady })
            }
        }
    }

    /// Takes a promise back.
    pub(crate) fn unreserve(&self, entry: &Entry) {
        self.add(Self::needed(entry) as i64);
    }

    /// There is this much more room (or less).
    pub(crate) fn add(&self, bytes: i64) {
        self.available.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn available(&self) -> i64 {
        self.available.load(Ordering::Acquire)
    }

    /// Whether another segment should be made ready.
    pub(crate) fn is_low(&self) -> bool {
        self.wanted.load(Ordering::Acquire) || self.available() < i64::from(self.segment_len / 2)
    }

    /// Notes how the last try to make room went.
    pub(crate) fn made(&self, room: bool) {
        self.full.store(!room, Ordering::Release);
        self.wanted.store(!room, Ordering::Release);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }
}
