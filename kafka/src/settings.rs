//! What an operator can say about the gateway.

use std::time::Duration;

use dlog_proto::QuorumConfig;

use crate::group::GroupSettings;

/// Limits and defaults. The names in brackets are Kafka's.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections at a time (`max.connections`); more are closed at once.
    pub connections_max: usize,
    /// Connections from one address at a time (`max.connections.per.ip`).
    pub connections_per_ip_max: usize,
    /// How long a connection may say nothing (`connections.max.idle.ms`).
    pub connection_idle: Duration,
    /// How long a peer may make no progress inside a request or with an answer.
    pub stall: Duration,
    /// Longest request, in bytes (`socket.request.max.bytes`).
    pub request_len_max: usize,
    /// Longest request other than Produce, in bytes: none needs to be long, and small things decode to large ones.
    pub small_request_len_max: usize,
    /// Requests of all connections that are being read or carried out, in bytes (`queued.max.request.bytes`).
    pub requests_bytes_max: usize,
    /// Produce requests of one connection that wait for their acknowledgement: their number, and their bytes.
    pub pipelined_max: usize,
    pub pipelined_bytes_max: usize,
    /// Most that one Fetch is answered with, in bytes (`fetch.max.bytes`).
    pub fetch_bytes_max: usize,
    /// Records on their way to consumers in all answers together, in bytes.
    pub fetches_bytes_max: usize,
    /// Fetch sessions (`max.incremental.fetch.session.cache.slots`).
    pub fetch_sessions_max: usize,
    /// Whether asking for a topic makes it (`auto.create.topics.enable`).
    pub auto_create_topics: bool,
    /// Partitions of a topic if nobody says how many (`num.partitions`).
    pub partitions_default: u32,
    /// Copies of a topic's records if nobody says how many (`default.replication.factor`); no more than there are
    /// storage nodes.
    pub replication_factor_default: u8,
    /// Longest record batch if the topic does not say, in bytes (`message.max.bytes`).
    pub message_len_max: u32,
    /// How far ahead a record's time may be (`log.message.timestamp.after.max.ms`).
    pub timestamp_after_max_ms: u64,
    pub group: GroupSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_ip_max: 10_000,
            connection_idle: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            request_len_max: 100 << 20,
            small_request_len_max: 16 << 20,
            requests_bytes_max: 512 << 20,
            pipelined_max: 128,
            pipelined_bytes_max: 32 << 20,
            fetch_bytes_max: 55 << 20,
            fetches_bytes_max: 512 << 20,
            fetch_sessions_max: 1000,
            auto_create_topics: true,
            partitions_default: 1,
            replication_factor_default: QuorumConfig::REPLICATION_DEFAULT,
            message_len_max: 1_048_588,
            timestamp_after_max_ms: 3_600_000,
            group: GroupSettings::default(),
        }
    }
}
