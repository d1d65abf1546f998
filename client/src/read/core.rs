//! A reader of one partition: merges what the shards of each epoch's nodeset send into one sequence.
//!
//! INV-READ-ORDER: LSNs are handed out in ascending order, every one of them once: in a block or in a gap with a reason.
//! INV-READ-RELEASED: a record e,n is handed out only if `released` is in epoch e at or beyond n, or the epoch table says that e
//! is decided at or beyond n (so what a zombie wrote is never seen, whatever a shard ships).
//! When a missing record may be called lost: `gaps.rs`.
//!
//! One stream per shard. Single-copy delivery until something is missing; then everything is asked of everybody (a *rewind*: a
//! new version, which voids what was sent under the old one), and back to single copies when the trouble is passed.

mod gaps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dlog_proto::block::Block;
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{ClaimKind, LostBefore, ReadBlock, ReadClaim, ReadMode, ReadStarted, ReadStatus, StartRead};
use dlog_proto::{
    EpochEntry, EpochTable, Esn, LogOffset, Lsn, Member, MemberSet, PartitionUid, ShardId, ShardRef, Time,
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

    fn close_all(&mut self) {
        let shards: Vec<ShardRef> = std::mem::take(&mut self.shards).into_keys().collect();
        self.out.extend(shards.into_iter().map(Output::Close));
    }
}
