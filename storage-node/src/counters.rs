//! What the engine counts. Read at any time, from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why the log was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncReason {
    /// An entry asked for it.
    Asked,
    /// The oldest unsynced entry was old enough.
    Age,
    /// Enough was unsynced.
    Bytes,
    /// A segment was full.
    Sealed,
    /// The shard was closed, or something of its own had to be durable.
    Internal,
}

impl SyncReason {
    pub const ALL: [Self; 5] = [Self::Asked, Self::Age, Self::Bytes, Self::Sealed, Self::Internal];
}

/// Since the shard was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    groups: AtomicU64,
    entries: AtomicU64,
    /// Bytes of blocks.
    payload_bytes: AtomicU64,
    /// Bytes given to the disk for the log, zeros written ahead not counted.
    written_bytes: AtomicU64,
    zeroed_bytes: AtomicU64,
    syncs: [AtomicU64; SyncReason::ALL.len()],
    damaged_blocks: AtomicU64,
    rewritten_bytes: AtomicU64,
    scrubbed_bytes: AtomicU64,
    damage_found: AtomicU64,
}

/// What an engine counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterValues {
    pub groups: u64,
    pub entries: u64,
    pub payload_bytes: u64,
    pub written_bytes: u64,
    /// Zeros written ahead of the log.
    pub zeroed_bytes: u64,
    pub syncs: [u64; SyncReason::ALL.len()],
    pub damaged_blocks: u64,
    /// Bytes of segments that were written again, sorted or without what is not needed.
    pub rewritten_bytes: u64,
    /// Bytes that were read to find damage.
    pub scrubbed_bytes: u64,
    /// Damage found so. See [`Reader::losses`](crate::read::Reader::losses).
    pub damage_found: u64,
}

impl Counters {
    pub(crate) fn group(&self, entries: u64, payload_bytes: u64, written_bytes: u64) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.payload_bytes.fetch_add(payload_bytes, Ordering::Relaxed);
        self.written_bytes.fetch_add(written_bytes, Ordering::Relaxed);
    }

    pub(crate) fn zeroed(&self, bytes: u64) {
        self.zeroed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sync(&self, reason: SyncReason) {
        self.syncs[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn syncs(&self, reason: SyncReason) -> u64 {
        self.syncs[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn damaged_block(&self) {
        self.damaged_blocks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rewritten(&self, bytes: u64) {
        self.rewritten_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn found_damage(&self, count: u64) {
        self.damage_found.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn values(&self) -> CounterValues {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            groups: value(&self.groups),
            entries: value(&self.entries),
            payload_bytes: value(&self.payload_bytes),
            written_bytes: value(&self.written_bytes),
            zeroed_bytes: value(&self.zeroed_bytes),
            syncs: self.syncs.each_ref().map(value),
            damaged_blocks: value(&self.damaged_blocks),
            rewritten_bytes: value(&self.rewritten_bytes),
            scrubbed_bytes: value(&self.scrubbed_bytes),
            damage_found: value(&self.damage_found),
        }
    }
}
