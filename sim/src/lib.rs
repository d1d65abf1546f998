//! DLog's simulator: the production cores (sequencer, recovery, shard admission, storage engine, metadata state machine, reader,
//! appender) in one thread, on a virtual network, virtual disks and a virtual clock. Everything is drawn from one seed; the same
//! seed gives the same run, event for event.

#[cfg(feature = "bugs")]
pub mod bugs;
mod clock;
mod context;
mod history;
mod invariants;
mod ledger;
mod message;
mod metadata;
mod network;
mod reader;
mod run;
mod scenario;
mod seed;
mod server;
mod shard;
mod trace;
mod trouble;
mod world;
mod writer;

pub use run::{Report, run, run_focused};
pub use scenario::Focus;
