//! A simulated reader: one partition, the production reader core; every record is compared with all that was ever read.

use std::collections::{BTreeMap, VecDeque};

use dlog_client::read::core::{Item, Output, ReaderCore, ReaderSettings};
use dlog_proto::block::Block;
use dlog_proto::record;
use dlog_proto::{EpochTable, LogOffset, Lsn, PartitionUid, ShardRef, Time};

use crate::context::Context;
use crate::history::Payload;
use crate::invariants::{self, readers_are_bounded};
use crate::message::{Lane, Message};
use crate::network::Address;

#[derive(Debug)]
pub(crate) struct Reader {
    pub partition: PartitionUid,
    core: Option<ReaderCore>,
    from: Lsn,
    until: Lsn,
    settings: ReaderSettings,
    /// What came on streams that are not read from now: the reader has enough of what it cannot hand out yet.
    held: BTreeMap<u64, VecDeque<Message>>,
    /// Length of the longest block that came.
    longest: usize,
    done: bool,
    /// Open streams, by their numbers.
    open: BTreeMap<u64, ShardRef>,
    next_stream: u64,
    /// Last record that was read.
    pub last: Option<(Lsn, LogOffset)>,
    asked_table_at: Option<Time>,
    lost: Vec<ShardRef>,
}

impl Reader {
    pub(crate) fn new(partition: PartitionUid, (from, until): (Lsn, Lsn), settings: ReaderSettings) -> Self {
        Self {
            partition,
            core: None,
            from,
            until,
            settings,
            held: BTreeMap::new(),
            longest: 0,
            done: false,
            open: BTreeMap::new(),
            next_stream: 1,
            last: None,
            asked_table_at: None,
            lost: Vec::new(),
        }
    }

    /// Next LSN to be read.
    pub(crate) fn cursor(&self) -> Lsn {
        self.core.as_ref().map_or(self.from, ReaderCore::cursor)
    }

    /// Whether it has come to its end, or past `tail`.
    pub(crate) fn has_read(&self, tail: Lsn) -> bool {
        self.done || self.cursor() > tail
    }

    /// How often everything had to be asked for again.
    pub(crate) fn rewinds(&self) -> u32 {
        self.core.as_ref().map_or(0, ReaderCore::rewinds)
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let asked = self.asked_table_at.map(|at| at + std::time::Duration::from_millis(200));
        self.core.as_ref().and_then(ReaderCore::next_timeout).into_iter().chain(asked).min()
    }

    pub(crate) fn handle_wake(&mut self, cx: &mut Context<'_>) {
        let overdue = |at: Time| at + std::time::Duration::from_millis(200) <= cx.now;
        if (self.core.is_none() && self.asked_table_at.is_none()) || self.asked_table_at.is_some_and(overdue) {
            self.want_table(cx);
        }
        if let Some(core) = &mut self.core {
            core.handle_tick(cx.now);
        }
        self.drain(cx);
    }

    fn want_table(&mut self, cx: &mut Context<'_>) {
        self.asked_table_at = Some(cx.now);
        cx.send(Address::Metadata, Lane::Control, Message::WantTable(self.partition));
    }

    pub(crate) fn handle(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        match message {
            Message::Table(table) => self.handle_table(cx, *table),
            Message::ReadStarted(stream, _) | Message::ReadBlock(stream, ..) | Message::ReadClaim(stream, ..) => {
                if self.open.contains_key(&stream) {
                    self.held.entry(stream).or_default().push_back(message);
                }
            }
            other => unreachable!("not for a reader: {from:?} {other:?}"),
        }
        self.drain(cx);
        while self.read_on(cx) {
            self.drain(cx);
            if let Some(why) = self.core.as_ref().and_then(|core| readers_are_bounded::check(core, self.longest).err())
            {
                cx.violation(format!("{}: {why}", self.partition));
            }
        }
    }

    /// Takes the next message of a stream that is to be read from. Whether there was one.
    fn read_on(&mut self, cx: &mut Context<'_>) -> bool {
        self.held.retain(|stream, held| self.open.contains_key(stream) && !held.is_empty());
        let Some(core) = &mut self.core else { return false };
        let wanted = self.held.keys().find(|stream| core.wants(self.open[stream])).copied();
        let Some(stream) = wanted else { return false };
        let from = self.open[&stream];
        match self.held.get_mut(&stream).and_then(VecDeque::pop_front) {
            Some(Message::ReadStarted(_, started)) => core.handle_started(cx.now, from, &started),
            Some(Message::ReadBlock(_, _, read, block)) => {
                self.longest = self.longest.max(block.bytes().len());
                core.handle_block(cx.now, from, &read, block);
            }
            Some(Message::ReadClaim(_, _, claim)) => core.handle_claim(cx.now, from, &claim),
            other => unreachable!("only what streams bring is held back: {other:?}"),
        }
        true
    }

    fn stream_to(&self, shard: ShardRef) -> Option<u64> {
        self.open.iter().find(|(_, open)| **open == shard).map(|(number, _)| *number)
    }

    fn handle_table(&mut self, cx: &mut Context<'_>, table: EpochTable) {
        self.asked_table_at = None;
        match &mut self.core {
            Some(core) => core.handle_table(cx.now, table),
            None if table.epochs.is_empty() => self.asked_table_at = Some(cx.now),
            None => {
                let mut core = ReaderCore::new(table, self.from, self.until, self.settings.clone());
                core.handle_tick(cx.now);
                self.core = Some(core);
            }
        }
    }

    pub(crate) fn handle_link(&mut self, cx: &mut Context<'_>, peer: Address, up: bool) {
        if let (Address::Server(node), false) = (peer, up) {
            let lost: Vec<u64> =
                self.open.iter().filter(|(_, open)| open.shard.node.0 == node).map(|(number, _)| *number).collect();
            for number in lost {
                let Some(shard) = self.open.remove(&number) else { continue };
                if let Some(core) = &mut self.core {
                    core.handle_closed(cx.now, shard);
                }
            }
        }
        self.drain(cx);
    }

    fn drain(&mut self, cx: &mut Context<'_>) {
        while let Some(output) = self.core.as_mut().and_then(ReaderCore::poll_output) {
            match output {
                Output::Start { to, request } => {
                    let server = Address::Server(to.shard.node.0);
                    if (cx.is_up)(server) {
                        let number = self.stream_to(to).unwrap_or(self.next_stream);
                        self.next_stream = self.next_stream.max(number + 1);
                        self.open.insert(number, to);
                        cx.send(server, Lane::Read(to.shard), Message::StartRead(number, request));
                    } else {
                        self.lost.push(to);
                    }
                }
                Output::Close(shard) => {
                    if let Some(number) = self.stream_to(shard) {
                        self.open.remove(&number);
                        let server = Address::Server(shard.shard.node.0);
                        cx.send(server, Lane::Read(shard.shard), Message::StopRead(number, shard.shard));
                    }
                }
                Output::WantTable => self.want_table(cx),
                Output::Item(item) => self.handle_item(cx, item),
                Output::Done => {
                    if self.cursor() <= self.until {
                        cx.violation(format!("{}: done at {}, before {}", self.partition, self.cursor(), self.until));
                    }
                    self.done = true;
                }
            }
            if let Some(core) = &mut self.core {
                let released = core.released();
                let history = cx.history.of(self.partition);
                history.released = history.released.max(released);
            }
        }
        for shard in std::mem::take(&mut self.lost) {
            if let Some(core) = &mut self.core {
                core.handle_closed(cx.now, shard);
            }
        }
    }

    fn handle_item(&mut self, cx: &mut Context<'_>, item: Item) {
        match item {
            Item::Gap { from, to, reason } => {
                if let Err(why) = invariants::check_gap(cx.history, self.partition, (from, to), reason) {
                    cx.violation(format!("{}: {why}", self.partition));
                }
                self.last = None;
            }
            Item::Block { block, from, base } => {
                let may_lose = cx.history.of(self.partition).may_lose;
                for (lsn, payload) in records(&block).filter(|(lsn, _)| *lsn >= from) {
                    let offset = LogOffset(base.0 + u64::from(lsn.esn().0) - 1);
                    // An end that was decided without what was lost may lie before what was read.
                    self.last = self.last.filter(|(last, _)| !may_lose || last.epoch() == lsn.epoch());
                    let checked =
                        invariants::check_read(cx.history.of(self.partition), self.last, lsn, offset, payload);
                    if let Err(why) = checked {
                        cx.violation(format!("{}: {why}", self.partition));
                    }
                    self.last = Some((lsn, offset));
                }
            }
        }
    }
}

/// The records of a block with their LSNs.
fn records(block: &Block) -> impl Iterator<Item = (Lsn, Payload)> {
    let epoch = block.header().epoch;
    record::batches(block.body()).flat_map(move |batch| {
        let batch = batch.expect("a block that was checked holds whole batches");
        let first = batch.header().base_offset + 1;
        let records = batch.records().expect("not compressed");
        records.map(move |record| {
            let record = record.expect("what was written can be read");
            let esn = dlog_proto::Esn((first + u64::from(record.offset_delta)) as u32);
            let payload = record.value.as_deref().and_then(Payload::decode).expect("a payload of ours");
            (Lsn::new(epoch, esn), payload)
        })
    })
}
