//! Everything that stands in a segment, in order, whole or not.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockHeader, Placement};
use dlog_proto::{Epoch, Esn, PartitionUid};

use crate::entry::{PartitionMeta, ShardMeta};
use crate::segment::entries::Head;
use crate::segment::file::Segment;
use crate::segment::header::SegmentHeader;
use crate::segment::walk::{Found, Walk};
use crate::segment::{Position, SegmentId};

/// The next thing in a segment.
#[derive(Debug, Clone)]
pub enum Item {
    Frame(Frame),
    /// No frame stands in these bytes. Behind the end of the log that is as it should be: they may be of an earlier life of
    /// the file.
    Gap {
        begin: u32,
        end: u32,
    },
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub at: Position,
    /// With its padding, in bytes.
    pub len: u32,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    Commit { number: u64, group_len: u32, durable: Position },
    Block { placement: Placement, header: BlockHeader },
    Amend { partition: PartitionUid, epoch: Epoch, first_esn: Esn, placement: Placement },
    Partition(PartitionMeta),
    Shard(ShardMeta),
    Segments(Vec<SegmentId>),
    End,
}

/// Walks over a segment.
pub struct Frames {
    segment: Arc<Segment>,
    walk: Walk,
    /// A gap was given out, and the walk stands behind it.
    ended: bool,
}

impl Frames {
    pub(super) fn new(segment: Arc<Segment>) -> io::Result<Self> {
        let walk = segment.walk(SegmentHeader::PAGE_LEN..segment.len)?;
        Ok(Self { segment, walk, ended: false })
    }

    /// Where the next frame should be.
    pub fn offset(&self) -> u32 {
        self.walk.offset()
    }

    /// The block in a frame, if its checksum holds. `Err` if it cannot be read, or says why it is damaged.
    pub fn block(&self, frame: &Frame) -> Result<Block, String> {
        let Content::Block { placement, header } = &frame.content else { return Err("not a block".to_owned()) };
        let begin = u64::from(frame.at.offset) + (16 + placement.encoded_len()) as u64;
        let mut bytes = vec![0; header.block_len()];
        let read = self.segment.file().and_then(|file| file.read_at(begin, &mut bytes));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        Block::decode(Bytes::from(bytes).into()).map_err(|error| error.to_string())
    }

    fn frame(&self, found: Found) -> Frame {
        let content = match found.head {
            Head::Commit(commit) => {
                Content::Commit { number: commit.number, group_len: commit.group_len, durable: commit.durable }
            }
            Head::Block { placement, header } => Content::Block { placement, header },
            Head::Amend(amend) => Content::Amend {
                partition: amend.partition,
                epoch: amend.epoch,
                first_esn: amend.first_esn,
                placement: amend.placement,
            },
            Head::Partition(meta) => Content::Partition(meta),
            Head::Shard(meta) => Content::Shard(meta),
            Head::Segments(segments) => Content::Segments(segments.iter().collect()),
            Head::End => Content::End,
        };
        Frame { at: Position::new(self.segment.id, found.offset), len: found.len, content }
    }
}

impl Iterator for Frames {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        if let Some(found) = self.walk.next() {
            self.ended = found.head == Head::End;
            return Some(Item::Frame(self.frame(found)));
        }
        let begin = self.walk.offset();
        if self.walk.search(u32::MAX) {
            return Some(Item::Gap { begin, end: self.walk.offset() });
        }
        self.ended = true;
        None
    }
}
