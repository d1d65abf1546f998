//! What happens beside the writing: the index follows the log, the next segment is made ready, dead segments are freed.
//!
//! Each step is short and may be left out for a while: the overlay serves what is not indexed, and `Space` refuses what
//! has no room.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::PartitionUid;

use crate::counters::SyncReason;
use crate::engine::UpkeepError;
use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{PartitionRow, Row, SegmentRow, Table, partition_of, segment_of};
use crate::index::step::Step;
use crate::index::transaction::scan;
use crate::log::Prepared;
use crate::recovery::inventory::{FREE_PREFIX, NEW_PREFIX};
use crate::recovery::{Loss, losses, shard_row};
use crate::rewrite::{Progress, Rewrite, Written};
use crate::scrub::{Scrub, worth_noting};
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
    rewrite: Option<Rewrite>,
    /// Segments that cannot be rewritten.
    unfit: HashSet<SegmentId>,
    scrub: Scrub,
    /// Syncs that somebody waited for, when zeros were written ahead the last time.
    waited_for: u64,
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
        Self {
            shared,
            prepared,
            secret,
            next_segment,
            spare,
            indexed,
            next_commit,
            unflushed_bytes: 0,
            rewrite: None,
            unfit: HashSet::new(),
            scrub: Scrub::new(SegmentId::default()),
            waited_for: 0,
        }
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
        // Only now: a reader that does not find them in the overlay looks into the index next. The lock is let go of in between: the commit thread and readers wait for it.
        groups.iter().for_each(|group| self.shared.overlay_mut().forget(group));
        if self.shared.hint_count() > HINTS_MAX {
            self.index_hints()?;
        }
        if self.unflushed_bytes >= self.shared.config.checkpoint_bytes {
            self.checkpoint()?;
        }
        Ok(true)
    }

    /// Drops rows of what was trimmed, some at a time. `false` if there is nothing to do.
    pub(crate) fn trim(&mut self) -> Result<bool, KvError> {
        let mut step = Step::new(&self.shared.kv)?;
        let has_dropped = step.trim(self.shared.config.trim_rows)?;
        if has_dropped {
            self.shared.kv.apply(&step.finish(self.shared.identity, self.indexed, self.next_commit))?;
        }
        Ok(has_dropped)
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

    /// Forgets these losses, durably.
    pub(crate) fn forget_losses(&mut self, losses: &[Loss]) -> Result<(), KvError> {
        let mut step = Step::new(&self.shared.kv)?;
        losses.iter().try_for_each(|loss| step.forget_loss(loss.begin, loss.end))?;
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
                let room = self.shared.space.room_of(segment.len);
                // Before its room is promised to anybody.
                self.prepared.push(segment);
                self.shared.space.add(room);
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
        if self.take_waited_for() {
            self.shared.counters.zeroed(segment.fill(self.shared.config.zero_ahead_bytes)?);
        }
        Ok(Arc::new(segment))
    }

    /// Writes zeros ahead of the log, while somebody waits for its syncs.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        let (written, ahead) = (self.shared.written(), self.shared.config.zero_ahead_bytes);
        match self.shared.segments.get(written.segment) {
            Some(active) if active.needs_fill(written.offset.saturating_add(ahead / 2)) && self.take_waited_for() => {
                self.shared.counters.zeroed(active.fill(written.offset.saturating_add(ahead))?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether somebody waited for a sync since this was asked the last time. Zeros make nothing but such syncs faster, and
    /// cost as much as what is written over them.
    fn take_waited_for(&mut self) -> bool {
        let waited_for = self.shared.counters.syncs(SyncReason::Asked);
        self.shared.config.zero_ahead_bytes > 0 && std::mem::replace(&mut self.waited_for, waited_for) < waited_for
    }

    /// Segments that are wholly indexed and hold no block or amend that is still needed.
    pub(crate) fn dead_segments(&self) -> Result<Vec<SegmentId>, KvError> {
        let rows = scan::<SegmentRow>(&self.shared.kv, &Table::Segment.all(), Direction::Ascending, usize::MAX)?;
        let live: HashSet<SegmentId> = rows
            .into_iter()
            .filter(|(_, row)| row.live_bytes + row.live_amends > 0)
            .filter_map(|(key, _)| segment_of(&key))
            .collect();
        let before = self.indexed.segment.min(self.shared.written().segment);
        Ok(self.shared.segments.ids().into_iter().filter(|id| *id < before && !live.contains(&id.original())).collect())
    }

    /// Goes on with looking for damage, about so many bytes, and says how many it were. `None` if there is nothing to do until
    /// `every` has gone by since the last round.
    pub(crate) fn scrub(&mut self, bytes: u32, every: Duration) -> Result<Option<u64>, UpkeepError> {
        let Some((read, damage)) = self.scrub.step(&self.shared, bytes, every) else { return Ok(None) };
        self.shared.counters.scrubbed(read);
        let noted = worth_noting(&self.shared, damage)?;
        if !noted.is_empty() {
            let mut step = Step::new(&self.shared.kv)?;
            for loss in &noted {
                let (begin, end) = (loss.begin, loss.end);
                tracing::error!(shard = %self.shared.identity.shard, %begin, end, "data at rest is damaged");
                step.loss(begin, end);
            }
            self.shared.kv.apply(&step.finish(self.shared.identity, self.indexed, self.next_commit))?;
            self.checkpoint()?;
            self.shared.counters.found_damage(noted.len() as u64);
        }
        Ok(Some(read))
    }

    /// Begins to look for damage behind this segment.
    pub(crate) fn scrub_behind(&mut self, segment: SegmentId) {
        self.scrub = Scrub::new(segment);
    }

    pub(crate) fn rest(&mut self, time: Duration) {
        self.scrub.rest(time);
    }

    /// Goes on with rewriting segments, about so many bytes, and says how many it were. `None` if there is nothing to do.
    pub(crate) fn rewrite(&mut self, bytes: u32) -> Result<Option<u64>, UpkeepError> {
        self.drop_retired()?;
        let mut rewrite = match self.rewrite.take() {
            Some(rewrite) => rewrite,
            None => match self.begin_rewrite()? {
                Some(rewrite) => rewrite,
                None => return Ok(None),
            },
        };
        let source = rewrite.source();
        if !self.shared.segments.ids().contains(&source) {
            rewrite.give_up();
            return Ok(Some(0));
        }
        match rewrite.step(bytes) {
            // Nothing rests on it yet. What it left behind is removed by the next start.
            Err(UpkeepError::Io(error)) => self.keep(source, &error.to_string()),
            Err(error) => return Err(error),
            Ok(Progress::Went(bytes)) => {
                self.rewrite = Some(rewrite);
                return Ok(Some(bytes));
            }
            Ok(Progress::Kept(why)) => self.keep(source, &why),
            Ok(Progress::Written(written)) => self.switch(&written)?,
        }
        Ok(Some(0))
    }

    fn keep(&mut self, segment: SegmentId, why: &str) {
        tracing::info!(shard = %self.shared.identity.shard, %segment, why, "the segment is not rewritten");
        self.unfit.insert(segment);
    }

    fn begin_rewrite(&mut self) -> Result<Option<Rewrite>, UpkeepError> {
        let Some(segment) = self.next_to_rewrite()? else { return Ok(None) };
        match Rewrite::new(&self.shared, Arc::clone(&segment)) {
            Ok(Some(rewrite)) => return Ok(Some(rewrite)),
            Ok(None) => self.keep(segment.id, "it has been rewritten too often"),
            Err(error) => self.keep(segment.id, &error.to_string()),
        }
        Ok(None)
    }

    /// The segment of which least is needed; or the first that should be sorted.
    fn next_to_rewrite(&self) -> Result<Option<Arc<Segment>>, KvError> {
        let config = &self.shared.config;
        let damaged: HashSet<SegmentId> = losses(&self.shared.kv)?.iter().map(|loss| loss.begin.segment).collect();
        let before = self.indexed.segment.min(self.shared.written().segment);
        let (mut sparsest, mut unsorted): (Option<(u64, Arc<Segment>)>, _) = (None, None);
        for (key, row) in scan::<SegmentRow>(&self.shared.kv, &Table::Segment.all(), Direction::Ascending, usize::MAX)?
        {
            let Some(id) = segment_of(&key).map(|id| id.of_generation(row.generation)) else { continue };
            let fits = id < before && !self.unfit.contains(&id) && !damaged.contains(&id);
            let Some(segment) = self.shared.segments.get(id).filter(|_| fits) else { continue };
            let in_frames = u64::from(segment.len.saturating_sub(2 * SegmentHeader::PAGE_LEN));
            let is_sparse = row.live_bytes * 100 < in_frames * u64::from(config.compact_below_percent);
            if is_sparse && row.live_bytes + row.live_amends > 0 {
                if sparsest.as_ref().is_none_or(|(live, _)| row.live_bytes < *live) {
                    sparsest = Some((row.live_bytes, segment));
                }
            } else if id.generation() == 0
                && unsorted.is_none()
                && row.live_bytes < u64::from(row.stretches) * u64::from(config.sort_below_bytes)
            {
                unsorted = Some(segment);
            }
        }
        Ok(sparsest.map(|(_, segment)| segment).or(unsorted))
    }

    /// Leads the index to a segment's next generation.
    fn switch(&mut self, written: &Written) -> Result<(), UpkeepError> {
        let (source, target) = (written.source.id, written.target.id);
        let mut step = Step::new(&self.shared.kv)?;
        if let Err(why) = written.switch(&self.shared.kv, &mut step)? {
            self.shared.disk.remove(&target.file_name())?;
            self.keep(source, &why);
            return Ok(());
        }
        self.shared.segments.insert(Arc::clone(&written.target));
        let batch = step.finish(self.shared.identity, self.indexed, self.next_commit);
        self.shared.switch(|| self.shared.kv.apply(&batch))?;
        self.checkpoint()?;
        self.shared.segments.retire(source, self.shared.present_readers());
        let (from, to) = (written.source.len, written.target.len);
        tracing::info!(shard = %self.shared.identity.shard, segment = %target, from, to, "the segment is rewritten");
        self.shared.counters.rewritten(u64::from(to));
        Ok(())
    }

    pub(crate) fn drop_retired(&mut self) -> io::Result<()> {
        self.shared.segments.take_unread().iter().try_for_each(|segment| self.reuse(segment))
    }

    /// Partitions whose newest entry stands in this segment, and whether the shard's does.
    pub(crate) fn metas_in(&self, segment: &Segment) -> Result<(Vec<PartitionUid>, bool), UpkeepError> {
        let kv = &self.shared.kv;
        let mut partitions = Vec::new();
        let mut walk = segment.walk(SegmentHeader::PAGE_LEN..segment.len)?;
        let mut ended = false;
        while let Some(found) = walk.next() {
            ended |= found.head == Head::End;
            let Head::Partition(meta) = found.head else { continue };
            let row = partition_row(kv, meta.partition)?;
            let here = Position::new(segment.id, found.offset);
            if row.is_some_and(|row| row.meta_at == Some(here)) {
                partitions.push(meta.partition);
            }
        }
        if !ended {
            // Something of it cannot be read. The index knows as well, but all of it has to be looked through.
            partitions = self.metas_by_index(segment.id)?;
        }
        Ok((partitions, shard_row(kv)?.at.segment == segment.id))
    }

    fn metas_by_index(&self, segment: SegmentId) -> Result<Vec<PartitionUid>, KvError> {
        let (all, mut partitions, mut damaged) = (Table::Partition.all(), Vec::new(), None);
        self.shared.kv.scan(&all.start..&all.end, Direction::Ascending, &mut |key, value| {
            match PartitionRow::decode(value) {
                Ok(row) if row.meta_at.is_some_and(|at| at.segment == segment) => partitions.extend(partition_of(key)),
                Ok(_) => {}
                Err(error) => damaged = Some(error),
            }
            if damaged.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        damaged.map_or(Ok(partitions), Err)
    }

    /// Lets go of a segment that the log does not list any more. Its file is used again, unless somebody still reads it:
    /// then it is unlinked, and the readers' maps keep the bytes until they are done.
    pub(crate) fn drop_segment(&mut self, segment: SegmentId) -> io::Result<()> {
        match self.shared.segments.remove(segment) {
            Some(segment) => self.reuse(&segment),
            None => Ok(()),
        }
    }

    fn reuse(&mut self, segment: &Arc<Segment>) -> io::Result<()> {
        let (disk, name) = (&self.shared.disk, segment.id.file_name());
        let unread = Arc::strong_count(segment) == 1 && !segment.is_held();
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
