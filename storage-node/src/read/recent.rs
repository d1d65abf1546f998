//! The newest blocks, in memory: readers at the tail touch no file.

use std::collections::VecDeque;

use dlog_proto::block::{Block, Placement};

use crate::segment::Position;

/// What a block costs beyond its bytes, roughly.
const ENTRY_LEN: usize = 256;

/// A bounded number of bytes of blocks, in the order of the log.
#[derive(Debug)]
pub(crate) struct Recent {
    blocks: VecDeque<(Position, Placement, Block)>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { blocks: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds a block; the oldest make room for it. Positions ascend.
    pub(crate) fn push(&mut self, at: Position, placement: &Placement, block: &Block) {
        if self.bytes_max == 0 {
            return;
        }
        debug_assert!(self.blocks.back().is_none_or(|(last, ..)| *last < at), "positions ascend");
        self.bytes += block.bytes().len() + ENTRY_LEN;
        self.blocks.push_back((at, placement.clone(), block.clone()));
        while self.bytes > self.bytes_max {
            let Some((_, _, oldest)) = self.blocks.pop_front() else { return };
            self.bytes -= oldest.bytes().len() + ENTRY_LEN;
        }
    }

    /// The block in the frame at this position.
    pub(crate) fn get(&self, at: Position) -> Option<(Placement, Block)> {
        let found = self.blocks.binary_search_by_key(&at, |(position, ..)| *position).ok()?;
        let (_, placement, block) = &self.blocks[found];
        Some((placement.clone(), block.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentId;
    use crate::testing::{block, placement};

    #[test]
    fn the_oldest_make_room() {
        let mut recent = Recent::new(3 * (1000 + 64 + ENTRY_LEN));
        let at = |n| Position::new(SegmentId(1), n);
        (1..=5).for_each(|n| recent.push(at(n), &placement(1, n), &block(1, 1, n, 1000)));
        assert!(recent.get(at(2)).is_none());
        for n in 3..=5 {
            let (found, block) = recent.get(at(n)).unwrap();
            assert_eq!((found.version.wave, block.header().first_esn.0), (n, n));
        }
        recent.push(at(6), &placement(1, 1), &block(1, 1, 6, 100_000));
        assert!(recent.blocks.is_empty() && recent.bytes == 0);
    }
}
