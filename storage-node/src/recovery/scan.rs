//! Reading one segment again, frame by frame, and telling loss from a torn tail.
//!
//! Every place before `durable_upto` was durable once, or was surely written by a process that was killed on a machine that
//! stayed up: whatever is broken there is *loss*. Whatever is broken behind it was
//! never promised to anybody: the log ends there, and frames that did survive further on are dropped with it, so that what
//! is left is a prefix of what was written.

use std::io;

use dlog_proto::block::{Block, BlockHeader};

use crate::index::digest::{Digester, GroupDigest};
use crate::segment::Position;
use crate::segment::entries::{Commit, Head};
use crate::segment::file::Segment;
use crate::segment::walk::Found;

/// What a scan found besides its groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scanned {
    /// Behind the last frame that counts.
    pub(crate) end: u32,
    /// Whether an end frame stands there.
    pub(crate) ended: bool,
    /// Damage where everything was durable, as begin and end.
    pub(crate) damage: Vec<(u32, u32)>,
    /// Behind the last frame that was dropped, if any was.
    pub(crate) torn_upto: Option<u32>,
    pub(crate) last_commit: Option<u64>,
}

/// What the frames of the last segment say when all of them are asked, also those behind damage.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Survey {
    /// Highest durable mark of a commit.
    pub(crate) mark: Position,
    /// The last frame begins here.
    pub(crate) last: u32,
    /// Behind the last frame.
    pub(crate) end: u32,
}

/// Looks at all frames from an offset on. Behind damage the next one is looked for `search_len` far: written and not durable
/// can only be so much.
pub(crate) fn survey(segment: &Segment, from: u32, limit: u32, search_len: u32) -> io::Result<Survey> {
    let mut walk = segment.walk(from..limit)?;
    let mut survey = Survey { mark: Position::ZERO, last: from, end: from };
    loop {
        while let Some(found) = walk.next() {
            (survey.last, survey.end) = (found.offset, found.end());
            match found.head {
                Head::Commit(commit) => survey.mark = survey.mark.max(commit.durable),
                Head::End => return Ok(survey),
                _ => {}
            }
        }
        if !walk.search(walk.offset().saturating_add(search_len)) {
            return Ok(survey);
        }
    }
}

/// The first commit of a segment, if there is any frame in its first part.
pub(crate) fn first_commit(segment: &Segment) -> io::Result<Option<Option<Commit>>> {
    /// Further on nothing is looked for: a segment that was used begins with frames.
    const SEARCH_LEN: u32 = 64 << 20;
    let mut walk = segment.walk(0..SEARCH_LEN)?;
    match walk.next() {
        Some(Found { head: Head::Commit(commit), .. }) => Ok(Some(Some(commit))),
        Some(_) => Ok(Some(None)),
        None => Ok(walk.search(SEARCH_LEN).then_some(None)),
    }
}

/// What is to be scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) from: u32,
    /// Everything before was durable.
    pub(crate) durable_upto: u32,
    /// No frame stands at or behind it.
    pub(crate) frames_end: u32,
}

/// Scans a part of `segment` and hands out its groups.
pub(crate) fn scan(
    segment: &Segment,
    range: Range,
    groups: &mut dyn FnMut(GroupDigest) -> Result<(), super::OpenError>,
) -> Result<Scanned, super::OpenError> {
    let Range { from, durable_upto, frames_end } = range;
    let mut walk = segment.walk(from..frames_end.max(from))?;
    let mut scan = Scan { segment, group: None, digester: Digester::default(), scanned: Scanned::default() };
    loop {
        match walk.next() {
            Some(Found { head: Head::End, offset, .. }) => {
                (scan.scanned.end, scan.scanned.ended) = (offset, true);
                break;
            }
            Some(found) if found.offset >= durable_upto && !scan.is_whole(&found)? => {
                scan.tear(found.offset, frames_end);
                break;
            }
            Some(found) => {
                if let Some(group) = scan.frame(found) {
                    groups(group)?;
                }
            }
            None => {
                let broken = walk.offset();
                if broken >= durable_upto {
                    scan.tear(broken, frames_end);
                    break;
                }
                if walk.search(u32::MAX) {
                    scan.scanned.damage.push((broken, walk.offset()));
                    continue;
                }
                // What was there may be more than the file has now.
                scan.scanned.damage.push((broken, durable_upto));
                scan.scanned.end = durable_upto.min(segment.len).next_multiple_of(8);
                break;
            }
        }
    }
    let end = scan.scanned.end;
    if let Some(group) = scan.finish_group(end) {
        groups(group)?;
    }
    Ok(scan.scanned)
}

struct Scan<'s> {
    segment: &'s Segment,
    /// Commit and begin of the group that frames are added to.
    group: Option<(u64, u32)>,
    digester: Digester,
    scanned: Scanned,
}

impl Scan<'_> {
    /// Takes a frame. Gives the group before it if the frame begins another.
    fn frame(&mut self, found: Found) -> Option<GroupDigest> {
        let at = Position::new(self.segment.id, found.offset);
        if let Head::Commit(commit) = found.head {
            let before = self.finish_group(found.offset);
            self.group = Some((commit.number, found.offset));
            self.scanned.last_commit = self.scanned.last_commit.max(Some(commit.number));
            return before;
        }
        // Where a commit frame was damaged, what follows is a group all the same.
        let last_commit = self.scanned.last_commit.unwrap_or(0);
        self.group.get_or_insert((last_commit, found.offset));
        match found.head {
            Head::Block { placement, header } => self.digester.block(at, found.len, &placement, &header),
            Head::Amend(amend) => self.digester.amend(found.offset, amend),
            Head::Partition(meta) => self.digester.partition(found.offset, meta),
            Head::Shard(meta) => self.digester.shard(found.offset, meta),
            Head::Segments(segments) => self.digester.segments(segments),
            Head::Commit(_) | Head::End => unreachable!("handled before"),
        }
        None
    }

    fn finish_group(&mut self, end: u32) -> Option<GroupDigest> {
        let (commit, begin) = self.group.take()?;
        Some(self.digester.finish(commit, Position::new(self.segment.id, begin), end))
    }

    /// Whether the frame's body is what its head says.
    fn is_whole(&self, found: &Found) -> io::Result<bool> {
        let Head::Block { header, .. } = &found.head else { return Ok(true) };
        let mut bytes = vec![0; header.block_len()];
        let begin = u64::from(found.body_at) - BlockHeader::LEN as u64;
        let file = self.segment.file()?;
        // A disk that errs once may not err again.
        let read = file.read_at(begin, &mut bytes).or_else(|_| file.read_at(begin, &mut bytes));
        if let Err(error) = read {
            tracing::warn!(segment = %self.segment.id, offset = found.offset, %error, "cannot read a block");
            return Ok(false);
        }
        Ok(Block::decode(bytes::Bytes::from(bytes).into()).is_ok())
    }

    /// The log ends at `at`, whatever stands behind it.
    fn tear(&mut self, at: u32, frames_end: u32) {
        self.scanned.end = at;
        self.scanned.torn_upto = Some(frames_end).filter(|upto| *upto > at);
    }
}
