//! An ordered map on disk, as little of one as the index needs.
//!
//! Nothing in it is believed over the log, so it has no log of its own. What it must give instead: after a crash it is as
//! it was after *some* batch, the last flushed one or a later one, never a mixture. All tables of the schema share one key
//! space for that reason (one memtable, flushed as a whole), and each batch names the place in the log that it stands for.

use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

pub use super::key::Key;

/// Changes that are made together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// A value to put, or `None` to delete. Each key at most once.
    pub changes: Vec<(Key, Option<Vec<u8>>)>,
}

/// In which order a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// Called with a key and its value.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The map.
pub trait Kv: Send + Sync + fmt::Debug {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Visits the keys of `range` until told to stop.
    fn scan(&self, range: Range<&[u8]>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KvError>;
    fn apply(&self, batch: &Batch) -> Result<(), KvError>;
    /// Makes everything applied before this call durable.
    fn flush(&self) -> Result<(), KvError>;
}

/// Where the map is kept.
pub trait KvStore: fmt::Debug {
    /// Opens it, making an empty one if there is none.
    fn open(&self) -> Result<Arc<dyn Kv>, KvError>;
    /// Moves whatever is there out of the way, so that the next [`open`](Self::open) makes an empty one. It is kept until the
    /// next one is set aside.
    fn set_aside(&self) -> io::Result<()>;
}

/// Why the map cannot be used. It is set aside and rebuilt at the next start.
#[derive(Debug, Clone, thiserror::Error)]
#[error("index: {0}")]
pub struct KvError(pub String);

impl KvError {
    /// Whether nothing is wrong but that there was no space.
    pub fn is_full_disk(&self) -> bool {
        self.0.contains("No space left")
    }
}
