//! From what a scan found to a log that is written on.

use std::io;
use std::sync::Arc;

use super::inventory::{FREE_PREFIX, Inventory};
use super::{OpenError, checkpoint, losses, shard_row};
use crate::log::{Prepared, SegmentLog, Tail};
use crate::segment::file::Segment;
use crate::segment::header::SegmentHeader;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;
use crate::upkeep::Upkeep;

/// Spare files of the right length; others are of no use and removed.
fn reusable(shared: &Shared, spare: Vec<(String, u64)>) -> io::Result<Vec<String>> {
    let (fit, misfit): (Vec<_>, Vec<_>) =
        spare.into_iter().partition(|(_, len)| *len == u64::from(shared.config.segment_len));
    misfit.iter().try_for_each(|(name, _)| shared.disk.remove(name))?;
    Ok(fit.into_iter().map(|(name, _)| name).collect())
}

/// Finishes what freeing a segment had begun: gives the name of a file that can be used again.
fn set_free(shared: &Shared, segment: &Segment) -> io::Result<Option<String>> {
    let name = segment.id.file_name();
    if segment.len != shared.config.segment_len {
        shared.disk.remove(&name)?;
        return Ok(None);
    }
    let spare = format!("{FREE_PREFIX}{}", segment.id);
    shared.disk.rename(&name, &spare)?;
    shared.disk.sync_dir()?;
    Ok(Some(spare))
}

/// Takes the log up where it ends.
pub(crate) fn resume(
    shared: &Arc<Shared>,
    inventory: Inventory,
    (secret, ended): (u64, SegmentId),
    (tail, next_commit): (Option<Tail>, u64),
    now_ms: i64,
) -> Result<(SegmentLog, Upkeep), OpenError> {
    let indexed = checkpoint(&shared.kv)?.map_or(Position::ZERO, |row| row.position);
    let listed = shard_row(&shared.kv)?.segments;
    // Above every number that was ever used, also by segments that are gone.
    let used = [inventory.highest(), listed.iter().last(), Some(indexed.segment), Some(ended)];
    let highest = used.into_iter().flatten().max().unwrap_or_default();
    let (begun, ready): (Vec<_>, Vec<_>) =
        inventory.segments.into_values().partition(|segment| segment.id <= indexed.segment);
    let is_freed = |id: SegmentId| !listed.contains(id) && listed.iter().last().is_some_and(|last| id < last);
    let mut spare = reusable(shared, inventory.spare)?;
    for segment in begun {
        if is_freed(segment.id) {
            spare.extend(set_free(shared, &segment)?);
        } else {
            shared.segments.insert(segment);
        }
    }
    let prepared = Arc::new(Prepared::default());
    for segment in ready {
        let room = shared.space.room_of(segment.len);
        if room == 0 {
            // It was cut short, and nothing was ever written to it.
            shared.disk.remove(&segment.id.file_name())?;
            continue;
        }
        shared.space.add(room);
        prepared.push(segment);
    }
    let indexed = (indexed, next_commit);
    let mut upkeep = Upkeep::new(Arc::clone(shared), Arc::clone(&prepared), secret, highest.next(), spare, indexed);
    let (active, tail) = match tail {
        Some(tail) => (shared.segments.get(tail.position.segment), tail),
        None => {
            let next = match prepared.pop() {
                Some(next) => {
                    shared.space.add(-shared.space.room_of(next.len));
                    next
                }
                None => upkeep.make_segment(now_ms)?,
            };
            let position = Position::new(next.id, SegmentHeader::PAGE_LEN);
            (Some(next), Tail { position, next_commit })
        }
    };
    let active: Arc<Segment> = active.ok_or_else(|| io::Error::other("the segment in which the log ends is gone"))?;
    shared.segments.insert(Arc::clone(&active));
    let mut log = SegmentLog::new(Arc::clone(shared), prepared, active, tail);
    losses(&shared.kv)?
        .iter()
        .filter(|loss| loss.begin.offset == 0)
        .for_each(|loss| shared.segments.miss(loss.begin.segment));
    if shared.segments.listed(None) != listed {
        log.append_segments(None).map_err(|error| io::Error::other(error.to_string()))?;
    }
    let mut places = shared.segments.ids();
    places.insert(0, SegmentId::default());
    upkeep.scrub_behind(places[now_ms.rem_euclid(places.len() as i64) as usize]);
    Ok((log, upkeep))
}
