//! A storage node's shards: they keep blocks durable, find them again, and never serve a wrong byte.

pub mod commit;
mod config;
mod counters;
pub mod disk;
mod engine;
pub mod entry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
mod log;
mod marker;
pub mod offline;
pub mod read;
mod reclaim;
mod recovery;
mod rewrite;
mod scrub;
pub mod segment;
pub mod shard;
mod shared;
mod space;
mod switches;
mod sync;
#[cfg(test)]
mod testing;
mod upkeep;

pub use config::EngineConfig;
pub use counters::{CounterValues, SyncReason};
pub use engine::{CloseError, Engine, Start, UpkeepError};
pub use log::AppendError;
pub use recovery::{Loss, OpenError, Recovered, identity_of};
pub use segment::header::Identity;
