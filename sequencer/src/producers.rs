//! Reading the producer window back: the newest snapshot, and the batches of every decided epoch after it (trap C11).
//!
//! Starts once every earlier epoch is decided. For each of them an f-majority of shards must say which batches they hold: an
//! acknowledged batch is on a write quorum, so each is told of by somebody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dlog_proto::block::{Block, BlockKind};
use dlog_proto::producer::ProducerTable;
use dlog_proto::wire::{EpochEnd, FetchBlock, FetchTarget, ProducersRead, ReadProducers};
use dlog_proto::{
    Authority, Durability, Epoch, EpochEntry, Lsn, MemberSet, PartitionUid, Quorum, ShardId, ShardRef, Statuses, Time,
};

use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, Default)]
struct ShardState {
    connected: bool,
    asked_at: Option<Time>,
    /// What the shard has said: `incomplete_before`.
    answered: Option<u64>,
    /// It does not have the snapshot, or its disk was replaced.
    without_snapshot: bool,
    /// How often it said that it cannot tell: its disk was replaced, or cannot be read.
    refusals: u32,
}

/// After how many refusals a shard is taken to have lost what it had.
const REFUSALS_MAX: u32 = 3;

/// Reads the producer window back.
#[derive(Debug)]
pub(crate) struct ProducerLoad {
    partition: PartitionUid,
    settings: Arc<Settings>,
    /// Decided epochs that may hold batches after the snapshot, ascending.
    epochs: Vec<EpochEntry>,
    shards: BTreeMap<ShardRef, ShardState>,
    snapshot: Snapshot,
    /// Of the sequencer that asks.
    epoch: Epoch,
    table: ProducerTable,
    out: VecDeque<Output>,
}

#[derive(Debug)]
enum Snapshot {
    /// Wanted from whoever has it; who was asked, and when.
    Wanted { position: Lsn, asked: Option<(ShardRef, Time)> },
    /// Everything below this position is in the table.
    Known { position: Lsn },
}

impl ProducerLoad {
    /// `epochs`: all decided epochs of the partition, ascending; `snapshot`: the newest that any shard told of.
    pub(crate) fn new(
        partition: PartitionUid,
        epoch: Epoch,
        epochs: Vec<EpochEntry>,
        snapshot: Option<Lsn>,
        settings: Arc<Settings>,
        connected: impl Fn(ShardId) -> bool,
    ) -> Self {
        let mut shards = BTreeMap::new();
        for entry in &epochs {
            for member in entry.nodeset.members() {
                let state = ShardState { connected: connected(member.shard), ..ShardState::default() };
                shards.insert(member.shard_ref(), state);
            }
        }
        let snapshot = match snapshot {
            Some(position) => Snapshot::Wanted { position, asked: None },
            None => Snapshot::Known { position: Lsn::ZERO },
        };
        let (table, out) = (ProducerTable::default(), VecDeque::new());
        Self { partition, epoch, settings, epochs, shards, snapshot, table, out }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let asked = match &self.snapshot {
            Snapshot::Wanted { asked, .. } => asked.map(|(_, at)| at),
            Snapshot::Known { .. } => {
                let waiting = |s: &ShardState| s.asked_at.filter(|_| s.connected && s.answered.is_none());
                self.shards.values().filter_map(waiting).min()
            }
        };
        asked.map(|at| at + self.settings.recovery_retry)
    }

    /// Asks whoever has to be asked. The table, once enough have answered.
    pub(crate) fn pump(&mut self, now: Time) -> Option<ProducerTable> {
        if let Snapshot::Wanted { position, asked } = self.snapshot {
            self.ask_snapshot(now, position, asked);
        }
        let Snapshot::Known { position } = self.snapshot else { return None };
        if self.epochs_after(position).all(|entry| self.is_read(entry)) {
            return Some(std::mem::take(&mut self.table));
        }
        self.ask_producers(now, position);
        None
    }

    fn epochs_after(&self, position: Lsn) -> impl Iterator<Item = &EpochEntry> {
        let has_more = move |e: &&EpochEntry| e.end.is_some_and(|end| Lsn::new(e.epoch, end.last_esn) >= position);
        self.epochs.iter().filter(has_more)
    }

    /// Whether the answers leave nothing of this epoch unknown.
    fn is_read(&self, entry: &EpochEntry) -> bool {
        let (mut answered, mut statuses) = (MemberSet::EMPTY, Statuses::default());
        for (i, member) in entry.nodeset.members().iter().enumerate() {
            let state = &self.shards[&member.shard_ref()];
            if state.refusals >= REFUSALS_MAX {
                statuses.under_replicated.insert(i);
            }
            let Some(incomplete_before) = state.answered else { continue };
            answered.insert(i);
            if entry.replication.durability == Durability::WriteCache && entry.activated_at < incomplete_before {
                statuses.under_replicated.insert(i);
            }
        }
        Quorum::new(&entry.nodeset, &entry.replication).answers(answered, statuses) != Authority::None
    }

    fn ask_snapshot(&mut self, now: Time, position: Lsn, asked: Option<(ShardRef, Time)>) {
        if asked.is_some_and(|(_, at)| at + self.settings.recovery_retry > now) {
            return;
        }
        let may_have = |(_, state): &(&ShardRef, &ShardState)| state.connected && !state.without_snapshot;
        let after = asked.map(|(shard, _)| shard);
        // The next in order after whoever was asked last, so that one silent shard does not hold it up.
        let next = self.shards.iter().filter(may_have).find(|(shard, _)| after.is_none_or(|last| **shard > last));
        let Some((&to, _)) = next.or_else(|| self.shards.iter().find(may_have)) else {
            // If nobody has it any more, what is in the epochs themselves must do; otherwise whoever may have it is waited for.
            self.snapshot = match self.shards.values().all(|state| state.without_snapshot) {
                true => Snapshot::Known { position: Lsn::ZERO },
                false => Snapshot::Wanted { position, asked: None },
            };
            return;
        };
        self.snapshot = Snapshot::Wanted { position, asked: Some((to, now)) };
        let ShardRef { shard, incarnation } = to;
        let (partition, target) = (self.partition, FetchTarget::ProducerSnapshot);
        self.out.push_back(Output::Fetch(FetchBlock { shard, incarnation, partition, target }));
    }

    fn ask_producers(&mut self, now: Time, after: Lsn) {
        let ends: Vec<EpochEnd> = self.epochs_after(after).filter_map(EpochEntry::epoch_end).collect();
        for (to, state) in &mut self.shards {
            let due = state.asked_at.is_none_or(|at| at + self.settings.recovery_retry <= now);
            if !state.connected || state.answered.is_some() || !due {
                continue;
            }
            state.asked_at = Some(now);
            let ShardRef { shard, incarnation } = *to;
            let (partition, epoch, ends) = (self.partition, self.epoch, ends.clone());
            self.out.push_back(Output::ReadProducers(ReadProducers {
                shard,
                incarnation,
                partition,
                epoch,
                after,
                ends,
            }));
        }
    }

    pub(crate) fn handle_connected(&mut self, shard: ShardId, connected: bool) {
        for (_, state) in self.shards.iter_mut().filter(|(s, _)| s.shard == shard) {
            state.connected = connected;
            state.asked_at = None;
        }
        if let Snapshot::Wanted { asked, .. } = &mut self.snapshot
            && !connected
            && asked.is_some_and(|(to, _)| to.shard == shard)
        {
            *asked = None;
        }
    }

    /// The answer to a fetch of the snapshot.
    pub(crate) fn handle_fetched(&mut self, from: ShardRef, block: Option<Block>) {
        let Snapshot::Wanted { position, asked } = &mut self.snapshot else { return };
        let replaced = |known: &ShardRef| known.shard == from.shard && known.incarnation < from.incarnation;
        self.shards.iter_mut().filter(|(s, _)| replaced(s)).for_each(|(_, state)| state.without_snapshot = true);
        if asked.is_none_or(|(to, _)| to != from) {
            *asked = asked.filter(|(to, _)| !replaced(to));
            return;
        }
        *asked = None;
        let found = block.filter(|b| b.header().kind == BlockKind::ProducerSnapshot);
        let table = found.as_ref().and_then(|b| ProducerTable::decode(&b.body()).ok());
        match (found, table) {
            // An older one would do as well, with more to read; but this one was told of.
            (Some(block), Some(table)) if block.header().first_lsn() >= *position => {
                self.snapshot = Snapshot::Known { position: block.header().first_lsn() };
                self.table = table;
            }
            _ => {
                if let Some(state) = self.shards.get_mut(&from) {
                    state.without_snapshot = true;
                }
            }
        }
    }

    pub(crate) fn handle_producers(&mut self, answer: &ProducersRead, table: Option<&ProducerTable>) {
        let from = ShardRef { shard: answer.shard, incarnation: answer.incarnation };
        let Some(state) = self.shards.get_mut(&from).filter(|_| answer.epoch == self.epoch) else { return };
        if let (true, Some(table)) = (answer.ok, table) {
            state.answered = Some(answer.incomplete_before);
            self.table.merge(table);
        } else {
            state.refusals += 1;
        }
    }
}
