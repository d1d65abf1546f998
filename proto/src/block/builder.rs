//! Packs record batches into one block without copying the large ones.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{Block, BlockHeader, BlockKind};
use crate::ids::PartitionUid;
use crate::lsn::{Epoch, Esn};
use crate::time::TimestampMs;
use crate::wire::Payload;

/// Batches up to this length are copied next to each other: a piece per small batch would cost more than it saves.
const COPY_LEN_MAX: usize = 8 << 10;

/// The fields of a batch header that lie outside its CRC and that a sequencer sets: `baseOffset` and, after the length,
/// the leader epoch.
const STAMPED_LEN: usize = 16;

/// Packs batches, in the order in which they get their LSNs.
#[derive(Debug)]
pub struct BlockBuilder {
    header: BlockHeader,
    /// Room for the header, then the body up to the first large piece.
    head: BytesMut,
    /// The body from the first large piece on.
    pieces: Payload,
    /// What came after the last large piece.
    tail: BytesMut,
}

impl BlockBuilder {
    /// A block whose first record gets `first_esn`.
    pub fn new(partition: PartitionUid, epoch: Epoch, first_esn: Esn, sequencer_timestamp: TimestampMs) -> Self {
        let header = BlockHeader {
            kind: BlockKind::Records,
            partition,
            epoch,
            first_esn,
            span: 0,
            batch_count: 0,
            min_timestamp: TimestampMs::MAX,
            max_timestamp: TimestampMs::MIN,
            sequencer_timestamp,
            body_len: 0,
            crc: 0,
        };
        let mut head = BytesMut::with_capacity(256);
        head.put_bytes(0, BlockHeader::LEN);
        Self { header, head, pieces: Payload::empty(), tail: BytesMut::new() }
    }

    /// A block that holds what is known of producers once everything below `next_esn` is applied.
    pub fn producer_snapshot(
        partition: PartitionUid,
        epoch: Epoch,
        next_esn: Esn,
        sequencer_timestamp: TimestampMs,
        snapshot: Bytes,
    ) -> Block {
        let mut builder = Self::new(partition, epoch, next_esn, sequencer_timestamp);
        builder.header.kind = BlockKind::ProducerSnapshot;
        builder.header.min_timestamp = sequencer_timestamp;
        builder.header.max_timestamp = sequencer_timestamp;
        builder.pieces.push(snapshot);
        Block::seal(builder.header, builder.head, &builder.pieces)
    }

    /// Adds a batch that takes the next `span` LSNs and stamps it with them: `baseOffset = ESN − 1` and the epoch.
    /// `timestamps` are the earliest and latest of its records.
    pub fn push(&mut self, batch: &Bytes, span: u32, timestamps: (TimestampMs, TimestampMs)) {
        assert!(span > 0 && batch.len() > STAMPED_LEN, "a validated batch");
        let mut stamp = [0; STAMPED_LEN];
        stamp.copy_from_slice(&batch[..STAMPED_LEN]);
        let base = u64::from(self.next_esn().0 - 1);
        stamp[..8].copy_from_slice(&base.to_be_bytes());
        stamp[12..].copy_from_slice(&self.header.epoch.0.to_be_bytes());
        self.small().put_slice(&stamp);
        let rest = batch.slice(STAMPED_LEN..);
        if rest.len() <= COPY_LEN_MAX {
            self.small().put_slice(&rest);
        } else {
            self.pieces.push(self.tail.split().freeze());
            self.pieces.push(rest);
        }
        self.header.span += span;
        self.header.batch_count += 1;
        self.header.min_timestamp = self.header.min_timestamp.min(timestamps.0);
        self.header.max_timestamp = self.header.max_timestamp.max(timestamps.1);
    }

    /// Where small bytes go: they lie next to each other until a large piece comes between.
    fn small(&mut self) -> &mut BytesMut {
        if self.pieces.is_empty() { &mut self.head } else { &mut self.tail }
    }

    /// The ESN that the next record gets.
    pub fn next_esn(&self) -> Esn {
        self.header.first_esn.last_of(self.header.span).next()
    }

    pub fn is_empty(&self) -> bool {
        self.header.batch_count == 0
    }

    /// Length of the body so far, in bytes.
    pub fn body_len(&self) -> usize {
        self.head.len() - BlockHeader::LEN + self.pieces.len() + self.tail.len()
    }

    /// # Panics
    /// If nothing was pushed.
    pub fn finish(mut self) -> Block {
        assert!(!self.is_empty(), "a block holds at least one batch");
        self.pieces.push(self.tail.freeze());
        Block::seal(self.header, self.head, &self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes with the shape that a builder relies on: 16 bytes of which it replaces twelve, then the rest.
    fn batch(fill: u8, len: usize) -> Bytes {
        Bytes::from(vec![fill; len.max(17)])
    }

    #[test]
    fn batches_are_stamped_with_their_place() {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(5), Esn(10), 7);
        builder.push(&batch(1, 40), 3, (100, 200));
        builder.push(&batch(2, 40), 2, (50, 150));
        let block = builder.finish();
        let header = block.header();
        assert_eq!((header.first_esn, header.last_esn(), header.batch_count), (Esn(10), Esn(14), 2));
        assert_eq!((header.min_timestamp, header.max_timestamp), (50, 200));
        let body = block.body();
        assert_eq!(body[..8], 9u64.to_be_bytes(), "baseOffset is ESN - 1");
        assert_eq!(body[8..12], [1; 4], "the length is the producer's");
        assert_eq!(body[12..16], 5u32.to_be_bytes());
        assert_eq!(body[40..48], 12u64.to_be_bytes());
    }

    #[test]
    fn a_snapshot_takes_no_lsn() {
        let block =
            BlockBuilder::producer_snapshot(PartitionUid(1), Epoch(2), Esn(8), 5, Bytes::from_static(b"producers"));
        assert_eq!(block.header().last_esn(), Esn(7));
        assert_eq!(Block::decode(block.bytes().clone()).unwrap().body(), &b"producers"[..]);
    }

    proptest! {
        #[test]
        fn large_and_small_batches_keep_their_order(lens in prop::collection::vec(
            prop_oneof![17usize..100, COPY_LEN_MAX..COPY_LEN_MAX + 100], 1..8))
        {
            let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), Esn(1), 0);
            let batches: Vec<_> = lens.iter().enumerate().map(|(i, len)| batch(i as u8, *len)).collect();
            batches.iter().for_each(|b| builder.push(b, 1, (0, 0)));
            prop_assert_eq!(builder.body_len(), lens.iter().sum::<usize>());
            let block = builder.finish();
            let mut body = block.body();
            for (i, expected) in batches.iter().enumerate() {
                let found = body.split_to(expected.len());
                prop_assert_eq!(&found[..8], (i as u64).to_be_bytes());
                prop_assert_eq!(&found[16..], &expected[16..]);
            }
            let bytes = block.bytes().clone();
            let in_one_piece = Block::decode(bytes.clone().into_contiguous().into()).unwrap();
            prop_assert_eq!(in_one_piece.header(), block.header());
            let in_pieces = Block::decode(bytes).unwrap();
            prop_assert_eq!(in_pieces.header(), block.header());
        }
    }
}
