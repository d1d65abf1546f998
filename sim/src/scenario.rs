//! What a run consists of, drawn from its seed: the cluster, the logs, the writers, and which kinds of trouble there are.

use std::time::Duration;

use dlog_metadata::state::LogAttributes;
use dlog_proto::wire::Acks;
use dlog_proto::{Durability, QuorumConfig, Replication, Scope};
use fastrand::Rng;

use crate::network::Delays;
use crate::seed::Streams;

/// Of 256 runs, how many have nodes that hear late of processes that are gone: of old sequencers, and of epochs that nobody takes over
/// for a while, these show more than the others.
const VIEWS_LATE: u8 = 128;

/// What a run looks at more closely than others. Part of the draw; a run that is to show one thing names its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Focus {
    /// Everything, nothing in particular.
    Any,
    /// No trouble at all: whatever is retried, refused or asked twice is a fault of ours.
    Calm,
    /// Epochs change all the time.
    Succession,
    /// Acknowledged from memory; power is lost.
    WriteCache,
    /// Disks are replaced, fewer than would lose what is acknowledged.
    DiskLoss,
    /// Disks are replaced without regard: what is lost must be told, what is not must be read.
    Lossy,
    /// Copies are spread across racks, and fewer are waited for than are made.
    Scopes,
    /// Logs that prefer availability, on servers whose clocks run at different speeds.
    Available,
    /// One shard at a time is slow, hangs or refuses: nobody has to wait for it, and it is used again when it is well.
    Slow,
    /// Nodesets of up to 127 shards, in racks, rows, datacenters and regions.
    Wide,
    /// Many readers with small windows, from anywhere to anywhere.
    Readers,
    /// What is trimmed and where it lay change all the time, so that producers are known by snapshots only. No run draws it: it is
    /// asked for.
    Producers,
    /// Logs are damaged where they were durable, on fewer disks than would lose what is acknowledged. Asked for, too.
    Damage,
    /// As [`Self::Succession`], and nodes always hear late of processes that are gone: old sequencers go on for longer. Asked for, too.
    Late,
    /// Reads fail for a while when epochs change, so that recovery gives up copies that can be read later. Asked for, too.
    Unreadable,
}

impl Focus {
    fn draw(rng: &mut Rng) -> Self {
        match rng.u8(0..32) {
            0 | 1 => Self::Calm,
            2..=5 => Self::Succession,
            6..=8 => Self::WriteCache,
            9..=12 => Self::DiskLoss,
            13 | 14 => Self::Lossy,
            15..=17 => Self::Scopes,
            18 | 19 => Self::Available,
            20 => Self::Slow,
            21 => Self::Wide,
            22 => Self::Readers,
            _ => Self::Any,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LogPlan {
    pub replication: Replication,
    /// Shards per nodeset, if not what is usual.
    pub nodeset_size: Option<u8>,
    pub partitions: u32,
    pub idempotent: bool,
    pub acks: Acks,
    pub writers: u16,
    pub records: u64,
    /// Longest pause between two batches of a writer.
    pub pause_max: Duration,
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
    pub replace_disk: u32,
    pub lose_index: u32,
    pub read_errors: u32,
    pub disk_full: u32,
    pub trim: u32,
    pub renew: u32,
    pub change_log: u32,
    pub clock_jump: u32,
    pub gone: u32,
    pub strand: u32,
    pub ail: u32,
    pub damage: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub focus: Focus,
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
    /// A small window, so that it runs full.
    pub window_bytes_max: Option<usize>,
    /// How long recovery of a log that prefers availability waits.
    pub lease: Duration,
    /// Nodes are told at once that a process is gone; otherwise when somebody connects.
    pub prompt_views: bool,
    /// What a reader buffers, in bytes, if not what is usual.
    pub reader_bytes_max: Option<usize>,
    /// How long a run of blocks with one copyset is, if not what is usual.
    pub sticky_bytes: Option<usize>,
    /// By how many thousandths a server's clock is faster or slower than true time, at most.
    pub clock_drift_max: i64,
}

impl Scenario {
    pub(crate) fn draw(streams: &mut Streams, focus: Option<Focus>) -> Self {
        let (rng, of_focus) = (&mut streams.topology, &mut streams.focus);
        let drawn = Focus::draw(rng);
        let focus = focus.unwrap_or(drawn);
        let nodes = match focus {
            Focus::Any | Focus::Calm | Focus::Lossy => rng.u16(1..=5),
            Focus::Scopes => rng.u16(3..=6),
            Focus::Available => rng.u16(4..=6),
            Focus::Wide if of_focus.u8(..) < 64 => 16,
            Focus::Wide => rng.u16(8..=16),
            _ => rng.u16(3..=5),
        };
        let racks = match focus {
            Focus::Scopes => rng.u16(2..=3),
            _ if rng.u8(..) < 64 => rng.u16(2..=3),
            _ => 1,
        };
        let shards = if rng.u8(..) < 40 { 2 } else { 1 };
        let shards = if focus == Focus::Wide { if nodes == 16 { 8 } else { of_focus.u16(4..=8) } } else { shards };
        let mut logs: Vec<LogPlan> =
            (0..rng.usize(1..=2)).map(|_| LogPlan::draw(rng, focus, (nodes, shards, racks))).collect();
        if focus == Focus::Available {
            logs.iter_mut().for_each(|log| log.prefer_availability(of_focus));
        }
        if focus == Focus::Slow {
            logs.iter_mut().for_each(|log| log.spare_one(nodes));
        }
        if focus == Focus::Wide {
            logs.truncate(1);
            logs.iter_mut().for_each(|log| log.spread_wide(nodes * shards, of_focus));
        }
        let mut troubles = Troubles::draw(rng, focus);
        // Whoever stays must be enough for every write quorum, wherever nodesets lie.
        let spares_one = |log: &LogPlan| {
            let (quorum, across) = (log.replication.quorum, &log.replication.across);
            // What a machine that is gone may have had in memory, recovery would wait for.
            let is_synced = log.replication.durability == Durability::Sync;
            quorum.write_quorum < quorum.replication_factor && !across.contains_key(&Scope::Rack) && is_synced
        };
        if !logs.iter().all(spares_one) || shards > 1 {
            troubles.gone = 0;
        }
        let quick = matches!(
            focus,
            Focus::Succession
                | Focus::Late
                | Focus::Producers
                | Focus::Damage
                | Focus::DiskLoss
                | Focus::WriteCache
                | Focus::Unreadable
        );
        let mut scenario = Self {
            focus,
            nodes,
            shards,
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
            trouble_every: Duration::from_millis(if quick { rng.u64(20..=200) } else { rng.u64(50..=600) }),
            duration: Duration::from_millis(rng.u64(1_000..=6_000)),
            detect_max: Duration::from_millis(rng.u64(20..=400)),
            esn_max: (rng.u8(..) < 50).then(|| rng.u32(20..=200)),
            window_bytes_max: (rng.u8(..) < 50).then(|| rng.usize(600..=4_000)),
            lease: Duration::from_millis(of_focus.u64(100..=800)),
            prompt_views: focus == Focus::Available || (focus != Focus::Late && streams.views.u8(..) >= VIEWS_LATE),
            reader_bytes_max: (focus == Focus::Readers).then(|| of_focus.usize(200..=4_000)),
            sticky_bytes: None,
            clock_drift_max: if focus == Focus::Available { 50 } else { 0 },
        };
        if matches!(focus, Focus::Available | Focus::Slow) {
            // Somebody is to write when it happens.
            scenario.duration = Duration::from_millis(of_focus.u64(2_000..=4_000));
            scenario.logs.iter_mut().for_each(|log| log.pause_max = Duration::from_millis(of_focus.u64(10..=50)));
        }
        if focus == Focus::Available {
            (scenario.delays.slow_share, scenario.delays.slow) = (0.15, Duration::from_millis(of_focus.u64(50..=400)));
            // Whoever takes over is to be there before the lease is over.
            scenario.detect_max = Duration::from_millis(of_focus.u64(20..=150));
            scenario.sticky_bytes = Some(of_focus.usize(100..=1_500));
        }
        if focus == Focus::Readers {
            scenario.trouble_every = Duration::from_millis(of_focus.u64(20..=100));
        }
        if focus == Focus::Wide {
            scenario.duration = Duration::from_millis(of_focus.u64(500..=1_500));
            scenario.trouble_every = Duration::from_millis(of_focus.u64(100..=300));
        }
        if focus == Focus::Slow {
            // Whatever else takes its time would be taken for the shard's.
            (scenario.esn_max, scenario.window_bytes_max, scenario.shards) = (None, None, 1);
            scenario.trouble_every = Duration::from_millis(of_focus.u64(200..=1_000));
        }
        scenario
    }

    /// Where a server stands.
    pub(crate) fn location(&self, node: u16) -> String {
        if self.focus != Focus::Wide {
            return format!("rack=r{}", node % self.racks);
        }
        // Two regions of two datacenters each, with rows and racks in them.
        let (region, datacenter, row, rack) = (node % 2, node / 2 % 2, node / 4 % 2, node / 8);
        format!("region=r{region},datacenter=d{datacenter},row=o{row},rack=k{rack}")
    }

    /// Share of the records that a server's shards get.
    pub(crate) fn weight(&self, node: u16) -> u16 {
        if self.focus == Focus::Wide { 1 + node * 7 % 5 } else { 1 }
    }

    /// Whether logs may come to need more copies.
    pub(crate) fn may_raise_quorums(&self) -> bool {
        self.troubles.gone == 0 && self.focus != Focus::Lossy
    }

    /// How long an append may take although one shard is slow, hangs or refuses; `None`: as long as it likes.
    ///
    /// Where fewer copies are waited for than are made, the others answer: there, back, and the sync before and its own; and the epoch may
    /// have to begin first. If another was full not long ago, it is asked again after half a second. Where all are waited for, a first wave has to fail.
    pub(crate) fn patience(&self, log: &LogPlan) -> Option<Duration> {
        if self.focus != Focus::Slow {
            return None;
        }
        let slow = if self.delays.slow_share > 0.0 { self.delays.slow } else { self.delays.max };
        let quick = slow * 4 + self.sync_max * 3 + Duration::from_millis(520);
        let quorum = log.replication.quorum;
        Some(if quorum.write_quorum < quorum.replication_factor { quick } else { quick + Duration::from_secs(2) })
    }

    /// Whether what is acknowledged in a log may be lost by right, if it is said.
    pub(crate) fn may_lose(&self, log: &LogPlan) -> bool {
        // What nobody can read for a while is given up, with what it tells of producers.
        matches!(self.focus, Focus::Lossy | Focus::Unreadable) || log.prefers_availability()
    }
}

impl LogPlan {
    fn draw(rng: &mut Rng, focus: Focus, (nodes, shards, racks): (u16, u16, u16)) -> Self {
        let copies = match focus {
            Focus::Any | Focus::Calm | Focus::Lossy => rng.u8(1..=nodes.min(3) as u8),
            _ => rng.u8(2..=nodes.min(3) as u8),
        };
        let write_quorum = match focus {
            Focus::Lossy | Focus::Unreadable => 1,
            Focus::DiskLoss | Focus::WriteCache | Focus::Slow | Focus::Damage => rng.u8(2..=copies),
            _ if rng.bool() => copies / 2 + 1,
            _ => rng.u8(1..=copies),
        };
        let read_quorum = copies + 1 - write_quorum;
        let quorum = QuorumConfig { replication_factor: copies, write_quorum, read_quorum };
        let mut replication = Replication::new(quorum);
        let spread = focus == Focus::Scopes || rng.bool();
        if racks > 1 && copies >= 2 && nodes >= racks && spread && focus != Focus::Lossy {
            replication.across.insert(Scope::Rack, 2);
            // Without it, what a machine loses is more than one copy, unless it has but one disk.
            if shards == 1 && rng.bool() {
                replication.across.remove(&Scope::Node);
            }
        }
        let cached = rng.u8(..) < 80;
        if focus == Focus::WriteCache
            || (cached && matches!(focus, Focus::Any | Focus::Succession | Focus::Late | Focus::Scopes))
        {
            replication.durability = Durability::WriteCache;
        }
        let idempotent = rng.u8(..) < 200;
        Self {
            replication,
            nodeset_size: (rng.u8(..) < 40 || focus == Focus::Producers).then(|| rng.u8(copies..=copies + 2)),
            partitions: rng.u32(1..=2),
            idempotent: idempotent || focus == Focus::Producers,
            acks: match rng.u8(0..10) {
                0 if !idempotent => Acks::One,
                1 => Acks::All,
                _ => Acks::Quorum,
            },
            writers: rng.u16(1..=2),
            records: rng.u64(50..=400),
            pause_max: Duration::from_millis(4),
        }
    }

    /// Makes recovery content with fewer answers than safety takes; or, now and then, W as large as R.
    fn prefer_availability(&mut self, rng: &mut Rng) {
        let copies = self.replication.quorum.replication_factor;
        self.replication.quorum = match rng.u8(0..8) {
            0 => QuorumConfig::strong(copies),
            1 | 2 => {
                let write_quorum = rng.u8(1..=copies);
                let read_quorum = rng.u8(1..=copies + 1 - write_quorum);
                QuorumConfig { replication_factor: copies, write_quorum, read_quorum }
            }
            _ => QuorumConfig::available(copies),
        };
    }

    /// A few records on as many shards as there are, or as a nodeset takes, spread across some of the scopes.
    fn spread_wide(&mut self, shards: u16, rng: &mut Rng) {
        let copies = rng.u8(2..=5);
        let write_quorum = rng.u8(2..=copies);
        let quorum = QuorumConfig { replication_factor: copies, write_quorum, read_quorum: copies + 1 - write_quorum };
        self.replication = Replication { durability: self.replication.durability, ..Replication::new(quorum) };
        for scope in [Scope::Rack, Scope::Row, Scope::Datacenter, Scope::Region] {
            if rng.u8(..) < 80 {
                self.replication.across.insert(scope, 2);
            }
        }
        let most = shards.min(127) as u8;
        self.nodeset_size = Some(if rng.bool() { most } else { rng.u8(most / 2..=most) });
        (self.partitions, self.writers, self.records) = (1, 1, rng.u64(20..=80));
    }

    /// Sees to it that all shards but one are enough for an acknowledgement.
    fn spare_one(&mut self, nodes: u16) {
        let copies = self.replication.quorum.replication_factor;
        let write_quorum = self.replication.quorum.write_quorum.min(nodes as u8 - 1);
        let quorum = QuorumConfig { replication_factor: copies, write_quorum, read_quorum: copies + 1 - write_quorum };
        self.replication = Replication::new(quorum);
        (self.nodeset_size, self.acks) = (None, Acks::Quorum);
    }

    pub(crate) fn prefers_availability(&self) -> bool {
        !self.replication.quorum.is_strict()
    }

    pub(crate) fn attributes(&self) -> LogAttributes {
        LogAttributes { nodeset_size: self.nodeset_size, ..LogAttributes::new(self.replication.clone()) }
    }
}

impl Troubles {
    fn draw(rng: &mut Rng, focus: Focus) -> Self {
        let mut weight = |chance: u8, weight: u32| if rng.u8(..) < chance { rng.u32(1..=weight) } else { 0 };
        let troubles = Self {
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
            replace_disk: weight(60, 3),
            lose_index: weight(50, 3),
            read_errors: weight(60, 3),
            disk_full: weight(40, 2),
            trim: weight(80, 3),
            renew: weight(80, 4),
            change_log: weight(60, 2),
            clock_jump: weight(60, 2),
            gone: weight(30, 1),
            strand: 0,
            ail: 0,
            damage: 0,
        };
        match focus {
            Focus::Any | Focus::Scopes => troubles,
            Focus::Calm => Self { new_reader: 1, renew: troubles.renew, trim: troubles.trim, ..Self::default() },
            Focus::Succession | Focus::Late => {
                Self { kill: 6, false_alarm: 6, cut: 4, isolate: 4, gone: 1, ..troubles }
            }
            Focus::WriteCache => Self { power: 8, kill: 4, isolate: 3, ..troubles },
            Focus::DiskLoss => Self { replace_disk: 8, kill: 3, isolate: 4, ..troubles },
            Focus::Available => Self {
                strand: 8,
                kill: 5,
                pause: 10,
                cut: 8,
                isolate: 3,
                metadata_away: 3,
                false_alarm: 4,
                gone: 0,
                ..troubles
            },
            Focus::Slow => Self { ail: 8, new_reader: 1, ..Self::default() },
            Focus::Readers => Self {
                new_reader: 12,
                kill: 2,
                isolate: 2,
                slow_disk: 2,
                read_errors: 2,
                break_connection: 4,
                trim: 1,
                ..Self::default()
            },
            Focus::Wide => Self {
                kill: 4,
                power: 2,
                cut: 2,
                false_alarm: 4,
                renew: 4,
                trim: 1,
                replace_disk: 1,
                ..Self::default()
            },
            Focus::Lossy => Self { replace_disk: 6, kill: 3, trim: 0, gone: 0, ..troubles },
            Focus::Damage => Self { damage: 8, kill: 3, isolate: 6, cut: 6, false_alarm: 6, gone: 0, ..troubles },
            Focus::Unreadable => {
                Self { read_errors: 12, kill: 8, isolate: 8, cut: 8, false_alarm: 6, gone: 0, ..troubles }
            }
            Focus::Producers => {
                Self { kill: 6, false_alarm: 6, trim: 8, change_log: 6, slow_disk: 4, gone: 0, ..troubles }
            }
        }
    }
}
