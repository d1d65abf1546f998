//! What happens beside the writing: the index follows the log, the next segment is made ready, dead segments are freed.
//!
//! Each step is short and may be left out for a while: the overlay serves what is not indexed, and `Space` refuses what
//! has no room.

use std::io::{self, IoSlice};
use std::sync::Arc;

use dlog_proto::PartitionUid;

use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{PartitionRow, Row, SegmentRow, Table};
use crate::index::step::Step;
use crate::index::transaction::scan;
use crate::log::Prepared;
use crate::recovery::inventory::{FREE_PREFIX, NEW_PREFIX};
use crate::recovery::shard_row;
use crate::segment::entries::Head;
use crate::segment::file::Segment;
use crate::segment::header::SegmentHeader;
use crate::segment::{Binding, Position, SegmentId};
use crate::shared::Shared;

/// Groups that are indexed in one batch.
const BATCH_GROUPS: usize = 1024;
/// Marks that no entry tells wait in memory for the next checkpoint, unless there are more.
const HINTS_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    prepared: Arc<Prepared>,
    secret: u64,
    next_segment: SegmentId,
    /// Files whose space can be used again.
    spare: Vec<String>,
    /// Everything before it is in the index.
    indexed: Position,
    next_commit: u64,
    /// Indexed since the index was flushed the last time.
    unflushed_bytes: u64,
}

impl Upkeep {
    pub(crate) fn new(
        shared: Arc<Shared>,
        prepared: Arc<Prepared>,
        secret: u64,
        next_segment: SegmentId,
        spare: Vec<String>,
        indexed: (Position, u64),
    ) -> Self {
        let (indexed, next_commit) = indexed;
        Self { shared, prepared, secret, next_segment, spare, indexed, next_commit, unflushed_bytes: 0 }
    }

    /// Brings what is durable into the index, one batch at a time. `false` if there is nothing to do.
    pub(crate) fn index(&mut self) -> Result<bool, KvError> {
        let groups = self.shared.overlay().oldest(self.shared.durable(), BATCH_GROUPS);
        if groups.is_empty() {
            return Ok(false);
        }
        let mut step = Step::new(&self.shared.kv)?;
        for group in &groups {
            step.group(group)?;
            self.indexed = group.end_position();
            self.next_commit = group.commit + 1;
            self.unflushed_bytes += u64::from(group.end - group.begin.offset);
        }
        self.shared.kv.apply(&step.finish(self.shared.identity, self.indexed, self.next_commit))?;
        // Only now: a reader that does not find them in the overlay looks into the index next.
        self.shared.overlay_mut().forget(&groups);
        if self.shared.hint_count() > HINTS_MAX {
            self.index_hints()?;
        }
        if self.unflushed_bytes >= self.shared.config.checkpoint_bytes {
            self.checkpoint()?;
        }
        Ok(true)
    }

    /// Brings marks that no entry tells into the index.
    fn index_hints(&mut self) -> Result<(), KvError> {
        let hints = self.shared.hints();
        let mut step = Step::new(&self.shared.kv)?;
        for (partition, marks) in &hints {
            step.hint(*partition, marks)?;
        }
        self.shared.kv.apply(&step.finish(self.shared.identity, self.indexed, self.next_commit))?;
        self.shared.forget_hints(&hints);
        Ok(())
    }

    /// Forgets all losses, durably.
    pub(crate) fn forget_losses(&mut self) -> Result<(), KvError> {
        let mut step = Step::new(&self.shared.kv)?;
        step.forget_losses(&Table::Loss.all())?;
        self.shared.kv.apply(&step.finish(self.shared.identity, self.indexed, self.next_commit))?;
        self.checkpoint()
    }

    /// Makes what is indexed durable: a restart scans the log from here.
    pub(crate) fn checkpoint(&mut self) -> Result<(), KvError> {
        self.index_hints()?;
        self.shared.kv.flush()?;
        self.unflushed_bytes = 0;
        Ok(())
    }

    /// Makes the next segment ready if room is low. `false` if nothing was to be done, or nothing could be.
    pub(crate) fn prepare(&mut self, now_ms: i64) -> io::Result<bool> {
        if !self.shared.space.is_low() {
            return Ok(false);
        }
        match self.make_segment(now_ms) {
            Ok(segment) => {
                self.shared.space.add(self.shared.space.room_of(segment.len));
                self.prepared.push(segment);
                self.shared.space.made(true);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                if !self.shared.space.is_full() {
                    tracing::warn!(shard = %self.shared.identity.shard, "no space for the next segment");
                }
                self.shared.space.made(false);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A segment gets its name when its header is durable: a file with a segment's name is one.
    pub(crate) fn make_segment(&mut self, now_ms: i64) -> io::Result<Arc<Segment>> {
        let (id, len) = (self.next_segment, self.shared.config.segment_len);
        let header = SegmentHeader {
            identity: self.shared.identity,
            segment: id,
            len,
            binding: Binding::new(id, self.secret),
            created_ms: now_ms,
        };
        let disk = &self.shared.disk;
        let (name, file, filled) = match self.spare.pop() {
            Some(name) => {
                let file = disk.open(&name)?;
                (name, file, len)
            }
            None => {
                // The index and whatever else is on the disk need some as well.
                let keep = self.shared.config.keep_free_bytes;
                if disk.free_bytes()? < u64::from(len) + keep {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let name = format!("{NEW_PREFIX}{id}");
                let file = disk.create(&name, len.into())?;
                (name, file, SegmentHeader::PAGE_LEN)
            }
        };
        assert_eq!(file.len(), u64::from(len), "spare files have the length of segments");
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync()?;
        disk.rename(&name, &id.file_name())?;
        disk.sync_dir()?;
        self.next_segment = id.next();
        let segment = Segment::new(Arc::clone(disk), &header, filled);
        segment.fill(self.shared.config.zero_ahead_bytes)?;
        Ok(Arc::new(segment))
    }

    /// Writes zeros ahead of the log.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let (written, ahead) = (self.shared.written(), self.shared.config.zero_ahead_bytes);
        match self.shared.segments.get(written.segment) {
            Some(active) if ahead > 0 && active.needs_fill(written.offset.saturating_add(ahead / 2)) => {
                active.fill(written.offset.saturating_add(ahead))
            }
            _ => Ok(()),
        }
    }

    /// Segments that are wholly indexed and hold no block or amend that is still needed.
    pub(crate) fn dead_segments(&self) -> Result<Vec<SegmentId>, KvError> {
        let rows = scan::<SegmentRow>(&self.shared.kv, &Table::Segment.all(), Direction::Ascending, usize::MAX)?;
        let live: std::collections::HashSet<SegmentId> = rows
            .into_iter()
            .filter(|(_, row)| row.live_bytes + row.live_amends > 0)
            .filter_map(|(key, _)| crate::index::schema::segment_of(&key))
            .collect();
        let before = self.indexed.segment.min(self.shared.written().segment);
        Ok(self.shared.segments.ids().into_iter().filter(|id| *id < before && !live.contains(id)).collect())
    }

    /// Partitions whose newest entry stands in this segment, and whether the shard's does.
    pub(crate) fn metas_in(&self, segment: &Segment) -> io::Result<(Vec<PartitionUid>, bool)> {
        let kv = &self.shared.kv;
        let mut partitions = Vec::new();
        let mut walk = segment.walk(SegmentHeader::PAGE_LEN..segment.len)?;
        loop {
            while let Some(found) = walk.next() {
                let Head::Partition(meta) = found.head else { continue };
                let row = partition_row(kv, meta.partition).map_err(io::Error::other)?;
                let here = Position::new(segment.id, found.offset);
                if row.is_some_and(|row| row.meta_at == Some(here)) {
                    partitions.push(meta.partition);
                }
            }
            if !walk.search(u32::MAX) {
                break;
            }
        }
        let shard = shard_row(kv).map_err(io::Error::other)?.at.segment == segment.id;
        Ok((partitions, shard))
    }

    /// Lets go of a segment that the log does not list any more. Its file is used again, unless somebody still reads it:
    /// then it is unlinked, and the readers' maps keep the bytes until they are done.
    pub(crate) fn drop_segment(&mut self, segment: SegmentId) -> io::Result<()> {
        let Some(segment) = self.shared.segments.remove(segment) else { return Ok(()) };
        let (disk, name) = (&self.shared.disk, segment.id.file_name());
        let unread = Arc::strong_count(&segment) == 1 && !segment.is_held();
        if unread && segment.len == self.shared.config.segment_len {
            let spare = format!("{FREE_PREFIX}{}", segment.id);
            disk.rename(&name, &spare)?;
            self.spare.push(spare);
        } else {
            disk.remove(&name)?;
        }
        disk.sync_dir()
    }
}

pub(crate) fn partition_row(kv: &dyn Kv, partition: PartitionUid) -> Result<Option<PartitionRow>, KvError> {
    kv.get(&Table::Partition.partition(partition))?.as_deref().map(PartitionRow::decode).transpose()
}
