//! Trouble: what is done to the cluster while it works.

use std::time::Duration;

use dlog_proto::Durability;
use fastrand::Rng;

use crate::network::Address;
use crate::scenario::{Scenario, Troubles};

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
    },
    /// A live process is believed to be gone.
    FalseAlarm {
        server: u16,
    },
}

impl Trouble {
    /// The next trouble of a run; `None` if there is to be none. `powers_left`: power losses that may still happen.
    pub(crate) fn draw(rng: &mut Rng, scenario: &Scenario, powers_left: u32) -> Option<Self> {
        let Troubles {
            kill,
            power,
            pause,
            cut,
            isolate,
            metadata_away,
            slow_disk,
            break_connection,
            new_reader,
            false_alarm,
        } = scenario.troubles;
        let power = if powers_left == 0 { 0 } else { power };
        let weights =
            [kill, power, pause, cut, isolate, metadata_away, slow_disk, break_connection, new_reader, false_alarm];
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
        let mut ms = |max: u64| Duration::from_millis(rng.u64(1..=max));
        Some(match kind {
            0 => Self::Kill { server, back_after: ms(1500) },
            1 => Self::Power { server, back_after: ms(1500) },
            2 => Self::Pause { server, for_: ms(1500) },
            3 => {
                let for_ = ms(1500);
                let (from, to) = pair(rng, scenario);
                Self::Cut { from, to, both: rng.bool(), for_ }
            }
            4 => Self::Isolate { server, for_: ms(1500) },
            5 => Self::MetadataAway { for_: ms(800) },
            6 => Self::SlowDisk { server, for_: ms(1500) },
            7 => {
                let (a, b) = pair(rng, scenario);
                Self::BreakConnection { a, b }
            }
            8 => {
                let log = rng.usize(0..scenario.logs.len());
                Self::NewReader { log, partition: rng.u32(0..scenario.logs[log].partitions) }
            }
            _ => Self::FalseAlarm { server },
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

/// How many power losses a run may have without losing by right what was acknowledged from memory: fewer than every
/// write-cached log's write quorum. Logs that sync lose nothing by any number of them.
pub(crate) fn powers_allowed(scenario: &Scenario) -> u32 {
    let cached = scenario.logs.iter().filter(|log| log.replication.durability == Durability::WriteCache);
    cached.map(|log| u32::from(log.replication.quorum.write_quorum) - 1).min().unwrap_or(u32::MAX)
}
