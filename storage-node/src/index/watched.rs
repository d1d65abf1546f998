//! Notices when the index cannot be used any more, whoever finds out.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::kv::{Batch, Direction, Kv, KvError, Visit};

/// A map that remembers its first error.
#[derive(Debug)]
pub(crate) struct Watched {
    kv: Arc<dyn Kv>,
    failed: AtomicBool,
}

impl Watched {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, failed: AtomicBool::new(false) }
    }

    /// Whether anything failed so far.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn watch<T>(&self, outcome: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(error) = &outcome {
            tracing::error!(%error, "the index cannot be used");
            self.failed.store(true, Ordering::Release);
        }
        outcome
    }
}

impl Kv for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.watch(self.kv.get(key))
    }

    fn scan(&self, range: Range<&[u8]>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KvError> {
        self.watch(self.kv.scan(range, direction, visit))
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        self.watch(self.kv.apply(batch))
    }

    fn flush(&self) -> Result<(), KvError> {
        self.watch(self.kv.flush())
    }
}
