//! What an actor of the simulation has at hand while it handles something: the time, dice, and ways to have effects.

use std::time::Duration;

use dlog_proto::{Epoch, PartitionUid, Time, TimestampMs};

use crate::history::History;
use crate::ledger::Claim;
use crate::message::{Lane, Message};
use crate::network::Address;
use crate::seed::Streams;
use crate::shard::ShardTimer;

/// An effect, to be carried out by the world when the actor is done.
#[derive(Debug)]
pub(crate) enum Effect {
    Send {
        to: Address,
        lane: Lane,
        message: Box<Message>,
    },
    ShardTimer {
        shard: u16,
        after: Duration,
        timer: ShardTimer,
    },
    /// Something was promised.
    Claim(Claim),
    /// Something went wrong that must not: the run has failed.
    Violation(String),
    /// The same, if this is the partition's newest epoch: what an older one believes does no harm.
    ViolationOfNewest {
        partition: PartitionUid,
        epoch: Epoch,
        what: String,
    },
}

pub(crate) struct Context<'a> {
    pub now: Time,
    pub now_ms: TimestampMs,
    pub rng: &'a mut Streams,
    pub history: &'a mut History,
    /// How long a sync takes, at least and at most.
    pub sync: (Duration, Duration),
    /// Nothing is done to anybody in this run.
    pub calm: bool,
    pub effects: &'a mut Vec<Effect>,
    /// Whom this actor has a connection to.
    pub is_up: &'a dyn Fn(Address) -> bool,
}

impl Context<'_> {
    pub(crate) fn send(&mut self, to: Address, lane: Lane, message: Message) {
        self.effects.push(Effect::Send { to, lane, message: Box::new(message) });
    }

    pub(crate) fn shard_timer(&mut self, shard: u16, after: Duration, timer: ShardTimer) {
        self.effects.push(Effect::ShardTimer { shard, after, timer });
    }

    pub(crate) fn claim(&mut self, claim: Claim) {
        self.effects.push(Effect::Claim(claim));
    }

    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.effects.push(Effect::Violation(what.into()));
    }

    /// A sequencer went wrong; one that was succeeded may.
    pub(crate) fn violation_of_newest(&mut self, partition: PartitionUid, epoch: Epoch, what: String) {
        self.effects.push(Effect::ViolationOfNewest { partition, epoch, what });
    }

    /// How long a sync takes this time.
    pub(crate) fn sync_latency(&mut self) -> Duration {
        let (min, max) = (self.sync.0.as_micros() as u64, self.sync.1.as_micros() as u64);
        Duration::from_micros(self.rng.disk.u64(min..=max.max(min)))
    }
}
