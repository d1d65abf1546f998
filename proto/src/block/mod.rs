//! Blocks: what a sequencer stores in one go. A block has two parts, each under a checksum of its own.
//!
//! The *immutable* part ([`BlockHeader`] and body) is computed once, by the sequencer, and never again: every copy of a
//! block has the same bytes here, for ever. The body is one or more record batches back to back, with contiguous LSNs.
//!
//! The *placement* part ([`Placement`]) says where the copies are and what was known when it was written; an amend
//! replaces it. The higher [`PlacementVersion`] wins.
//!
//! A block is stored whole or not at all, and never split or merged later.

mod builder;
mod header;
mod placement;

pub use builder::BlockBuilder;
pub use header::{Block, BlockError, BlockHeader, BlockKind};
pub use placement::{Copyset, Placement, PlacementError, PlacementVersion};
