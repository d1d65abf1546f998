//! A partition's sequencer in one epoch: takes appends, recovers the epochs before it, releases what may be read.
//!
//! ```text
//! activated -> recovering (earlier epochs) -> reading producers -> ready        -> preempted (from anywhere)
//! ```
//!
//! Plain appends are taken from the first moment. What depends on the past waits until it is known: idempotent appends and
//! those that want an offset.
//!
//! INV-LEASE, in logs that prefer availability: without a lease nothing is acknowledged and nothing released.

mod appends;
mod releases;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::{Block, Placement};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::producer::{ActiveProducer, ProducerTable};
use dlog_proto::wire::{
    Amend, AppendError, EpochEnd, FetchTarget, FetchedBlock, Flushed, LostBefore, ProducersRead, SealedPartition,
    Store, StoreAnswer, StoreMode, Tail, WirePlacement,
};
use dlog_proto::{
    Durability, End, Epoch, EpochEntry, EpochTable, Esn, LogOffset, Lsn, Member, PartitionUid, ShardId, ShardRef, Time,
    TimestampMs,
};
use fastrand::Rng;

use crate::appender::{Appender, AppenderOutput};
use crate::in_flight::Waiter;
use crate::output::{Event, NewEpochReason, Output, Proposal};
use crate::producers::ProducerLoad;
use crate::recovery::{Outcome, Recovery};
use crate::settings::Settings;
use crate::snapshots::Snapshots;

pub use appends::AppendRequest;
pub(crate) use releases::earlier_ends;

use appends::Waiting;
use releases::{ENDS_KEPT_MAX, Marks};

/// How far the past is known.
#[derive(Debug)]
enum Past {
    Recovering(Box<Recovery>),
    ReadingProducers(Box<ProducerLoad>),
    Ready,
}

/// Whether this epoch is to give way to a new one of the same partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Succession {
    None,
    /// Nothing more is taken; once everything taken is acknowledged, a new epoch is asked for. So nobody sees an error.
    Draining(NewEpochReason),
    Asked,
}

#[derive(Debug)]
pub struct PartitionSequencer {
    partition: PartitionUid,
    epoch: Epoch,
    settings: Arc<Settings>,
    /// As of the activation, with the ends that were decided since.
    table: EpochTable,
    appender: Appender,
    past: Past,
    producers: ProducerTable,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Until when this epoch is the newest for sure; matters to logs that prefer availability.
    lease_until: Time,
    /// Acknowledgements that wait for the lease.
    unleased: VecDeque<Waiter>,
    /// What may be read of this epoch.
    released: Esn,
    preempted_by: Option<Epoch>,
    succession: Succession,
    /// Every shard of every epoch in the table: told once when it can be reached, so that one that serves old epochs only, and has
    /// forgotten how far they are released, serves them again.
    listeners: BTreeSet<ShardRef>,
    /// Those of them that are told of every release: of this epoch and of those that it recovers.
    told_always: BTreeSet<ShardRef>,
    /// Shards that can be reached.
    connected: BTreeSet<ShardId>,
    /// Ends of the epochs before, ascending. All of them are told to whoever comes (back), the newest with every release: a shard that
    /// was away for long may hold blocks beyond the end of any of them (trap C8).
    decided: Vec<EpochEnd>,
    last_release: Option<Marks>,
    snapshots: Snapshots,
    /// Wall clock as of the last input.
    now_ms: TimestampMs,
    rng: Rng,
    out: VecDeque<Output>,
}

impl PartitionSequencer {
    /// A sequencer for the newest epoch of `table`, which the metadata tier has given to this process. `connected` says which
    /// shards can be reached already; later changes come through [`Self::handle_link`].
    ///
    /// # Panics
    /// If `table` has no epoch.
    pub fn new(
        table: EpochTable,
        settings: Arc<Settings>,
        seed: u64,
        now: Time,
        connected: impl Fn(ShardId) -> bool,
    ) -> Self {
        let current = table.newest().expect("an activated partition has an epoch").clone();
        let earlier_ends = earlier_ends(&table);
        let is_first = table.epochs.len() == 1;
        let mut rng = Rng::with_seed(seed);
        let (nodeset, replication) = (current.nodeset.clone(), current.replication.clone());
        let appender =
            Appender::new(table.partition, current.epoch, nodeset, replication, settings.clone(), rng.fork());
        let undecided: Vec<EpochEntry> = table.undecided().filter(|e| e.epoch < current.epoch).cloned().collect();
        let recovery = Recovery::new(table.partition, current.epoch, undecided, settings.clone(), rng.fork(), now);
        let members = (0..current.nodeset.len()).map(|m| appender.shard_ref(m));
        let told_always: BTreeSet<ShardRef> = members.chain(recovery.shards()).collect();
        let nodesets: BTreeMap<_, _> = table.epochs.iter().map(|e| (Arc::as_ptr(&e.nodeset), &e.nodeset)).collect();
        let earlier = nodesets.values().flat_map(|nodeset| nodeset.members().iter().map(Member::shard_ref));
        let listeners: BTreeSet<ShardRef> = earlier.chain(told_always.iter().copied()).collect();
        let mut sequencer = Self {
            partition: table.partition,
            epoch: current.epoch,
            snapshots: Snapshots::new(now, is_first, &settings),
            settings,
            table,
            appender,
            past: Past::Recovering(Box::new(recovery)),
            producers: ProducerTable::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lease_until: Time::ZERO,
            unleased: VecDeque::new(),
            released: Esn::ZERO,
            preempted_by: None,
            succession: Succession::None,
            listeners,
            told_always,
            connected: BTreeSet::new(),
            decided: earlier_ends,
            last_release: None,
            now_ms: 0,
            rng,
            out: VecDeque::new(),
        };
        let shards: BTreeSet<ShardId> = sequencer.listeners.iter().map(|s| s.shard).collect();
        shards.into_iter().for_each(|shard| sequencer.handle_link(now, shard, connected(shard)));
        sequencer
    }

    pub fn partition(&self) -> PartitionUid {
        self.partition
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Shards that this sequencer talks to.
    pub fn shards(&self) -> impl Iterator<Item = ShardRef> {
        self.listeners.iter().copied()
    }

    /// The epoch that has taken over, once one has. Nothing is taken or acknowledged any more.
    pub fn preempted_by(&self) -> Option<Epoch> {
        self.preempted_by
    }

    /// Whether the past is known: appends of every kind go on.
    pub fn is_ready(&self) -> bool {
        matches!(self.past, Past::Ready)
    }

    /// The LSN that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        Lsn::new(self.epoch, self.appender.next_esn())
    }

    /// Bytes of records that wait, are on their way, or are not settled.
    pub fn window_bytes(&self) -> usize {
        self.appender.window_bytes()
    }

    /// Bytes of appends that wait for the past to be known, or for a new epoch.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// The epoch table as far as this sequencer knows it.
    pub fn table(&self) -> &EpochTable {
        &self.table
    }

    /// Producers that wrote not long ago. All of them, once it is ready.
    pub fn producers(&self) -> impl Iterator<Item = ActiveProducer> {
        self.producers.active()
    }

    /// Gives way to a new epoch once everything taken is acknowledged.
    pub fn begin_planned_succession(&mut self) {
        if self.succession == Succession::None {
            self.succession = Succession::Draining(NewEpochReason::Planned);
        }
    }

    /// See [`Settings::lease`]. Whether anything waited for it.
    pub fn handle_lease(&mut self, until: Time) -> bool {
        self.lease_until = self.lease_until.max(until);
        !self.unleased.is_empty() || self.released < self.appender.released()
    }

    /// Whether this epoch is known not to have been ended: always, unless the log lets recovery decide with too few answers. There, a
    /// later epoch may have decided this one's end without any shard refusing a store (trap C13).
    fn holds_lease(&self, now: Time) -> bool {
        let strict = self.appender.replication().quorum.is_strict() || self.settings.lease.is_none();
        strict || now < self.lease_until
    }

    fn may_acknowledge(&self, now: Time) -> bool {
        self.holds_lease(now) || bug(Bug::AcksWithoutLease)
    }

    fn ask_new_epoch(&mut self, reason: NewEpochReason) {
        self.succession = Succession::Asked;
        let (partition, current) = (self.partition, self.epoch);
        self.out.push_back(Output::Propose(Proposal::NewEpoch { partition, current, reason }));
    }

    /// Whether an answer to [`Proposal::NewEpoch`] is still to come.
    pub(crate) fn has_asked_new_epoch(&self) -> bool {
        self.succession == Succession::Asked
    }

    /// There is no new epoch to be had: this one goes on.
    pub fn handle_new_epoch_refused(&mut self) {
        self.succession = Succession::None;
    }

    /// Whether a shard can be reached.
    pub fn handle_link(&mut self, now: Time, shard: ShardId, up: bool) {
        if up {
            self.connected.insert(shard);
        } else {
            self.connected.remove(&shard);
        }
        if let Some(member) = self.appender.nodeset().index_of(shard) {
            match up {
                true => self.appender.handle_connected(now, member),
                false => self.appender.handle_disconnected(now, member),
            }
        }
        match &mut self.past {
            Past::Recovering(recovery) => {
                let meant: Vec<ShardRef> = recovery.shards().filter(|s| s.shard == shard).collect();
                meant.into_iter().for_each(|s| recovery.handle_connected(s, up, now));
            }
            Past::ReadingProducers(load) => load.handle_connected(shard, up),
            Past::Ready => {}
        }
        // Releases are not answered: whoever comes back is told again.
        if up && let Some(marks) = self.last_release {
            let to = self.listeners.iter().copied().filter(|s| s.shard == shard).collect();
            self.send_release(to, marks, ENDS_KEPT_MAX);
        }
    }

    /// A shard's answer to a store or an amend, of this epoch or of one that is being repaired.
    pub fn handle_stored(&mut self, now: Time, answer: &StoreAnswer) {
        if self.preempted_by.is_some() {
            return;
        }
        if answer.snapshot {
            self.handle_snapshot_stored(answer);
        } else if answer.epoch == self.epoch {
            self.appender.handle_stored(now, answer);
        } else if let Past::Recovering(recovery) = &mut self.past {
            recovery.handle_stored(now, answer);
        }
    }

    /// A shard has flushed what it had cached.
    pub fn handle_flushed(&mut self, now: Time, flushed: &Flushed) {
        let shard = ShardRef { shard: flushed.shard, incarnation: flushed.incarnation };
        for upto in flushed.upto.iter().filter(|u| (u.partition, u.epoch) == (self.partition, self.epoch)) {
            self.appender.handle_flushed(now, shard, upto);
        }
    }

    pub fn handle_sealed(&mut self, from: ShardRef, lost: LostBefore, answer: SealedPartition) {
        if let Past::Recovering(recovery) = &mut self.past {
            recovery.handle_sealed(from, lost, answer);
        }
    }

    pub fn handle_fetched(&mut self, now: Time, answer: &FetchedBlock, block: Option<Block>) {
        let from = ShardRef { shard: answer.shard, incarnation: answer.incarnation };
        match (&mut self.past, answer.target) {
            (Past::Recovering(recovery), FetchTarget::Records { .. }) => {
                recovery.handle_fetched(now, answer, from, block);
            }
            (Past::ReadingProducers(load), FetchTarget::ProducerSnapshot) => load.handle_fetched(from, block),
            _ => {}
        }
    }

    pub fn handle_producers(&mut self, answer: &ProducersRead, table: Option<&ProducerTable>) {
        if let Past::ReadingProducers(load) = &mut self.past {
            load.handle_producers(answer, table);
        }
    }

    /// The metadata tier has decided an epoch.
    pub fn handle_decided(&mut self, end: EpochEnd) {
        if let Past::Recovering(recovery) = &mut self.past {
            recovery.handle_decided(end);
        }
    }

    /// A [`Proposal::Cover`] of this epoch is on record.
    pub fn handle_covered(&mut self) {
        self.snapshots.handle_covered();
    }

    /// A later epoch was activated.
    pub fn handle_superseded(&mut self, now: Time, by: Epoch) {
        if by > self.epoch {
            self.preempt(now, by);
        }
    }

    /// An [`Proposal::OpenMissing`] for this shard is on record.
    pub fn handle_missing_recorded(&mut self, now: Time, shard: ShardRef) {
        if let Some(member) = self.appender.nodeset().index_of(shard.shard) {
            self.appender.handle_missing_recorded(now, member);
        }
    }

    /// Goes on as far as possible: cuts blocks, takes the next step of recovery, releases. Call after a round of inputs and
    /// when [`Self::next_timeout`] has passed; then drain [`Self::poll_output`].
    pub fn pump(&mut self, now: Time, now_ms: TimestampMs) {
        self.now_ms = self.now_ms.max(now_ms);
        if self.preempted_by.is_some() {
            return;
        }
        self.pump_past(now);
        if self.preempted_by.is_some() {
            return;
        }
        self.take_waiting(now);
        self.appender.pump(now, now_ms);
        while self.may_acknowledge(now)
            && let Some(waiter) = self.unleased.pop_front()
        {
            self.done(now, waiter);
        }
        self.drain_appender(now);
        if self.preempted_by.is_some() {
            return;
        }
        if self.holds_lease(now) || bug(Bug::ReleasesWithoutLease) {
            self.released = self.appender.released();
        }
        self.release();
        self.take_snapshot(now, now_ms);
        if self.snapshots.poll_cover() {
            let (partition, epoch) = (self.partition, self.epoch);
            self.out.push_back(Output::Propose(Proposal::Cover { partition, epoch }));
        }
        if let Succession::Draining(reason) = self.succession
            && self.appender.all_acked()
        {
            self.ask_new_epoch(reason);
        }
    }

    fn pump_past(&mut self, now: Time) {
        if let Past::Recovering(recovery) = &mut self.past {
            recovery.pump(now);
            while let Some(output) = recovery.poll_output() {
                self.out.push_back(output);
            }
            match recovery.outcome() {
                None => {}
                Some(Outcome::Preempted { by }) => {
                    let by = *by;
                    return self.preempt(now, by);
                }
                Some(Outcome::Done { ends }) => {
                    let (ends, snapshots) = (ends.clone(), recovery.snapshots());
                    self.finish_recovery(ends, &snapshots);
                }
            }
        }
        if let Past::ReadingProducers(load) = &mut self.past {
            let table = load.pump(now);
            while let Some(output) = load.poll_output() {
                self.out.push_back(output);
            }
            if let Some(mut table) = table {
                // What lies beyond an end that was decided without it is lost: its retry is stored anew, not answered.
                table.retain(|lsn| {
                    let end = self.decided.binary_search_by_key(&lsn.epoch(), |end| end.epoch);
                    end.map_or(true, |at| lsn.esn() <= self.decided[at].last_esn)
                });
                self.producers = if bug(Bug::DedupWindowNotRebuilt) { ProducerTable::default() } else { table };
                let delay = self.settings.snapshot_delay;
                let share = if delay.is_zero() { 0.0 } else { self.rng.f64() };
                self.snapshots.handle_loaded(self.producers.is_empty(), now + delay.mul_f64(1.0 + share));
                self.past = Past::Ready;
                self.out.push_back(Output::Event(Event::Recovered { epoch: self.epoch }));
            }
        }
    }

    /// Every earlier epoch is decided: this one's base is known.
    fn finish_recovery(&mut self, ends: Vec<EpochEnd>, snapshots: &BTreeMap<ShardRef, (LostBefore, Option<Lsn>)>) {
        for end in &ends {
            let EpochEnd { epoch, last_esn, authoritative } = *end;
            let at =
                self.table.epochs.iter().position(|e| e.epoch == epoch).expect("an epoch of the table was recovered");
            self.table.epochs[at].end = Some(End { last_esn, authoritative });
            let mut next_base = self.table.epochs[at].end_offset();
            if bug(Bug::BaseOffByOne) {
                next_base = next_base.map(|base| LogOffset(base.0 + 1));
            }
            self.table.epochs[at + 1].base_offset = next_base;
        }
        self.decided.extend(ends);
        self.decided.sort_unstable_by_key(|end| end.epoch);
        self.decided.drain(..self.decided.len().saturating_sub(ENDS_KEPT_MAX));
        let mut older: Vec<EpochEntry> = self.table.epochs.iter().filter(|e| e.epoch < self.epoch).cloned().collect();
        if bug(Bug::DedupPreviousEpochOnly) {
            older.retain(|e| e.epoch.next() == self.epoch);
        }
        let connected = |shard: ShardId| self.connected.contains(&shard);
        let (epoch, covered) = (self.epoch, self.table.covered);
        let load =
            ProducerLoad::new(self.partition, epoch, (older, covered), snapshots, self.settings.clone(), connected);
        self.past = Past::ReadingProducers(Box::new(load));
    }

    fn drain_appender(&mut self, now: Time) {
        while let Some(output) = self.appender.poll_output() {
            match output {
                AppenderOutput::Store { member, placement, block } => {
                    self.store(member, &placement, block, self.appender.durability() == Durability::Sync);
                }
                AppenderOutput::Amend { member, first_esn, placement } => self.amend(member, first_esn, &placement),
                AppenderOutput::Done(waiter) => self.done(now, waiter),
                AppenderOutput::OpenMissing { member, from } => {
                    let (partition, epoch, shard) = (self.partition, self.epoch, self.appender.shard_ref(member));
                    self.out.push_back(Output::Propose(Proposal::OpenMissing { partition, epoch, shard, from }));
                }
                AppenderOutput::CloseMissing { member, to } => {
                    let (partition, epoch, shard) = (self.partition, self.epoch, self.appender.shard_ref(member));
                    self.out.push_back(Output::Propose(Proposal::CloseMissing { partition, epoch, shard, to }));
                }
                AppenderOutput::Preempted { by } => return self.preempt(now, by),
                AppenderOutput::Event(event) => self.out.push_back(Output::Event(event)),
            }
        }
    }

    fn store(&mut self, member: usize, placement: &Placement, block: Block, sync: bool) {
        let ShardRef { shard, incarnation } = self.appender.shard_ref(member);
        let placement = WirePlacement::from(placement);
        let store = Store { shard, incarnation, mode: StoreMode::Append, sync, placement };
        self.out.push_back(Output::Store { store, block });
    }

    fn amend(&mut self, member: usize, first_esn: Esn, placement: &Placement) {
        let ShardRef { shard, incarnation } = self.appender.shard_ref(member);
        let (partition, epoch, mode) = (self.partition, self.epoch, StoreMode::Append);
        let placement = WirePlacement::from(placement);
        self.out.push_back(Output::Amend(Amend { shard, incarnation, partition, epoch, first_esn, mode, placement }));
    }

    /// Another epoch has taken over: whatever is not acknowledged never will be by this sequencer.
    fn preempt(&mut self, now: Time, by: Epoch) {
        if self.preempted_by.is_some() {
            return;
        }
        self.preempted_by = Some(by);
        self.drain_acknowledged(now);
        for waiter in self.appender.give_up().into_iter().chain(std::mem::take(&mut self.unleased)) {
            self.refuse(waiter.token, AppendError::Preempted { node: None, epoch: by });
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.refuse(waiting.request.token, AppendError::NotSequencer { node: None, epoch: by });
        }
        self.waiting_bytes = 0;
        self.out.push_back(Output::Event(Event::Preempted { epoch: self.epoch, by }));
    }

    /// Answers that were due before the preemption are still true.
    fn drain_acknowledged(&mut self, now: Time) {
        while let Some(output) = self.appender.poll_output() {
            if let AppenderOutput::Done(waiter) = output {
                self.done(now, waiter);
            }
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Self::pump`] wants to be called, even if nothing arrives.
    pub fn next_timeout(&self) -> Option<Time> {
        if self.preempted_by.is_some() {
            return None;
        }
        let past = match &self.past {
            Past::Recovering(recovery) => recovery.next_timeout(),
            Past::ReadingProducers(load) => load.next_timeout(),
            Past::Ready => None,
        };
        let snapshot = self.snapshots.next_timeout();
        let waiting = self.waiting.front().map(|w| w.until);
        [self.appender.next_timeout(), past, snapshot, waiting].into_iter().flatten().min()
    }

    /// Asks for a new epoch with another nodeset if too few shards of this one have taken writes for `patience`. Says whether it
    /// did.
    pub fn ask_new_nodeset_if_stalled(&mut self, now: Time, patience: Duration) -> bool {
        let stalled = self.appender.stalled_since().is_some_and(|since| now.since(since) >= patience);
        let asks = stalled && self.succession != Succession::Asked && self.preempted_by.is_none();
        if asks {
            self.ask_new_epoch(NewEpochReason::NoShards);
        }
        asks
    }

    /// The members of the nodeset that blocks are stored on now, as far as is known: connected, and neither slow nor refusing.
    pub fn usable_members(&self, now: Time) -> Vec<ShardRef> {
        self.appender.usable(now).iter().map(|member| self.appender.shard_ref(member)).collect()
    }

    /// Where the partition ends now.
    pub fn tail(&self) -> Tail {
        let acked = Lsn::new(self.epoch, self.appender.acked());
        Tail { acked, released: self.released(), next_offset: self.table.offset_of(acked.next()) }
    }
}
