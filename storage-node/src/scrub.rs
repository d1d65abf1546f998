//! Reading everything that is at rest, a little at a time, to find damage while there are other copies.
//!
//! All full segments, one after the other, and from the beginning again after some time. What is damaged twice in a row is
//! noted in the index as a loss, as a start would note it: it is told until it is on record elsewhere, and reads call it
//! damaged anyway. Damage to what nobody needs is not worth a word beyond the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockHeader};

use crate::index::kv::KvError;
use crate::index::schema::{LossRow, Row, Table};
use crate::read::Reader;
use crate::recovery::Loss;
use crate::segment::entries::Head;
use crate::segment::file::Segment;
use crate::segment::header::SegmentHeader;
use crate::segment::walk::{Found, Walk};
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// Where the scrubber is.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    current: Option<Current>,
    /// The last segment that was read in this round.
    done: SegmentId,
    /// Since the last round ended.
    rested: Duration,
}

struct Current {
    segment: Arc<Segment>,
    walk: Walk,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("segment", &self.segment.id).finish_non_exhaustive()
    }
}

/// Something that is not what it should be, as begin and end.
type Damage = (u32, u32);

impl Scrub {
    /// So much time went by.
    pub(crate) fn rest(&mut self, time: Duration) {
        self.rested += time;
    }

    /// Reads on, about so many bytes. Gives how many it were and what is damaged; `None` if the round is over, and the next one
    /// begins after `every`.
    pub(crate) fn step(&mut self, shared: &Arc<Shared>, bytes: u32, every: Duration) -> Option<(u64, Vec<Loss>)> {
        let mut current = self.current.take().or_else(|| self.next(shared, every))?;
        if !shared.segments.ids().contains(&current.segment.id) {
            self.done = current.segment.id;
            return Some((0, Vec::new()));
        }
        let begin = current.walk.offset();
        let (damage, ended) = current.read(bytes);
        let read = u64::from(current.walk.offset() - begin);
        let id = current.segment.id;
        if ended {
            self.done = id;
        } else {
            self.current = Some(current);
        }
        let loss = |(begin, end)| Loss { begin: Position::new(id, begin), end };
        Some((read, damage.into_iter().map(loss).collect()))
    }

    fn next(&mut self, shared: &Shared, every: Duration) -> Option<Current> {
        let active = shared.written().segment;
        let next = shared.segments.ids().into_iter().find(|id| *id > self.done && *id < active);
        let Some(segment) = next.and_then(|id| shared.segments.get(id)) else {
            if self.done != SegmentId::default() {
                self.done = SegmentId::default();
                self.rested = Duration::ZERO;
            }
            return None;
        };
        if self.done == SegmentId::default() && self.rested < every {
            return None;
        }
        match segment.walk(SegmentHeader::PAGE_LEN..segment.len) {
            Ok(walk) => Some(Current { segment, walk }),
            Err(error) => {
                tracing::error!(segment = %segment.id, %error, "the segment cannot be opened to look for damage");
                self.done = segment.id;
                None
            }
        }
    }
}

impl Current {
    /// Says what is damaged, and whether the segment's end was reached.
    fn read(&mut self, bytes: u32) -> (Vec<Damage>, bool) {
        let (mut damage, upto) = (Vec::new(), self.walk.offset().saturating_add(bytes));
        while self.walk.offset() < upto {
            let begin = self.walk.offset();
            match self.walk.next() {
                Some(Found { head: Head::End, .. }) => return (damage, true),
                Some(found) => damage.extend(self.check_body(&found)),
                // A disk that errs once may not err again.
                None if self.stands_at(begin) => {}
                None if self.walk.search(u32::MAX) => damage.push((begin, self.walk.offset())),
                None => {
                    damage.push((begin, u32::MAX));
                    return (damage, true);
                }
            }
        }
        (damage, false)
    }

    /// Whether a frame can be read there after all; then the walk goes on.
    fn stands_at(&mut self, offset: u32) -> bool {
        let Ok(mut walk) = self.segment.walk(offset..self.segment.len) else { return false };
        if walk.next().is_none() {
            return false;
        }
        // From here on again: what stands there is looked at as everything else.
        self.segment.walk(offset..self.segment.len).map(|walk| self.walk = walk).is_ok()
    }

    fn check_body(&self, found: &Found) -> Option<Damage> {
        let Head::Block { header, .. } = &found.head else { return None };
        let is_whole = || {
            let mut bytes = vec![0; header.block_len()];
            let begin = u64::from(found.body_at) - BlockHeader::LEN as u64;
            let read = self.segment.file().and_then(|file| file.read_at(begin, &mut bytes));
            read.is_ok() && Block::decode(Bytes::from(bytes).into()).is_ok()
        };
        (!is_whole() && !is_whole()).then(|| (found.offset, found.end()))
    }
}

/// Those that are not on record and concern something that is needed.
pub(crate) fn worth_noting(shared: &Arc<Shared>, losses: Vec<Loss>) -> Result<Vec<Loss>, KvError> {
    let reader = Reader::new(Arc::clone(shared));
    let mut noted = Vec::new();
    for loss in losses {
        let known = crate::index::kv::Kv::get(&shared.kv, &Table::Loss.place(loss.begin))?;
        let known = known.as_deref().map(LossRow::decode).transpose()?;
        if known.is_none_or(|known| known.end < loss.end) && reader.leads_to(&loss)? {
            noted.push(loss);
        }
    }
    Ok(noted)
}
