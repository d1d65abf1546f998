//! What a run consists of, drawn from its seed: the cluster, the logs, the writers, and which kinds of trouble there are.

use std::time::Duration;

use dlog_metadata::state::LogAttributes;
use dlog_proto::{Durability, QuorumConfig, Replication, Scope};
use fastrand::Rng;

use crate::network::Delays;

#[derive(Debug, Clone)]
pub(crate) struct LogPlan {
    pub replication: Replication,
    pub partitions: u32,
    pub idempotent: bool,
    pub writers: u16,
    pub records: u64,
}

/// Kinds of trouble, each with a weight; 0 is never. Which kinds a run has is part of its draw (swarm testing): rare
/// combinations come up, and a run without a kind shows what it hides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubles {
    pub kill: u32,
    pub power: u32,
    pub pause: u32,
    pub cut: u32,
    pub isolate: u32,
    pub metadata_away: u32,
    pub slow_disk: u32,
    pub break_connection: u32,
    pub new_reader: u32,
    pub false_alarm: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub nodes: u16,
    pub shards: u16,
    pub racks: u16,
    pub logs: Vec<LogPlan>,
    pub delays: Delays,
    pub sync_max: Duration,
    pub troubles: Troubles,
    /// Mean time between two troubles.
    pub trouble_every: Duration,
    /// How long the safety phase lasts.
    pub duration: Duration,
    /// How long until a process that is gone is believed to be.
    pub detect_max: Duration,
    /// A small ESN space, so that epochs run full.
    pub esn_max: Option<u32>,
}

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let nodes = rng.u16(1..=5);
        let racks = if rng.u8(..) < 64 { rng.u16(2..=3) } else { 1 };
        let logs = (0..rng.usize(1..=2)).map(|_| LogPlan::draw(rng, nodes, racks)).collect();
        let troubles = Troubles::draw(rng);
        Self {
            nodes,
            shards: if rng.u8(..) < 40 { 2 } else { 1 },
            racks,
            logs,
            delays: Delays {
                min: Duration::from_micros(50),
                max: Duration::from_micros(rng.u64(200..=5_000)),
                slow_share: if rng.bool() { 0.01 } else { 0.0 },
                slow: Duration::from_millis(rng.u64(20..=200)),
                idle_timeout: Duration::from_millis(rng.u64(200..=1_000)),
            },
            sync_max: Duration::from_micros(rng.u64(200..=10_000)),
            troubles,
            trouble_every: Duration::from_millis(rng.u64(50..=600)),
            duration: Duration::from_millis(rng.u64(1_000..=6_000)),
            detect_max: Duration::from_millis(rng.u64(20..=400)),
            esn_max: (rng.u8(..) < 50).then(|| rng.u32(20..=200)),
        }
    }
}

impl LogPlan {
    fn draw(rng: &mut Rng, nodes: u16, racks: u16) -> Self {
        let copies = rng.u8(1..=nodes.min(3) as u8);
        let write_quorum = if rng.bool() { copies / 2 + 1 } else { rng.u8(1..=copies) };
        let read_quorum = copies + 1 - write_quorum;
        let quorum = QuorumConfig { replication_factor: copies, write_quorum, read_quorum };
        let mut replication = Replication::new(quorum);
        if racks > 1 && copies >= 2 && nodes >= racks && rng.bool() {
            replication.across.insert(Scope::Rack, 2);
        }
        if rng.u8(..) < 80 {
            replication.durability = Durability::WriteCache;
        }
        Self {
            replication,
            partitions: rng.u32(1..=2),
            idempotent: rng.u8(..) < 200,
            writers: rng.u16(1..=2),
            records: rng.u64(50..=400),
        }
    }

    pub(crate) fn attributes(&self) -> LogAttributes {
        LogAttributes::new(self.replication.clone())
    }
}

impl Troubles {
    fn draw(rng: &mut Rng) -> Self {
        let mut weight = |chance: u8, weight: u32| if rng.u8(..) < chance { rng.u32(1..=weight) } else { 0 };
        Self {
            kill: weight(150, 8),
            power: weight(120, 6),
            pause: weight(120, 6),
            cut: weight(120, 8),
            isolate: weight(100, 5),
            metadata_away: weight(80, 3),
            slow_disk: weight(100, 4),
            break_connection: weight(120, 8),
            new_reader: weight(150, 4),
            false_alarm: weight(100, 4),
        }
    }
}
