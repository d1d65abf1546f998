//! A shard on its core: the admission core with its engine's threads, and the streams of its readers.
//!
//! An entry is handed to the commit thread in the order in which it was admitted, so the engine's numbers are the core's.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dlog_proto::block::Block;
use dlog_proto::transport::LaneSender;
use dlog_proto::wire::{
    Amend, FetchBlock, Frame, LostBefore, Message, Payload, ReadProducers, Release, Seal, Sealed, SealedPartition,
    StartRead, Store, StoreAnswer, StoreRefusal, Stored,
};
use dlog_proto::{Lsn, PartitionUid, ShardId, ShardRef};
use dlog_storage_node::commit::{CommitSink, Committer, ReserveRefused, Running, ShardFailed};
use dlog_storage_node::entry::{Entry, EntrySeq, Marks, PartitionImage};
use dlog_storage_node::read::{ReadError, Reader};
use dlog_storage_node::shard::{Asker, Output, ReadOutput, ReadStreams, ShardCore, lookups};
use tokio::sync::oneshot;
use tokio::task::{spawn_blocking, spawn_local};

use super::inbox::{CoreHandle, Input, LaneNumber, SealAnew, ShardInput};
use super::released::ReleasedMarks;
use crate::node::metrics::CoreCounters;

/// Partitions in one answer to a seal, and blocks that they list together, unless one partition lists more.
const SEALED_AT_ONCE: usize = 256;
const SEALED_BLOCKS_AT_ONCE: usize = 8192;
/// Partitions that are loaded by one task.
const LOADS_AT_ONCE: usize = 256;
/// Partitions whose producers are read back by one task: a node that dies leaves thousands of them. Few enough that one that takes long
/// does not hold up many.
const PRODUCERS_AT_ONCE: usize = 32;

/// An open shard, on its way to its core.
#[derive(Debug)]
pub(crate) struct NewShard {
    pub(crate) core: ShardCore,
    pub(crate) committer: Committer,
    pub(crate) running: Running,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lost: LostBefore,
}

impl NewShard {
    pub(crate) fn shard_ref(&self) -> ShardRef {
        ShardRef { shard: self.core.shard(), incarnation: self.core.incarnation() }
    }
}

/// How far the commit thread is, as it tells the core: a note that it went on, and the numbers when the core looks.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    written: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    /// A note is in the core's inbox.
    told: AtomicBool,
}

/// The commit thread's side of [`Progress`].
#[derive(Debug)]
pub(crate) struct ProgressSink {
    pub(crate) progress: Arc<Progress>,
    pub(crate) shard: ShardId,
    pub(crate) core: CoreHandle,
}

impl ProgressSink {
    fn tell(&self) {
        if !self.progress.told.swap(true, Ordering::AcqRel) {
            self.core.tell(Input::Shard(self.shard, ShardInput::Progress));
        }
    }
}

impl CommitSink for ProgressSink {
    fn written(&mut self, upto: EntrySeq) {
        self.progress.written.store(upto.0, Ordering::Release);
        self.tell();
    }

    fn durable(&mut self, upto: EntrySeq) {
        self.progress.durable.store(upto.0, Ordering::Release);
        self.tell();
    }

    fn failed(&mut self, error: &ShardFailed) {
        tracing::error!(shard = %self.shard, %error, "what was acknowledged is kept; restart the node when the disk is well");
        self.progress.failed.store(true, Ordering::Release);
        self.tell();
    }
}

#[derive(Debug)]
pub(super) struct LocalShard {
    core: ShardCore,
    committer: Committer,
    reader: Reader,
    running: Option<Running>,
    progress: Arc<Progress>,
    /// Told when all partitions are sealed anew.
    sealing_anew: Vec<oneshot::Sender<()>>,
    /// Entries that were admitted when there was room for them and then was not: they go first when there is again.
    stalled: VecDeque<(Entry, bool)>,
    /// What sequencers asked of producers in this round.
    asked_producers: Vec<(ReadProducers, LaneSender)>,
    streams: ReadStreams<LaneNumber>,
    inbox: CoreHandle,
    counters: Arc<CoreCounters>,
    released: ReleasedMarks,
}

impl LocalShard {
    pub(super) fn new(new: NewShard, inbox: CoreHandle, counters: Arc<CoreCounters>, released: ReleasedMarks) -> Self {
        let NewShard { core, committer, running, progress, lost } = new;
        let mut streams = ReadStreams::new(core.shard());
        streams.handle_lost(lost);
        Self {
            streams,
            core,
            reader: committer.reader(),
            committer,
            running: Some(running),
            progress,
            sealing_anew: Vec::new(),
            stalled: VecDeque::new(),
            asked_producers: Vec::new(),
            inbox,
            counters,
            released,
        }
    }

    pub(super) fn id(&self) -> ShardId {
        self.core.shard()
    }

    /// The engine's threads, to be closed.
    pub(super) fn take_running(&mut self) -> Option<Running> {
        self.running.take()
    }

    pub(super) fn handle_store(&mut self, from: LaneNumber, store: Store, block: Block) {
        let placement = store.placement.to_placement().expect("messages are validated");
        let entry = Entry::Block { placement, block: block.clone() };
        match self.refusal(&entry) {
            None => self.core.handle_store(Asker(from), store, block),
            Some(refusal) => self.core.refuse_store(Asker(from), &store, &block, refusal),
        }
    }

    pub(super) fn handle_amend(&mut self, from: LaneNumber, amend: Amend) {
        self.core.handle_amend(Asker(from), amend);
    }

    pub(super) fn handle_seal(&mut self, from: LaneNumber, seal: Seal) {
        self.core.handle_seal(Asker(from), seal);
    }

    pub(super) fn handle_release(&mut self, release: Release) {
        self.core.handle_release(release);
    }

    pub(super) fn handle_draining(&mut self) {
        self.core.handle_draining();
    }

    pub(super) fn handle(&mut self, input: ShardInput) {
        match input {
            ShardInput::Damaged => self.core.handle_damaged(),
            ShardInput::SealAnew(anew) => self.handle_seal_anew(anew),
            ShardInput::WatchReleased(partition) => self.handle_watch_released(partition),
            ShardInput::Progress => self.handle_progress(),
            ShardInput::Loaded(partitions) => {
                partitions.into_iter().for_each(|(partition, loaded)| self.handle_loaded(partition, loaded));
            }
            ShardInput::ReadDone { lane, version, chunk } => self.streams.handle_chunk(lane, version, chunk),
        }
    }

    fn handle_seal_anew(&mut self, anew: SealAnew) {
        self.streams.handle_lost(LostBefore { durable: anew.damaged_before, ..self.streams.lost() });
        self.core.handle_seal_anew(anew.newest);
        self.sealing_anew.push(anew.done);
    }

    pub(super) fn handle_trimmed(&mut self, partitions: &[(PartitionUid, Lsn)]) {
        partitions.iter().for_each(|(partition, upto)| self.core.handle_trim(*partition, *upto));
    }

    pub(super) fn handle_erase(&mut self, partitions: &[PartitionUid]) {
        partitions.iter().for_each(|partition| self.core.handle_deleted(*partition));
    }

    /// Why there is no room for an entry now, if there is none. Nobody else takes room, so what is free stays free until the
    /// entry is submitted, unless its partition has to be loaded first.
    fn refusal(&self, entry: &Entry) -> Option<StoreRefusal> {
        if self.core.is_draining() {
            return Some(StoreRefusal::Draining);
        }
        if !self.stalled.is_empty() {
            return Some(StoreRefusal::Overloaded { retry_after_ms: 10 });
        }
        match self.committer.reserve(entry) {
            Ok(()) => {
                self.committer.unreserve(entry);
                None
            }
            Err(ReserveRefused::Overloaded { .. }) => Some(StoreRefusal::Overloaded { retry_after_ms: 10 }),
            Err(ReserveRefused::NotReady) => Some(StoreRefusal::Overloaded { retry_after_ms: 5 }),
            Err(ReserveRefused::NoSpace | ReserveRefused::TooLong { .. }) => Some(StoreRefusal::NoSpace),
        }
    }

    /// The commit thread went on.
    fn handle_progress(&mut self) {
        // Before looking: what comes later is told again.
        self.progress.told.store(false, Ordering::Release);
        if self.progress.failed.load(Ordering::Acquire) {
            return self.fail();
        }
        let durable = EntrySeq(self.progress.durable.load(Ordering::Acquire));
        let written = EntrySeq(self.progress.written.load(Ordering::Acquire)).max(durable);
        self.core.handle_progress(written, durable);
    }

    fn fail(&mut self) {
        if self.core.is_failed() {
            return;
        }
        self.core.handle_failed();
        self.released.fail(self.core.shard());
        self.stalled.clear();
    }

    fn handle_loaded(&mut self, partition: PartitionUid, loaded: Result<Option<PartitionImage>, ReadError>) {
        match loaded {
            Ok(image) => self.core.handle_loaded(partition, image),
            Err(error) => {
                tracing::error!(shard = %self.id(), %partition, %error, "a partition cannot be read");
                self.core.handle_load_failed(partition);
            }
        }
        self.wake_readers(partition);
    }

    fn wake_readers(&mut self, partition: PartitionUid) {
        if let Some(readable) = self.core.readable(partition) {
            self.streams.handle_readable(partition, readable);
        }
    }

    /// Somebody asks how far a partition is released: once it is in memory, every move is told.
    fn handle_watch_released(&mut self, partition: PartitionUid) {
        self.core.want(partition);
        if let Some(readable) = self.core.readable(partition) {
            self.released.tell(partition, readable.released);
        }
    }

    pub(super) fn handle_start_read(&mut self, lane: LaneNumber, request: StartRead) {
        self.streams.handle_start(&mut self.core, lane, request);
    }

    /// A lane is gone.
    pub(super) fn stop_reading(&mut self, lane: LaneNumber) {
        self.streams.stop(lane);
    }

    /// Looks for a block, away from this thread.
    pub(super) fn fetch(&self, fetch: FetchBlock, tx: LaneSender) {
        let (reader, mine) = (self.reader.clone(), self.core.incarnation());
        spawn_blocking(move || {
            let (answer, block) = lookups::fetch(&reader, mine, &fetch);
            let payload = block.map(|block| block.bytes().clone()).unwrap_or_default();
            let _ = tx.send(answer.to_frame(0, payload));
        });
    }

    /// Goes through what producers wrote, at the end of the round.
    pub(super) fn handle_read_producers(&mut self, read: ReadProducers, tx: LaneSender) {
        self.asked_producers.push((read, tx));
    }

    /// Away from this thread.
    fn read_producers(&mut self) {
        let mut asked = std::mem::take(&mut self.asked_producers).into_iter();
        while asked.len() > 0 {
            let part: Vec<_> = asked.by_ref().take(PRODUCERS_AT_ONCE).collect();
            let (reader, mine, lost) = (self.reader.clone(), self.core.incarnation(), self.streams.lost());
            spawn_blocking(move || {
                for (read, tx) in part {
                    let (answer, table) = lookups::read_producers(&reader, mine, lost, &read);
                    let payload = table.map(|table| table.encode()).unwrap_or_default();
                    // Whoever asked is gone, and asks again when it is back.
                    let _ = tx.send(answer.to_frame(0, payload.into()));
                }
            });
        }
    }

    /// Carries out what the core and its streams want. `answer` finds a lane's sender.
    pub(super) fn pump<'a>(&mut self, answer: impl Fn(LaneNumber) -> Option<&'a LaneSender>) {
        let mut answers = Answers::default();
        let mut loads = Vec::new();
        let mut group = Group::default();
        self.submit_stalled();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Load(partition) => loads.push(partition),
                Output::Submit { entry, sync, .. } => self.submit(entry, sync, &mut group),
                Output::Stored { to: Asker(lane), answer } => answers.stored.entry(lane).or_default().push(answer),
                Output::Flushed { to: Asker(lane), flushed } => answers.flushed.push((lane, flushed)),
                Output::Sealed { to: Asker(lane), answer } => answers.sealed.entry(lane).or_default().push(answer),
                Output::Released { partition, released } => {
                    // What was released may be lost with the process; then it is released again.
                    self.committer.note_marks(partition, &Marks { released, ..Marks::default() });
                    self.released.tell(partition, released);
                    self.wake_readers(partition);
                }
            }
        }
        self.submit_group(&mut group);
        self.load(&loads);
        self.read_producers();
        self.send(answers, &answer);
        if !self.sealing_anew.is_empty() && self.core.is_sealed_anew() {
            for done in self.sealing_anew.drain(..) {
                // Whoever asked may have given up.
                let _ = done.send(());
            }
        }
        self.pump_streams(&answer);
    }

    fn submit_stalled(&mut self) {
        while let Some((entry, sync)) = self.stalled.pop_front() {
            if self.committer.reserve(&entry).is_err() {
                return self.stalled.push_front((entry, sync));
            }
            if self.committer.submit(entry, sync).is_err() {
                return self.fail();
            }
        }
    }

    fn submit(&mut self, entry: Entry, sync: bool, group: &mut Group) {
        // Order is everything: nothing overtakes what is stalled.
        if !self.stalled.is_empty() || self.committer.reserve(&entry).is_err() {
            return self.stalled.push_back((entry, sync));
        }
        if group.sync != sync {
            self.submit_group(group);
            group.sync = sync;
        }
        group.entries.push(entry);
    }

    fn submit_group(&mut self, group: &mut Group) {
        let entries = std::mem::take(&mut group.entries);
        if !entries.is_empty() && self.committer.submit_all(entries, group.sync).is_err() {
            self.fail();
        }
    }

    fn load(&self, partitions: &[PartitionUid]) {
        for partitions in partitions.chunks(LOADS_AT_ONCE) {
            let (partitions, reader, inbox) = (partitions.to_vec(), self.reader.clone(), self.inbox.clone());
            let shard = self.id();
            spawn_blocking(move || {
                let partitions = partitions.into_iter().map(|partition| (partition, reader.load(partition))).collect();
                inbox.tell(Input::Shard(shard, ShardInput::Loaded(partitions)));
            });
        }
    }

    fn send<'a>(&self, answers: Answers, answer: &impl Fn(LaneNumber) -> Option<&'a LaneSender>) {
        let Answers { stored, flushed, sealed } = answers;
        let send = |lane: LaneNumber, frame: Frame| {
            if let Some(tx) = answer(lane) {
                // Whoever asked is gone, and asks again when it is back.
                let _ = tx.send(frame);
            }
        };
        for (lane, answers) in stored {
            send(lane, Stored { answers }.to_frame(0, Payload::empty()));
        }
        for (lane, flushed) in flushed {
            send(lane, flushed.to_frame(0, Payload::empty()));
        }
        for (lane, partitions) in sealed {
            for partitions in in_frames(partitions) {
                let (shard, incarnation, lost) = (self.id(), self.core.incarnation(), self.streams.lost());
                let sealed = Sealed { shard, incarnation, lost, partitions };
                send(lane, sealed.to_frame(0, Payload::empty()));
            }
        }
    }

    fn pump_streams<'a>(&mut self, answer: &impl Fn(LaneNumber) -> Option<&'a LaneSender>) {
        while let Some((lane, output)) = self.streams.poll_output() {
            // A lane that is gone is told to the core by its other half.
            let Some(tx) = answer(lane) else { continue };
            let _ = match output {
                ReadOutput::Started(started) => tx.send(started.to_frame(0, Payload::empty())),
                ReadOutput::Block(read, block) => {
                    CoreCounters::add(&self.counters.read_blocks, 1);
                    CoreCounters::add(&self.counters.read_bytes, block.bytes().len() as u64);
                    tx.send(read.to_frame(0, block.bytes().clone()))
                }
                ReadOutput::Claim(claim) => tx.send(claim.to_frame(0, Payload::empty())),
                ReadOutput::Read { version, partition, from, upto, len_max } => {
                    let share = read_ahead_share(self.streams.readers().len());
                    tx.set_high_water_bytes(share);
                    let part = Part { partition, from, upto, len_max: len_max.min(share) };
                    let (reader, inbox) = (self.reader.clone(), self.inbox.clone());
                    spawn_local(read((self.core.shard(), lane, version), part, reader, tx.clone(), inbox));
                    Ok(())
                }
            };
        }
    }
}

/// What waits to be sent to all readers of a shard that do not keep up, in bytes: about twice this, for what was read last comes on top
/// of what waits.
const READ_AHEAD_BYTES: usize = 256 << 20;
/// The share of one of them.
const SHARE_BYTES: Range<usize> = 64 << 10..1 << 20;

/// How much may wait for one of so many readers before it is read on for, and how much is read then.
fn read_ahead_share(readers: usize) -> usize {
    (READ_AHEAD_BYTES / readers.max(1)).clamp(SHARE_BYTES.start, SHARE_BYTES.end)
}

/// Part of a partition that a stream wants to be read.
struct Part {
    partition: PartitionUid,
    from: Lsn,
    upto: Lsn,
    len_max: usize,
}

/// Waits until the reader keeps up, and reads, away from this thread.
async fn read(
    (shard, lane, version): (ShardId, LaneNumber, u32),
    part: Part,
    reader: Reader,
    tx: LaneSender,
    inbox: CoreHandle,
) {
    if tx.ready().await.is_ok() {
        let Part { partition, from, upto, len_max } = part;
        let read = spawn_blocking(move || reader.read(partition, from, upto, len_max)).await;
        if let Ok(chunk) = read {
            inbox.tell(Input::Shard(shard, ShardInput::ReadDone { lane, version, chunk }));
        }
    }
}

/// Entries that are submitted together.
#[derive(Debug, Default)]
struct Group {
    entries: Vec<Entry>,
    sync: bool,
}

/// What is answered at the end of a round, by lane.
#[derive(Debug, Default)]
struct Answers {
    stored: BTreeMap<LaneNumber, Vec<StoreAnswer>>,
    flushed: Vec<(LaneNumber, dlog_proto::wire::Flushed)>,
    sealed: BTreeMap<LaneNumber, Vec<SealedPartition>>,
}

/// Cuts answers so that each frame stays well below its limit.
fn in_frames(answers: Vec<SealedPartition>) -> Vec<Vec<SealedPartition>> {
    let mut frames: Vec<Vec<SealedPartition>> = Vec::new();
    let mut blocks = 0;
    for answer in answers {
        let listed = |answer: &SealedPartition| {
            answer.result.as_ref().map_or(0, |state| state.epochs.iter().map(|epoch| epoch.blocks.len()).sum())
        };
        blocks += listed(&answer);
        match frames.last_mut().filter(|frame| frame.len() < SEALED_AT_ONCE && blocks <= SEALED_BLOCKS_AT_ONCE) {
            Some(frame) => frame.push(answer),
            None => {
                blocks = listed(&answer);
                frames.push(vec![answer]);
            }
        }
    }
    frames
}
