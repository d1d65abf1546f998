//! Turns entries into the bytes of a group.

use std::io::IoSlice;

use bytes::{BufMut, Bytes};
use dlog_proto::block::{Block, BlockHeader, Placement};

use super::Binding;
use super::entries::{
    Amend, Commit, SHARD_LEN, SegmentRanges, encode_amend, encode_partition, encode_shard, partition_len,
};
use super::frame::{FrameHeader, FrameKind, Place, frame_len, put_frame};
use crate::entry::Entry;

/// Pieces of blocks up to this length are copied next to each other: a piece of its own in the write call costs more.
const COPY_LEN_MAX: usize = 4 << 10;
/// More than this is not kept from one group to the next.
const KEEP_LEN_MAX: usize = 8 << 20;

pub(crate) const COMMIT_FRAME_LEN: usize = frame_len(Commit::LEN, 0);
pub(crate) const END_FRAME_LEN: usize = FrameHeader::LEN;

/// Length of an entry's frame, in bytes.
pub(crate) fn entry_frame_len(entry: &Entry) -> usize {
    match entry {
        Entry::Block { placement, block } => {
            frame_len(placement.encoded_len() + BlockHeader::LEN, block.header().body_len as usize)
        }
        Entry::Amend { placement, .. } => frame_len(Amend::FIXED_LEN + placement.encoded_len(), 0),
        Entry::Partition(meta) => frame_len(partition_len(meta), 0),
        Entry::Shard(_) => frame_len(SHARD_LEN, 0),
    }
}

/// A group in the making. Long pieces of blocks are not copied; everything else lies in one buffer that is used again.
#[derive(Debug)]
pub(crate) struct GroupEncoder {
    binding: Binding,
    begin: u32,
    /// Everything but the shared pieces.
    own: Vec<u8>,
    /// Pieces of blocks, and how much of `own` goes before each.
    shared: Vec<(usize, Bytes)>,
    shared_len: usize,
}

impl Default for GroupEncoder {
    fn default() -> Self {
        Self { binding: Binding(0), begin: 0, own: Vec::new(), shared: Vec::new(), shared_len: 0 }
    }
}

impl GroupEncoder {
    /// Begins a group at this place. Its commit frame is written by [`finish`](Self::finish).
    pub(crate) fn begin(&mut self, binding: Binding, begin: u32) {
        (self.binding, self.begin) = (binding, begin);
        self.clear();
        self.own.put_bytes(0, COMMIT_FRAME_LEN);
    }

    /// Lets go of the blocks.
    pub(crate) fn clear(&mut self) {
        self.shared.clear();
        self.shared_len = 0;
        self.own.clear();
        self.own.shrink_to(KEEP_LEN_MAX);
    }

    /// Length so far, commit frame included.
    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.shared_len
    }

    fn place(&self) -> Place {
        Place { binding: self.binding, offset: self.begin + self.len() as u32 }
    }

    /// Adds an entry.
    pub(crate) fn put(&mut self, entry: &Entry) {
        let (place, own) = (self.place(), &mut self.own);
        match entry {
            Entry::Block { placement, block } => return self.put_block(placement, block),
            Entry::Amend { partition, epoch, first_esn, placement } => {
                put_frame(own, place, FrameKind::Amend, 0, |out| {
                    encode_amend(*partition, *epoch, *first_esn, placement, out);
                });
            }
            Entry::Partition(meta) => {
                put_frame(own, place, FrameKind::Partition, 0, |out| encode_partition(meta, out));
            }
            Entry::Shard(meta) => put_frame(own, place, FrameKind::Shard, 0, |out| encode_shard(meta, out)),
        }
        self.pad();
    }

    fn put_block(&mut self, placement: &Placement, block: &Block) {
        // A block's first piece holds its whole header.
        let (header, first) = block.bytes().chunks()[0].split_at(BlockHeader::LEN);
        let (place, body_len) = (self.place(), block.header().body_len);
        put_frame(&mut self.own, place, FrameKind::Block, body_len, |out| {
            placement.encode(out);
            out.put_slice(header);
        });
        self.put_piece(first, || block.bytes().chunks()[0].slice(BlockHeader::LEN..));
        for chunk in &block.bytes().chunks()[1..] {
            self.put_piece(chunk, || chunk.clone());
        }
        self.pad();
    }

    fn put_piece(&mut self, piece: &[u8], share: impl FnOnce() -> Bytes) {
        if piece.len() <= COPY_LEN_MAX {
            self.own.put_slice(piece);
        } else {
            self.shared_len += piece.len();
            self.shared.push((self.own.len(), share()));
        }
    }

    pub(crate) fn put_segments(&mut self, segments: &SegmentRanges) {
        let place = self.place();
        put_frame(&mut self.own, place, FrameKind::Segments, 0, |out| segments.encode(out));
        self.pad();
    }

    fn pad(&mut self) {
        let len = self.len();
        self.own.put_bytes(0, len.next_multiple_of(8) - len);
    }

    /// Writes the commit frame and gives the whole group, in pieces.
    pub(crate) fn finish(&mut self, commit: Commit) -> Vec<IoSlice<'_>> {
        assert_eq!(commit.group_len as usize, self.len(), "the commit frame says how long the group is");
        let (mut frame, place) =
            (Vec::with_capacity(COMMIT_FRAME_LEN), Place { binding: self.binding, offset: self.begin });
        put_frame(&mut frame, place, FrameKind::Commit, 0, |out| commit.encode(out));
        self.own[..COMMIT_FRAME_LEN].copy_from_slice(&frame);
        let mut pieces = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut done = 0;
        for (before, chunk) in &self.shared {
            pieces.push(IoSlice::new(&self.own[done..*before]));
            pieces.push(IoSlice::new(chunk));
            done = *before;
        }
        pieces.push(IoSlice::new(&self.own[done..]));
        pieces
    }
}

/// The frame behind which nothing follows in a segment.
pub(crate) fn end_frame(place: Place) -> Vec<u8> {
    let mut frame = Vec::with_capacity(END_FRAME_LEN);
    put_frame(&mut frame, place, FrameKind::End, 0, |_| {});
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};
    use crate::entry::{PartitionMeta, ShardMeta};
    use crate::segment::entries::Head;
    use crate::segment::walk::Walk;
    use crate::segment::{Position, SegmentId};
    use crate::testing::{block, placement};
    use dlog_proto::{Epoch, Esn, PartitionUid};

    #[test]
    fn what_is_encoded_is_found_again() {
        let partition = PartitionUid(7);
        let entries = [
            Entry::Block { placement: placement(1, 1), block: block(7, 1, 1, 10) },
            Entry::Block { placement: placement(1, 2), block: block(7, 1, 2, 100_001) },
            Entry::Amend { partition, epoch: Epoch(1), first_esn: Esn(1), placement: placement(2, 1) },
            Entry::Partition(PartitionMeta::new(partition)),
            Entry::Block { placement: placement(1, 1), block: block(7, 1, 3, 5000) },
            Entry::Shard(ShardMeta { incomplete_before: 3 }),
        ];
        let (binding, begin) = (Binding(99), 4096);
        let mut encoder = GroupEncoder::default();
        encoder.begin(binding, begin);
        for entry in &entries {
            let before = encoder.len();
            encoder.put(entry);
            assert_eq!(encoder.len() - before, entry_frame_len(entry));
        }
        let commit = Commit { number: 1, group_len: encoder.len() as u32, durable: Position::ZERO };
        let pieces = encoder.finish(commit);
        assert!(pieces.len() >= 3, "the long block is not copied");
        let len = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let disk = SimulatedDisk::new();
        let file = disk.create("a", u64::from(begin) + len).unwrap();
        file.write_at(begin.into(), &pieces).unwrap();

        let mut walk = Walk::new(disk.open_to_scan("a").unwrap(), SegmentId(1), binding, begin, u32::MAX);
        assert_eq!(walk.next().unwrap().head, Head::Commit(commit));
        for entry in &entries {
            let found = walk.next().unwrap();
            match (entry, found.head) {
                (Entry::Block { placement, block }, Head::Block { placement: found_placement, header }) => {
                    assert_eq!((placement, block.header()), (&found_placement, &header));
                    let begin = u64::from(found.body_at) - BlockHeader::LEN as u64;
                    let bytes = file.slice(begin..begin + header.block_len() as u64).unwrap();
                    assert_eq!(bytes, block.bytes().clone().into_contiguous());
                }
                (Entry::Amend { placement, .. }, Head::Amend(found)) => assert_eq!(*placement, found.placement),
                (Entry::Partition(meta), Head::Partition(found)) => assert_eq!(*meta, found),
                (Entry::Shard(meta), Head::Shard(found)) => assert_eq!(*meta, found),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(walk.next(), None);
        assert!(!walk.search(u32::MAX));
        assert_eq!(u64::from(walk.offset()), u64::from(begin) + len);
    }
}
