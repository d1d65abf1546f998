//! What an operator can say about groups. The names in brackets are Kafka's.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// Partitions of the groups' log when it is made (`offsets.topic.num.partitions`).
    pub partitions: u32,
    /// Shortest and longest session timeout (`group.min.session.timeout.ms`, `group.max.session.timeout.ms`).
    pub session_timeout_min: Duration,
    pub session_timeout_max: Duration,
    /// How long an empty group waits for more members to come (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay: Duration,
    /// Members of one group (`group.max.size`).
    pub members_max: usize,
    /// Longest metadata of a committed offset, in bytes (`offset.metadata.max.bytes`).
    pub metadata_len_max: usize,
    /// How long offsets are kept once nobody uses them (`offsets.retention.minutes`).
    pub offsets_retention: Duration,
    /// How often that is looked at (`offsets.retention.check.interval.ms`).
    pub offsets_check: Duration,
    /// A partition of the log is written anew when its changes are this long, in bytes, and twice its state.
    pub snapshot_bytes: u64,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            partitions: 16,
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_secs(1800),
            initial_rebalance_delay: Duration::from_millis(500),
            members_max: 5000,
            metadata_len_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            offsets_check: Duration::from_secs(600),
            snapshot_bytes: 16 << 20,
        }
    }
}
