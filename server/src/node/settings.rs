//! From a node's configuration to that of its parts.

use std::collections::BTreeMap;
use std::time::Duration;

use dlog_metadata::{MetadataConfig, Snapshots, Timings};
use dlog_proto::record::BatchLimits;
use dlog_proto::transport::ListenerConfig;
use dlog_proto::{Esn, NodeId, ProcessId};
use dlog_sequencer::{LEASE, Settings};

use super::NodeError;
use crate::config::{ByteSize, Config};
use crate::data_dir::DataDir;

/// Appends of thousands of partitions that are taken over at once go on well before.
const SNAPSHOT_DELAY: Duration = Duration::from_secs(2);

/// Those who vote: the first nodes, an odd number of them where there are enough.
pub(super) fn voters(config: &Config) -> Result<BTreeMap<NodeId, String>, NodeError> {
    let voters = match config.cluster_nodes.len() {
        few @ 0..=3 => few,
        4 => 3,
        _ => 5,
    };
    let voting: BTreeMap<_, _> =
        config.cluster_nodes.iter().take(voters).map(|(node, address)| (node, address.to_string())).collect();
    if voting.contains_key(&config.node_id) && !config.roles.metadata {
        return Err(NodeError::VoterWithoutRole { node: config.node_id, voters });
    }
    Ok(voting)
}

pub(super) fn metadata_config(
    config: &Config,
    data_dir: &DataDir,
    process: ProcessId,
    voters: BTreeMap<NodeId, String>,
) -> MetadataConfig {
    let times = &config.metadata;
    let (heartbeat, election) = (times.heartbeat_ms.duration(), times.election_ms.duration());
    let timings = Timings {
        heartbeat,
        election_min: election,
        election_max: election * 3 / 2,
        lease: times.lease_ms.duration(),
        probe: (heartbeat * 3 / 2).min(times.lease_ms.duration()),
        ..Timings::default()
    };
    let (node, data_dir) = (config.node_id, data_dir.metadata_dir());
    MetadataConfig { node, process, voters, data_dir, timings, snapshots: Snapshots::default() }
}

pub(super) fn sequencer_settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    Settings {
        batch_limits: BatchLimits { batch_len_max: bytes(config.limits.batch_bytes_max), ..defaults.batch_limits },
        block_len_target: bytes(config.limits.block_bytes),
        window_bytes_max: bytes(config.limits.append_window_bytes),
        window_records_max: config.limits.append_window_records,
        esn_max: Esn(config.limits.epoch_records_max),
        lease: Some(LEASE),
        snapshot_delay: SNAPSHOT_DELAY,
        ..defaults
    }
}

pub(super) fn listener_config(config: &Config) -> ListenerConfig {
    ListenerConfig { connections_max: config.limits.connections_max as usize, ..ListenerConfig::default() }
}
