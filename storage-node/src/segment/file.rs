//! The segments of a shard, open.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::entries::SegmentRanges;
use super::filled::Filled;
use super::header::SegmentHeader;
use super::walk::Walk;
use super::{Binding, SegmentId};
use crate::disk::{Disk, DiskFile};

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) binding: Binding,
    pub(crate) len: u32,
    disk: Arc<dyn Disk>,
    /// Opened when it is needed for the first time.
    file: OnceLock<Box<dyn DiskFile>>,
    /// What was written at least once in the life of the file system's extents.
    filled: Filled,
}

impl Segment {
    /// `filled` as in [`claim`](Self::claim): `len` for a file that was in use before.
    pub(crate) fn new(disk: Arc<dyn Disk>, header: &SegmentHeader, filled: u32) -> Self {
        Self {
            id: header.segment,
            binding: header.binding,
            len: header.len,
            disk,
            file: OnceLock::new(),
            filled: Filled::new(filled),
        }
    }

    pub(crate) fn file(&self) -> io::Result<&dyn DiskFile> {
        if let Some(file) = self.file.get() {
            return Ok(&**file);
        }
        let file = self.disk.open(&self.id.file_name())?;
        Ok(&**self.file.get_or_init(|| file))
    }

    /// Bytes of the segment, as a slice of its map.
    pub(crate) fn slice(&self, range: Range<u32>) -> io::Result<Bytes> {
        if range.start > range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file()?.slice(range.start.into()..range.end.into())
    }

    /// Has bytes read in the background.
    pub(crate) fn read_ahead(&self, range: Range<u32>) {
        if let Ok(file) = self.file() {
            file.read_ahead(range.start.into()..range.end.into());
        }
    }

    pub(crate) fn walk(&self, range: Range<u32>) -> io::Result<Walk> {
        let file = self.disk.open_to_scan(&self.id.file_name())?;
        Ok(Walk::new(file, self.id, self.binding, range.start, range.end))
    }

    /// Whether somebody still reads from it.
    pub(crate) fn is_held(&self) -> bool {
        self.file.get().is_some_and(|file| file.is_held())
    }

    /// Must come before a write up to `end`: from now on no zeros are written below it.
    pub(crate) fn claim(&self, end: u32) {
        self.filled.claim(end);
    }

    /// Whether less than up to `upto` was written or filled.
    pub(crate) fn needs_fill(&self, upto: u32) -> bool {
        self.filled.is_below(upto.min(self.len))
    }

    /// Writes zeros and syncs them, one step at a time, up to `upto`, and says how many: the first write into a fresh extent costs a sync of
    /// that write 30 to 100 % more. Through a file handle of its own, because an error of writing back is told to each
    /// handle once: were it the one that commits sync, this sync could swallow an error that a commit must see.
    pub(crate) fn fill(&self, upto: u32) -> io::Result<u64> {
        const STEP_LEN: u32 = 1 << 20;
        static ZEROS: [u8; STEP_LEN as usize] = [0; STEP_LEN as usize];
        let upto = upto.next_multiple_of(4096).min(self.len);
        if !self.filled.is_below(upto) {
            return Ok(0);
        }
        let file = self.disk.open(&self.id.file_name())?;
        let mut filled = 0;
        let mut zero = |at: u32, len: u32| {
            filled += u64::from(len);
            file.write_at(at.into(), &[IoSlice::new(&ZEROS[..len as usize])])
        };
        while self.filled.fill_step(upto, STEP_LEN, &mut zero)? {
            file.sync()?;
        }
        Ok(filled)
    }
}

/// The segments that the log consists of, and those that it will go on in.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    live: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    /// Gone, and not on record as gone: listed as if they were there, so that whoever looks misses them.
    missing: Mutex<BTreeSet<SegmentId>>,
    /// Replaced by their next generations, and still there for readers that began before that.
    retired: RwLock<Vec<Retired>>,
}

#[derive(Debug)]
struct Retired {
    segment: Arc<Segment>,
    /// Held by those readers as well.
    readers: Arc<()>,
}

impl Segments {
    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(segment.id, segment);
    }

    pub(crate) fn remove(&self, segment: SegmentId) -> Option<Arc<Segment>> {
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(&segment)
    }

    pub(crate) fn get(&self, segment: SegmentId) -> Option<Arc<Segment>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned();
        live.or_else(|| self.retired(segment))
    }

    fn retired(&self, segment: SegmentId) -> Option<Arc<Segment>> {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        retired.iter().find(|retired| retired.segment.id == segment).map(|retired| Arc::clone(&retired.segment))
    }

    /// Takes a segment out of the log that the index does not lead to any more. Those who hold `readers` may still come to
    /// it.
    pub(crate) fn retire(&self, segment: SegmentId, readers: Arc<()>) {
        if let Some(segment) = self.remove(segment) {
            self.retired.write().unwrap_or_else(PoisonError::into_inner).push(Retired { segment, readers });
        }
    }

    /// Retired segments that no reader comes to any more.
    pub(crate) fn take_unread(&self) -> Vec<Arc<Segment>> {
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        let unread = retired.extract_if(.., |retired| Arc::strong_count(&retired.readers) == 1);
        unread.map(|retired| retired.segment).collect()
    }

    pub(crate) fn ids(&self) -> Vec<SegmentId> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn miss(&self, segment: SegmentId) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
    }

    pub(crate) fn forget_missing(&self, segment: SegmentId) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    /// What the log says that there should be, without one that is freed.
    pub(crate) fn listed(&self, freed: Option<SegmentId>) -> SegmentRanges {
        let freed = freed.map(SegmentId::original);
        let mut ids: BTreeSet<SegmentId> = self.ids().into_iter().map(SegmentId::original).collect();
        ids.extend(self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter());
        ids.into_iter().filter(|id| Some(*id) != freed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::segment::header::tests::identity;

    fn segment(id: SegmentId) -> Arc<Segment> {
        let header = SegmentHeader { identity: identity(), segment: id, len: 8192, binding: Binding(1), created_ms: 0 };
        Arc::new(Segment::new(Arc::new(SimulatedDisk::new()), &header, 0))
    }

    #[test]
    fn a_retired_segment_is_there_until_those_who_were_reading_are_done() {
        let (segments, old, new) = (Segments::default(), SegmentId(4), SegmentId(4).rewritten().unwrap());
        for id in [old, new, SegmentId(5)] {
            segments.insert(segment(id));
        }
        let readers = Arc::new(());
        let reading = Arc::clone(&readers);
        segments.retire(old, readers);
        assert_eq!(segments.ids(), [new, SegmentId(5)]);
        assert!(segments.take_unread().is_empty() && segments.get(old).is_some());
        drop(reading);
        assert_eq!(segments.take_unread().len(), 1);
        assert!(segments.get(old).is_none() && segments.get(new).is_some());
        assert_eq!(segments.listed(None).iter().collect::<Vec<_>>(), [SegmentId(4), SegmentId(5)]);
        assert_eq!(segments.listed(Some(new)).iter().collect::<Vec<_>>(), [SegmentId(5)]);
    }
}
