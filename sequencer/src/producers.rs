//! Reading the producer window back: the newest snapshot, and the batches of every decided epoch after it (trap C11).
//!
//! Starts once every earlier epoch is decided.
//!
//! 1. *Finding.* On a write quorum of the covering epoch's nodeset lies a snapshot that covers everything that is trimmed
//!    (INV-PRODUCERS-KEPT). An f-majority of that nodeset meets it, so the newest that it tells of is that one or covers more. What
//!    other shards tell of, because they were sealed, is taken too: it saves reading. If all of an f-majority have none, there was
//!    nothing to tell. If too many are lost to make an f-majority, the newest that is left must do, with all batches that are.
//! 2. *Reading.* For each later epoch an f-majority must say which batches they hold: an acknowledged batch is on a write quorum, so
//!    each is told of by somebody. Logs that prefer availability are content with fewer, who may lack what is decided: there,
//!    everybody who can be reached gets a moment to answer too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dlog_proto::block::{Block, BlockKind};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::producer::ProducerTable;
use dlog_proto::wire::{EpochEnd, FetchBlock, FetchTarget, LostBefore, ProducersRead, ReadProducers};
use dlog_proto::{
    Authority, Epoch, EpochEntry, Esn, Lsn, MemberSet, PartitionUid, Quorum, ShardId, ShardRef, Statuses, Time,
};

use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, Default)]
struct ShardState {
    connected: bool,
    asked_at: Option<Time>,
    /// The snapshot that it has, once it has told.
    snapshot: Option<Option<Lsn>>,
    /// How often it could not send the snapshot that it has, and when it was asked last.
    misses: u32,
    missed_at: Option<Time>,
    /// It has told what producers wrote.
    has_read: bool,
    lost: LostBefore,
    /// How often it said that it cannot tell: its disk was replaced, or cannot be read.
    refusals: u32,
}

/// After how many refusals a shard is taken to have lost what it had.
const REFUSALS_MAX: u32 = 3;
/// How often a shard is asked for a snapshot that it has and cannot read, with a pause before each: a disk's passing error must not
/// become a loss.
const MISSES_MAX: u32 = 8;

impl ShardState {
    fn is_without(&self) -> bool {
        self.refusals >= REFUSALS_MAX
    }

    /// The snapshot that may be had of it.
    fn offered(&self) -> Option<Lsn> {
        self.snapshot.flatten().filter(|_| self.connected && self.misses < MISSES_MAX)
    }
}

/// Reads the producer window back.
#[derive(Debug)]
pub(crate) struct ProducerLoad {
    partition: PartitionUid,
    settings: Arc<Settings>,
    /// Decided epochs that may hold batches after the snapshot, ascending.
    epochs: Vec<EpochEntry>,
    /// See [`EpochTable::covered`](dlog_proto::EpochTable::covered).
    covered: Epoch,
    shards: BTreeMap<ShardRef, ShardState>,
    phase: Phase,
    /// Of the sequencer that asks.
    epoch: Epoch,
    table: ProducerTable,
    /// When shards were asked first what producers wrote.
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
enum Phase {
    /// Looks for the snapshot; who was asked to send one, and when.
    Finding { asked: Option<(ShardRef, Time)> },
    /// Everything below this position is in the table.
    Reading { after: Lsn },
}

impl ProducerLoad {
    /// `epochs`: all decided epochs of the partition that are in the epoch table, ascending, and which of them covers those before it;
    /// `snapshots`: what shards have told of already.
    pub(crate) fn new(
        partition: PartitionUid,
        epoch: Epoch,
        (epochs, covered): (Vec<EpochEntry>, Epoch),
        snapshots: &BTreeMap<ShardRef, (LostBefore, Option<Lsn>)>,
        settings: Arc<Settings>,
        connected: impl Fn(ShardId) -> bool,
    ) -> Self {
        let mut shards = BTreeMap::new();
        for member in epochs.iter().flat_map(|entry| entry.nodeset.members()) {
            let (lost, snapshot) = snapshots.get(&member.shard_ref()).copied().unzip();
            let (connected, lost) = (connected(member.shard), lost.unwrap_or_default());
            shards.insert(member.shard_ref(), ShardState { connected, lost, snapshot, ..ShardState::default() });
        }
        let (phase, table, out) = (Phase::Finding { asked: None }, ProducerTable::default(), VecDeque::new());
        Self { partition, epoch, settings, epochs, covered, shards, phase, table, asked_since: None, out }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let waits = |has_told: fn(&ShardState) -> bool| {
            let silent = self.shards.values().filter(|s| s.connected && !has_told(s));
            silent.filter_map(|s| s.asked_at).min()
        };
        let asked = match self.phase {
            Phase::Finding { asked: Some((_, at)) } => Some(at),
            Phase::Finding { asked: None } => match self.search_authority() {
                Authority::None => waits(|s| s.snapshot.is_some()),
                _ => self.best_offer().and_then(|shard| self.shards[&shard].missed_at),
            },
            Phase::Reading { .. } => waits(|s| s.has_read),
        };
        asked.map(|at| at + self.settings.recovery_retry)
    }

    /// Asks whoever has to be asked. The table, once enough have answered.
    pub(crate) fn pump(&mut self, now: Time) -> Option<ProducerTable> {
        if let Phase::Finding { asked } = self.phase {
            self.find(now, asked);
        }
        let Phase::Reading { after } = self.phase else { return None };
        let told = self.epochs_after(after).map(|entry| self.told(entry)).min().unwrap_or(Told::Enough);
        let is_enough = match told {
            Told::TooLittle => false,
            Told::Weakly => self.nobody_may_answer(now),
            Told::Enough => true,
        };
        if is_enough {
            return Some(std::mem::take(&mut self.table));
        }
        self.asked_since.get_or_insert(now);
        let ends: Vec<EpochEnd> = self.epochs_after(after).filter_map(EpochEntry::epoch_end).collect();
        self.ask(now, after, &ends, |state| !state.has_read);
        None
    }

    fn epochs_after(&self, position: Lsn) -> impl Iterator<Item = &EpochEntry> {
        let has_more = move |e: &&EpochEntry| {
            e.end.is_some_and(|end| end.last_esn > Esn::ZERO && Lsn::new(e.epoch, end.last_esn) >= position)
        };
        self.epochs.iter().filter(has_more)
    }

    /// Whether all who can be reached have answered, or have had their time.
    fn nobody_may_answer(&self, now: Time) -> bool {
        let waiting = |s: &ShardState| s.connected && !s.has_read && !s.is_without();
        let is_over = self.asked_since.is_some_and(|since| since + self.settings.recovery_retry <= now);
        is_over || !self.shards.values().any(waiting)
    }

    /// What the answers leave of this epoch unknown.
    fn told(&self, entry: &EpochEntry) -> Told {
        let (told, statuses) = self.answers(entry, |state| state.has_read);
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        match quorum.answers(told, statuses) {
            Authority::None => Told::TooLittle,
            Authority::Incomplete if !quorum.is_strictly_authoritative(told, statuses) => Told::Weakly,
            Authority::Incomplete | Authority::Complete | Authority::NonAuthoritative => Told::Enough,
        }
    }

    /// Which members have told, and what their silence is worth.
    fn answers(&self, entry: &EpochEntry, has_told: impl Fn(&ShardState) -> bool) -> (MemberSet, Statuses) {
        let (mut told, mut statuses) = (MemberSet::EMPTY, Statuses::default());
        for (i, member) in entry.nodeset.members().iter().enumerate() {
            let state = &self.shards[&member.shard_ref()];
            let may_lack = match self.phase {
                // Snapshots are synced, whatever the log says.
                Phase::Finding { .. } => state.lost.is_damaged_for(entry),
                Phase::Reading { .. } => state.lost.concerns(entry),
            };
            // What it does have counts: it is asked all the same.
            if state.is_without() || (may_lack && has_told(state)) {
                statuses.under_replicated.insert(i);
            }
            if has_told(state) {
                told.insert(i);
            }
        }
        (told, statuses)
    }

    /// Goes on looking for the snapshot.
    fn find(&mut self, now: Time, asked: Option<(ShardRef, Time)>) {
        if asked.is_some_and(|(_, at)| at + self.settings.recovery_retry > now) {
            return;
        }
        // Whoever was asked kept silent. Perhaps nobody is to be asked now: nothing is waited for that is over.
        self.phase = Phase::Finding { asked: None };
        let authority = self.search_authority();
        if authority == Authority::None {
            return self.ask(now, Lsn::MAX, &[], |state| state.snapshot.is_none());
        }
        let retry = self.settings.recovery_retry;
        match self.best_offer() {
            // All that have it could not read it a moment ago.
            Some(to) if self.shards[&to].missed_at.is_some_and(|at| at + retry > now) => {}
            Some(to) => {
                self.phase = Phase::Finding { asked: Some((to, now)) };
                let ShardRef { shard, incarnation } = to;
                let (partition, target) = (self.partition, FetchTarget::ProducerSnapshot);
                self.out.push_back(Output::Fetch(FetchBlock { shard, incarnation, partition, target }));
            }
            None => self.begin_reading(Lsn::ZERO),
        }
    }

    /// Who has the newest snapshot, and failed least to send it.
    fn best_offer(&self) -> Option<ShardRef> {
        let offers = self.shards.iter().filter_map(|(shard, s)| Some((s.offered()?, Reverse(s.misses), *shard)));
        offers.max().map(|(.., shard)| shard)
    }

    /// What is proved by the shards of the covering epoch that have told which snapshot they have, and can send it.
    fn search_authority(&self) -> Authority {
        let covering = self.epochs.iter().find(|entry| entry.epoch >= self.covered);
        let Some(covering) = covering.filter(|_| !bug(Bug::SnapshotOfSealedOnly)) else { return Authority::Complete };
        let (told, statuses) = self.answers(covering, |state| match state.snapshot {
            Some(Some(_)) => state.offered().is_some(),
            Some(None) => true,
            None => false,
        });
        Quorum::new(&covering.nodeset, &covering.replication).answers(told, statuses)
    }

    /// A snapshot at `position` is in the table, or none was found.
    fn begin_reading(&mut self, position: Lsn) {
        let is_certain = self.search_authority().is_authoritative();
        let covered = if is_certain { Lsn::new(self.covered, Esn::ZERO) } else { Lsn::ZERO };
        self.shards.values_mut().for_each(|state| state.asked_at = None);
        self.asked_since = None;
        self.phase = Phase::Reading { after: position.max(covered) };
    }

    fn ask(&mut self, now: Time, after: Lsn, ends: &[EpochEnd], is_asked: impl Fn(&ShardState) -> bool) {
        for (to, state) in &mut self.shards {
            let due = state.asked_at.is_none_or(|at| at + self.settings.recovery_retry <= now);
            if !state.connected || !due || !is_asked(state) {
                continue;
            }
            state.asked_at = Some(now);
            let ShardRef { shard, incarnation } = *to;
            let (partition, epoch, ends) = (self.partition, self.epoch, ends.to_vec());
            let read = ReadProducers { shard, incarnation, partition, epoch, after, ends };
            self.out.push_back(Output::ReadProducers(read));
        }
    }

    pub(crate) fn handle_connected(&mut self, shard: ShardId, connected: bool) {
        for (_, state) in self.shards.iter_mut().filter(|(s, _)| s.shard == shard) {
            state.connected = connected;
            state.asked_at = None;
        }
        if let Phase::Finding { asked } = &mut self.phase
            && !connected
            && asked.is_some_and(|(to, _)| to.shard == shard)
        {
            *asked = None;
        }
    }

    /// The answer to a fetch of the snapshot.
    pub(crate) fn handle_fetched(&mut self, from: ShardRef, block: Option<Block>) {
        let Phase::Finding { asked } = &mut self.phase else { return };
        let Some((_, asked_at)) = asked.take_if(|(to, _)| *to == from) else { return };
        let Some(state) = self.shards.get_mut(&from) else { return };
        let found = block.filter(|b| b.header().kind == BlockKind::ProducerSnapshot);
        let table = found.as_ref().and_then(|b| ProducerTable::decode(&b.body()).ok());
        match found.map(|block| block.header().first_lsn()).zip(table) {
            Some((position, table)) if state.snapshot.flatten().is_none_or(|told| told <= position) => {
                self.table = table;
                self.begin_reading(position);
            }
            // It told of one that was beyond an end, say: this is the one it has.
            Some((position, _)) => state.snapshot = Some(Some(position)),
            None => {
                state.misses += 1;
                state.missed_at = Some(asked_at);
                // It has one, and cannot read it: what it lacks proves nothing.
                if state.misses >= MISSES_MAX {
                    state.refusals = REFUSALS_MAX;
                }
            }
        }
    }

    pub(crate) fn handle_producers(&mut self, answer: &ProducersRead, table: Option<&ProducerTable>) {
        let from = ShardRef { shard: answer.shard, incarnation: answer.incarnation };
        let Some(state) = self.shards.get_mut(&from).filter(|_| answer.epoch == self.epoch) else { return };
        let after = match self.phase {
            Phase::Finding { .. } => Lsn::MAX,
            Phase::Reading { after } => after,
        };
        if answer.after != after {
            return;
        }
        let (true, Some(table)) = (answer.ok, table) else {
            state.refusals += 1;
            return;
        };
        (state.refusals, state.lost) = (0, answer.lost);
        match self.phase {
            Phase::Finding { .. } => state.snapshot = Some(answer.snapshot),
            Phase::Reading { .. } => {
                state.has_read = true;
                self.table.merge(table);
            }
        }
    }
}
