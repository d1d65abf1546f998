//! Reading the producer window back: the newest snapshot, and the batches of every decided epoch after it (trap C11).
//!
//! Starts once every earlier epoch is decided. For each of them an f-majority of shards must say which batches they hold: an
//! acknowledged batch is on a write quorum, so each is told of by somebody. Logs that prefer availability are content with fewer, who
//! may lack what is decided: there, everybody who can be reached gets a moment to answer too.
//!
//! The newest snapshot that was told of may be on one disk only, and lost. Then the newest that can be had is taken: one on a write quorum
//! covers everything that is trimmed (INV-PRODUCERS-KEPT).

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
    /// How often it said that it does not have the snapshot, which it says too if it cannot read it.
    misses: u32,
    /// Its disk was replaced.
    is_replaced: bool,
    /// How often it said that it cannot tell: its disk was replaced, or cannot be read.
    refusals: u32,
}

/// After how many refusals a shard is taken to have lost what it had.
const REFUSALS_MAX: u32 = 3;

impl ShardState {
    fn is_without_snapshot(&self) -> bool {
        self.is_replaced || self.misses >= REFUSALS_MAX
    }
}

/// Reads the producer window back.
#[derive(Debug)]
pub(crate) struct ProducerLoad {
    partition: PartitionUid,
    settings: Arc<Settings>,
    /// Decided epochs that may hold batches after the snapshot, ascending.
    epochs: Vec<EpochEntry>,
    shards: BTreeMap<ShardRef, ShardState>,
    snapshot: Snapshot,
    /// The newest that was found while a newer one was looked for.
    older: Option<(Lsn, ProducerTable)>,
    /// Of the sequencer that asks.
    epoch: Epoch,
    table: ProducerTable,
    /// When shards were asked first.
    asked_since: Option<Time>,
    out: VecDeque<Output>,
}

/// How much is known of an epoch's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    TooLittle,
    /// Enough for a log that prefers availability.
    Weakly,
    Enough,
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
        Self { partition, epoch, settings, epochs, shards, snapshot, older: None, table, asked_since: None, out }
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
        let told = self.epochs_after(position).map(|entry| self.told(entry)).min().unwrap_or(Told::Enough);
        let enough = match told {
            Told::TooLittle => false,
            Told::Weakly => self.nobody_may_answer(now),
            Told::Enough => true,
        };
        if enough {
            return Some(std::mem::take(&mut self.table));
        }
        self.ask_producers(now, position);
        None
    }

    fn epochs_after(&self, position: Lsn) -> impl Iterator<Item = &EpochEntry> {
        let has_more = move |e: &&EpochEntry| e.end.is_some_and(|end| Lsn::new(e.epoch, end.last_esn) >= position);
        self.epochs.iter().filter(has_more)
    }

    /// Whether all who can be reached have answered, or have had their time.
    fn nobody_may_answer(&self, now: Time) -> bool {
        let waiting = |s: &ShardState| s.connected && s.answered.is_none() && s.refusals < REFUSALS_MAX;
        let is_over = self.asked_since.is_some_and(|since| since + self.settings.recovery_retry <= now);
        is_over || !self.shards.values().any(waiting)
    }

    /// What the answers leave of this epoch unknown.
    fn told(&self, entry: &EpochEntry) -> Told {
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
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        match quorum.answers(answered, statuses) {
            Authority::None => Told::TooLittle,
            Authority::Incomplete if !quorum.is_strictly_authoritative(answered, statuses) => Told::Weakly,
            Authority::Incomplete | Authority::Complete | Authority::NonAuthoritative => Told::Enough,
        }
    }

    fn ask_snapshot(&mut self, now: Time, position: Lsn, asked: Option<(ShardRef, Time)>) {
        if asked.is_some_and(|(_, at)| at + self.settings.recovery_retry > now) {
            return;
        }
        let may_have = |(_, state): &(&ShardRef, &ShardState)| state.connected && !state.is_without_snapshot();
        let after = asked.map(|(shard, _)| shard);
        // The next in order after whoever was asked last, so that one silent shard does not hold it up.
        let next = self.shards.iter().filter(may_have).find(|(shard, _)| after.is_none_or(|last| **shard > last));
        let Some((&to, _)) = next.or_else(|| self.shards.iter().find(may_have)) else {
            // If nobody has it any more, an older one and what is in the epochs must do; otherwise whoever may have it is waited for.
            if self.shards.values().all(ShardState::is_without_snapshot) {
                let (position, table) = self.older.take().unwrap_or_default();
                (self.snapshot, self.table) = (Snapshot::Known { position }, table);
            } else {
                self.snapshot = Snapshot::Wanted { position, asked: None };
            }
            return;
        };
        self.snapshot = Snapshot::Wanted { position, asked: Some((to, now)) };
        let ShardRef { shard, incarnation } = to;
        let (partition, target) = (self.partition, FetchTarget::ProducerSnapshot);
        self.out.push_back(Output::Fetch(FetchBlock { shard, incarnation, partition, target }));
    }

    fn ask_producers(&mut self, now: Time, after: Lsn) {
        self.asked_since.get_or_insert(now);
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
        self.shards.iter_mut().filter(|(s, _)| replaced(s)).for_each(|(_, state)| state.is_replaced = true);
        if asked.is_none_or(|(to, _)| to != from) {
            *asked = asked.filter(|(to, _)| !replaced(to));
            return;
        }
        *asked = None;
        let found = block.filter(|b| b.header().kind == BlockKind::ProducerSnapshot);
        let table = found.as_ref().and_then(|b| ProducerTable::decode(&b.body()).ok());
        match (found, table) {
            (Some(block), Some(table)) if block.header().first_lsn() >= *position => {
                self.snapshot = Snapshot::Known { position: block.header().first_lsn() };
                self.table = table;
            }
            (found, table) => {
                if let Some(state) = self.shards.get_mut(&from) {
                    state.misses += 1;
                }
                let found = found.map(|block| block.header().first_lsn()).zip(table);
                let newest = self.older.as_ref().map_or(Lsn::ZERO, |(at, _)| *at);
                if let Some(older) = found.filter(|(at, _)| *at > newest) {
                    self.older = Some(older);
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
