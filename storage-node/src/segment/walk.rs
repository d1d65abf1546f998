//! Walking over the frames of a segment, and finding the next one behind damage.
//!
//! Read with `read_at` into a buffer, not through the map: a walk reads much once, and a disk that fails under it is an
//! error here and nothing worse.

use std::io;

use super::entries::Head;
use super::frame::{FrameHeader, Place};
use super::header::SegmentHeader;
use super::{Binding, SegmentId};
use crate::disk::DiskFile;

/// Read at once.
const WINDOW_LEN: u32 = 256 << 10;
/// What is skipped when it cannot be read.
const PAGE_LEN: u32 = 4096;
/// After this many unreadable pages in a row the rest of the segment is taken for unreadable.
const UNREADABLE_PAGES_MAX: u32 = 64;

/// A frame that was found where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: u32,
    /// Of the whole frame with its padding.
    pub(crate) len: u32,
    /// Offset of the body.
    pub(crate) body_at: u32,
    pub(crate) head: Head,
}

impl Found {
    pub(crate) fn end(&self) -> u32 {
        self.offset + self.len
    }
}

/// Goes from frame to frame.
pub(crate) struct Walk {
    file: Box<dyn DiskFile>,
    segment: SegmentId,
    binding: Binding,
    offset: u32,
    limit: u32,
    window: Vec<u8>,
    window_at: u32,
}

impl Walk {
    /// Begins at `offset`; nothing at or behind `limit` is looked at.
    pub(crate) fn new(file: Box<dyn DiskFile>, segment: SegmentId, binding: Binding, offset: u32, limit: u32) -> Self {
        let limit = limit.min(u32::try_from(file.len()).unwrap_or(u32::MAX)) & !7;
        let offset = offset.max(SegmentHeader::PAGE_LEN);
        assert!(offset.is_multiple_of(8), "frames are aligned");
        Self { file, segment, binding, offset, limit, window: Vec::new(), window_at: 0 }
    }

    /// Where the next frame should be.
    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// The next frame, if one is exactly here.
    pub(crate) fn next(&mut self) -> Option<Found> {
        let found = self.frame_at(self.offset)?;
        self.offset = found.end();
        Some(found)
    }

    /// Goes to the first frame behind here that begins before `limit`. `false` if there is none; the walk stays where it is
    /// then.
    pub(crate) fn search(&mut self, limit: u32) -> bool {
        let (mut offset, limit) = (self.offset + 8, limit.min(self.limit));
        let mut unreadable_pages = 0;
        while offset < limit && unreadable_pages < UNREADABLE_PAGES_MAX {
            match self.candidate(offset, limit) {
                Ok(Some(candidate)) if self.frame_at(candidate).is_some() => {
                    self.offset = candidate;
                    return true;
                }
                Ok(Some(candidate)) => (offset, unreadable_pages) = (candidate + 8, 0),
                Ok(None) => return false,
                Err(error) => {
                    tracing::warn!(segment = %self.segment, offset, %error, "cannot read a page");
                    unreadable_pages += 1;
                    offset = (offset + PAGE_LEN) & !(PAGE_LEN - 1);
                }
            }
        }
        false
    }

    /// The first place at or after `offset` that looks like the beginning of a frame.
    fn candidate(&mut self, mut offset: u32, limit: u32) -> io::Result<Option<u32>> {
        while offset < limit {
            let loaded = self.window_at..self.window_at + self.window.len() as u32;
            if !loaded.contains(&offset) || loaded.end - offset < FrameHeader::LEN as u32 {
                let data = self.file.next_data(offset.into())?;
                if data >= limit.into() {
                    return Ok(None);
                }
                offset = offset.max(data as u32 & !7);
                // Up to the end of a page: what is read becomes data in the eyes of `next_data`, and the rest of the page with it.
                let page_end = (offset + PAGE_LEN) & !(PAGE_LEN - 1);
                let len = (page_end + WINDOW_LEN).min(self.limit) - offset;
                self.read(offset, len).or_else(|_| self.read(offset, page_end.min(self.limit) - offset))?;
            }
            let here = self.loaded(offset);
            let Some(at) = (0..here.len()).step_by(8).find(|at| FrameHeader::may_begin(&here[*at..])) else {
                offset += here.len() as u32;
                continue;
            };
            let found = offset + at as u32;
            let place = Place { binding: self.binding, offset: found };
            if found < limit && FrameHeader::decode(&here[at..], place).is_some() {
                return Ok(Some(found));
            }
            offset = found + 8;
        }
        Ok(None)
    }

    fn frame_at(&mut self, offset: u32) -> Option<Found> {
        if !self.load(offset, FrameHeader::LEN as u32) {
            return None;
        }
        let place = Place { binding: self.binding, offset };
        let header = FrameHeader::decode(self.loaded(offset), place)?;
        let len = header.frame_len();
        if len > self.limit - offset || !self.load(offset, header.body_at()) {
            return None;
        }
        let bytes = self.loaded(offset);
        if !header.verify(bytes, place) {
            return None;
        }
        let body_at = header.body_at();
        match Head::decode(header.kind, &bytes[FrameHeader::LEN..body_at as usize], header.body_len) {
            Ok(head) => Some(Found { offset, len, body_at: offset + body_at, head }),
            Err(error) => {
                tracing::error!(segment = %self.segment, offset, %error, "a frame with a good checksum");
                None
            }
        }
    }

    /// What is loaded from here on.
    fn loaded(&self, offset: u32) -> &[u8] {
        &self.window[(offset - self.window_at) as usize..]
    }

    /// Sees to it that `len` bytes from `offset` are in the window.
    fn load(&mut self, offset: u32, len: u32) -> bool {
        if offset >= self.limit || len > self.limit - offset {
            return false;
        }
        let loaded = self.window_at..self.window_at + self.window.len() as u32;
        if loaded.contains(&offset) && len <= loaded.end - offset {
            return true;
        }
        let want = WINDOW_LEN.max(len).min(self.limit - offset);
        self.read(offset, want).or_else(|_| self.read(offset, len)).is_ok()
    }

    fn read(&mut self, offset: u32, len: u32) -> io::Result<()> {
        self.window.resize(len as usize, 0);
        self.window_at = offset;
        let outcome = self.file.read_at(offset.into(), &mut self.window);
        if outcome.is_err() {
            self.window.clear();
        }
        outcome
    }
}
