//! A reader of one partition: merges what the shards of each epoch's nodeset send into one sequence.
//!
//! INV-READ-ORDER: LSNs are handed out in ascending order, every one of them once: in a block or in a gap with a reason.
//! INV-READ-RELEASED: a record e,n is handed out only if `released` is in epoch e at or beyond n, or the epoch table says that e
//! is decided at or beyond n (so what a zombie wrote is never seen, whatever a shard ships).
//! INV-NO-FALSE-GAP: a missing record inside a decided or released range is called lost only if an f-majority of the
//! nodeset says that it has none. Nothing else makes a gap but the trim point: an epoch's content has no holes.
//! INV-GAP-ASKED-AGAIN: where less than an f-majority by the strict rule can say so (disks are lost or damaged, or the log prefers
//! availability and the others were waited for long enough), every answer that a gap rests on was given after the last of the missing
//! shards was given up. For one of them may have had the record, and recovery copied it to others that had said before that they have none.
//!
//! One stream per shard. Single-copy delivery until something is missing; then everything is asked of everybody (a *rewind*: a
//! new version, which voids what was sent under the old one), and back to single copies when the trouble is passed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dlog_proto::block::Block;
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{ClaimKind, LostBefore, ReadBlock, ReadClaim, ReadMode, ReadStarted, ReadStatus, StartRead};
use dlog_proto::{
    Authority, EpochEntry, EpochTable, Esn, LogOffset, Lsn, Member, MemberSet, PartitionUid, Quorum, ShardId, ShardRef,
    Statuses, Time,
};

/// What a reader is told.
#[derive(Debug, Clone)]
pub struct ReaderSettings {
    /// Blocks that wait for those before them, in bytes. Above it, only shards that are behind are read from.
    pub buffer_bytes_max: usize,
    /// Blocks that wait for the application, in bytes; a longer one waits alone.
    pub ahead_bytes_max: usize,
    /// How long a gap waits for shards that have not spoken yet.
    pub gap_grace: Duration,
    /// How long until a lost stream is opened again; doubles up to the maximum.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// How long a shard may hold up single-copy delivery before everybody is asked.
    pub slow_shard: Duration,
    /// How long everybody is asked before single copies are tried again.
    pub all_send_all: Duration,
    /// How long until the epoch table is asked for again, if the last one did not say enough.
    pub table_retry: Duration,
}

impl Default for ReaderSettings {
    fn default() -> Self {
        Self {
            buffer_bytes_max: 8 << 20,
            ahead_bytes_max: 8 << 20,
            gap_grace: Duration::from_millis(100),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(5),
            slow_shard: Duration::from_secs(1),
            all_send_all: Duration::from_secs(10),
            table_retry: Duration::from_millis(50),
        }
    }
}

/// Why LSNs come without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// They were given up by trim or retention.
    Trimmed,
    /// They were written and cannot be found on any shard that can be asked.
    DataLoss,
}

/// What a reader hands out.
#[derive(Debug, Clone)]
pub enum Item {
    /// Records `from` to the block's last LSN; the block may begin before `from`.
    Block { block: Block, from: Lsn, base: LogOffset },
    /// No records from `from` to `to`, both included. They may lie in different epochs.
    Gap { from: Lsn, to: Lsn, reason: GapReason },
}

/// What a reader wants done.
#[derive(Debug)]
pub enum Output {
    /// Open a stream to a shard, or start over on the one that is open.
    Start {
        to: ShardRef,
        request: StartRead,
    },
    Close(ShardRef),
    /// Get the partition's epoch table, newer than the one that is known.
    WantTable,
    Item(Item),
    /// `until` is passed.
    Done,
}

#[derive(Debug)]
struct ShardState {
    /// Everything below it was sent under the current version, or said to be absent.
    next: Lsn,
    open: bool,
    started: bool,
    /// What it does not have up to here proves nothing.
    unproven_upto: Lsn,
    /// Its disk was replaced: what it had is lost.
    lost: bool,
    lost_before: LostBefore,
    reopen_at: Time,
    backoff: Duration,
}

impl ShardState {
    fn new(next: Lsn, backoff: Duration) -> Self {
        Self {
            next,
            open: false,
            started: false,
            unproven_upto: Lsn::ZERO,
            lost: false,
            lost_before: LostBefore::default(),
            reopen_at: Time::ZERO,
            backoff,
        }
    }
}

/// How often a record that some shard has and cannot read is asked for before it is called lost.
const DAMAGE_RETRIES: u32 = 3;

#[derive(Debug)]
pub struct ReaderCore {
    settings: ReaderSettings,
    partition: PartitionUid,
    table: EpochTable,
    table_asked_at: Option<Time>,
    /// Since when no shard has told what is released.
    deaf_since: Option<Time>,
    /// Next LSN to hand out.
    cursor: Lsn,
    until: Lsn,
    released: Lsn,
    trim: Lsn,
    version: u32,
    /// Shards that single-copy delivery does not count on; `None`: everybody sends everything.
    known_down: Option<BTreeSet<ShardId>>,
    shards: BTreeMap<ShardRef, ShardState>,
    buffer: BTreeMap<Lsn, Block>,
    buffered: usize,
    /// Since when the cursor has not moved although there is something to read.
    stuck_since: Option<Time>,
    rewound_at: Time,
    wake_at: Option<Time>,
    /// How often a record was asked for again because those that should have it could not read it.
    damage_retries: u32,
    /// Shards that were given up at the cursor before everybody was last asked for what lies there (INV-GAP-ASKED-AGAIN).
    given_up: Option<MemberSet>,
    done: bool,
    out: VecDeque<Output>,
}

impl ReaderCore {
    /// Reads from `from` to `until`, both included.
    pub fn new(table: EpochTable, from: Lsn, until: Lsn, settings: ReaderSettings) -> Self {
        Self {
            settings,
            partition: table.partition,
            trim: table.trim,
            table,
            table_asked_at: None,
            deaf_since: None,
            cursor: from.max(Lsn::FIRST),
            until,
            released: Lsn::ZERO,
            version: 1,
            known_down: Some(BTreeSet::new()),
            shards: BTreeMap::new(),
            buffer: BTreeMap::new(),
            buffered: 0,
            stuck_since: None,
            rewound_at: Time::ZERO,
            wake_at: None,
            damage_retries: 0,
            given_up: None,
            done: false,
            out: VecDeque::new(),
        }
    }

    /// Next LSN to be handed out.
    pub fn cursor(&self) -> Lsn {
        self.cursor
    }

    /// How often streams were started over: because something was missing, a shard came or went, or to go back to single copies.
    pub fn rewinds(&self) -> u32 {
        self.version - 1
    }

    pub fn settings(&self) -> &ReaderSettings {
        &self.settings
    }

    /// Bytes of blocks that wait for those before them.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered
    }

    /// Shards that it reads from.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Highest LSN known to be released.
    pub fn released(&self) -> Lsn {
        self.released
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whether more should be read from this shard's stream now.
    pub fn wants(&self, shard: ShardRef) -> bool {
        let behind = |s: &ShardState| s.next <= self.cursor || bug(Bug::WindowIgnored);
        self.buffered < self.settings.buffer_bytes_max || self.shards.get(&shard).is_some_and(behind)
    }

    pub fn handle_table(&mut self, now: Time, table: EpochTable) {
        if table.revision >= self.table.revision {
            self.trim = self.trim.max(table.trim);
            self.table = table;
        }
        // If it does not say enough, it is asked for again after a while.
        self.table_asked_at = self.is_table_stale().then_some(now);
        self.go_on(now);
    }

    pub fn handle_started(&mut self, now: Time, from: ShardRef, message: &ReadStarted) {
        let Some(state) = self.shards.get_mut(&from).filter(|_| message.version == self.version) else { return };
        match message.status {
            ReadStatus::Ok => {
                state.started = true;
                state.lost_before = message.lost;
                state.backoff = self.settings.reconnect_min;
                self.note_marks(message.released, message.trim);
            }
            ReadStatus::Incarnation => {
                state.lost = true;
                self.out.push_back(Output::Close(from));
                state.open = false;
            }
            ReadStatus::Disabled => return self.handle_closed(now, from),
        }
        self.go_on(now);
    }

    pub fn handle_block(&mut self, now: Time, from: ShardRef, message: &ReadBlock, block: Block) {
        let Some(state) = self.shards.get_mut(&from).filter(|_| message.version == self.version) else { return };
        let header = *block.header();
        if header.partition != self.partition {
            return;
        }
        state.next = state.next.max(header.last_lsn().next());
        self.note_marks(message.released, Lsn::ZERO);
        // It sends although it is called down: it is not.
        if self.known_down.as_mut().is_some_and(|down| down.remove(&from.shard)) {
            self.rewind(now);
        }
        if header.last_lsn() >= self.cursor && !self.buffer.contains_key(&header.first_lsn()) {
            self.buffered += block.bytes().len();
            self.buffer.insert(header.first_lsn(), block);
        }
        self.go_on(now);
    }

    pub fn handle_claim(&mut self, now: Time, from: ShardRef, claim: &ReadClaim) {
        let Some(state) = self.shards.get_mut(&from).filter(|_| claim.version == self.version) else { return };
        state.next = state.next.max(claim.upto.next());
        if claim.kind == ClaimKind::UnderReplicated {
            state.unproven_upto = state.unproven_upto.max(claim.upto);
        }
        self.note_marks(claim.released, claim.trim);
        self.go_on(now);
    }

    /// A stream is lost, or could not be opened. Of a stream that was closed or replaced, nothing more is to be told.
    pub fn handle_closed(&mut self, now: Time, shard: ShardRef) {
        let Some(state) = self.shards.get_mut(&shard) else { return };
        (state.open, state.started) = (false, false);
        state.reopen_at = now + state.backoff;
        state.backoff = (state.backoff * 2).min(self.settings.reconnect_max);
        let new = self.known_down.as_mut().is_some_and(|down| down.insert(shard.shard));
        if new {
            self.rewind(now);
        }
        self.go_on(now);
    }

    fn note_marks(&mut self, released: Lsn, trim: Lsn) {
        self.released = self.released.max(released);
        self.trim = self.trim.max(trim);
    }

    /// Time has passed. Call when [`Self::next_timeout`] says so.
    pub fn handle_tick(&mut self, now: Time) {
        self.go_on(now);
    }

    pub fn next_timeout(&self) -> Option<Time> {
        self.wake_at
    }

    fn find_wake_at(&self, now: Time) -> Option<Time> {
        let reopen = self.shards.values().filter(|s| !s.open && !s.lost).map(|s| s.reopen_at);
        let table = self.table_asked_at.map(|at| at + self.settings.table_retry);
        let patience = [self.settings.gap_grace, self.settings.slow_shard];
        let stuck = patience.into_iter().filter_map(|patience| Some(self.stuck_since? + patience));
        let deaf = self.deaf_since.map(|since| since + self.settings.slow_shard);
        reopen.chain(table).chain(stuck).chain(deaf).filter(|at| *at > now).min()
    }

    /// Hands out whatever can be handed out, and sees to it that the right streams are open.
    fn go_on(&mut self, now: Time) {
        let (before, version) = (self.cursor, self.version);
        while !self.done && self.step(now) {}
        if self.cursor != before {
            self.damage_retries = 0;
            // Whoever was asked again was asked for what lies at the new one.
            if self.version == version {
                (self.stuck_since, self.given_up) = (None, None);
            }
        }
        if self.is_table_stale() {
            self.want_table(now);
        } else if self.is_deaf() {
            let since = *self.deaf_since.get_or_insert(now);
            if since + self.settings.slow_shard <= now {
                self.deaf_since = Some(now);
                self.want_table(now);
            }
        } else {
            self.deaf_since = None;
        }
        self.try_single_copies(now);
        self.keep_streams(now);
        self.wake_at = self.find_wake_at(now);
    }

    /// Goes back to single-copy delivery when it has gone well for a while; without those who have not answered since: a machine may be
    /// dead, and its connections not know it yet.
    fn try_single_copies(&mut self, now: Time) {
        let calm = self.stuck_since.is_none() && now.since(self.rewound_at) >= self.settings.all_send_all;
        if self.known_down.is_none() && calm && self.shards.values().any(|s| s.started) {
            let down = self.shards.iter().filter(|(_, s)| !s.started).map(|(shard, _)| shard.shard);
            self.known_down = Some(down.collect());
            self.rewind(now);
            self.stuck_since = None;
        }
    }

    /// One step forward. Whether the cursor moved.
    fn step(&mut self, now: Time) -> bool {
        if self.cursor > self.until {
            self.done = true;
            self.out.push_back(Output::Done);
            return false;
        }
        if self.cursor <= self.trim {
            let to = self.trim.min(self.until);
            self.gap(to, GapReason::Trimmed);
            return true;
        }
        let Some(entry) = self.table.at_or_after(self.cursor.epoch()) else { return false };
        let first = Lsn::new(entry.epoch, Esn(1));
        if entry.epoch > self.cursor.epoch() || self.cursor.esn() == Esn::ZERO {
            // Nothing was ever decided to be in between.
            self.move_to(first);
            return true;
        }
        if entry.end.is_some_and(|end| self.cursor.esn() > end.last_esn) {
            let Some(next) = self.table.at_or_after(entry.epoch.next()) else { return false };
            let next = Lsn::new(next.epoch, Esn(1));
            self.move_to(next);
            return true;
        }
        let Some(base) = entry.base_offset else { return false };
        let limit = self.decided_upto(entry);
        if self.cursor > limit {
            self.stuck_since = None;
            return false;
        }
        self.deliver(limit, base) || self.declare_gap(now, limit)
    }

    /// INV-READ-RELEASED: last LSN of this epoch that is known to be decided for ever.
    fn decided_upto(&self, entry: &EpochEntry) -> Lsn {
        let released = match self.released.epoch() {
            epoch if epoch == entry.epoch => self.released.esn(),
            epoch if epoch > entry.epoch && bug(Bug::ReadsUndecided) => Esn::MAX,
            _ => Esn::ZERO,
        };
        let end = entry.end.map_or(Esn::ZERO, |end| end.last_esn);
        Lsn::new(entry.epoch, released.max(end))
    }

    /// Hands out the block that has the cursor's record, if it is here.
    fn deliver(&mut self, limit: Lsn, base: LogOffset) -> bool {
        let Some((first, block)) = self.buffer.range(..=self.cursor).next_back() else { return false };
        let (first, last) = (*first, block.header().last_lsn());
        if last < self.cursor || last > limit {
            return false;
        }
        let block = self.buffer.remove(&first).expect("it was just there");
        self.buffered -= block.bytes().len();
        let from = self.cursor;
        self.out.push_back(Output::Item(Item::Block { block, from, base }));
        self.move_to(last.next());
        true
    }

    /// INV-NO-FALSE-GAP. Whether the cursor moved.
    fn declare_gap(&mut self, now: Time, limit: Lsn) -> bool {
        let Some(entry) = self.table.epoch(self.cursor.epoch()) else { return false };
        let since = *self.stuck_since.get_or_insert(now);
        let (mut passed, mut statuses, mut upto) = (MemberSet::EMPTY, Statuses::default(), limit);
        let mut silent = MemberSet::EMPTY;
        for (i, member) in entry.nodeset.members().iter().enumerate() {
            let Some(state) = self.shards.get(&member.shard_ref()) else { continue };
            // Who has lost something may have what lies behind: it is still to come.
            if !state.lost && state.next > self.cursor {
                upto = upto.min(Lsn(state.next.0 - 1));
            }
            let unproven = state.unproven_upto >= self.cursor || state.lost_before.is_damaged_for(entry);
            if state.lost || (state.next > self.cursor && unproven) {
                statuses.under_replicated.insert(i);
            } else if state.next > self.cursor {
                passed.insert(i);
                upto = upto.min(Lsn(state.next.0 - 1));
            } else if state.open {
                silent.insert(i);
            }
        }
        let (quorum, waiting) = (Quorum::new(&entry.nodeset, &entry.replication), !silent.is_empty());
        let mut authority = quorum.answers(passed, statuses);
        let mut is_proven = quorum.is_strictly_authoritative(passed, statuses);
        if bug(Bug::GapFromOneShard) && !passed.is_empty() {
            (authority, is_proven) = (Authority::Complete, true);
        }
        let missing = entry.nodeset.all().without(passed);
        if self.known_down.is_some() && !bug(Bug::GapFromSingleCopies) {
            // Single-copy delivery proves nothing; if nobody is left to send it, or somebody is slow, everybody is asked.
            if (authority != Authority::None && !waiting) || now.since(since) >= self.settings.slow_shard {
                self.ask_everybody(now);
            }
            return false;
        }
        let patient = waiting && now.since(since) < self.settings.gap_grace;
        // In a log that prefers availability, who is away for a moment or slow may have it; when everybody is asked again, who was silent
        // before is not waited for.
        let awaited = match self.given_up {
            Some(given_up) => !silent.is_subset_of(given_up),
            None => authority == Authority::Incomplete && !is_proven,
        };
        if awaited && now.since(since) < self.settings.slow_shard {
            return false;
        }
        if authority == Authority::None || (authority == Authority::Incomplete && patient) {
            return false;
        }
        // A copy that cannot be read now may be later: a disk's passing error must not become a loss.
        let damaged = self.shards.values().any(|s| !s.lost && s.next > self.cursor && s.unproven_upto >= self.cursor);
        if damaged && self.damage_retries < DAMAGE_RETRIES {
            if now.since(since) >= self.settings.slow_shard {
                self.damage_retries += 1;
                self.rewind(now);
            }
            return false;
        }
        let given_up = self.given_up.unwrap_or(MemberSet::EMPTY);
        if !is_proven && !missing.is_subset_of(given_up) && !bug(Bug::GapFromOldAnswers) {
            self.given_up = Some(given_up.union(missing));
            self.rewind(now);
            return false;
        }
        let buffered = self.buffer.range(self.cursor..).next().map(|(first, _)| Lsn(first.0 - 1));
        let to = buffered.map_or(upto, |before| before.min(upto)).min(self.until);
        self.gap(to, GapReason::DataLoss);
        true
    }

    fn gap(&mut self, to: Lsn, reason: GapReason) {
        let from = self.cursor;
        self.out.push_back(Output::Item(Item::Gap { from, to, reason }));
        self.move_to(to.next());
    }

    fn move_to(&mut self, cursor: Lsn) {
        assert!(cursor > self.cursor, "a reader goes forward");
        self.cursor = cursor;
        while let Some((first, block)) = self.buffer.first_key_value()
            && block.header().last_lsn() < cursor
        {
            let first = *first;
            let block = self.buffer.remove(&first).expect("it was just there");
            self.buffered -= block.bytes().len();
        }
    }

    /// Whether the table cannot say how to go on although there is more to read.
    fn is_table_stale(&self) -> bool {
        let epoch = self.cursor.epoch();
        match self.table.at_or_after(epoch) {
            // A later epoch is released, so this one is decided; or it is decided, so a later one exists.
            Some(entry) if entry.epoch == epoch => {
                let passed = entry.end.is_some_and(|end| self.cursor.esn() > end.last_esn);
                let newer = entry.end.is_none() && self.released.epoch() > epoch;
                newer || passed || entry.base_offset.is_none()
            }
            Some(_) => false,
            None => true,
        }
    }

    /// Whether no shard of the epoch tells what is released: then only the table can say that another epoch has come.
    fn is_deaf(&self) -> bool {
        let is_open = |entry: &EpochEntry| entry.epoch == self.cursor.epoch() && entry.end.is_none();
        !self.shards.values().any(|s| s.started) && self.table.at_or_after(self.cursor.epoch()).is_some_and(is_open)
    }

    fn want_table(&mut self, now: Time) {
        let due = self.table_asked_at.is_none_or(|at| at + self.settings.table_retry <= now);
        if due && !self.done {
            self.table_asked_at = Some(now);
            self.out.push_back(Output::WantTable);
        }
    }

    /// Keeps a stream open to every shard of the cursor's epoch's nodeset, and to no other.
    fn keep_streams(&mut self, now: Time) {
        let entry = self.table.at_or_after(self.cursor.epoch()).or_else(|| self.table.newest());
        let Some(entry) = entry.filter(|_| !self.done) else { return self.close_all() };
        let wanted: BTreeSet<ShardRef> = entry.nodeset.members().iter().map(Member::shard_ref).collect();
        let unwanted: Vec<ShardRef> = self.shards.keys().filter(|s| !wanted.contains(s)).copied().collect();
        for shard in unwanted {
            self.shards.remove(&shard);
            self.out.push_back(Output::Close(shard));
        }
        for shard in wanted {
            let backoff = self.settings.reconnect_min;
            let cursor = self.cursor;
            let state = self.shards.entry(shard).or_insert_with(|| ShardState::new(cursor, backoff));
            if !state.open && !state.lost && state.reopen_at <= now {
                self.start(shard);
            }
        }
    }

    fn start(&mut self, shard: ShardRef) {
        let mode = match &self.known_down {
            Some(down) => ReadMode::SingleCopy { known_down: down.iter().copied().collect() },
            None => ReadMode::AllSendAll,
        };
        let ShardRef { shard: id, incarnation } = shard;
        let (partition, version, from, until) = (self.partition, self.version, self.cursor, self.until);
        let request = StartRead { shard: id, incarnation, partition, version, from, until, mode };
        let state = self.shards.get_mut(&shard).expect("only known shards are started");
        (state.open, state.started) = (true, false);
        (state.next, state.unproven_upto) = (from, Lsn::ZERO);
        self.out.push_back(Output::Start { to: shard, request });
    }

    /// Starts over on every open stream; what was sent so far and not handed out is void.
    fn rewind(&mut self, now: Time) {
        self.version += 1;
        self.rewound_at = now;
        self.buffer.clear();
        self.buffered = 0;
        self.stuck_since = Some(now);
        // What a shard said counts only together with what it sent; that holds for shards that are away now too.
        for state in self.shards.values_mut() {
            (state.next, state.unproven_upto) = (self.cursor, Lsn::ZERO);
        }
        let open: Vec<ShardRef> = self.shards.iter().filter(|(_, s)| s.open).map(|(shard, _)| *shard).collect();
        open.into_iter().for_each(|shard| self.start(shard));
    }

    fn ask_everybody(&mut self, now: Time) {
        self.known_down = None;
        self.rewind(now);
    }

    fn close_all(&mut self) {
        let shards: Vec<ShardRef> = std::mem::take(&mut self.shards).into_keys().collect();
        self.out.extend(shards.into_iter().map(Output::Close));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
    use dlog_proto::wire::WirePlacement;
    use dlog_proto::{End, Epoch, Incarnation, Location, NodeId, Nodeset, ProcessId, QuorumConfig, Replication};

    use super::*;

    fn lsn(epoch: u32, esn: u32) -> Lsn {
        Lsn::new(Epoch(epoch), Esn(esn))
    }

    fn shard(node: u16) -> ShardRef {
        ShardRef { shard: ShardId::new(node, 0), incarnation: Incarnation(1) }
    }

    /// A table of epochs with these ends, all on shards n1s0 to n3s0 with R = 3 and W = 2.
    fn table(revision: u64, ends: &[(u32, Option<u32>)]) -> EpochTable {
        let member = |node| Member {
            shard: ShardId::new(node, 0),
            incarnation: Incarnation(1),
            location: Location::default(),
            weight: 1,
        };
        let nodeset = Arc::new(Nodeset::new((1..=3).map(member).collect()).unwrap());
        let replication = Arc::new(Replication::new(QuorumConfig::majority(3)));
        let mut base = Some(0);
        let entry = |(epoch, end): &(u32, Option<u32>)| {
            let entry = EpochEntry {
                epoch: Epoch(*epoch),
                sequencer: NodeId(1),
                process: ProcessId(1),
                nodeset: nodeset.clone(),
                replication: replication.clone(),
                base_offset: base.map(LogOffset),
                end: end.map(|last| End { last_esn: Esn(last), authoritative: true }),
                activated_at: 0,
            };
            base = base.and_then(|base| Some(base + u64::from((*end)?)));
            entry
        };
        let epochs = ends.iter().map(entry).collect();
        EpochTable { partition: PartitionUid(1), revision, trim: Lsn::ZERO, covered: Epoch::ZERO, epochs }
    }

    fn block(epoch: u32, first: u32, span: u32) -> Block {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(epoch), Esn(first), 0);
        builder.push(&bytes::Bytes::from(vec![0; 61]), span, (0, 0));
        builder.finish()
    }

    struct Rig {
        core: ReaderCore,
        now: Time,
    }

    impl Rig {
        fn new(table: EpochTable) -> Self {
            let mut core = ReaderCore::new(table, Lsn::FIRST, Lsn::MAX, ReaderSettings::default());
            core.handle_tick(Time::ZERO);
            let mut rig = Self { core, now: Time::ZERO };
            assert_eq!(rig.outputs().len(), 3, "a stream to each shard");
            rig
        }

        fn outputs(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.core.poll_output())
                .map(|output| match output {
                    Output::Start { to, request } => {
                        format!("start {} v{} at {} {:?}", to.shard, request.version, request.from, request.mode)
                    }
                    Output::Close(to) => format!("close {}", to.shard),
                    Output::WantTable => "table?".to_owned(),
                    Output::Done => "done".to_owned(),
                    Output::Item(Item::Block { block, from, base }) => {
                        format!("{from}..{} base {base}", block.header().last_lsn())
                    }
                    Output::Item(Item::Gap { from, to, reason }) => format!("{reason:?} {from}..{to}"),
                })
                .collect()
        }

        fn block(&mut self, from: u16, released: Lsn, block: Block) -> Vec<String> {
            let placement = WirePlacement::from(&Placement {
                version: PlacementVersion::default(),
                copyset: Copyset::new([ShardId::new(from, 0)]).unwrap(),
                acked: Esn::ZERO,
                settled: Esn::ZERO,
            });
            let message = ReadBlock { version: self.core.version, placement, released };
            self.core.handle_block(self.now, shard(from), &message, block);
            self.outputs()
        }

        fn claim(&mut self, from: u16, upto: Lsn, released: Lsn) -> Vec<String> {
            let (version, kind) = (self.core.version, ClaimKind::NoRecords);
            let claim = ReadClaim { version, upto, kind, released, trim: Lsn::ZERO };
            self.core.handle_claim(self.now, shard(from), &claim);
            self.outputs()
        }

        fn wait(&mut self, ms: u64) -> Vec<String> {
            self.now = self.now + Duration::from_millis(ms);
            self.core.handle_tick(self.now);
            self.outputs()
        }
    }

    #[test]
    fn blocks_of_different_shards_come_out_in_order_and_once() {
        let mut rig = Rig::new(table(1, &[(1, None)]));
        assert_eq!(rig.block(2, lsn(1, 6), block(1, 3, 2)), [""; 0], "e1n1 comes first");
        assert_eq!(rig.block(1, lsn(1, 6), block(1, 1, 2)), ["e1n1..e1n2 base 0", "e1n3..e1n4 base 0"]);
        assert_eq!(rig.block(3, lsn(1, 6), block(1, 1, 2)), [""; 0], "a second copy");
        assert_eq!(rig.block(3, lsn(1, 6), block(1, 7, 1)), [""; 0]);
        assert_eq!(rig.block(3, lsn(1, 6), block(1, 5, 2)), ["e1n5..e1n6 base 0"]);
        assert_eq!(rig.claim(1, lsn(1, 7), lsn(1, 7)), ["e1n7..e1n7 base 0"], "released now");
    }

    #[test]
    fn what_is_not_released_in_its_own_epoch_waits_for_the_table() {
        // Trap C8: released is in epoch 2, but whether e1n1 is part of the log only the table can say.
        let mut rig = Rig::new(table(1, &[(1, None), (2, None)]));
        assert_eq!(rig.block(3, lsn(2, 0), block(1, 1, 1)), ["table?"]);
        rig.core.handle_table(rig.now, table(2, &[(1, Some(0)), (2, None)]));
        assert_eq!(rig.outputs(), [""; 0], "decided empty: a zombie wrote it");
        assert_eq!(rig.core.cursor(), lsn(2, 1));
        assert_eq!(rig.block(1, lsn(2, 1), block(2, 1, 1)), ["e2n1..e2n1 base 0"]);
    }

    #[test]
    fn offsets_go_on_across_epochs() {
        let mut rig = Rig::new(table(1, &[(1, Some(2)), (4, Some(3)), (5, None)]));
        assert_eq!(rig.block(1, lsn(5, 0), block(4, 1, 3)), [""; 0]);
        assert_eq!(rig.block(1, lsn(5, 0), block(1, 1, 2)), ["e1n1..e1n2 base 0", "e4n1..e4n3 base 2"]);
        assert_eq!(rig.core.cursor(), lsn(5, 1));
    }

    #[test]
    fn a_loss_is_declared_only_by_an_f_majority_that_was_asked_for_everything() {
        let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
        let released = lsn(2, 0);
        assert_eq!(rig.claim(1, released, released), [""; 0]);
        assert_eq!(rig.claim(2, released, released), [""; 0], "the third is the one that sends it, perhaps");
        let asked = rig.claim(3, released, released);
        assert_eq!(asked.len(), 3, "single copies prove nothing: everybody is asked again, {asked:?}");
        assert!(asked.iter().all(|a| a.contains("v2 at e1n1 AllSendAll")));
        assert_eq!(rig.claim(1, lsn(1, 2), released), [""; 0]);
        assert_eq!(rig.claim(2, lsn(1, 2), released), [""; 0], "the third may still have it");
        assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"]);
        assert_eq!(rig.block(3, released, block(1, 3, 2)), ["e1n3..e1n4 base 0"]);
    }

    #[test]
    fn a_lost_stream_is_passed_over_and_opened_again() {
        let mut rig = Rig::new(table(1, &[(1, None)]));
        rig.core.handle_closed(rig.now, shard(2));
        let outputs = rig.outputs();
        assert_eq!(outputs.len(), 2, "the others take over what it would have sent: {outputs:?}");
        assert!(outputs.iter().all(|o| o.contains("known_down: [ShardId { node: NodeId(2)")));
        assert_eq!(rig.wait(25).len(), 1, "reopened");
        let outputs = rig.block(2, lsn(1, 1), block(1, 1, 1));
        assert!(outputs.iter().any(|o| o == "e1n1..e1n1 base 0"));
        assert!(outputs.iter().any(|o| o.contains("known_down: []")), "it sends, so it is not down: {outputs:?}");
    }

    #[test]
    fn a_shard_that_is_silent_is_not_counted_on_again() {
        let mut rig = Rig::new(table(1, &[(1, None)]));
        assert_eq!(rig.claim(1, lsn(1, 0), lsn(1, 2)), [""; 0]);
        let starts = |outputs: Vec<String>| outputs.into_iter().filter(|o| o.starts_with("start")).collect::<Vec<_>>();
        assert_eq!(starts(rig.wait(1_000)).len(), 3, "something is due, and nothing comes: everybody is asked");
        for node in [1, 2] {
            let (shard_id, version) = (ShardId::new(node, 0), rig.core.version);
            let (released, trim) = (lsn(1, 2), Lsn::ZERO);
            let started = ReadStarted {
                shard: shard_id,
                version,
                status: ReadStatus::Ok,
                lost: LostBefore::default(),
                released,
                trim,
            };
            rig.core.handle_started(rig.now, shard(node), &started);
        }
        assert_eq!(rig.block(1, lsn(1, 2), block(1, 1, 2)), ["e1n1..e1n2 base 0"]);
        let again = starts(rig.wait(10_000));
        assert_eq!(again.len(), 3, "single copies again, of those who answer: {again:?}");
        assert!(again.iter().all(|start| start.contains("known_down: [ShardId { node: NodeId(3)")), "{again:?}");
    }

    #[test]
    fn what_a_shard_said_before_it_went_away_does_not_outlive_a_rewind() {
        let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
        let released = lsn(2, 0);
        for node in [1, 2, 3] {
            rig.claim(node, released, released);
        }
        assert_eq!(rig.claim(1, released, released), [""; 0], "everybody is asked now");
        rig.core.handle_closed(rig.now, shard(1));
        rig.outputs();
        rig.core.rewind(rig.now);
        rig.outputs();
        assert_eq!(rig.claim(2, released, released), [""; 0]);
        assert_eq!(
            rig.wait(10_000).iter().filter(|o| o.starts_with("DataLoss")).count(),
            0,
            "one shard is no f-majority"
        );
    }

    #[test]
    fn answers_to_an_older_version_are_void() {
        let mut rig = Rig::new(table(1, &[(1, None)]));
        rig.core.handle_closed(rig.now, shard(2));
        rig.outputs();
        let claim =
            ReadClaim { version: 1, upto: lsn(1, 9), kind: ClaimKind::NoRecords, released: lsn(1, 9), trim: Lsn::ZERO };
        rig.core.handle_claim(rig.now, shard(1), &claim);
        assert_eq!((rig.outputs(), rig.core.released()), (vec![], Lsn::ZERO));
    }

    #[test]
    fn trimmed_records_are_told_of() {
        let mut rig = Rig::new(table(1, &[(1, None)]));
        let claim =
            ReadClaim { version: 1, upto: lsn(1, 9), kind: ClaimKind::NoRecords, released: lsn(1, 9), trim: lsn(1, 5) };
        rig.core.handle_claim(rig.now, shard(1), &claim);
        assert_eq!(rig.outputs(), ["Trimmed e1n1..e1n5"]);
        assert_eq!(rig.block(1, lsn(1, 9), block(1, 5, 3)), ["e1n6..e1n7 base 0"]);
    }

    #[test]
    fn a_replaced_disk_counts_as_lost() {
        let mut rig = Rig::new(table(1, &[(1, Some(1)), (2, None)]));
        let started = ReadStarted {
            shard: ShardId::new(3, 0),
            version: 1,
            status: ReadStatus::Incarnation,
            released: Lsn::ZERO,
            trim: Lsn::ZERO,
            lost: LostBefore::default(),
        };
        rig.core.handle_started(rig.now, shard(3), &started);
        assert_eq!(rig.outputs(), ["close n3s0"]);
        for node in [1, 2] {
            rig.claim(node, lsn(2, 0), lsn(2, 0));
        }
        for node in [1, 2] {
            rig.claim(node, lsn(2, 0), lsn(2, 0));
        }
        assert_eq!(rig.core.cursor(), lsn(2, 1), "an f-majority without it says that e1n1 is lost");
    }

    /// All of `nodes` say that they have nothing.
    fn nothing_from(rig: &mut Rig, nodes: &[u16]) -> Vec<String> {
        nodes.iter().flat_map(|node| rig.claim(*node, lsn(2, 0), lsn(2, 0))).collect()
    }

    fn starts(outputs: &[String]) -> usize {
        outputs.iter().filter(|output| output.starts_with("start")).count()
    }

    #[test]
    fn who_said_that_he_has_none_is_asked_again_when_the_others_are_given_up() {
        let available = |rig: &mut Rig| {
            rig.core.handle_closed(rig.now, shard(3));
            rig.outputs();
            assert_eq!(starts(&nothing_from(rig, &[1, 2])), 2, "single copies prove nothing");
            assert_eq!(nothing_from(rig, &[1, 2]), [""; 0], "the third may come back");
            rig.core.handle_closed(rig.now, shard(3));
            let again = rig.wait(1_000);
            assert_eq!(starts(&again), 3, "it did not, and those who are there are asked once more: {again:?}");
        };
        let mut past = table(1, &[(1, Some(2)), (2, None)]);
        for entry in &mut past.epochs {
            entry.replication = Arc::new(Replication::new(QuorumConfig::available(3)));
        }
        let mut rig = Rig::new(past.clone());
        available(&mut rig);
        assert_eq!(nothing_from(&mut rig, &[1]), [""; 0], "the second is not given up");
        let read = rig.block(2, lsn(2, 0), block(1, 1, 2));
        assert!(read.contains(&"e1n1..e1n2 base 0".to_owned()), "recovery had copied it meanwhile: {read:?}");

        let mut rig = Rig::new(past.clone());
        available(&mut rig);
        assert_eq!(nothing_from(&mut rig, &[1, 2]), [""; 0]);
        assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"], "for the third nobody waits another second");

        let mut rig = Rig::new(past);
        available(&mut rig);
        assert_eq!(nothing_from(&mut rig, &[1]), [""; 0]);
        let again = rig.wait(1_000);
        assert_eq!(starts(&again), 3, "the second is given up only now: {again:?}");
        assert_eq!(nothing_from(&mut rig, &[1]), [""; 0]);
        assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"]);
    }

    #[test]
    fn a_loss_that_rests_on_lost_disks_is_asked_for_again() {
        let mut rig = Rig::new(table(1, &[(1, Some(1)), (2, None)]));
        let is_lost = |rig: &mut Rig, node| {
            let (version, status, lost) = (rig.core.version, ReadStatus::Incarnation, LostBefore::default());
            let (shard_id, released, trim) = (ShardId::new(node, 0), Lsn::ZERO, Lsn::ZERO);
            let started = ReadStarted { shard: shard_id, version, status, lost, released, trim };
            rig.core.handle_started(rig.now, shard(node), &started);
            rig.outputs()
        };
        is_lost(&mut rig, 2);
        assert_eq!(nothing_from(&mut rig, &[1]), [""; 0], "an f-majority could prove it");
        assert_eq!(starts(&is_lost(&mut rig, 3)), 1, "single copies prove nothing");
        let again = nothing_from(&mut rig, &[1]);
        assert_eq!(starts(&again), 1, "the third may have had it, and given it to the first: {again:?}");
        assert!(nothing_from(&mut rig, &[1]).contains(&"DataLoss e1n1..e1n1".to_owned()));
    }

    #[test]
    fn what_lies_behind_damage_is_waited_for() {
        let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
        for node in [2, 3] {
            let (shard_id, status) = (ShardId::new(node, 0), ReadStatus::Incarnation);
            let (released, trim, lost) = (Lsn::ZERO, Lsn::ZERO, LostBefore::default());
            let started = ReadStarted { shard: shard_id, version: rig.core.version, status, released, trim, lost };
            rig.core.handle_started(rig.now, shard(node), &started);
        }
        let mut told = Vec::new();
        for _ in 0..8 {
            let (version, kind) = (rig.core.version, ClaimKind::UnderReplicated);
            let claim = ReadClaim { version, upto: lsn(1, 1), kind, released: lsn(2, 0), trim: Lsn::ZERO };
            rig.core.handle_claim(rig.now, shard(1), &claim);
            told.extend(rig.outputs());
            told.extend(rig.wait(1_100));
        }
        told.extend(rig.block(1, lsn(2, 0), block(1, 2, 3)));
        told.retain(|told| !told.starts_with("start"));
        assert_eq!(told, ["close n2s0", "close n3s0", "DataLoss e1n1..e1n1", "e1n2..e1n4 base 0"]);
    }

    #[test]
    fn reading_ends_where_it_was_asked_to() {
        let table = table(1, &[(1, None)]);
        let core = ReaderCore::new(table, lsn(1, 2), lsn(1, 3), ReaderSettings::default());
        let mut rig = Rig { core, now: Time::ZERO };
        rig.core.handle_tick(Time::ZERO);
        rig.outputs();
        let outputs = rig.block(1, lsn(1, 9), block(1, 1, 4));
        assert_eq!(outputs[..2], ["e1n2..e1n4 base 0", "done"]);
        assert_eq!(outputs.len(), 5, "and every stream is closed");
    }
}
