//! What a sequencer is told.

use std::time::Duration;

use dlog_proto::Esn;
use dlog_proto::record::BatchLimits;

/// Limits and times of a sequencer. The defaults are what a cluster of a few nodes on a local network wants.
#[derive(Debug, Clone)]
pub struct Settings {
    pub batch_limits: BatchLimits,
    /// A block is cut when it reaches this length, in bytes; one batch is never split, so a block may be longer by one batch.
    pub block_len_target: usize,
    /// Blocks that may be on their way before the next is cut: more batches then share a block.
    pub blocks_in_flight_max: usize,
    /// Bytes of a partition that wait, are on their way, or are acknowledged but not settled. Above it, appends are refused
    /// as overloaded.
    pub window_bytes_max: usize,
    /// Records, in the same way: well compressed ones take few bytes.
    pub window_records_max: u32,
    /// Blocks that are not settled. A seal's answer lists them, so their number bounds its length.
    pub window_blocks_max: usize,
    /// When a wave gives up on shards that have not answered: a multiple of their usual latency within these bounds,
    /// doubled with each wave.
    pub store_timeout_min: Duration,
    pub store_timeout_max: Duration,
    /// How long an acknowledged block waits for its missing copies before it is settled with what it has.
    pub straggler_timeout: Duration,
    /// How long a shard that did not answer in time is passed over.
    pub greylist: Duration,
    /// A copyset serves this many bytes, or this long, before the next is drawn.
    pub sticky_bytes: usize,
    pub sticky_time: Duration,
    /// How long the metadata tier's word that an epoch is the newest may be relied on, by logs that prefer availability (trap C13): they
    /// are acknowledged only while it holds, and their recovery waits until it is over. See [`LEASE`](crate::LEASE). `None`: nobody gives
    /// such a word.
    pub lease: Option<Duration>,
    /// Last ESN that is given out in an epoch.
    pub esn_max: Esn,
    /// How long an append that needs the earlier epochs waits for their recovery before it gets a retriable error.
    pub recovery_wait: Duration,
    /// Bytes of such appends.
    pub recovery_wait_bytes_max: usize,
    /// How long recovery waits for more shards once enough have answered, so that it repairs with all that are there.
    pub recovery_grace: Duration,
    /// How long recovery waits for the answer to a request before it asks again.
    pub recovery_retry: Duration,
    /// A producer snapshot is stored after this many bytes or this long.
    pub snapshot_bytes: u64,
    pub snapshot_time: Duration,
    /// How long after it has learned of producers an epoch's first snapshot waits, once to twice this: whoever takes over thousands of
    /// partitions serves appends first.
    pub snapshot_delay: Duration,
    /// Producers that stored nothing for this long are forgotten.
    pub producer_expiry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_limits: BatchLimits {
                batch_len_max: 1_048_588,
                timestamp_before_max_ms: None,
                timestamp_after_max_ms: None,
            },
            block_len_target: 1 << 20,
            blocks_in_flight_max: 16,
            window_bytes_max: 64 << 20,
            window_records_max: 16 << 20,
            window_blocks_max: 1 << 15,
            store_timeout_min: Duration::from_millis(150),
            store_timeout_max: Duration::from_secs(5),
            straggler_timeout: Duration::from_secs(5),
            greylist: Duration::from_secs(10),
            sticky_bytes: 32 << 20,
            sticky_time: Duration::from_secs(600),
            lease: None,
            esn_max: Esn(u32::MAX - 1),
            recovery_wait: Duration::from_secs(2),
            recovery_wait_bytes_max: 16 << 20,
            recovery_grace: Duration::from_millis(20),
            recovery_retry: Duration::from_millis(500),
            snapshot_bytes: 64 << 20,
            snapshot_time: Duration::from_secs(60),
            snapshot_delay: Duration::ZERO,
            producer_expiry: Duration::from_secs(24 * 3600),
        }
    }
}
