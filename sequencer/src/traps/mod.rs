//! The traces that broke drafts of the protocol, and what else must go right, as far as one sequencer decides it: a test of its own for each,
//! named after its trap. The other half is in the simulator.

mod acknowledging;
mod ends;
mod marks;
mod producers;
mod repair;
mod succession;
