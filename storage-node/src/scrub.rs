//! Reading everything that is at rest, a little at a time, to find damage while there are other copies.
//!
//! All full segments, one after the other, and from the beginning again after some time. What is damaged twice in a row is
//! noted in the index as a loss, as a start would note it: it is told until it is on record elsewhere, and reads call it
//! damaged anyway. Damage to what nobody needs is not worth a word beyond the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockHeader};

use crate::index::kv::{Kv, KvError};
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
#[derive(Debug)]
pub(crate) struct Scrub {
    current: Option<Current>,
    /// The last segment that was read in this round.
    done: SegmentId,
    /// Since the last round ended.
    rested: Duration,
    /// The round began in the middle: what lies before is still to be read.
    is_partial: bool,
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
    /// Begins at once: who is started every day would never come to it otherwise. Behind some segment, a random one, or who is
    /// started every day would never come to the last.
    pub(crate) fn new(behind: SegmentId) -> Self {
        Self { current: None, done: behind, rested: Duration::MAX, is_partial: behind != SegmentId::default() }
    }

    /// So much time went by.
    pub(crate) fn rest(&mut self, time: Duration) {
        self.rested = self.rested.saturating_add(time);
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
                self.rested = if std::mem::take(&mut self.is_partial) { every } else { Duration::ZERO };
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
    let mut news = Vec::new();
    for loss in losses {
        let known = Kv::get(&shared.kv, &Table::Loss.place(loss.begin))?;
        let known = known.as_deref().map(LossRow::decode).transpose()?;
        if known.is_none_or(|known| known.end < loss.end) {
            news.push(loss);
        }
    }
    if news.is_empty() { Ok(news) } else { Reader::new(Arc::clone(shared)).needed(news) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::index::memory::MemoryKv;
    use crate::testing::{block, placement};
    use crate::{Engine, EngineConfig, Identity, Start};
    use dlog_proto::{ClusterId, Incarnation, ShardId};

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[test]
    fn the_first_round_begins_at_once_wherever_and_leaves_nothing_out() {
        let identity = Identity { cluster: ClusterId(1), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
        let start = Start { boot_id: 1, now_ms: 0, random: 1 };
        let disk = Arc::new(SimulatedDisk::new());
        let (mut engine, _) = Engine::open(EngineConfig::small(), disk, &MemoryKv::new(), identity, start).unwrap();
        for esn in 1..60 {
            let entry = crate::entry::Entry::Block { placement: placement(1, 1), block: block(1, 1, esn, 5000) };
            engine.append(&[entry]).unwrap();
            engine.sync().unwrap();
            engine.upkeep(0).unwrap();
        }
        let ids = engine.shared.segments.ids();
        let full = &ids[..ids.len() - 1];
        assert!(full.len() >= 3, "{ids:?}");
        for behind in [SegmentId::default(), full[0], full[1], *ids.last().unwrap()] {
            let mut scrub = Scrub::new(behind);
            let mut read = Vec::new();
            // Twice to the end of the log, without any time going by.
            for _ in 0..2 {
                while scrub.step(&engine.shared, 1 << 20, WEEK).is_some() {
                    read.push(scrub.done);
                }
            }
            read.dedup();
            read.sort_unstable();
            read.dedup();
            assert_eq!(read, full, "from {behind}");
            scrub.rest(WEEK / 2);
            assert!(scrub.step(&engine.shared, 1 << 20, WEEK).is_none(), "a week is not over");
            scrub.rest(WEEK);
            assert!(scrub.step(&engine.shared, 1 << 20, WEEK).is_some());
        }
    }
}
