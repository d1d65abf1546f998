//! How a node takes part in the metadata tier.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dlog_proto::{NodeId, ProcessId};
use openraft::SnapshotPolicy;

use super::error::StartError;
use crate::liveness::Leases;

#[derive(Debug, Clone)]
pub struct MetadataConfig {
    pub node: NodeId,
    /// This start of the process.
    pub process: ProcessId,
    /// Those who vote, with their addresses: 1, 3 or 5, the same on every node. All others follow.
    pub voters: BTreeMap<NodeId, String>,
    /// Where log and snapshots are kept.
    pub data_dir: PathBuf,
    pub timings: Timings,
    pub snapshots: Snapshots,
}

/// When snapshots are made. They bound the log on disk and in memory, and the time to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshots {
    /// After so many entries,
    pub entries: u64,
    /// or after so many bytes of entries, however few they are.
    pub bytes: u64,
    /// Entries that are kept behind a snapshot, for followers that are a little behind.
    pub kept_entries: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { entries: 5000, bytes: 8 << 20, kept_entries: 1000 }
    }
}

/// Times of the metadata tier.
///
/// A leader that fell silent is succeeded after `election_max` (until then everybody is bound to it), `election_min` to
/// `election_max` more (drawn once per process), and what a vote takes: by default 550 to 700 ms. If its connections
/// are seen to die, the second part falls away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// openraft's heartbeat: sent every 1.5 times this. Also how long a follower may take for an answer, syncs
    /// included, before it is asked again.
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// For a piece of a snapshot, and for installing it.
    pub snapshot_piece: Duration,
    /// How long proposals and reads are tried.
    pub deadline: Duration,
    /// A process that was not heard of for this long is taken for dead.
    pub lease: Duration,
    /// The same once a connection to it has died; more than the interval of heartbeats.
    pub probe: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            heartbeat: ms(80),
            election_min: ms(200),
            election_max: ms(350),
            snapshot_piece: ms(10_000),
            deadline: ms(10_000),
            lease: ms(400),
            probe: ms(120),
        }
    }
}

const VOTERS_MAX: usize = 9;

impl MetadataConfig {
    pub fn is_voter(&self) -> bool {
        self.voters.contains_key(&self.node)
    }

    pub(super) fn leases(&self) -> Leases {
        Leases { lease: self.timings.lease, probe: self.timings.probe }
    }

    pub(super) fn check(&self) -> Result<(), StartError> {
        let config = |problem: String| Err(StartError::Config(problem));
        if self.node == NodeId(0) || self.voters.contains_key(&NodeId(0)) {
            return config("node ids are 1 to 65535, not 0".to_owned());
        }
        if self.voters.is_empty() || self.voters.len() > VOTERS_MAX {
            return config(format!(
                "1 to {VOTERS_MAX} nodes vote in the metadata tier (best 1, 3 or 5), not {}",
                self.voters.len()
            ));
        }
        let Timings { heartbeat, election_min, election_max, .. } = self.timings;
        if !(heartbeat * 2 <= election_min && election_min < election_max) {
            return config(format!(
                "an election timeout of {election_min:?} to {election_max:?} does not go with heartbeats of \
                 {heartbeat:?}: it must be at least twice as long, and the second longer than the first"
            ));
        }
        if self.timings.probe > self.timings.lease {
            return config("the probe interval cannot be longer than the lease".to_owned());
        }
        Ok(())
    }

    pub(super) fn raft(&self) -> Result<openraft::Config, StartError> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "dlog".to_owned(),
            heartbeat_interval: ms(self.timings.heartbeat),
            election_timeout_min: ms(self.timings.election_min),
            election_timeout_max: ms(self.timings.election_max),
            install_snapshot_timeout: ms(self.timings.snapshot_piece),
            // The log store also bounds what one message carries in bytes.
            max_payload_entries: 256,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshots.entries),
            replication_lag_threshold: self.snapshots.entries * 2,
            max_in_snapshot_log_to_keep: self.snapshots.kept_entries,
            purge_batch_size: self.snapshots.kept_entries.clamp(1, 256),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| StartError::Config(error.to_string()))
    }
}
