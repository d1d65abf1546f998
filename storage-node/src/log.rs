//! The log of a shard: appends groups to the active segment, goes on in the next one, syncs.
//!
//! Written by one thread. What is appended can be read at once; it is durable when a sync that began later is done.
//!
//! A group begins where the last one ended, in the middle of a page that may be durable already, and writing it back
//! rewrites those durable bytes. That is safe: the page cache holds them unchanged, so whatever prefix of sectors reaches the
//! disk has the same bytes where the old ones were, and a sector that is torn *inside* (which disks promise not to do, and
//! do) is caught by the checksums: it is damage below a durable mark, reported as loss, not served.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use crate::commit::ShardFailed;
use crate::counters::SyncReason;
use crate::entry::Entry;
use crate::index::digest::Digester;
use crate::segment::encode::{COMMIT_FRAME_LEN, END_FRAME_LEN, GroupEncoder, end_frame, entry_frame_len};
use crate::segment::entries::{Amend, Commit};
use crate::segment::file::Segment;
use crate::segment::frame::Place;
use crate::segment::header::SegmentHeader;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// Why entries were not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// There is no space for them, and none was reserved. Those before are written; the shard goes on.
    #[error("no space left on the disk")]
    NoSpace,
    #[error("an entry of {len} bytes is over the limit of {max}")]
    TooLong { len: usize, max: usize },
    #[error(transparent)]
    Failed(#[from] ShardFailed),
}

/// Segments that are ready to be gone on in, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    segments: Mutex<VecDeque<Arc<Segment>>>,
}

impl Prepared {
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).push_back(segment);
    }

    pub(crate) fn pop(&self) -> Option<Arc<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Where the log goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) position: Position,
    pub(crate) next_commit: u64,
}

#[derive(Debug)]
pub(crate) struct SegmentLog {
    shared: Arc<Shared>,
    prepared: Arc<Prepared>,
    active: Arc<Segment>,
    offset: u32,
    next_commit: u64,
    /// The newest durable mark in the log.
    marked: Position,
    /// What is counted of the active segment in [`Space`](crate::space::Space).
    room: i64,
    encoder: GroupEncoder,
    digester: Digester,
    failed: Option<ShardFailed>,
}

impl SegmentLog {
    /// Goes on at the end of `active`; everything before is durable.
    pub(crate) fn new(shared: Arc<Shared>, prepared: Arc<Prepared>, active: Arc<Segment>, tail: Tail) -> Self {
        let (offset, next_commit) = (tail.position.offset, tail.next_commit);
        assert_eq!(active.id, tail.position.segment, "the log goes on where it ends");
        shared.note_durable(tail.position);
        shared.note_written(tail.position);
        active.claim(offset);
        let room = shared.space.room_behind(active.len, offset);
        shared.space.add(room);
        Self {
            shared,
            prepared,
            active,
            offset,
            next_commit,
            marked: Position::ZERO,
            room,
            encoder: GroupEncoder::default(),
            digester: Digester::default(),
            failed: None,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Behind the last frame.
    pub(crate) fn position(&self) -> Position {
        Position::new(self.active.id, self.offset)
    }

    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    pub(crate) fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// Appends entries, in as many groups as it takes.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), AppendError> {
        let mut rest = entries;
        while !rest.is_empty() {
            self.check()?;
            match self.encode(rest) {
                0 => {
                    let (len, max) = (entry_frame_len(&rest[0]), self.shared.config.entry_len_max as usize);
                    if len > max {
                        return Err(AppendError::TooLong { len, max });
                    }
                    self.roll()?;
                }
                count => {
                    let (group, later) = rest.split_at(count);
                    self.write(group)?;
                    rest = later;
                }
            }
        }
        Ok(())
    }

    /// Appends which segments there are, less one that is not needed any more.
    pub(crate) fn append_segments(&mut self, freed: Option<SegmentId>) -> Result<(), AppendError> {
        self.check()?;
        // One more than there are now: going on in another segment adds one.
        let len = COMMIT_FRAME_LEN + self.shared.segments.listed(freed).encoded_len() + 32;
        if len > self.left() {
            self.roll()?;
        }
        let segments = self.shared.segments.listed(freed);
        self.encoder.begin(self.active.binding, self.offset);
        self.encoder.put_segments(&segments);
        self.digester.segments(segments);
        Ok(self.write(&[])?)
    }

    /// Notes in the log how far it is durable, if it does not say so yet: damage below is told from a torn tail then.
    pub(crate) fn mark(&mut self) -> Result<(), AppendError> {
        self.check()?;
        let unmarked = self.durable() > self.marked;
        if unmarked && self.left() >= COMMIT_FRAME_LEN {
            self.encoder.begin(self.active.binding, self.offset);
            self.write(&[])?;
        }
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync(&mut self, reason: SyncReason) -> Result<Position, ShardFailed> {
        self.check()?;
        let position = self.position();
        if self.durable() < position {
            let active = Arc::clone(&self.active);
            self.outcome("sync", active.file().and_then(|file| file.sync()))?;
            self.shared.counters.sync(reason);
            self.shared.note_durable(position);
        }
        Ok(position)
    }

    fn check(&self) -> Result<(), ShardFailed> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Puts the log out of service: what the disk has is not known any more.
    pub(crate) fn fail(&mut self, failed: ShardFailed) {
        self.failed.get_or_insert(failed);
    }

    fn outcome(&mut self, what: &str, outcome: io::Result<()>) -> Result<(), ShardFailed> {
        outcome.map_err(|error| {
            let failed = ShardFailed(format!("{what} of segment {} failed: {error}", self.active.id));
            tracing::error!(shard = %self.shared.identity.shard, %failed, "the shard takes no more entries");
            self.failed.insert(failed).clone()
        })
    }

    /// Bytes left in the active segment before its end frame.
    fn left(&self) -> usize {
        (self.active.len as usize).saturating_sub(self.offset as usize + END_FRAME_LEN)
    }

    /// Encodes as many entries as fit into a group, and says how many.
    fn encode(&mut self, entries: &[Entry]) -> usize {
        let max = self.left().min(self.shared.config.group_len_max as usize);
        self.encoder.begin(self.active.binding, self.offset);
        let mut count = 0;
        for entry in entries {
            let len = entry_frame_len(entry);
            // An entry longer than a group gets a group of its own.
            let limit = if count == 0 { self.left() } else { max };
            if self.encoder.len() + len > limit {
                break;
            }
            let at = Position::new(self.active.id, self.offset + self.encoder.len() as u32);
            self.encoder.put(entry);
            self.digest(at, len as u32, entry);
            count += 1;
        }
        count
    }

    fn digest(&mut self, at: Position, len: u32, entry: &Entry) {
        match entry {
            Entry::Block { placement, block } => self.digester.block(at, len, placement, block.header()),
            Entry::Amend { partition, epoch, first_esn, placement } => {
                let (partition, epoch, first_esn, placement) = (*partition, *epoch, *first_esn, placement.clone());
                self.digester.amend(at.offset, Amend { partition, epoch, first_esn, placement });
            }
            Entry::Partition(meta) => self.digester.partition(at.offset, meta.clone()),
            Entry::Shard(meta) => self.digester.shard(at.offset, *meta),
        }
    }

    /// Writes the encoded group, and lets readers know.
    fn write(&mut self, entries: &[Entry]) -> Result<(), ShardFailed> {
        let (begin, len) = (self.position(), self.encoder.len() as u32);
        let commit = Commit { number: self.next_commit, group_len: len, durable: self.shared.durable() };
        let active = Arc::clone(&self.active);
        let pieces = self.encoder.finish(commit);
        active.claim(begin.offset + len);
        let outcome = active.file().and_then(|file| file.write_at(begin.offset.into(), &pieces));
        self.outcome("write", outcome)?;
        self.encoder.clear();

        self.offset += len;
        self.next_commit += 1;
        self.marked = commit.durable;
        let payload = entries.iter().map(|entry| match entry {
            Entry::Block { block, .. } => block.bytes().len() as u64,
            _ => 0,
        });
        self.shared.note_written(self.position());
        self.shared.counters.group(entries.len() as u64, payload.sum(), len.into());
        self.count_room(entries);
        self.remember(begin, entries);
        let digest = self.digester.finish(commit.number, begin, self.offset);
        self.shared.overlay_mut().add(Arc::new(digest));
        Ok(())
    }

    /// What was promised for these entries is kept.
    fn count_room(&mut self, entries: &[Entry]) {
        let promised: usize = entries.iter().map(|entry| entry_frame_len(entry) + COMMIT_FRAME_LEN).sum();
        let room = self.shared.space.room_behind(self.active.len, self.offset);
        self.shared.space.add(promised as i64 + room - self.room);
        self.room = room;
    }

    fn remember(&self, begin: Position, entries: &[Entry]) {
        let mut recent = self.shared.recent_mut();
        let mut offset = begin.offset + COMMIT_FRAME_LEN as u32;
        for entry in entries {
            if let Entry::Block { placement, block } = entry {
                recent.push(Position::new(begin.segment, offset), placement, block);
            }
            offset += entry_frame_len(entry) as u32;
        }
    }

    /// Ends the active segment and goes on in the next.
    fn roll(&mut self) -> Result<(), AppendError> {
        let Some(next) = self.prepared.pop() else { return Err(AppendError::NoSpace) };
        self.end_segment()?;
        // The room in `next` counts since it was prepared.
        self.shared.space.add(-self.room);
        self.room = self.shared.space.room_of(next.len);
        self.shared.segments.insert(Arc::clone(&next));
        (self.active, self.offset) = (next, SegmentHeader::PAGE_LEN);
        self.shared.note_written(self.position());
        self.append_segments(None)
    }

    /// Writes the end frame and makes the segment durable as a whole, before anything is written into the next.
    fn end_segment(&mut self) -> Result<(), ShardFailed> {
        let active = Arc::clone(&self.active);
        let frame = end_frame(Place { binding: active.binding, offset: self.offset });
        active.claim(self.offset + frame.len() as u32);
        let outcome = active.file().and_then(|file| {
            file.write_at(self.offset.into(), &[IoSlice::new(&frame)])?;
            file.sync()
        });
        self.outcome("sync", outcome)?;
        self.shared.counters.sync(SyncReason::Sealed);
        self.shared.note_durable(self.position());
        Ok(())
    }
}
