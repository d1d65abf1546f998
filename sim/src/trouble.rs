//! Trouble: what is done to the cluster while it works.

use std::time::Duration;

use dlog_proto::Durability;
use dlog_proto::wire::StoreRefusal;
use fastrand::Rng;

use crate::network::Address;
use crate::scenario::{Focus, LogPlan, Scenario};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Kill {
        server: u16,
        back_after: Duration,
    },
    Power {
        server: u16,
        back_after: Duration,
    },
    Pause {
        server: u16,
        for_: Duration,
    },
    Cut {
        from: Address,
        to: Address,
        both: bool,
        for_: Duration,
    },
    Isolate {
        server: u16,
        for_: Duration,
    },
    MetadataAway {
        for_: Duration,
    },
    SlowDisk {
        server: u16,
        for_: Duration,
    },
    BreakConnection {
        a: Address,
        b: Address,
    },
    NewReader {
        log: usize,
        partition: u32,
        /// From where to where, of what is released; `None`: from the beginning, and on.
        part: Option<(f64, f64)>,
    },
    /// A live process is believed to be gone.
    FalseAlarm {
        server: u16,
    },
    /// A disk is replaced by an empty one.
    ReplaceDisk {
        server: u16,
        shard: u16,
        back_after: Duration,
    },
    /// The index is lost, the segments are not.
    LoseIndex {
        server: u16,
        back_after: Duration,
    },
    /// The next reads from a disk fail.
    ReadErrors {
        server: u16,
        shard: u16,
        times: u64,
    },
    /// No new files can be made on a server's disks.
    DiskFull {
        server: u16,
        for_: Duration,
    },
    /// Somebody lets go of records.
    Trim {
        log: usize,
        partition: u32,
        /// How far, of what is released.
        share: f64,
    },
    /// Somebody asks for a new epoch.
    Renew {
        log: usize,
        partition: u32,
    },
    /// A log's nodeset or write quorum becomes another.
    ChangeLog {
        log: usize,
        dice: u8,
    },
    ClockJump {
        server: u16,
        ms: i64,
    },
    /// A server goes and does not come back.
    Gone {
        server: u16,
    },
    /// Bits turn over where a shard's log was durable, and its index is lost.
    Damage {
        server: u16,
        shard: u16,
        back_after: Duration,
    },
    /// The disks of a server are slow, hang or refuse, unless another's do already.
    Ail {
        server: u16,
        ailment: Ailment,
        for_: Duration,
    },
    /// A server is cut off from all others, and clients still reach it.
    Strand {
        server: u16,
        for_: Duration,
    },
}

/// What is the matter with a server's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ailment {
    /// Every sync takes up to a few hundred milliseconds.
    Slow,
    /// No sync ends before it is over.
    Hangs,
    Full,
    Overloaded,
    Disabled,
}

impl Ailment {
    const ALL: [Self; 5] = [Self::Slow, Self::Hangs, Self::Full, Self::Overloaded, Self::Disabled];

    /// What stores are refused with.
    pub(crate) fn refusal(self) -> Option<StoreRefusal> {
        match self {
            Self::Slow | Self::Hangs => None,
            Self::Full => Some(StoreRefusal::NoSpace),
            Self::Overloaded => Some(StoreRefusal::Overloaded { retry_after_ms: 200 }),
            Self::Disabled => Some(StoreRefusal::Disabled),
        }
    }
}

impl Trouble {
    /// The next trouble of a run; `None` if there is to be none.
    pub(crate) fn draw(rng: &mut Rng, scenario: &Scenario, losses: &Losses) -> Option<Self> {
        let t = &scenario.troubles;
        let power = if losses.powers == 0 { 0 } else { t.power };
        let (replace, gone, damage) = if losses.disks == 0 { (0, 0, 0) } else { (t.replace_disk, t.gone, t.damage) };
        let weights = [
            t.kill,
            power,
            t.pause,
            t.cut,
            t.isolate,
            t.metadata_away,
            t.slow_disk,
            t.break_connection,
            t.new_reader,
            t.false_alarm,
            replace,
            t.lose_index,
            t.read_errors,
            t.disk_full,
            t.trim,
            t.renew,
            t.change_log,
            t.clock_jump,
            gone,
            t.strand,
            t.ail,
            damage,
        ];
        let total: u32 = weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut dice = rng.u32(0..total);
        let kind = weights.iter().position(|weight| {
            let hit = dice < *weight;
            dice = dice.saturating_sub(*weight);
            hit
        })?;
        let server = rng.u16(1..=scenario.nodes);
        let shard = rng.u16(0..scenario.shards);
        let log = rng.usize(0..scenario.logs.len());
        let partition = rng.u32(0..scenario.logs[log].partitions);
        let ms = |rng: &mut Rng, max: u64| Duration::from_millis(rng.u64(1..=max));
        Some(match kind {
            0 => Self::Kill { server, back_after: ms(rng, 1500) },
            1 => Self::Power { server, back_after: ms(rng, 1500) },
            2 => Self::Pause { server, for_: ms(rng, 1500) },
            3 => {
                let for_ = ms(rng, 1500);
                let (from, to) = pair(rng, scenario);
                let (from, to) = if rng.bool() { (from, to) } else { (to, from) };
                Self::Cut { from, to, both: rng.bool(), for_ }
            }
            4 => Self::Isolate { server, for_: ms(rng, 1500) },
            5 => Self::MetadataAway { for_: ms(rng, 800) },
            6 => Self::SlowDisk { server, for_: ms(rng, 1500) },
            7 => {
                let (a, b) = pair(rng, scenario);
                Self::BreakConnection { a, b }
            }
            8 => {
                let part = (scenario.focus == Focus::Readers && rng.bool()).then(|| (rng.f64(), rng.f64()));
                Self::NewReader { log, partition, part }
            }
            9 => Self::FalseAlarm { server },
            10 => Self::ReplaceDisk { server, shard, back_after: ms(rng, 800) },
            11 => Self::LoseIndex { server, back_after: ms(rng, 800) },
            12 => {
                let most = if scenario.focus == Focus::Unreadable { 12 } else { 4 };
                Self::ReadErrors { server, shard, times: rng.u64(1..=most) }
            }
            13 => Self::DiskFull { server, for_: ms(rng, 1500) },
            14 => Self::Trim { log, partition, share: rng.f64() },
            15 => Self::Renew { log, partition },
            16 => Self::ChangeLog { log, dice: rng.u8(..) },
            17 => Self::ClockJump { server, ms: rng.i64(-3_600_000..=3_600_000) },
            18 => Self::Gone { server },
            19 => Self::Strand { server, for_: ms(rng, 2500) },
            20 => Self::Ail { server, ailment: Ailment::ALL[rng.usize(0..Ailment::ALL.len())], for_: ms(rng, 5000) },
            _ => Self::Damage { server, shard, back_after: ms(rng, 800) },
        })
    }
}

/// A server and somebody else.
fn pair(rng: &mut Rng, scenario: &Scenario) -> (Address, Address) {
    let server = rng.u16(1..=scenario.nodes);
    let other = rng.u16(0..=scenario.nodes);
    let other = match other {
        _ if other == server => Address::Writer(0),
        0 => Address::Metadata,
        node => Address::Server(node),
    };
    (Address::Server(server), other)
}

/// What a run may still lose without losing by right what was acknowledged: fewer disks than every log's write quorum; of
/// power losses as many as there are, unless a log acknowledges from memory. Runs that may lose by right lose what they like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Losses {
    pub powers: u32,
    pub disks: u32,
}

impl Losses {
    pub(crate) fn allowed(scenario: &Scenario) -> Self {
        let spare = |log: &LogPlan| u32::from(log.replication.quorum.write_quorum) - 1;
        let is_cached = |log: &&LogPlan| log.replication.durability == Durability::WriteCache;
        let powers = scenario.logs.iter().filter(is_cached).map(spare).min().unwrap_or(u32::MAX);
        let disks = match scenario.focus {
            Focus::Lossy => 3,
            _ => scenario.logs.iter().map(spare).min().unwrap_or_default(),
        };
        Self { powers, disks }
    }

    /// A machine lost what it had in memory only.
    pub(crate) fn lose_power(&mut self) {
        if self.powers != u32::MAX {
            self.powers = self.powers.saturating_sub(1);
            self.disks = self.disks.min(self.powers);
        }
    }

    pub(crate) fn lose_disk(&mut self) {
        self.disks = self.disks.saturating_sub(1);
        if self.powers != u32::MAX {
            self.powers = self.powers.min(self.disks);
        }
    }
}
