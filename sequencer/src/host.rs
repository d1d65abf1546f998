//! All sequencers of one core of a node: who is to be activated, which answer belongs to whom, who has to go on.
//!
//! The node tells the host which partitions it should sequence ([`Host::handle_assigned`]); the host asks the metadata tier for
//! epochs, in batches, and runs a [`PartitionSequencer`] for each it gets.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::Block;
use dlog_proto::producer::ProducerTable;
use dlog_proto::wire::{AppendError, EpochEnd, FetchedBlock, Flushed, ProducersRead, Sealed, StoreAnswer};
use dlog_proto::{Epoch, EpochTable, PartitionUid, ShardId, ShardRef, Time, TimestampMs};
use fastrand::Rng;

use crate::output::{Output, Token};
use crate::partition::{AppendRequest, PartitionSequencer};
use crate::settings::Settings;

/// Partitions that are activated by one request.
pub const ACTIVATIONS_AT_ONCE: usize = 1000;

/// An effect of the host.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub enum HostOutput {
    /// Activate these; each is answered through [`Host::handle_activated`].
    Activate(Vec<PartitionUid>),
    /// An effect of this partition's sequencer in this epoch.
    Partition { partition: PartitionUid, epoch: Epoch, output: Output },
}

#[derive(Debug)]
enum Slot {
    /// An epoch was asked for.
    Activating {
        waiting: Vec<AppendRequest>,
        waiting_bytes: usize,
        /// The newest epoch of another process that was heard of since: if it is the later one, the epoch that comes is of no use.
        superseded: Epoch,
    },
    Active(Box<PartitionSequencer>),
}

/// The sequencers of a core.
#[derive(Debug)]
pub struct Host {
    settings: Arc<Settings>,
    rng: Rng,
    slots: BTreeMap<PartitionUid, Slot>,
    /// Partitions that this node should sequence.
    assigned: BTreeSet<PartitionUid>,
    to_activate: BTreeSet<PartitionUid>,
    /// Partitions that got an input since they were pumped.
    dirty: BTreeSet<PartitionUid>,
    timers: BTreeSet<(Time, PartitionUid)>,
    timer_of: BTreeMap<PartitionUid, Time>,
    connected: BTreeSet<ShardId>,
    lease_until: Time,
    out: VecDeque<HostOutput>,
}

impl Host {
    pub fn new(settings: Arc<Settings>, seed: u64) -> Self {
        Self {
            settings,
            rng: Rng::with_seed(seed),
            slots: BTreeMap::new(),
            assigned: BTreeSet::new(),
            to_activate: BTreeSet::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            connected: BTreeSet::new(),
            lease_until: Time::ZERO,
            out: VecDeque::new(),
        }
    }

    /// The partition's sequencer, if it runs here.
    pub fn sequencer(&self, partition: PartitionUid) -> Option<&PartitionSequencer> {
        match self.slots.get(&partition)? {
            Slot::Active(sequencer) => Some(sequencer),
            Slot::Activating { .. } => None,
        }
    }

    pub fn sequencers(&self) -> impl Iterator<Item = &PartitionSequencer> {
        self.slots.values().filter_map(|slot| match slot {
            Slot::Active(sequencer) => Some(&**sequencer),
            Slot::Activating { .. } => None,
        })
    }

    /// Every shard that some sequencer talks to.
    pub fn shards(&self) -> BTreeSet<ShardId> {
        self.sequencers().flat_map(|s| s.shards().map(|shard| shard.shard)).collect()
    }

    /// Whether this node should sequence the partition. If it should and does not, an epoch is asked for.
    pub fn handle_assigned(&mut self, partition: PartitionUid, assigned: bool) {
        if !assigned {
            self.assigned.remove(&partition);
            // If it was not asked for yet, no answer will come.
            if self.to_activate.remove(&partition) {
                self.handle_not_activated(partition);
            }
            return;
        }
        self.assigned.insert(partition);
        if let Entry::Vacant(slot) = self.slots.entry(partition) {
            slot.insert(Slot::Activating { waiting: Vec::new(), waiting_bytes: 0, superseded: Epoch::ZERO });
            self.to_activate.insert(partition);
        }
    }

    /// Asks again for epochs of partitions that this node should sequence and does not: there was none to be had before.
    pub fn retry_assigned(&mut self) {
        let missing: Vec<_> = self.assigned.iter().filter(|p| !self.slots.contains_key(p)).copied().collect();
        missing.into_iter().for_each(|partition| self.handle_assigned(partition, true));
    }

    /// Asks for new nodesets where too few shards of the current one have taken writes for `patience`.
    pub fn renew_stalled(&mut self, now: Time, patience: Duration) {
        for (partition, slot) in &mut self.slots {
            if let Slot::Active(sequencer) = slot
                && sequencer.ask_new_nodeset_if_stalled(now, patience)
            {
                self.dirty.insert(*partition);
            }
        }
    }

    /// Gives way to a new epoch, on this node, with the nodeset and replication that the log has by then: what is on its way is
    /// acknowledged first, what comes meanwhile waits, so that nobody sees an error.
    pub fn handle_renew(&mut self, partition: PartitionUid) {
        self.with(partition, PartitionSequencer::begin_planned_succession);
    }

    /// The metadata tier has said that it knows of no process in this one's place, and that it will not before `until`; whoever takes
    /// over later than that must have waited. See [`Settings::lease`].
    pub fn handle_lease(&mut self, until: Time) {
        self.lease_until = self.lease_until.max(until);
        for (partition, slot) in &mut self.slots {
            if let Slot::Active(sequencer) = slot
                && sequencer.handle_lease(self.lease_until)
            {
                self.dirty.insert(*partition);
            }
        }
    }

    /// The metadata tier has given this process a new epoch of the partition, or has not.
    pub fn handle_activated(
        &mut self,
        now: Time,
        now_ms: TimestampMs,
        partition: PartitionUid,
        table: Option<EpochTable>,
    ) {
        if let Some(Slot::Activating { superseded, .. }) = self.slots.get(&partition)
            && table.as_ref().and_then(EpochTable::newest).map_or(Epoch::ZERO, |given| given.epoch) < *superseded
        {
            self.handle_not_activated(partition);
            let is_assigned_again = self.assigned.contains(&partition);
            return self.handle_assigned(partition, is_assigned_again);
        }
        let Some(table) = table else { return self.handle_not_activated(partition) };
        let seed = self.rng.u64(..);
        let connected = |shard: ShardId| self.connected.contains(&shard);
        let mut sequencer = PartitionSequencer::new(table, self.settings.clone(), seed, now, connected);
        sequencer.handle_lease(self.lease_until);
        let waiting = match self.slots.remove(&partition) {
            Some(Slot::Activating { waiting, .. }) => waiting,
            Some(Slot::Active(mut old)) if old.epoch() < sequencer.epoch() => {
                let waiting = old.take_waiting_appends();
                old.handle_superseded(now, sequencer.epoch());
                drain(&mut old, &mut self.out);
                waiting
            }
            // An answer from the past.
            Some(newer @ Slot::Active(_)) => {
                self.slots.insert(partition, newer);
                return;
            }
            None => Vec::new(),
        };
        waiting.into_iter().for_each(|request| sequencer.handle_append(now, now_ms, request));
        self.slots.insert(partition, Slot::Active(Box::new(sequencer)));
        self.dirty.insert(partition);
    }

    fn handle_not_activated(&mut self, partition: PartitionUid) {
        match self.slots.get_mut(&partition) {
            Some(Slot::Activating { waiting, .. }) => {
                let waiting = std::mem::take(waiting);
                self.slots.remove(&partition);
                waiting.into_iter().for_each(|request| self.refuse(partition, request.token));
            }
            Some(Slot::Active(sequencer)) => {
                sequencer.handle_new_epoch_refused();
                self.dirty.insert(partition);
            }
            None => {}
        }
    }

    fn refuse(&mut self, partition: PartitionUid, token: Token) {
        let outcome = Err(AppendError::NotSequencer { node: None, epoch: Epoch::ZERO });
        let output = Output::Reply { token, outcome };
        self.out.push_back(HostOutput::Partition { partition, epoch: Epoch::ZERO, output });
    }

    /// A later epoch than any of this node's is known to exist. If the partition is still to be sequenced here, the node says so again.
    pub fn handle_superseded(&mut self, now: Time, partition: PartitionUid, by: Epoch) {
        match self.slots.get_mut(&partition) {
            Some(Slot::Active(sequencer)) => {
                sequencer.handle_superseded(now, by);
                drain(sequencer, &mut self.out);
                // Not with the next pump: before that, the node may have said so.
                self.remove_if_preempted(partition);
            }
            Some(Slot::Activating { superseded, .. }) if *superseded < by => {
                *superseded = by;
                self.assigned.remove(&partition);
            }
            _ => {}
        }
    }

    /// The metadata tier has refused a decision of an epoch of this node, because `by` exists. It may have come late: if another epoch is
    /// asked for already, whether the partition is to be sequenced here is not for this to say.
    pub fn handle_decision_refused(&mut self, now: Time, partition: PartitionUid, by: Epoch) {
        match self.slots.get_mut(&partition) {
            Some(Slot::Activating { superseded, .. }) => *superseded = by.max(*superseded),
            _ => self.handle_superseded(now, partition, by),
        }
    }

    pub fn handle_append(&mut self, now: Time, now_ms: TimestampMs, partition: PartitionUid, request: AppendRequest) {
        match self.slots.get_mut(&partition) {
            Some(Slot::Active(sequencer)) => {
                sequencer.handle_append(now, now_ms, request);
                self.dirty.insert(partition);
            }
            Some(Slot::Activating { waiting, waiting_bytes, .. }) if self.assigned.contains(&partition) => {
                *waiting_bytes += request.batch.len();
                if *waiting_bytes <= self.settings.recovery_wait_bytes_max {
                    return waiting.push(request);
                }
                *waiting_bytes -= request.batch.len();
                let outcome = Err(AppendError::Overloaded { retry_after_ms: 20 });
                let output = Output::Reply { token: request.token, outcome };
                self.out.push_back(HostOutput::Partition { partition, epoch: Epoch::ZERO, output });
            }
            // If an epoch is asked for all the same, it may be of no use.
            Some(Slot::Activating { .. }) | None => self.refuse(partition, request.token),
        }
    }

    /// Whether a shard can be reached.
    pub fn handle_link(&mut self, now: Time, shard: ShardId, up: bool) {
        let changed = if up { self.connected.insert(shard) } else { self.connected.remove(&shard) };
        if !changed {
            return;
        }
        for (partition, slot) in &mut self.slots {
            if let Slot::Active(sequencer) = slot
                && sequencer.shards().any(|s| s.shard == shard)
            {
                sequencer.handle_link(now, shard, up);
                self.dirty.insert(*partition);
            }
        }
    }

    pub fn handle_stored(&mut self, now: Time, answer: &StoreAnswer) {
        self.with(answer.partition, |sequencer| sequencer.handle_stored(now, answer));
    }

    pub fn handle_flushed(&mut self, now: Time, flushed: &Flushed) {
        let partitions: BTreeSet<PartitionUid> = flushed.upto.iter().map(|upto| upto.partition).collect();
        for partition in partitions {
            self.with(partition, |sequencer| sequencer.handle_flushed(now, flushed));
        }
    }

    pub fn handle_sealed(&mut self, sealed: Sealed) {
        let from = ShardRef { shard: sealed.shard, incarnation: sealed.incarnation };
        for answer in sealed.partitions {
            self.with(answer.partition, |s| s.handle_sealed(from, sealed.lost, answer));
        }
    }

    pub fn handle_fetched(&mut self, now: Time, answer: &FetchedBlock, block: Option<Block>) {
        self.with(answer.partition, |sequencer| sequencer.handle_fetched(now, answer, block));
    }

    pub fn handle_producers(&mut self, answer: &ProducersRead, table: Option<&ProducerTable>) {
        self.with(answer.partition, |sequencer| sequencer.handle_producers(answer, table));
    }

    /// The metadata tier has decided an epoch.
    pub fn handle_decided(&mut self, partition: PartitionUid, end: EpochEnd) {
        self.with(partition, |sequencer| sequencer.handle_decided(end));
    }

    /// A missing copy is on record.
    pub fn handle_missing_recorded(&mut self, now: Time, partition: PartitionUid, epoch: Epoch, shard: ShardRef) {
        self.with(partition, |sequencer| {
            if sequencer.epoch() == epoch {
                sequencer.handle_missing_recorded(now, shard);
            }
        });
    }

    /// It is on record that what is before this epoch is covered.
    pub fn handle_covered(&mut self, partition: PartitionUid, epoch: Epoch) {
        self.with(partition, |sequencer| {
            if sequencer.epoch() == epoch {
                sequencer.handle_covered();
            }
        });
    }

    fn with(&mut self, partition: PartitionUid, act: impl FnOnce(&mut PartitionSequencer)) {
        if let Some(Slot::Active(sequencer)) = self.slots.get_mut(&partition) {
            act(sequencer);
            self.dirty.insert(partition);
        }
    }

    /// Lets everybody go on who got an input or whose time has come; then drain [`Self::poll_output`].
    pub fn pump(&mut self, now: Time, now_ms: TimestampMs) {
        while let Some((at, partition)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, partition));
            self.timer_of.remove(&partition);
            self.dirty.insert(partition);
        }
        for partition in std::mem::take(&mut self.dirty) {
            self.pump_partition(now, now_ms, partition);
        }
        while !self.to_activate.is_empty() {
            let rest = self.to_activate.iter().nth(ACTIVATIONS_AT_ONCE).copied();
            let rest = rest.map(|first| self.to_activate.split_off(&first)).unwrap_or_default();
            let batch = std::mem::replace(&mut self.to_activate, rest);
            self.out.push_back(HostOutput::Activate(batch.into_iter().collect()));
        }
    }

    fn pump_partition(&mut self, now: Time, now_ms: TimestampMs, partition: PartitionUid) {
        let Some(Slot::Active(sequencer)) = self.slots.get_mut(&partition) else { return };
        sequencer.pump(now, now_ms);
        drain(sequencer, &mut self.out);
        let timeout = sequencer.next_timeout();
        self.set_timer(partition, timeout);
        self.remove_if_preempted(partition);
    }

    /// If the partition is still to be sequenced here, the node says so again.
    ///
    /// If the sequencer had asked for the next epoch, the answer is on its way, and may name one that is over by then: what is known of
    /// later ones outlives the sequencer, or an old reign would begin behind a new one's back.
    fn remove_if_preempted(&mut self, partition: PartitionUid) {
        let Some(Slot::Active(sequencer)) = self.slots.get(&partition) else { return };
        let Some(superseded) = sequencer.preempted_by() else { return };
        if sequencer.has_asked_new_epoch() {
            let slot = Slot::Activating { waiting: Vec::new(), waiting_bytes: 0, superseded };
            self.slots.insert(partition, slot);
        } else {
            self.slots.remove(&partition);
        }
        self.assigned.remove(&partition);
        self.dirty.remove(&partition);
        self.set_timer(partition, None);
    }

    fn set_timer(&mut self, partition: PartitionUid, at: Option<Time>) {
        if let Some(old) = self.timer_of.remove(&partition) {
            self.timers.remove(&(old, partition));
        }
        if let Some(at) = at {
            self.timers.insert((at, partition));
            self.timer_of.insert(partition, at);
        }
    }

    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn poll_output(&mut self) -> Option<HostOutput> {
        self.out.pop_front()
    }
}

fn drain(sequencer: &mut PartitionSequencer, out: &mut VecDeque<HostOutput>) {
    let (partition, epoch) = (sequencer.partition(), sequencer.epoch());
    while let Some(output) = sequencer.poll_output() {
        out.push_back(HostOutput::Partition { partition, epoch, output });
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::QuorumConfig;

    use super::*;
    use crate::testing::table;

    const P: PartitionUid = PartitionUid(1);

    /// Partitions for which epochs are asked after a round of inputs.
    fn asked(host: &mut Host) -> Vec<PartitionUid> {
        host.pump(Time::ZERO, 0);
        let outputs = std::iter::from_fn(|| host.poll_output());
        let asked = outputs.filter_map(|output| match output {
            HostOutput::Activate(partitions) => Some(partitions),
            HostOutput::Partition { .. } => None,
        });
        asked.flatten().collect()
    }

    fn host() -> Host {
        Host::new(Arc::new(Settings::default()), 1)
    }

    /// Whether an append waits here, rather than being refused.
    fn waits(host: &mut Host) -> bool {
        let batch = bytes::Bytes::from_static(b"not looked at");
        let request = AppendRequest {
            token: Token(1),
            acks: dlog_proto::wire::Acks::Quorum,
            with_offset: false,
            append_time: false,
            batch,
        };
        host.handle_append(Time::ZERO, 0, P, request);
        host.poll_output().is_none()
    }

    fn give(host: &mut Host, newest: u32, ends: &[u32]) {
        host.handle_activated(Time::ZERO, 0, P, Some(table(QuorumConfig::majority(3), newest, ends)));
    }

    #[test]
    fn assigned_twice_in_a_round() {
        let mut host = host();
        for assigned in [true, false, true] {
            host.handle_assigned(P, assigned);
        }
        assert_eq!(
            asked(&mut host),
            [P],
            "what was taken back before it was asked for is asked for when it comes again"
        );
        host.handle_assigned(P, false);
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [], "the answer is on its way");
    }

    #[test]
    fn superseded_and_assigned_again_in_a_round() {
        let mut host = host();
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [P]);
        give(&mut host, 1, &[]);
        assert_eq!(asked(&mut host), []);
        host.handle_superseded(Time::ZERO, P, Epoch(2));
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [P]);
        give(&mut host, 3, &[0, 0]);
        assert!(host.sequencer(P).is_some_and(|sequencer| sequencer.epoch() == Epoch(3)));
        host.handle_superseded(Time::ZERO, P, Epoch(2));
        assert!(host.sequencer(P).is_some(), "that is known");
    }

    #[test]
    fn superseded_while_an_epoch_is_asked_for() {
        let mut host = host();
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [P]);
        host.handle_superseded(Time::ZERO, P, Epoch(3));
        host.handle_assigned(P, true);
        give(&mut host, 2, &[0]);
        assert!(host.sequencer(P).is_none(), "that epoch is over already");
        assert_eq!(asked(&mut host), [P], "so another one is asked for");

        host.handle_superseded(Time::ZERO, P, Epoch(5));
        give(&mut host, 4, &[0, 0, 0]);
        assert_eq!((asked(&mut host), host.sequencer(P).is_none()), (Vec::new(), true), "it is another node's now");
    }

    #[test]
    fn a_decision_is_refused_while_an_epoch_is_asked_for() {
        let mut host = host();
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [P]);
        host.handle_decision_refused(Time::ZERO, P, Epoch(3));
        host.handle_activated(Time::ZERO, 0, P, None);
        host.retry_assigned();
        assert_eq!(asked(&mut host), [P], "nobody has said that it is another node's");
        give(&mut host, 2, &[0]);
        assert_eq!((asked(&mut host), host.sequencer(P).is_none()), (Vec::new(), false));
    }

    #[test]
    fn an_old_reign_does_not_begin_behind_a_new_ones_back() {
        let mut host = host();
        host.handle_assigned(P, true);
        assert_eq!(asked(&mut host), [P]);
        give(&mut host, 1, &[]);
        // It asks for epoch 2, and is given it; but that another process has epoch 3 is heard of first.
        host.handle_renew(P);
        assert_eq!(asked(&mut host), []);
        host.handle_superseded(Time::ZERO, P, Epoch(3));
        assert_eq!((asked(&mut host), waits(&mut host)), (Vec::new(), false), "others are asked, not this one");
        give(&mut host, 2, &[0]);
        assert!(host.sequencer(P).is_none(), "with a lease it would acknowledge what epoch 3 never sees");

        for (answer, sequences) in [(None, false), (Some(4), true)] {
            let mut host = self::host();
            host.handle_assigned(P, true);
            asked(&mut host);
            give(&mut host, 1, &[]);
            host.handle_renew(P);
            asked(&mut host);
            host.handle_superseded(Time::ZERO, P, Epoch(3));
            host.handle_assigned(P, true);
            assert_eq!((asked(&mut host), waits(&mut host)), (Vec::new(), true), "the answer is on its way");
            let table = answer.map(|newest| table(QuorumConfig::majority(3), newest, &[0, 0, 0]));
            host.handle_activated(Time::ZERO, 0, P, table);
            assert_eq!(host.sequencer(P).is_some(), sequences, "{answer:?}");
            assert_eq!(asked(&mut host).is_empty(), sequences, "if none comes of it, it is asked again at once");
        }
    }
}
