//! What the writer, the readers and the upkeep of one shard share. Each lock is held for moments, and never during IO.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dlog_proto::PartitionUid;
use rustc_hash::FxHashMap;

use crate::config::EngineConfig;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::entry::Marks;
use crate::index::kv::Kv;
use crate::index::overlay::Overlay;
use crate::index::watched::Watched;
use crate::read::recent::Recent;
use crate::recovery::Loss;
use crate::segment::Position;
use crate::segment::file::Segments;
use crate::segment::header::Identity;
use crate::space::Space;
use crate::switches::Switches;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) identity: Identity,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) kv: Watched,
    pub(crate) segments: Segments,
    pub(crate) space: Space,
    pub(crate) counters: Counters,
    overlay: RwLock<Overlay>,
    recent: RwLock<Recent>,
    /// Everything before it is durable.
    durable: Mutex<Position>,
    /// Behind the last frame.
    written: Mutex<Position>,
    hints: Mutex<FxHashMap<PartitionUid, Marks>>,
    forget_losses: Mutex<Vec<Loss>>,
    /// Held by everybody who reads, from before the index is asked until the bytes are there.
    readers: Mutex<Arc<()>>,
    /// When the index is led to another generation of a segment.
    switches: Switches,
}

impl Shared {
    pub(crate) fn new(config: EngineConfig, identity: Identity, disk: Arc<dyn Disk>, kv: Arc<dyn Kv>) -> Self {
        Self {
            config,
            identity,
            disk,
            kv: Watched::new(kv),
            segments: Segments::default(),
            space: Space::new(config.segment_len, config.entry_len_max),
            counters: Counters::default(),
            overlay: RwLock::default(),
            recent: RwLock::new(Recent::new(config.recent_bytes_max)),
            durable: Mutex::default(),
            written: Mutex::default(),
            hints: Mutex::default(),
            forget_losses: Mutex::default(),
            readers: Mutex::default(),
            switches: Switches::default(),
        }
    }

    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recent_mut(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> Position {
        *lock(&self.durable)
    }

    /// Raises the durable position.
    pub(crate) fn note_durable(&self, position: Position) {
        let mut durable = lock(&self.durable);
        *durable = position.max(*durable);
    }

    /// Changes what rows say of blocks that readers may be about to look up.
    pub(crate) fn switch<T>(&self, change: impl FnOnce() -> T) -> T {
        self.switches.switch(change)
    }

    /// Reads without such a change in between: several looks at the index are as one then.
    pub(crate) fn steady<T, E>(&self, read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        self.switches.steady(read)
    }

    /// To be held while somebody reads: no segment that he is led to is taken away.
    pub(crate) fn reading(&self) -> Arc<()> {
        Arc::clone(&lock(&self.readers))
    }

    /// What all who read now hold, and nobody who begins later.
    pub(crate) fn present_readers(&self) -> Arc<()> {
        std::mem::take(&mut lock(&self.readers))
    }

    /// Whoever keeps the index up forgets these losses when he comes to it.
    pub(crate) fn ask_to_forget_losses(&self, losses: Vec<Loss>) {
        let mut asked = lock(&self.forget_losses);
        let news: Vec<Loss> = losses.into_iter().filter(|loss| !asked.contains(loss)).collect();
        asked.extend(news);
    }

    pub(crate) fn take_forget_losses(&self) -> Vec<Loss> {
        std::mem::take(&mut lock(&self.forget_losses))
    }

    pub(crate) fn written(&self) -> Position {
        *lock(&self.written)
    }

    pub(crate) fn note_written(&self, position: Position) {
        *lock(&self.written) = position;
    }

    /// Notes marks that are not in the log; they reach the index some time later.
    pub(crate) fn note_hint(&self, partition: PartitionUid, marks: &Marks) {
        lock(&self.hints).entry(partition).or_default().merge(marks);
    }

    /// What was noted of a partition and is not in the index yet.
    pub(crate) fn hint(&self, partition: PartitionUid) -> Option<Marks> {
        lock(&self.hints).get(&partition).cloned()
    }

    pub(crate) fn hint_count(&self) -> usize {
        lock(&self.hints).len()
    }

    pub(crate) fn hints(&self) -> FxHashMap<PartitionUid, Marks> {
        lock(&self.hints).clone()
    }

    /// Forgets hints that are in the index now, unless there is news.
    pub(crate) fn forget_hints(&self, indexed: &FxHashMap<PartitionUid, Marks>) {
        lock(&self.hints).retain(|partition, marks| indexed.get(partition) != Some(marks));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
