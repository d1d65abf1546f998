//! From a directory to a shard that goes on where it was left, whatever was done to it.
//!
//! 1. The directory is locked, and its marker must name this shard.
//! 2. The index says up to where it is complete. If it is not there, or cannot be read, or is somebody else's, it is set
//!    aside and made again from the first segment; nothing is lost but time.
//! 3. The segments from there on are scanned ([`scan`]) and what they say goes into the index. How far the log was durable
//!    is known from the marker (after a clean stop), from the index (which holds only what is durable), from the segments'
//!    order (one that has a successor is durable) and from the marks in commit frames.
//! 4. What the killed process had written to the last segment and not synced is written again, and synced, before the index
//!    gets it: the log stays ahead. A sync alone would not do, because after one that failed the kernel takes pages for
//!    written that are not, as long as the machine is up.
//! 5. A torn tail is overwritten with zeros, durably, before anything is written in its place: a frame of it that survived
//!    could otherwise stand, one day, right behind a new one, and rise again.
//! 6. Segments that should be there and are not, and damage below what was durable, are losses: noted in the index, told
//!    to the caller, and everything else goes on.

pub(crate) mod inventory;
pub(crate) mod resume;
pub(crate) mod scan;
mod whose;

pub use whose::identity_of;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;

use self::inventory::Inventory;
use crate::disk::{DiskFile, LockError};
use crate::entry::ShardMeta;
use crate::index::kv::{Direction, Kv, KvError, KvStore};
use crate::index::schema::{CheckpointRow, LossRow, Row, SegmentRow, ShardRow, Table, place_of, segment_of};
use crate::index::step::Step;
use crate::index::transaction::scan as rows;
use crate::log::Tail;
use crate::marker::Marker;
use crate::segment::encode::END_FRAME_LEN;
use crate::segment::file::Segment;
use crate::segment::header::{Identity, SegmentHeader};
use crate::segment::{Position, SegmentId};

/// Groups that are indexed in one batch.
const BATCH_GROUPS: usize = 4096;

/// Why a directory cannot be opened. Nothing of the log was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{file} belongs to {what} {found}, this is {what} {expected}: is it the right disk?")]
    Foreign { file: String, what: &'static str, found: String, expected: String },
    #[error("marker: {0}")]
    Marker(String),
    #[error("segment {name}: {error}")]
    Segment { name: String, error: String },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Index(#[from] KvError),
    #[error("config: {0}")]
    Config(String),
    #[error("disk: {0}")]
    Io(#[from] io::Error),
}

/// What was found when a shard was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// There was nothing: this is its first start.
    pub formatted: bool,
    /// It was closed properly the last time.
    pub clean: bool,
    /// The machine went down while the shard was in use: what was written and not synced is gone, and the shard is
    /// incomplete for every epoch that is not decided (trap C2). Told by every start until
    /// [`forget_lost_write_cache`](crate::Engine::forget_lost_write_cache).
    pub lost_write_cache: bool,
    /// What was dropped behind the end of the log. Nobody was told that it is durable.
    pub torn_bytes: u64,
    /// Damage where the log was durable, old and new, as long as its segments are needed.
    pub losses: Vec<Loss>,
    /// How many of them were found now. What they held is not known: it may have been seals and ends.
    pub new_losses: usize,
    /// Why the index was made again, if it was.
    pub index_rebuilt: Option<String>,
    /// Bytes of the log that were scanned.
    pub replayed_bytes: u64,
    /// The newest shard entry.
    pub shard: ShardMeta,
}

/// A part of the log that was durable and is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub begin: Position,
    /// Offset behind it, in the same segment; `u32::MAX` for all the rest of it.
    pub end: u32,
}

/// Opens the index; sets one aside that is of no use, or known to be damaged. Says why, if it did.
pub(crate) fn open_index(
    store: &dyn KvStore,
    identity: &Identity,
    inventory: &Inventory,
    damage: Option<String>,
) -> Result<(Arc<dyn Kv>, Option<String>), OpenError> {
    let reason = match damage {
        Some(reason) => Some(reason),
        None => match store.open().and_then(|kv| Ok((unusable(&*kv, identity, inventory)?, kv))) {
            Ok((None, kv)) => return Ok((kv, None)),
            Ok((Some(reason), _)) => Some(reason),
            // It may be as good as ever.
            Err(error) if error.is_full_disk() => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        },
    };
    tracing::warn!(?reason, shard = %identity.shard, "the index is set aside and made again");
    store.set_aside()?;
    Ok((store.open()?, reason))
}

/// Why an index that can be read is of no use, if it is.
pub(crate) fn unusable(kv: &dyn Kv, identity: &Identity, inventory: &Inventory) -> Result<Option<String>, KvError> {
    let Some(row) = checkpoint(kv)? else { return Ok(None) };
    if row.identity != *identity {
        return Ok(Some("it is of another shard".to_owned()));
    }
    let position = row.position;
    let is_there = position == Position::ZERO
        || inventory
            .segments
            .get(&position.segment)
            .is_some_and(|segment| position.offset <= segment.len && position.offset.is_multiple_of(8));
    if !is_there {
        return Ok(Some(format!("it ends at {position}, which is not there any more")));
    }
    for (key, row) in rows::<SegmentRow>(kv, &Table::Segment.all(), Direction::Ascending, usize::MAX)? {
        let Some(id) = segment_of(&key).map(|segment| segment.of_generation(row.generation)) else { continue };
        if inventory.has(id) && !inventory.segments.contains_key(&id) {
            return Ok(Some(format!("it leads to segment {id}, which is there in another generation")));
        }
    }
    Ok(None)
}

pub(crate) fn checkpoint(kv: &dyn Kv) -> Result<Option<CheckpointRow>, KvError> {
    kv.get(&Table::Checkpoint.key())?.as_deref().map(CheckpointRow::decode).transpose()
}

pub(crate) fn shard_row(kv: &dyn Kv) -> Result<ShardRow, KvError> {
    Ok(kv.get(&Table::Shard.key())?.as_deref().map(ShardRow::decode).transpose()?.unwrap_or_default())
}

pub(crate) fn losses(kv: &dyn Kv) -> Result<Vec<Loss>, KvError> {
    let rows = rows::<LossRow>(kv, &Table::Loss.all(), Direction::Ascending, usize::MAX)?;
    Ok(rows.into_iter().filter_map(|(key, row)| Some(Loss { begin: place_of(&key)?, end: row.end })).collect())
}

/// What a scan of the log comes to.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// Where the log goes on; `None` if it needs another segment.
    pub(crate) tail: Option<Tail>,
    pub(crate) next_commit: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) replayed_bytes: u64,
    pub(crate) new_losses: usize,
    /// Where the log ends.
    pub(crate) end: Position,
}

/// Brings the index up to the end of the log. `machine` is the boot id of now.
pub(crate) fn replay(
    kv: &dyn Kv,
    identity: &Identity,
    inventory: &Inventory,
    marker: &Marker,
    machine: u128,
    search_len: u32,
) -> Result<Replayed, OpenError> {
    let checkpoint = checkpoint(kv)?;
    let begin = checkpoint.map_or(Position::ZERO, |row| row.position);
    let mut replay = Replay {
        search_len,
        stayed_up: marker.boot == machine,
        kv,
        identity,
        step: Some(Step::new(kv)?),
        groups: 0,
        indexed: begin,
        successor: None,
        result: Replayed { next_commit: checkpoint.map_or(1, |row| row.next_commit), ..Replayed::default() },
    };
    let durable = if marker.clean { begin.max(marker.end) } else { begin };
    let ids: Vec<SegmentId> = inventory.segments.range(begin.segment..).map(|(id, _)| *id).collect();
    for (at, id) in ids.iter().enumerate() {
        let segment = &inventory.segments[id];
        let from = if *id == begin.segment { begin.offset } else { SegmentHeader::PAGE_LEN };
        let next = ids.get(at + 1).map(|next| &inventory.segments[next]);
        let known_end = match next {
            Some(next) if marker.clean && next.id > marker.end.segment => None,
            // One that was durable once was begun, whatever is left of it.
            Some(next) => scan::first_commit(next)?.or_else(|| (next.id <= durable.segment).then_some(None)),
            None => None,
        };
        let Some(first_commit) = known_end else {
            replay.last_segment(segment, from, durable, marker)?;
            break;
        };
        let end = first_commit.map(|commit| commit.durable).filter(|end| end.segment == *id);
        replay.full_segment(segment, from, end.map_or(u32::MAX, |end| end.offset))?;
    }
    replay.missing_segments(inventory, marker)?;
    replay.flush()?;
    replay.result.end = replay.indexed;
    Ok(replay.result)
}

/// Makes it zeros, durably.
fn overwrite(segment: &Segment, range: std::ops::Range<u32>) -> io::Result<()> {
    let zeros = vec![0; range.len().min(1 << 20)];
    let file = segment.file()?;
    for at in range.clone().step_by(zeros.len()) {
        let len = zeros.len().min((range.end - at) as usize);
        file.write_at(at.into(), &[IoSlice::new(&zeros[..len])])?;
    }
    file.sync()
}

/// Makes what can be read of a range durable, whatever the kernel believes of it.
fn write_again(segment: &Segment, range: std::ops::Range<u32>) -> io::Result<()> {
    const STEP_LEN: u32 = 1 << 20;
    let file = segment.file()?;
    let begin = range.start.max(SegmentHeader::PAGE_LEN);
    let mut bytes = vec![0; STEP_LEN as usize];
    for at in (begin..range.end).step_by(STEP_LEN as usize) {
        let end = range.end.min(at.saturating_add(STEP_LEN));
        if write_part_again(file, at..end, &mut bytes)? {
            continue;
        }
        // What cannot be read is left as it is: a scan says what that means.
        for at in (at..end).step_by(SegmentHeader::PAGE_LEN as usize) {
            write_part_again(file, at..end.min(at + SegmentHeader::PAGE_LEN), &mut bytes)?;
        }
    }
    file.sync()
}

/// `false` if it cannot be read.
fn write_part_again(file: &dyn DiskFile, range: std::ops::Range<u32>, buffer: &mut [u8]) -> io::Result<bool> {
    let bytes = &mut buffer[..range.len()];
    if file.read_at(range.start.into(), bytes).is_err() {
        return Ok(false);
    }
    file.write_at(range.start.into(), &[IoSlice::new(bytes)])?;
    Ok(true)
}

struct Replay<'r> {
    /// How far behind damage frames are looked for.
    search_len: u32,
    /// The machine has not gone down since the directory was in use: only the last write can have been cut short.
    stayed_up: bool,
    kv: &'r dyn Kv,
    identity: &'r Identity,
    step: Option<Step<'r>>,
    groups: usize,
    /// Everything before it went through a step.
    indexed: Position,
    /// The segment in which the log must go on: the last one is full, and the next was there before that was noted in it.
    successor: Option<SegmentId>,
    result: Replayed,
}

impl Replay<'_> {
    /// A segment that has a successor: all of it was durable.
    fn full_segment(&mut self, segment: &Segment, from: u32, end: u32) -> Result<(), OpenError> {
        let scanned = self.scan(segment, scan::Range { from, durable_upto: end, frames_end: segment.len })?;
        if !scanned.ended && scanned.damage.is_empty() {
            tracing::warn!(segment = %segment.id, "the end of the segment is not marked");
        }
        self.indexed = Position::new(segment.id, scanned.end);
        self.flush()
    }

    /// The segment in which the log ends.
    fn last_segment(
        &mut self,
        segment: &Segment,
        from: u32,
        durable: Position,
        marker: &Marker,
    ) -> Result<(), OpenError> {
        let is_end = marker.clean && marker.end.segment == segment.id;
        let limit = if is_end { marker.end.offset } else { segment.len };
        let survey = scan::survey(segment, from, limit, self.search_len)?;
        let mark = durable.max(survey.mark);
        let synced_upto = match mark.segment.cmp(&segment.id) {
            Ordering::Less => 0,
            Ordering::Equal => mark.offset,
            Ordering::Greater => u32::MAX,
        };
        // A killed process leaves what it wrote, from the front: what is broken before the last frame is damage.
        let durable_upto = if self.stayed_up { synced_upto.max(survey.last) } else { synced_upto };
        if !is_end {
            write_again(segment, synced_upto..survey.end)?;
        }
        let scanned = self.scan(segment, scan::Range { from, durable_upto, frames_end: survey.end })?;
        self.indexed = Position::new(segment.id, scanned.end);
        if let Some(upto) = scanned.torn_upto {
            self.result.torn_bytes = u64::from(upto - scanned.end);
            tracing::info!(segment = %segment.id, offset = scanned.end, bytes = self.result.torn_bytes, "torn tail dropped");
            overwrite(segment, scanned.end..upto)?;
        }
        if scanned.ended {
            self.successor = Some(segment.id.next());
        }
        let goes_on = !scanned.ended && u64::from(scanned.end) + END_FRAME_LEN as u64 <= segment.len.into();
        self.result.tail = goes_on.then_some(Tail { position: self.indexed, next_commit: self.result.next_commit });
        self.flush()
    }

    fn scan(&mut self, segment: &Segment, range: scan::Range) -> Result<scan::Scanned, OpenError> {
        let scanned = scan::scan(segment, range, &mut |group| {
            self.step.as_mut().expect("there is always a step").group(&group)?;
            self.indexed = group.end_position();
            self.result.next_commit = self.result.next_commit.max(group.commit + 1);
            self.groups += 1;
            if self.groups >= BATCH_GROUPS { self.flush() } else { Ok(()) }
        })?;
        for (begin, end) in &scanned.damage {
            self.loss(Position::new(segment.id, *begin), *end);
        }
        self.result.next_commit = self.result.next_commit.max(scanned.last_commit.map_or(0, |last| last + 1));
        self.result.replayed_bytes += u64::from(scanned.end.saturating_sub(range.from));
        Ok(scanned)
    }

    /// Segments that the log should consist of and that are not there.
    fn missing_segments(&mut self, inventory: &Inventory, marker: &Marker) -> Result<(), OpenError> {
        self.flush()?;
        let known: Vec<Position> = losses(self.kv)?.iter().map(|loss| loss.begin).collect();
        let mut expected: BTreeSet<SegmentId> = shard_row(self.kv)?.segments.iter().collect();
        expected.extend(self.successor);
        expected.extend(Some(marker.end.segment).filter(|_| marker.clean));
        for segment in expected {
            let begin = Position::new(segment, 0);
            if !inventory.has(segment) && !known.contains(&begin) {
                self.loss(begin, u32::MAX);
            }
        }
        Ok(())
    }

    fn loss(&mut self, begin: Position, end: u32) {
        tracing::error!(shard = %self.identity.shard, %begin, end, "data that was durable is damaged or gone");
        self.result.new_losses += 1;
        self.step.as_mut().expect("there is always a step").loss(begin, end);
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        let step = self.step.take().expect("there is always a step");
        let next_commit = self.result.next_commit;
        self.kv.apply(&step.finish(*self.identity, self.indexed, next_commit))?;
        (self.step, self.groups) = (Some(Step::new(self.kv)?), 0);
        Ok(())
    }
}
