//! Where a block's copies go: its first wave, and the later ones when shards refuse, are slow or go away.
//!
//! A wave chooses a copyset and asks every member of it: with the block those that lack it, with an amend those that have it.
//! What makes a new wave is that a member which has not answered cannot be counted on any more *and* another choice helps;
//! otherwise the block keeps its copyset and the member is asked again when it can be reached.
//!
//! INV-TURNS: as long as a block lacks a write quorum, its waves go through all members that can be asked, in turn. So it is
//! acknowledged within a few times the store timeout wherever a legal write quorum lives, whoever else is dead, and without
//! anybody saying who.
//!
//! While a member is away and nobody can take its place, blocks are acknowledged by the others. If it stays away for
//! `straggler_timeout`, that it lacks copies is put on record, and from then on blocks are planned without it, until it is back.

use dlog_proto::block::{Copyset, Placement};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::StoreRefusal;
use dlog_proto::{Esn, MemberSet, Time};

use super::{Appender, AppenderOutput, Missing};
use crate::copyset;
use crate::in_flight::{InFlight, Level};
use crate::output::Event;

/// A choice of where a block's copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    copyset: MemberSet,
    /// Members without whose copies the plan makes do.
    missing: MemberSet,
}

impl Appender {
    /// Gives a new block its first placement.
    pub(super) fn place(&mut self, at: usize, now: Time) {
        let usable = self.health.usable(now);
        let len = self.window[at].len();
        let (nodeset, replication, rng) = (&self.nodeset, &self.replication, &mut self.rng);
        let draw = || copyset::draw(nodeset, replication, usable, MemberSet::EMPTY, replication.factor(), rng);
        let plan = match self.sticky.next(now, len, usable, draw) {
            Some(copyset) => Plan { copyset, missing: MemberSet::EMPTY },
            None => self.plan_degraded(MemberSet::EMPTY, usable, now),
        };
        self.begin_wave(at, plan, now);
    }

    /// Chooses again for a block whose copyset cannot be counted on, and asks whoever has to be asked.
    fn reconsider(&mut self, at: usize, now: Time) {
        let usable = self.health.usable(now);
        let block = &self.window[at];
        let counted_on = block.current.union(usable);
        if block.copyset.is_subset_of(counted_on) || bug(Bug::NoLaterWaves) {
            return self.ask(at, now);
        }
        let before = Plan { copyset: block.copyset, missing: block.missing };
        let lacks_quorum = !self.quorum().is_write_quorum(block.holders);
        let plan = self.plan(block.holders.intersection(usable), usable, now);
        let helps = lacks_quorum || plan.copyset.is_subset_of(usable);
        if plan == before || !helps {
            self.ask(at, now);
        } else {
            self.sticky.end_run();
            self.begin_wave(at, plan, now);
        }
    }

    /// R members that take writes, those that have the block first.
    fn plan(&mut self, keep: MemberSet, usable: MemberSet, now: Time) -> Plan {
        let factor = self.replication.factor();
        let (nodeset, replication, rng) = (&self.nodeset, &self.replication, &mut self.rng);
        let mut draw = |usable, keep| copyset::draw(nodeset, replication, usable, keep, factor, rng);
        let full = if keep.len() >= factor { draw(keep, MemberSet::EMPTY) } else { draw(usable, keep) };
        match full.or_else(|| draw(usable, MemberSet::EMPTY)) {
            Some(copyset) => Plan { copyset, missing: MemberSet::EMPTY },
            None => self.plan_degraded(keep, usable, now),
        }
    }

    /// Too few members take writes for R copies. Those that do, as many as make a legal placement, or, if they make none, all of
    /// them; and in place of the others either nobody, if that they miss copies is on record (or about to be), or they themselves,
    /// the most hopeful first, for when they come back.
    fn plan_degraded(&mut self, keep: MemberSet, usable: MemberSet, now: Time) -> Plan {
        let (factor, write_quorum) = (self.replication.factor(), self.replication.write_quorum());
        let (nodeset, replication, rng) = (&self.nodeset, &self.replication, &mut self.rng);
        let mut draw = |from, keep, count| copyset::draw(nodeset, replication, from, keep, count, rng);
        let most = (write_quorum..factor).rev().find_map(|count| {
            let keep = if keep.len() <= count { keep } else { MemberSet::EMPTY };
            draw(usable, keep, count).or_else(|| draw(usable, MemberSet::EMPTY, count))
        });
        let on_record: MemberSet = self.missing.keys().copied().collect();
        if let Some(copyset) = most {
            let lacking = on_record.without(usable);
            if copyset.len() + lacking.len() >= factor {
                let missing = lacking.iter().take(factor - copyset.len()).collect();
                return Plan { copyset, missing };
            }
        }
        let core = most.unwrap_or(keep);
        let core = if core.len() <= factor { core } else { MemberSet::EMPTY };
        let mut from = usable;
        let drawn = self.health.others(now).into_iter().find_map(|other| {
            from.insert(other);
            draw(from, core, factor).or_else(|| draw(from, MemberSet::EMPTY, factor))
        });
        Plan { copyset: drawn.unwrap_or_else(|| nodeset.all()), missing: MemberSet::EMPTY }
    }

    fn begin_wave(&mut self, at: usize, plan: Plan, now: Time) {
        let block = &mut self.window[at];
        block.wave += 1;
        block.copyset = plan.copyset;
        block.missing = plan.missing;
        block.asked = MemberSet::EMPTY;
        block.current = MemberSet::EMPTY;
        block.wave_sent_at = now;
        let last_esn = block.last_esn();
        for member in plan.missing.iter() {
            let missing = self.missing.get_mut(&member).expect("a plan makes do only without members on record");
            missing.last_esn = missing.last_esn.max(last_esn);
        }
        self.set_deadline(at, now);
        self.ask(at, now);
    }

    /// Doubled each time that the waves have gone through the nodeset, or that there was nobody else to ask.
    fn set_deadline(&mut self, at: usize, now: Time) {
        let rounds = (self.window[at].wave as usize - 1) * self.replication.factor() / self.nodeset.len();
        let block = &mut self.window[at];
        let usual = self.health.latency(block.copyset) * 8;
        let doublings = (rounds as u32).saturating_add(block.waits).min(8);
        let timeout = usual.max(self.settings.store_timeout_min) * (1 << doublings);
        block.deadline = now + timeout.min(self.settings.store_timeout_max);
        self.next_deadline = self.next_deadline.min(block.deadline);
    }

    /// Asks those members of a block's copyset that were not asked in this wave and can be asked now.
    fn ask(&mut self, at: usize, now: Time) {
        self.note_stall(at, now);
        let block = &self.window[at];
        let unasked = block.copyset.without(block.asked).without(block.current);
        let to_ask = unasked.intersection(self.possible(block, now));
        // The others are asked when they are back, or when it is over what they were passed over for.
        let retry_at = if to_ask == unasked { Time::MAX } else { self.health.next_change(now).unwrap_or(Time::MAX) };
        self.next_deadline = self.next_deadline.min(retry_at);
        let placement = self.placement(block);
        let block = &mut self.window[at];
        block.retry_at = retry_at;
        for member in to_ask.iter() {
            block.asked.insert(member);
            let placement = placement.clone();
            if bug(Bug::AmendLost) && block.holders.contains(member) {
                block.current.insert(member);
                continue;
            }
            self.out.push_back(if block.holders.contains(member) {
                AppenderOutput::Amend { member, first_esn: block.first_esn(), placement }
            } else {
                AppenderOutput::Store { member, placement, block: block.block.clone() }
            });
        }
    }

    fn placement(&self, block: &InFlight) -> Placement {
        let shards = block.copyset.iter().map(|m| self.nodeset.member(m).shard);
        Placement {
            version: block.version(self.epoch),
            copyset: Copyset::new(shards).expect("a copyset is a few different members of the nodeset"),
            acked: self.acked(),
            settled: self.settled(),
        }
    }

    /// Members that may be asked for this block.
    fn possible(&self, block: &InFlight, now: Time) -> MemberSet {
        // Who did not answer in time is asked, but not counted on: it may hang for longer than what another refused for.
        match self.quorum().is_write_quorum(block.holders.union(self.health.usable(now))) {
            true => self.health.askable(now),
            false => self.health.last_resort(now),
        }
    }

    /// Keeps `stalled_since` and says so once when too few shards are there for this block's acknowledgement.
    fn note_stall(&mut self, at: usize, now: Time) {
        let block = &self.window[at];
        let possible = block.holders.union(self.possible(block, now));
        if self.quorum().is_write_quorum(possible) {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(now);
            let (usable, needed) = (possible.len(), self.replication.write_quorum());
            self.out.push_back(AppenderOutput::Event(Event::Stalled { epoch: self.epoch, usable, needed }));
        }
    }

    pub(super) fn handle_refusal(&mut self, now: Time, at: usize, member: usize, current: bool, why: &StoreRefusal) {
        self.health.note_refusal(member, why, now);
        let block = &mut self.window[at];
        match why {
            StoreRefusal::NoPayload => {
                block.holders.remove(member);
                block.flushed.remove(member);
            }
            StoreRefusal::Conflict => {
                let (shard, first_esn) = (self.nodeset.member(member).shard, block.first_esn());
                let event = Event::Conflict { shard, epoch: self.epoch, first_esn };
                self.out.push_back(AppenderOutput::Event(event));
            }
            _ => {}
        }
        if current {
            block.asked.remove(member);
            self.reconsider(at, now);
        }
    }

    /// A connection to a member was lost: whatever was asked of it may not have arrived, and what it had only cached it may not
    /// tell of when it is flushed, or never flush.
    pub(crate) fn handle_disconnected(&mut self, now: Time, member: usize) {
        self.health.set_connected(member, false);
        for at in 0..self.window.len() {
            let block = &mut self.window[at];
            let cached = block.holders.contains(member) && !block.flushed.contains(member);
            if cached {
                block.current.remove(member);
                block.holders.remove(member);
            }
            if block.asked.contains(member) || cached {
                block.asked.remove(member);
                self.reconsider(at, now);
            }
        }
    }

    /// A connection to a member is there (again).
    pub(crate) fn handle_connected(&mut self, now: Time, member: usize) {
        self.health.set_connected(member, true);
        for at in 0..self.window.len() {
            let block = &self.window[at];
            if !block.copyset.is_subset_of(block.current) {
                self.reconsider(at, now);
            }
        }
        self.close_missing(now);
    }

    /// Looks after every block whose wave did not get its answers in time, and after those that wait for stragglers.
    pub(super) fn handle_deadlines(&mut self, now: Time) {
        self.next_deadline = Time::MAX;
        for at in 0..self.window.len() {
            let block = &self.window[at];
            if block.deadline <= now {
                self.handle_timeout(at, now);
            } else if block.retry_at <= now {
                self.reconsider(at, now);
            }
            let block = &self.window[at];
            self.next_deadline = self.next_deadline.min(block.deadline).min(block.retry_at);
        }
        self.give_up_stragglers(now);
    }

    fn handle_timeout(&mut self, at: usize, now: Time) {
        let block = &self.window[at];
        let (silent, wave) = (block.asked, block.wave);
        silent.iter().for_each(|member| self.health.note_timeout(member, now));
        self.reconsider(at, now);
        if self.window[at].wave == wave {
            self.window[at].waits += 1;
            self.set_deadline(at, now);
        }
    }

    /// Puts on record the members that the oldest acknowledged block has waited for too long.
    fn give_up_stragglers(&mut self, now: Time) {
        let pressed = self.window_bytes * 2 > self.settings.window_bytes_max
            || self.window.len() * 2 > self.settings.window_blocks_max;
        let Some(oldest) = self.window.front() else { return };
        let patience_ends = oldest.first_sent_at + self.settings.straggler_timeout;
        if patience_ends > now && !pressed {
            self.next_deadline = self.next_deadline.min(patience_ends);
            return;
        }
        if self.reached[Level::Released as usize] == 0 {
            return;
        }
        let from = oldest.first_esn();
        let stragglers = oldest.copyset.without(oldest.current).without(self.missing.keys().copied().collect());
        for member in stragglers.iter() {
            self.missing.insert(member, Missing { committed: false, last_esn: Esn::ZERO });
            self.out.push_back(AppenderOutput::OpenMissing { member, from });
        }
    }

    /// The metadata tier has recorded that `member` lacks copies: blocks that wait for it are planned without.
    pub(crate) fn handle_missing_recorded(&mut self, now: Time, member: usize) {
        let Some(missing) = self.missing.get_mut(&member) else { return };
        missing.committed = true;
        let usable = self.health.usable(now);
        if usable.contains(member) {
            // It is back; blocks that were planned without it waited for nothing but the record.
            self.advance(now);
            return self.close_missing(now);
        }
        for at in 0..self.window.len() {
            let block = &self.window[at];
            if block.copyset.contains(member) && !block.current.contains(member) {
                let plan = self.plan(block.holders.intersection(usable), usable, now);
                self.begin_wave(at, plan, now);
            }
        }
        self.sticky.end_run();
        self.advance(now);
    }

    /// Ends the record of members that are back, once the last block that was planned without them is settled.
    pub(super) fn close_missing(&mut self, now: Time) {
        let usable = self.health.usable(now);
        let over = |(member, missing): (&usize, &Missing)| {
            (missing.committed && missing.last_esn <= self.settled && usable.contains(*member)).then_some(*member)
        };
        let over: Vec<usize> = self.missing.iter().filter_map(over).collect();
        for member in over {
            self.missing.remove(&member);
            let to = self.settled;
            self.out.push_back(AppenderOutput::CloseMissing { member, to });
        }
    }
}
