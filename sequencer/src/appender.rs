//! One epoch's appends: from a validated batch to a settled block.
//!
//! ```text
//! append -> pending -> block -> wave(s) -> once >= acked >= released >= settled
//! ```
//!
//! INV-PREFIX: at each level, the blocks that have come to it are a gapless prefix of the epoch: a block is acknowledged
//! only after all before it. So offsets are dense, and whatever recovery finds unbroken is what could have been acknowledged.
//! INV-SETTLED: a settled block has every copy of its copyset on disk under one placement, and the copyset is complete or
//! what it lacks is on record in the metadata tier (trap C12: recorded first, then the mark moves).
//!
//! Blocks leave the window when they are settled. Where their copies go is planned in [`waves`].

#[cfg(test)]
mod tests;
mod waves;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dlog_proto::block::{Block, Placement};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{Acks, AppendError, FlushedUpto, StoreAnswer, StoreRefusal};
use dlog_proto::{
    Durability, Epoch, Esn, MemberSet, Nodeset, PartitionUid, Quorum, Replication, ShardRef, Time, TimestampMs,
};
use fastrand::Rng;
use smallvec::SmallVec;

use crate::copyset::{self, StickyCopyset};
use crate::health::Health;
use crate::in_flight::{InFlight, Level, Waiter};
use crate::output::Event;
use crate::pending::{Pending, PendingBatch};
use crate::settings::Settings;

/// What an appender wants done. Shards are named by their index in the nodeset.
#[derive(Debug)]
pub(crate) enum AppenderOutput {
    Store { member: usize, placement: Placement, block: Block },
    Amend { member: usize, first_esn: Esn, placement: Placement },
    Done(Waiter),
    OpenMissing { member: usize, from: Esn },
    CloseMissing { member: usize, to: Esn },
    Preempted { by: Epoch },
    Event(Event),
}

/// A member whose missing copies are on record, or about to be.
#[derive(Debug, Clone, Copy)]
struct Missing {
    committed: bool,
    /// Last ESN of the last block that was planned without it.
    last_esn: Esn,
}

#[derive(Debug)]
pub(crate) struct Appender {
    partition: PartitionUid,
    epoch: Epoch,
    nodeset: Arc<Nodeset>,
    replication: Arc<Replication>,
    settings: Arc<Settings>,
    rng: Rng,
    health: Health,
    sticky: StickyCopyset,
    next_esn: Esn,
    pending: Pending,
    /// Blocks that are not settled, ascending.
    window: VecDeque<InFlight>,
    /// Bytes in the window.
    window_bytes: usize,
    /// How many blocks of the window have come to each level.
    reached: [usize; 3],
    /// Up to where each level holds.
    marks: [Esn; 3],
    settled: Esn,
    missing: BTreeMap<usize, Missing>,
    newest_timestamp: TimestampMs,
    /// No deadline of the window is earlier.
    next_deadline: Time,
    /// Since when no wave can reach a write quorum.
    stalled_since: Option<Time>,
    out: VecDeque<AppenderOutput>,
}

/// Why a batch is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The window is full.
    Overloaded,
    /// The epoch has no LSNs left for it.
    EpochFull,
}

impl Appender {
    pub(crate) fn new(
        partition: PartitionUid,
        epoch: Epoch,
        nodeset: Arc<Nodeset>,
        replication: Arc<Replication>,
        settings: Arc<Settings>,
        rng: Rng,
    ) -> Self {
        let health = Health::new(nodeset.len(), settings.greylist);
        let sticky = StickyCopyset::new(settings.sticky_bytes, settings.sticky_time);
        Self {
            partition,
            epoch,
            nodeset,
            replication,
            settings,
            rng,
            health,
            sticky,
            next_esn: Esn(1),
            pending: Pending::default(),
            window: VecDeque::new(),
            window_bytes: 0,
            reached: [0; 3],
            marks: [Esn::ZERO; 3],
            settled: Esn::ZERO,
            missing: BTreeMap::new(),
            newest_timestamp: TimestampMs::MIN,
            next_deadline: Time::MAX,
            stalled_since: None,
            out: VecDeque::new(),
        }
    }

    /// Members that blocks are stored on now.
    pub(crate) fn usable(&self, now: Time) -> MemberSet {
        self.health.usable(now)
    }

    pub(crate) fn nodeset(&self) -> &Arc<Nodeset> {
        &self.nodeset
    }

    pub(crate) fn shard_ref(&self, member: usize) -> ShardRef {
        self.nodeset.shard_ref(member)
    }

    pub(crate) fn next_esn(&self) -> Esn {
        self.next_esn
    }

    pub(crate) fn acked(&self) -> Esn {
        self.marks[Level::Acked as usize]
    }

    pub(crate) fn released(&self) -> Esn {
        self.marks[Level::Released as usize]
    }

    pub(crate) fn settled(&self) -> Esn {
        self.settled
    }

    /// Bytes of what waits, is on its way, or is not settled.
    pub(crate) fn window_bytes(&self) -> usize {
        self.pending.bytes() + self.window_bytes
    }

    pub(crate) fn replication(&self) -> &Replication {
        &self.replication
    }

    pub(crate) fn durability(&self) -> Durability {
        self.replication.durability
    }

    /// R members that take writes now, or as many as there are.
    pub(crate) fn draw_copyset(&self, now: Time, rng: &mut Rng) -> Vec<usize> {
        let usable = self.health.usable(now);
        let (nodeset, replication) = (&self.nodeset, &self.replication);
        let full = copyset::draw(nodeset, replication, usable, MemberSet::EMPTY, replication.factor(), rng);
        full.unwrap_or(usable).iter().take(replication.factor()).collect()
    }

    /// Whether everything that was taken is acknowledged.
    pub(crate) fn all_acked(&self) -> bool {
        self.pending.is_empty() && self.reached[Level::Acked as usize] == self.window.len()
    }

    /// Since when too few shards take writes for an acknowledgement.
    pub(crate) fn stalled_since(&self) -> Option<Time> {
        self.stalled_since
    }

    pub(crate) fn poll_output(&mut self) -> Option<AppenderOutput> {
        self.out.pop_front()
    }

    fn is_window_full(&self) -> bool {
        let Settings { window_bytes_max, window_records_max, window_blocks_max, .. } = *self.settings;
        let records = self.next_esn.0 - 1 - self.settled.0;
        self.window_bytes() >= window_bytes_max
            || records >= window_records_max
            || self.window.len() >= window_blocks_max
    }

    fn quorum(&self) -> Quorum<'_> {
        Quorum::new(&self.nodeset, &self.replication)
    }

    /// Takes a validated batch and gives its records their LSNs. The answer comes as [`AppenderOutput::Done`].
    pub(crate) fn handle_append(
        &mut self,
        bytes: Bytes,
        span: u32,
        timestamps: (TimestampMs, TimestampMs),
        waiter: impl FnOnce(Esn) -> Option<Waiter>,
    ) -> Result<Esn, Refusal> {
        assert!(span > 0, "a validated batch");
        let first_esn = self.next_esn;
        if u64::from(first_esn.0) + u64::from(span) - 1 > u64::from(self.settings.esn_max.0) {
            return Err(Refusal::EpochFull);
        }
        if self.is_window_full() {
            return Err(Refusal::Overloaded);
        }
        self.next_esn = Esn(first_esn.0 + span);
        let waiters = waiter(first_esn).into_iter().collect();
        self.pending.push(PendingBatch { bytes, first_esn, span, timestamps, waiters });
        Ok(first_esn)
    }

    /// Lets one more wait for a batch that was taken before and is not acknowledged: the retry of an idempotent append.
    /// Whether it is still on its way.
    pub(crate) fn join(&mut self, waiter: Waiter) -> bool {
        let esn = waiter.esn;
        let at = self.window.partition_point(|b| b.last_esn() < esn);
        match self.window.get_mut(at) {
            Some(block) if level_of(waiter.acks).is_none_or(|level| at >= self.reached[level as usize]) => {
                block.waiters.push(waiter);
                true
            }
            Some(_) => false,
            None => self.pending.join(esn, waiter),
        }
    }

    /// Cuts blocks from what waits, as long as not too many are on their way, and looks after those whose time has come. Call
    /// after a round of inputs and when [`Self::next_timeout`] has passed.
    pub(crate) fn pump(&mut self, now: Time, now_ms: TimestampMs) {
        if now >= self.next_deadline {
            self.handle_deadlines(now);
        }
        self.newest_timestamp = self.newest_timestamp.max(now_ms);
        while self.window.len() - self.reached[Level::Acked as usize] < self.settings.blocks_in_flight_max {
            let len_target = self.settings.block_len_target;
            let cut = self.pending.cut(self.partition, self.epoch, self.newest_timestamp, len_target);
            let Some((block, waiters)) = cut else { break };
            let block = InFlight::new(block, waiters, now);
            self.window_bytes += block.len();
            self.window.push_back(block);
            self.place(self.window.len() - 1, now);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        (self.next_deadline < Time::MAX).then_some(self.next_deadline)
    }

    /// A shard's answer to a store or an amend.
    pub(crate) fn handle_stored(&mut self, now: Time, answer: &StoreAnswer) {
        let Some(member) = self.member_of(answer) else { return };
        let at = self.window.binary_search_by_key(&answer.first_esn, InFlight::first_esn);
        if let Err(StoreRefusal::Sealed(by)) = &answer.result {
            return self.out.push_back(AppenderOutput::Preempted { by: *by });
        }
        // An answer for a block that is settled already has nothing more to say.
        let Ok(at) = at else { return };
        let block = &mut self.window[at];
        let current = answer.version == block.version(self.epoch);
        match &answer.result {
            Ok(kept) => {
                if current && block.asked.contains(member) {
                    self.health.note_answer(member, now.since(block.wave_sent_at));
                }
                block.note_kept(member, *kept, current);
                self.advance(now);
            }
            // The block's epoch has an end that this sequencer does not know of.
            Err(StoreRefusal::BeyondEnd) => self.out.push_back(AppenderOutput::Preempted { by: self.epoch.next() }),
            Err(refusal) => self.handle_refusal(now, at, member, current, refusal),
        }
    }

    /// What a shard had in its write cache is on disk now.
    pub(crate) fn handle_flushed(&mut self, now: Time, shard: ShardRef, upto: &FlushedUpto) {
        let Some(member) = self.nodeset.index_of_ref(shard) else { return };
        for block in self.window.iter_mut().take_while(|b| b.first_esn() <= upto.first_esn) {
            if block.holders.contains(member) {
                block.flushed.insert(member);
            }
        }
        self.advance(now);
    }

    fn member_of(&self, answer: &StoreAnswer) -> Option<usize> {
        let member = self.nodeset.index_of(answer.shard)?;
        // An answer about another disk is about this one's being gone.
        let same = self.nodeset.member(member).incarnation == answer.incarnation;
        (same && answer.epoch == self.epoch).then_some(member)
    }

    /// Moves the marks as far as they go.
    fn advance(&mut self, now: Time) {
        for level in [Level::Once, Level::Acked, Level::Released] {
            self.advance_level(level);
        }
        if bug(Bug::AckOutOfOrder) {
            self.ack_out_of_order();
        }
        let mut settled = false;
        while self.window.front().is_some_and(|block| self.is_settled(block)) {
            settled = true;
            self.settle_front();
        }
        if settled {
            self.close_missing(now);
        }
    }

    fn advance_level(&mut self, level: Level) {
        let durability = self.replication.durability;
        while let Some(block) = self.window.get(self.reached[level as usize]) {
            if !block.reaches(level, self.quorum(), durability) {
                break;
            }
            let at = self.reached[level as usize];
            let block = &mut self.window[at];
            self.marks[level as usize] = block.last_esn();
            self.reached[level as usize] += 1;
            let (done, waiting): (SmallVec<[Waiter; 2]>, _) =
                block.waiters.drain(..).partition(|waiter| level_of(waiter.acks) == Some(level));
            block.waiters = waiting;
            self.out.extend(done.into_iter().map(AppenderOutput::Done));
        }
    }

    fn ack_out_of_order(&mut self) {
        let (nodeset, replication) = (self.nodeset.clone(), self.replication.clone());
        let quorum = Quorum::new(&nodeset, &replication);
        for block in &mut self.window {
            if block.reaches(Level::Acked, quorum, replication.durability) {
                self.out.extend(block.waiters.drain(..).map(AppenderOutput::Done));
            }
        }
    }

    fn is_settled(&self, block: &InFlight) -> bool {
        let committed = |missing: &Missing| missing.committed || bug(Bug::SettleBeforeRecord);
        let on_record = |m: usize| self.missing.get(&m).is_some_and(committed);
        let complete = if block.missing.is_empty() {
            self.quorum().is_fully_replicated(block.copyset)
        } else {
            self.quorum().is_write_quorum(block.copyset) && block.missing.iter().all(on_record)
        };
        complete && block.copyset_is_flushed()
    }

    fn settle_front(&mut self) {
        let block = self.window.pop_front().expect("the front is settled");
        assert!(self.reached.iter().all(|reached| *reached > 0), "settled comes after every other level");
        self.reached.iter_mut().for_each(|reached| *reached -= 1);
        self.window_bytes -= block.len();
        self.settled = block.last_esn();
        self.out.extend(block.waiters.into_iter().map(AppenderOutput::Done));
    }

    /// Gives up everything that is not acknowledged: another epoch has taken over. Says who waited.
    pub(crate) fn give_up(&mut self) -> Vec<Waiter> {
        let waiting = self.window.drain(..).flat_map(|block| block.waiters);
        let waiting = waiting.chain(self.pending.clear()).collect();
        self.window_bytes = 0;
        self.reached = [0; 3];
        self.next_deadline = Time::MAX;
        self.out.clear();
        waiting
    }
}

/// The level that an append waits for; `None`: until its block is settled, which is when it has all its copies.
fn level_of(acks: Acks) -> Option<Level> {
    match acks {
        Acks::One => Some(Level::Once),
        Acks::Quorum => Some(Level::Acked),
        Acks::All => None,
    }
}

impl From<Refusal> for AppendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Overloaded => Self::Overloaded { retry_after_ms: 20 },
            Refusal::EpochFull => {
                Self::Recovering { reason: "the epoch's sequence numbers are used up".to_owned(), retry_after_ms: 10 }
            }
        }
    }
}
