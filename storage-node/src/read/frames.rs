//! Blocks in bytes of a segment: those of a run, or the one at a known place.

use bytes::Bytes;
use dlog_proto::block::{Block, BlockError, BlockHeader, Placement};
use dlog_proto::{Esn, Lsn, PartitionUid};

use crate::index::schema::RunRow;
use crate::segment::Position;
use crate::segment::entries::Head;
use crate::segment::file::Segment;
use crate::segment::frame::{FrameHeader, FrameKind, Place};

/// Where a block's header has its partition.
const PARTITION_AT: usize = 8;

/// A block as it lies in a segment: its head is verified, its body is not.
#[derive(Debug, Clone)]
pub(super) struct Lying {
    pub(super) at: Position,
    pub(super) header: BlockHeader,
    /// The one in its frame.
    pub(super) placement: Placement,
    bytes: Bytes,
}

impl Lying {
    /// The block, if its checksum holds.
    pub(super) fn block(&self) -> Result<Block, BlockError> {
        Block::decode(self.bytes.clone().into())
    }

    pub(super) fn first(&self) -> Lsn {
        self.header.first_lsn()
    }

    pub(super) fn last(&self) -> Lsn {
        self.header.last_lsn()
    }

    /// The block of the frame that begins at `begin` in `bytes`.
    fn decode(at: Position, segment: &Segment, bytes: &Bytes, begin: usize) -> Option<Self> {
        let place = Place { binding: segment.binding, offset: at.offset };
        let here = &bytes[begin..];
        let frame = FrameHeader::decode(here, place).filter(|frame| frame.kind == FrameKind::Block)?;
        let (body_at, body_len) = (frame.body_at() as usize, frame.body_len as usize);
        if here.len() < body_at + body_len || !frame.verify(here, place) {
            return None;
        }
        let Ok(Head::Block { placement, header }) =
            Head::decode(frame.kind, &here[FrameHeader::LEN..body_at], frame.body_len)
        else {
            return None;
        };
        let bytes = bytes.slice(begin + body_at - BlockHeader::LEN..begin + body_at + body_len);
        Some(Self { at, header, placement, bytes })
    }
}

/// The block in the frame at `at`, `len` bytes long. `None` if it is damaged or cannot be read.
pub(super) fn at(segment: &Segment, at: Position, len: u32) -> Option<Lying> {
    match segment.slice(at.offset..at.offset.saturating_add(len)) {
        Ok(bytes) => Lying::decode(at, segment, &bytes, 0),
        Err(error) => {
            tracing::warn!(%at, %error, "cannot read a block");
            None
        }
    }
}

/// What is in a run, ascending.
#[derive(Debug, Clone)]
pub(super) enum RunItem {
    Block(Box<Lying>),
    /// One or more of its blocks had LSNs in this range.
    Damaged {
        first: Lsn,
        last: Lsn,
    },
}

/// Reads a run: hops over the frames of others. What is broken is searched through for the next frame; if blocks are
/// missing in the end, or it cannot be known whether, the gap is reported.
pub(super) fn run(
    segment: &Segment,
    partition: PartitionUid,
    first: Lsn,
    row: &RunRow,
    has_late_blocks: bool,
) -> Vec<RunItem> {
    let last = Lsn::new(first.epoch(), row.last_esn);
    let bytes = match segment.slice(row.begin..row.end.min(segment.len)) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(segment = %segment.id, begin = row.begin, %error, "cannot read a run");
            return vec![RunItem::Damaged { first, last }];
        }
    };
    let mut reading = RunReading { segment, partition, bytes, row, next: first, items: Vec::new(), gap: None };
    let broken = reading.walk();
    let is_missing = reading.blocks() < row.blocks as usize;
    let mut items = reading.items;
    let is_damage = |item: &RunItem| matches!(item, RunItem::Damaged { .. });
    // What was broken may have been a frame of another partition. A late block can hide that one of the run is missing.
    if !is_missing && (!broken || !has_late_blocks) {
        items.retain(|item| !is_damage(item));
    } else if !items.iter().any(is_damage) {
        items.insert(0, RunItem::Damaged { first, last });
    }
    items
}

struct RunReading<'r> {
    segment: &'r Segment,
    partition: PartitionUid,
    bytes: Bytes,
    row: &'r RunRow,
    /// LSN behind the last block that was found.
    next: Lsn,
    items: Vec<RunItem>,
    /// Where the LSNs that may be missing begin, from the first broken place on.
    gap: Option<Lsn>,
}

impl RunReading<'_> {
    /// Says whether anything was broken.
    fn walk(&mut self) -> bool {
        let (mut at, mut broken) = (0, false);
        while at < self.bytes.len() {
            match self.frame(at) {
                Some(len) => at += len,
                None => {
                    broken = true;
                    self.gap.get_or_insert(self.next);
                    at += 8;
                }
            }
        }
        if let Some(first) = self.gap.take() {
            let last = Lsn::new(self.next.epoch(), self.row.last_esn);
            if first <= last {
                self.items.push(RunItem::Damaged { first, last });
            }
        }
        broken
    }

    /// Length of the frame here, if one is. Takes its block if it is one of the run.
    fn frame(&mut self, at: usize) -> Option<usize> {
        let offset = self.row.begin + at as u32;
        let place = Place { binding: self.segment.binding, offset };
        let here = &self.bytes[at..];
        let frame = FrameHeader::decode(here, place)?;
        let len = frame.frame_len() as usize;
        if len > here.len() {
            return None;
        }
        if frame.kind == FrameKind::Block && partition_at(here, frame.body_at() as usize) == Some(self.partition) {
            let lying = Lying::decode(Position::new(self.segment.id, offset), self.segment, &self.bytes, at)?;
            self.block(lying);
        } else if self.gap.is_some() && !frame.verify(here, place) {
            // Frames of others are hopped over by their cheap check; among broken bytes that is not enough.
            return None;
        }
        Some(len)
    }

    fn block(&mut self, lying: Lying) {
        let header = &lying.header;
        let epoch = self.next.epoch();
        // A block that came late is not one of the run, wherever it lies.
        let belongs = header.partition == self.partition
            && header.span > 0
            && header.epoch == epoch
            && lying.first() >= self.next
            && header.last_esn() <= self.row.last_esn;
        if !belongs {
            return;
        }
        if let Some(first) = self.gap.take()
            && first < lying.first()
        {
            let last = Lsn(lying.first().0 - 1);
            self.items.push(RunItem::Damaged { first, last });
        }
        self.next = Lsn::new(epoch, Esn(header.last_esn().0.saturating_add(1)));
        self.items.push(RunItem::Block(Box::new(lying)));
    }

    fn blocks(&self) -> usize {
        self.items.iter().filter(|item| matches!(item, RunItem::Block(_))).count()
    }
}

/// The partition in the header of a block whose body begins at `body_at`.
fn partition_at(frame: &[u8], body_at: usize) -> Option<PartitionUid> {
    let at = (body_at + PARTITION_AT).checked_sub(BlockHeader::LEN)?;
    Some(PartitionUid(u64::from_le_bytes(*frame.get(at..)?.first_chunk()?)))
}
