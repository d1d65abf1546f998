//! One simulated shard: the production admission core on the production engine, over a disk that forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::BlockKind;
use dlog_proto::wire::{ClaimKind, FetchBlock, LostBefore, ReadMode, ReadProducers, Sealed, StartRead, StoreRefusal};
use dlog_proto::{ClusterId, Epoch, Incarnation, Lsn, PartitionUid, ShardId, ShardRef};
use dlog_storage_node::disk::Disk;
use dlog_storage_node::disk::simulated::SimulatedDisk;
use dlog_storage_node::entry::{Entry, EntrySeq, StoredBlock};
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::read::{Found, Reader};
use dlog_storage_node::shard::{Asker, Output, ReadOutput, ReadStream, ReadStreams, ShardCore, lookups};
use dlog_storage_node::{Engine, EngineConfig, Identity, Start};
use fastrand::Rng;

use crate::context::Context;
use crate::invariants::{amends_are_true, damaged_takes_nothing, nothing_after_a_seal};
use crate::ledger::{Claim, Ledger, Placed};
use crate::message::{Lane, Message};
use crate::network::Address;

/// What outlives the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Medium {
    pub disk: SimulatedDisk,
    pub index: MemoryKv,
    /// Given by the metadata tier when the disk was formatted.
    pub incarnation: Option<Incarnation>,
    /// What the last process had written and not synced, and whether the power failed since.
    pub unsynced: Vec<Tracked>,
    pub lost_power: bool,
    /// Its log was damaged: it may have lost what was durable.
    pub damaged: bool,
}

/// Bits that turn over when a log is damaged, at most.
const FLIPS_MAX: u32 = 64;
/// Where a segment's entries begin.
const ENTRIES_BEGIN: u64 = 4096;

impl Medium {
    /// Turns bits over in the older half of a segment's entries, and loses the index, so that the next start finds it. Whether there
    /// was enough to damage: that the newest entry is broken, nobody could tell from a write that was cut short.
    pub(crate) fn damage(&mut self, rng: &mut Rng) -> bool {
        let files = self.disk.list().unwrap_or_default();
        let segments: Vec<String> =
            files.into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg")).collect();
        let Some(name) = segments.get(rng.usize(0..segments.len().max(1))) else { return false };
        let bytes = self.disk.bytes(name).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default() as u64;
        if end < 4 * ENTRIES_BEGIN {
            return false;
        }
        let half = ENTRIES_BEGIN..ENTRIES_BEGIN + (end - ENTRIES_BEGIN) / 2;
        for _ in 0..rng.u32(1..=FLIPS_MAX) {
            self.disk.flip_bit(name, rng.u64(half.start * 8..half.end * 8));
        }
        self.index.lose();
        self.damaged = true;
        true
    }
}

/// A block or placement on its way to the disk.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    seq: EntrySeq,
    partition: PartitionUid,
    first: Lsn,
    placed: Placed,
    /// Its write failed: only the next start can tell whether it is in the log.
    doubtful: bool,
}

/// What a shard lost before it was opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// What it had only in its write cache.
    pub write_cache: bool,
    /// Something that was durable.
    pub durable: bool,
}

/// Something that the shard wants to happen later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardTimer {
    /// A sync that was begun is done.
    Sync,
    /// The write cache is due.
    Flush,
}

#[derive(Debug)]
pub(crate) struct Shard {
    pub core: ShardCore,
    engine: Engine,
    reader: Reader,
    lost: LostBefore,
    written: EntrySeq,
    /// What the sync under way will have made durable.
    syncing: Option<EntrySeq>,
    sync_wanted: bool,
    flush_due: bool,
    tracked: Vec<Tracked>,
    /// What blocks are refused with.
    pub refuses: Option<StoreRefusal>,
    streams: ReadStreams<(Address, u64)>,
    /// Those that are in single-copy mode.
    single_copy: BTreeSet<(Address, u64)>,
}

/// How long a write-cached block may wait for the disk.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

impl Shard {
    /// Opens a shard's medium. The second says what it lost.
    pub(crate) fn open(
        medium: &Medium,
        cluster: ClusterId,
        shard: ShardId,
        incarnation: Incarnation,
        start: Start,
        ledger: &mut Ledger,
    ) -> Result<(Self, Lost), String> {
        let identity = Identity { cluster, shard, incarnation };
        let disk = Arc::new(medium.disk.clone());
        let opened = Engine::open(EngineConfig::small(), disk, &medium.index, identity, start);
        let (engine, recovered) = opened.map_err(|error| format!("{shard}: {error}"))?;
        let reader = engine.reader();
        let mut shard = Self {
            core: ShardCore::new(shard, incarnation),
            engine,
            reader,
            lost: LostBefore::default(),
            written: EntrySeq(0),
            syncing: None,
            sync_wanted: false,
            flush_due: false,
            tracked: Vec::new(),
            refuses: None,
            streams: ReadStreams::new(shard),
            single_copy: BTreeSet::new(),
        };
        shard.track_again(medium, ledger);
        if recovered.new_losses > 0 && !medium.damaged {
            return Err(format!("{identity:?} lost durable data: {:?}", recovered.losses));
        }
        let lost = Lost { write_cache: recovered.lost_write_cache, durable: !recovered.losses.is_empty() };
        if lost.durable {
            shard.look_for_damage(ledger);
            ledger.seal_anew.insert(shard.shard_ref(), None);
            shard.core.handle_damaged();
            shard.lost.durable = u64::MAX;
            shard.streams.handle_lost(shard.lost);
        }
        Ok((shard, lost))
    }

    /// What of the last process's writes is on the disk: after a loss of power whatever is there, otherwise all of it after a sync,
    /// except that a write which failed may have left nothing.
    fn track_again(&mut self, medium: &Medium, ledger: &mut Ledger) {
        let me = self.shard_ref();
        for tracked in &medium.unsynced {
            let again = Tracked { seq: EntrySeq(0), doubtful: false, ..tracked.clone() };
            if !medium.lost_power && !tracked.doubtful {
                self.tracked.push(again);
                continue;
            }
            let (epoch, first_esn) = (tracked.first.epoch(), tracked.first.esn());
            if let Ok(Found::Block(stored)) = self.reader.fetch(tracked.partition, epoch, first_esn) {
                let StoredBlock { placement, .. } = stored;
                let placed = Placed { version: placement.version, copyset: placement.copyset };
                match medium.lost_power {
                    true => ledger.note_durable(tracked.partition, tracked.first, me, placed),
                    false => self.tracked.push(Tracked { placed, ..again }),
                }
            }
        }
    }

    /// Tells the ledger what of it cannot be read any more.
    fn look_for_damage(&self, ledger: &mut Ledger) {
        // A disk that errs may not err again; it is made to err a few times at most.
        const READS: usize = 8;
        ledger.note_damage(self.shard_ref(), |partition, first| {
            let read = || self.reader.fetch(partition, first.epoch(), first.esn());
            (0..READS).any(|_| !matches!(read(), Ok(Found::Damaged)))
        });
    }

    /// What is written and not synced.
    pub(crate) fn take_tracked(&mut self) -> Vec<Tracked> {
        std::mem::take(&mut self.tracked)
    }

    fn track(&mut self, cx: &mut Context<'_>, seq: EntrySeq, entry: &Entry) {
        let ledger = &mut cx.history.ledger;
        let (partition, first, placement) = match entry {
            Entry::Block { placement, block } if block.header().kind == BlockKind::Records => {
                let header = block.header();
                ledger.note_cached(header.partition, header.first_lsn(), header.last_lsn(), self.shard_ref());
                (header.partition, header.first_lsn(), placement)
            }
            Entry::Amend { partition, epoch, first_esn, placement } => {
                (*partition, Lsn::new(*epoch, *first_esn), placement)
            }
            _ => return,
        };
        let last = match entry {
            Entry::Block { block, .. } => block.header().last_lsn(),
            _ => first,
        };
        let writer = placement.version.writer_epoch;
        let promised = ledger.promised.entry((partition, first.epoch())).or_default();
        if writer == first.epoch() {
            promised.settled_in_placements = placement.settled.max(promised.settled_in_placements);
        }
        let checked = nothing_after_a_seal::check_taken(ledger, self.shard_ref(), partition, (first, last), writer);
        let placed = Placed { version: placement.version, copyset: placement.copyset.clone() };
        let seal = self.core.partition(partition).map_or(Epoch::ZERO, |state| state.meta().seal);
        let checked = checked.and_then(|()| damaged_takes_nothing::check(ledger, self.shard_ref(), partition, seal));
        let checked = checked.and_then(|()| match entry {
            Entry::Amend { .. } => amends_are_true::check(ledger, self.shard_ref(), partition, first, &placed),
            _ => Ok(()),
        });
        if let Err(why) = checked {
            cx.violation(why);
        }
        self.tracked.push(Tracked { seq, partition, first, placed, doubtful: false });
    }

    fn note_synced(&mut self, cx: &mut Context<'_>, durable: EntrySeq) {
        let me = self.shard_ref();
        let (synced, rest) = std::mem::take(&mut self.tracked).into_iter().partition(|t| t.seq <= durable);
        self.tracked = rest;
        let synced: Vec<Tracked> = synced;
        for Tracked { partition, first, placed, .. } in synced {
            cx.history.ledger.note_durable(partition, first, me, placed);
        }
    }

    /// The metadata tier has let go of records.
    pub(crate) fn handle_trim(&mut self, cx: &mut Context<'_>, partition: PartitionUid, upto: Lsn) {
        self.core.handle_trim(partition, upto);
        self.pump(cx);
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.core.is_failed()
    }

    /// The metadata tier knows of this start.
    pub(crate) fn handle_registered(&mut self, lost: LostBefore) {
        self.lost.cached = self.lost.cached.max(lost.cached);
        self.lost.durable = self.lost.durable.max(lost.durable);
        self.streams.handle_lost(self.lost);
        if self.engine.forget_lost_write_cache().is_err() {
            self.core.handle_failed();
        }
    }

    /// The metadata tier knows of the damage, and of every partition's newest epoch.
    pub(crate) fn handle_seal_anew(
        &mut self,
        cx: &mut Context<'_>,
        damaged_before: u64,
        newest: impl Iterator<Item = (PartitionUid, Epoch)>,
    ) {
        self.lost.durable = damaged_before;
        self.streams.handle_lost(self.lost);
        let newest: BTreeMap<PartitionUid, Epoch> = newest.collect();
        cx.history.ledger.seal_anew.insert(self.shard_ref(), Some(newest.clone()));
        self.core.handle_seal_anew(newest);
        self.pump(cx);
    }

    pub(crate) fn shard_ref(&self) -> ShardRef {
        ShardRef { shard: self.core.shard(), incarnation: self.core.incarnation() }
    }

    /// Handles a message for this shard.
    pub(crate) fn handle(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        match message {
            Message::Store(store, block) => match self.refuses.clone() {
                Some(refusal) => self.core.refuse_store(asker(from), &store, &block, refusal),
                None => self.core.handle_store(asker(from), store, block),
            },
            Message::Amend(amend) => self.core.handle_amend(asker(from), amend),
            Message::Seal(seal) => self.core.handle_seal(asker(from), seal),
            Message::Release(release) => self.core.handle_release(release),
            Message::Fetch(fetch) => self.fetch(cx, from, &fetch),
            Message::ReadProducers(read) => self.read_producers(cx, from, &read),
            Message::StartRead(stream, request) => self.start_read(from, stream, request),
            Message::StopRead(stream, _) => self.streams.stop((from, stream)),
            _ => {}
        }
        self.pump(cx);
    }

    /// A reader is gone.
    pub(crate) fn stop_reads(&mut self, reader: Address) {
        let gone: Vec<_> = self.streams.readers().filter(|(address, _)| *address == reader).collect();
        gone.into_iter().for_each(|reader| self.streams.stop(reader));
    }

    fn start_read(&mut self, from: Address, number: u64, request: StartRead) {
        match request.mode {
            ReadMode::SingleCopy { .. } => self.single_copy.insert((from, number)),
            ReadMode::AllSendAll => self.single_copy.remove(&(from, number)),
        };
        self.streams.handle_start(&mut self.core, (from, number), request);
    }

    fn fetch(&self, cx: &mut Context<'_>, from: Address, fetch: &FetchBlock) {
        let (answer, block) = lookups::fetch(&self.reader, self.core.incarnation(), fetch);
        cx.send(from, Lane::Store, Message::Fetched(answer, block));
    }

    fn read_producers(&self, cx: &mut Context<'_>, from: Address, read: &ReadProducers) {
        let mine = self.core.incarnation();
        let (answer, table) = lookups::read_producers(&self.reader, mine, self.lost, read);
        cx.send(from, Lane::Store, Message::ProducersRead(answer, table));
    }

    /// Carries out what the core wants, until it wants nothing more.
    pub(crate) fn pump(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(output) = self.core.poll_output() {
                self.carry_out(cx, output);
                continue;
            }
            if !self.pump_streams(cx) {
                return;
            }
        }
    }

    fn carry_out(&mut self, cx: &mut Context<'_>, output: Output) {
        match output {
            Output::Load(partition) => match self.reader.load(partition) {
                Ok(image) => self.core.handle_loaded(partition, image),
                Err(_) => self.core.handle_load_failed(partition),
            },
            Output::Submit { seq, entry, sync } => {
                self.track(cx, seq, &entry);
                if let Entry::Partition(meta) = &entry {
                    let me = self.shard_ref();
                    let ends = meta.ends.iter().map(|end| ((me, meta.partition, end.epoch), end.last_esn));
                    cx.history.ledger.known_ends.extend(ends);
                    let released = self.core.partition(meta.partition).map_or(Lsn::ZERO, |state| state.released());
                    cx.claim(Claim::Trimmed { trim: meta.trim, released });
                }
                if self.engine.append(&[entry]).is_err() {
                    self.tracked.iter_mut().filter(|tracked| tracked.seq == seq).for_each(|t| t.doubtful = true);
                    return self.core.handle_failed();
                }
                assert_eq!(seq, self.written.next(), "entries are numbered in their order");
                self.written = seq;
                self.sync_wanted |= sync;
                self.begin_sync(cx);
                if !sync && !std::mem::replace(&mut self.flush_due, true) {
                    cx.shard_timer(self.core.shard().shard, FLUSH_AFTER, ShardTimer::Flush);
                }
                self.core.handle_progress(self.written, EntrySeq(0));
            }
            Output::Stored { to, answer } => cx.send(asker_address(to), Lane::Store, Message::Stored(answer)),
            Output::Flushed { to, flushed } => {
                cx.send(asker_address(to), Lane::Store, Message::Flushed(flushed.shard, flushed));
            }
            Output::Sealed { to, answer } => {
                let ShardRef { shard, incarnation } = self.shard_ref();
                let checked = nothing_after_a_seal::check_sealed(&mut cx.history.ledger, self.shard_ref(), &answer);
                if let Err(why) = checked {
                    cx.violation(why);
                }
                let sealed = Sealed { shard, incarnation, lost: self.lost, partitions: vec![answer] };
                cx.send(asker_address(to), Lane::Store, Message::Sealed(sealed));
            }
            Output::Released { partition, .. } => {
                if let Some(readable) = self.core.readable(partition) {
                    self.streams.handle_readable(partition, readable);
                }
            }
        }
    }

    /// Whether a stream had something to say.
    fn pump_streams(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let shard = self.core.shard();
        let lane = Lane::Read(shard);
        while let Some(((reader, number), output)) = self.streams.poll_output() {
            moved = true;
            match output {
                ReadOutput::Started(started) => cx.send(reader, lane, Message::ReadStarted(number, started)),
                ReadOutput::Block(read, block) => {
                    cx.send(reader, lane, Message::ReadBlock(number, shard, read, block));
                }
                ReadOutput::Claim(claim) => {
                    if claim.kind == ClaimKind::UnderReplicated {
                        // What follows is void up to there, and the reader knows it.
                        self.single_copy.remove(&(reader, number));
                    // That nothing is left of what is trimmed is no silence.
                    } else if self.single_copy.contains(&(reader, number)) && claim.upto > claim.trim {
                        let partition = self.streams.get((reader, number)).map(ReadStream::partition);
                        partition.into_iter().for_each(|p| cx.claim(Claim::Silent { partition: p, upto: claim.upto }));
                    }
                    cx.send(reader, lane, Message::ReadClaim(number, shard, claim));
                }
                ReadOutput::Read { version, partition, from, upto, len_max } => {
                    let chunk = self.reader.read(partition, from, upto, len_max);
                    self.streams.handle_chunk((reader, number), version, chunk);
                }
            }
        }
        moved
    }

    fn begin_sync(&mut self, cx: &mut Context<'_>) {
        if self.sync_wanted && self.syncing.is_none() {
            self.sync_wanted = false;
            self.syncing = Some(self.written);
            let latency = cx.sync_latency();
            cx.shard_timer(self.core.shard().shard, latency, ShardTimer::Sync);
        }
    }

    pub(crate) fn handle_timer(&mut self, cx: &mut Context<'_>, timer: ShardTimer) {
        match timer {
            ShardTimer::Flush => {
                self.flush_due = false;
                self.sync_wanted = true;
            }
            ShardTimer::Sync => {
                // Everything written by now is synced; what was written before the sync began is what is promised.
                if self.engine.sync().is_err() {
                    self.core.handle_failed();
                }
                let durable = self.syncing.take().unwrap_or_default();
                if !self.core.is_failed() {
                    self.note_synced(cx, durable);
                }
                self.core.handle_progress(self.written, durable);
                if cx.rng.disk.u8(..) < 16 && self.engine.upkeep(cx.now_ms).is_err() {
                    self.core.handle_failed();
                }
            }
        }
        self.begin_sync(cx);
        self.pump(cx);
    }
}

fn asker(address: Address) -> Asker {
    match address {
        Address::Server(node) => Asker(node.into()),
        _ => unreachable!("only servers ask shards"),
    }
}

fn asker_address(asker: Asker) -> Address {
    Address::Server(asker.0 as u16)
}
