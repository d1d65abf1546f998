//! A data core: one thread that owns some of the node's sequencers and shards, and the lanes that lead to them.
//!
//! ```text
//! lanes, links, commit threads, control plane ─► inbox ─► Host (sequencers) ─► links to shards, answers to clients
//!                                                      └► ShardCore ─► commit thread, answers to sequencers and readers
//! ```
//! It takes all that waits in its inbox, lets the cores act on it, and sends what came of it together: batches grow with the
//! load by themselves. Nothing here waits for a disk or a peer.

mod inbox;
mod lanes;
mod links;
mod released;
mod sequencing;
mod shard;
mod tails;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dlog_proto::block::Block;
use dlog_proto::clock::{now, now_ms, sleep_until};
use dlog_proto::transport::{Admission, LaneKind, LaneSender};
use dlog_proto::wire::{
    Amend, Append, ErrorCode, Failed, FetchBlock, Frame, GetTail, Message, Payload, ReadProducers, Release, Seal,
    StartRead, Store,
};
use dlog_proto::{PartitionUid, ShardId, Time, TimestampMs};
use dlog_sequencer::{Host, Settings};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_local};

pub(crate) use self::inbox::{CoreHandle, Cores, Input, LocalAppend, SealAnew, SequencingInput, ShardInput};
use self::inbox::{FrameBatch, LaneNumber};
pub(crate) use self::lanes::speaks_for_a_node;
pub(crate) use self::links::Reach;
use self::links::{LinkId, Links};
pub(crate) use self::released::ReleasedMarks;
use self::sequencing::Sequencing;
use self::shard::LocalShard;
pub(crate) use self::shard::{NewShard, Progress, ProgressSink};
pub(crate) use self::tails::Tails;
use super::metrics::CoreCounters;
use super::proposer::Proposer;

/// Inputs that are taken at once.
const INPUTS_AT_ONCE: usize = 4096;
/// Threads per core that read from disks.
const READ_THREADS: usize = 16;

/// What a core is made of.
pub(crate) struct CoreSetup {
    pub(crate) index: u16,
    pub(crate) me: CoreHandle,
    pub(crate) inbox: mpsc::UnboundedReceiver<Input>,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) proposer: Proposer,
    pub(crate) reach: Reach,
    pub(crate) tails: Tails,
    pub(crate) released: ReleasedMarks,
}

/// Starts a core on a thread of its own.
pub(crate) fn start(setup: CoreSetup) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READ_THREADS)
        .thread_name(format!("read-{}", setup.index))
        .build()?;
    let name = format!("core-{}", setup.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, Core::new(setup).run());
    })?;
    Ok(())
}

struct OpenLane {
    kind: LaneKind,
    is_node: bool,
    tx: LaneSender,
}

struct Core {
    inbox: mpsc::UnboundedReceiver<Input>,
    me: CoreHandle,
    admission: Arc<dyn Admission>,
    lanes: HashMap<LaneNumber, OpenLane>,
    links: Links,
    sequencing: Sequencing,
    shards: BTreeMap<ShardId, LocalShard>,
    released: ReleasedMarks,
    /// Until then others may know of shards that are not here yet.
    has_all_shards: bool,
    stop: Option<oneshot::Sender<()>>,
    counters: Arc<CoreCounters>,
}

impl Core {
    fn new(setup: CoreSetup) -> Self {
        let CoreSetup { index, me, inbox, counters, admission, settings, proposer, reach, tails, released } = setup;
        Self {
            inbox,
            admission,
            lanes: HashMap::new(),
            links: Links::new(reach, me.clone()),
            sequencing: Sequencing::new(
                Host::new(settings, fastrand::u64(..)),
                index,
                proposer,
                tails,
                counters.clone(),
            ),
            shards: BTreeMap::new(),
            released,
            has_all_shards: false,
            stop: None,
            me,
            counters,
        }
    }

    async fn run(mut self) {
        let mut inputs = Vec::new();
        while self.stop.is_none() {
            let timeout = self.sequencing.host.next_timeout();
            tokio::select! {
                biased;
                _ = self.inbox.recv_many(&mut inputs, INPUTS_AT_ONCE) => {}
                () = sleep_until(timeout) => {}
            }
            let time = (now(), now_ms());
            inputs.drain(..).for_each(|input| self.handle(time, input));
            self.pump(time);
        }
        self.close().await;
    }

    fn pump(&mut self, time: (Time, TimestampMs)) {
        let lanes = &self.lanes;
        let answer = |lane: LaneNumber| lanes.get(&lane).map(|lane| &lane.tx);
        self.sequencing.pump(time, &self.links, answer);
        self.pump_shards();
    }

    fn pump_shards(&mut self) {
        let lanes = &self.lanes;
        let answer = |lane: LaneNumber| lanes.get(&lane).map(|lane| &lane.tx);
        self.shards.values_mut().for_each(|shard| shard.pump(answer));
    }

    fn handle(&mut self, (now, now_ms): (Time, TimestampMs), input: Input) {
        let host = &mut self.sequencing.host;
        match input {
            Input::Incoming(incoming) => {
                spawn_local(lanes::accept(*incoming, self.admission.clone(), self.me.clone()));
            }
            Input::Connected(connection) => {
                spawn_local(lanes::serve(connection, self.me.clone()));
            }
            // What is stored on a shard that is not here yet would never be answered: the other side comes again.
            Input::LaneOpened { kind: LaneKind::Store, tx, .. } if !self.has_all_shards => tx.finish(),
            Input::LaneOpened { lane, kind, is_node, tx } => {
                self.lanes.insert(lane, OpenLane { kind, is_node, tx });
            }
            Input::LaneFrames { lane, batch: FrameBatch { frames, go_on } } => {
                frames.into_iter().for_each(|frame| self.handle_frame((now, now_ms), lane, frame));
                go_on.notify_one();
            }
            Input::LaneClosed(lane) => self.close_lane(lane),
            Input::LinkUp { link, tx } => {
                let shards = self.links.handle_link(link, Some(tx));
                shards.into_iter().for_each(|shard| host.handle_link(now, shard, true));
            }
            Input::LinkFrames { link, batch: FrameBatch { frames, go_on } } => {
                self.handle_link_frames(now, link, frames);
                go_on.notify_one();
            }
            Input::LinkDown(link) => {
                let shards = self.links.handle_link(link, None);
                shards.into_iter().for_each(|shard| host.handle_link(now, shard, false));
            }
            Input::Nodes(nodes) => {
                let lost = self.links.handle_nodes(nodes);
                lost.into_iter().for_each(|shard| host.handle_link(now, shard, false));
            }
            Input::Tick => {
                self.counters.lanes.store(self.lanes.len() as u64, Ordering::Relaxed);
                self.sequencing.handle_tick(now);
            }
            Input::Sequencing(input) => self.sequencing.handle((now, now_ms), input),
            Input::NewShard(new) => {
                let shard = LocalShard::new(*new, self.me.clone(), self.counters.clone(), self.released.clone());
                self.shards.insert(shard.id(), shard);
            }
            Input::AllShards => self.has_all_shards = true,
            Input::Shard(shard, input) => self.with_shard(shard, |shard| shard.handle(input)),
            Input::Trimmed(partitions) => {
                self.shards.values_mut().for_each(|shard| shard.handle_trimmed(&partitions));
            }
            Input::Erase(partitions) => self.shards.values_mut().for_each(|shard| shard.handle_erase(&partitions)),
            Input::Stop(done) => self.stop = Some(done),
        }
    }

    /// Shards answer for what they took, and refuse what comes.
    fn handle_while_closing(&mut self, input: Input) {
        match input {
            Input::LaneFrames { lane, batch: FrameBatch { frames, go_on } } => {
                let is_refused = |frame: &Frame| Store::is(frame) || Amend::is(frame) || Seal::is(frame);
                let refused = frames.into_iter().filter(is_refused);
                refused.for_each(|frame| self.handle_frame((now(), now_ms()), lane, frame));
                go_on.notify_one();
            }
            Input::LaneClosed(lane) => self.close_lane(lane),
            Input::Shard(shard, input @ ShardInput::Progress) => self.with_shard(shard, |shard| shard.handle(input)),
            _ => {}
        }
    }

    fn with_shard(&mut self, shard: ShardId, act: impl FnOnce(&mut LocalShard)) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            act(shard);
        }
    }

    fn close_lane(&mut self, lane: LaneNumber) {
        if self.lanes.remove(&lane).is_some_and(|lane| lane.kind == LaneKind::Read) {
            self.shards.values_mut().for_each(|shard| shard.stop_reading(lane));
        }
    }

    fn handle_link_frames(&mut self, now: Time, link: LinkId, frames: Vec<Frame>) {
        if !self.links.is_current(link) {
            return;
        }
        for frame in frames {
            if let Err(why) = self.sequencing.handle_shard_frame(now, frame) {
                tracing::warn!("a shard's answer is not understood: {why}");
            }
        }
    }

    fn handle_frame(&mut self, time: (Time, TimestampMs), lane: LaneNumber, frame: Frame) {
        let Some(OpenLane { kind, is_node, tx }) = self.lanes.get(&lane) else { return };
        let (corr, tx) = (frame.corr, tx.clone());
        let handled = match kind {
            LaneKind::Append if Append::is(&frame) => self.sequencing.handle_append(time, lane, frame),
            LaneKind::Append if GetTail::is(&frame) => self.handle_get_tail(&frame, &tx),
            LaneKind::Store if *is_node => self.handle_store_frame(lane, frame, &tx),
            LaneKind::Read if StartRead::is(&frame) => self.handle_start_read(lane, &frame),
            LaneKind::Store => {
                Err("only nodes of the cluster may store: this peer has not shown that it is one".into())
            }
            kind => Err(format!("a message of kind {} has no place on a lane for {kind:?} here", frame.kind)),
        };
        if let Err(why) = handled {
            let _ = tx.send(Failed::new(ErrorCode::Unsupported, why).to_frame(corr, Payload::empty()));
            tx.finish();
            self.close_lane(lane);
        }
    }

    fn handle_get_tail(&self, frame: &Frame, tx: &LaneSender) -> Result<(), String> {
        let GetTail { partition } = GetTail::from_frame(frame).map_err(|error| error.to_string())?;
        let answer = match self.sequencing.tail(partition) {
            Some(tail) => tail.to_frame(frame.corr, Payload::empty()),
            None => not_sequenced(partition).to_frame(frame.corr, Payload::empty()),
        };
        let _ = tx.send(answer);
        Ok(())
    }

    fn handle_store_frame(&mut self, lane: LaneNumber, frame: Frame, tx: &LaneSender) -> Result<(), String> {
        if Store::is(&frame) {
            let store = Store::from_frame(&frame).map_err(|error| error.to_string())?;
            let block = Block::decode(frame.payload).map_err(|error| format!("a block arrived damaged: {error}"))?;
            self.with_shard(store.shard, |shard| shard.handle_store(lane, store, block));
        } else if Amend::is(&frame) {
            let amend = Amend::from_frame(&frame).map_err(|error| error.to_string())?;
            self.with_shard(amend.shard, |shard| shard.handle_amend(lane, amend));
        } else if Seal::is(&frame) {
            let seal = Seal::from_frame(&frame).map_err(|error| error.to_string())?;
            self.with_shard(seal.shard, |shard| shard.handle_seal(lane, seal));
        } else if Release::is(&frame) {
            let release = Release::from_frame(&frame).map_err(|error| error.to_string())?;
            self.with_shard(release.shard, |shard| shard.handle_release(release));
        } else if FetchBlock::is(&frame) {
            let fetch = FetchBlock::from_frame(&frame).map_err(|error| error.to_string())?;
            self.with_shard(fetch.shard, |shard| shard.fetch(fetch, tx.clone()));
        } else {
            let read = ReadProducers::from_frame(&frame).map_err(|error| error.to_string())?;
            self.with_shard(read.shard, |shard| shard.handle_read_producers(read, tx.clone()));
        }
        Ok(())
    }

    fn handle_start_read(&mut self, lane: LaneNumber, frame: &Frame) -> Result<(), String> {
        let request = StartRead::from_frame(frame).map_err(|error| error.to_string())?;
        let Some(shard) = self.shards.get_mut(&request.shard) else {
            return Err(format!("shard {} is not served here", request.shard));
        };
        shard.handle_start_read(lane, request);
        Ok(())
    }

    /// Closes the shards, each on a thread that may wait. Whoever wants to store meanwhile is told to go elsewhere.
    async fn close(mut self) {
        let mut closing = JoinSet::new();
        for (id, shard) in &mut self.shards {
            shard.handle_draining();
            if let Some(running) = shard.take_running() {
                let id = *id;
                closing.spawn_blocking(move || (id, running.close()));
            }
        }
        let mut inputs = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = self.inbox.recv_many(&mut inputs, INPUTS_AT_ONCE) => {
                    inputs.drain(..).for_each(|input| self.handle_while_closing(input));
                    self.pump_shards();
                }
                closed = closing.join_next() => match closed {
                    None => break,
                    Some(Ok((_, Ok(())))) => {}
                    Some(Ok((shard, Err(error)))) => {
                        tracing::error!(%shard, %error, "not closed properly; the next start recovers it");
                    }
                    Some(Err(error)) => tracing::error!(%error, "a shard was not closed properly; the next start recovers it"),
                },
            }
        }
        if let Some(done) = self.stop.take() {
            let _ = done.send(());
        }
    }
}

pub(crate) fn not_sequenced(partition: PartitionUid) -> Failed {
    Failed::new(ErrorCode::Unavailable, format!("partition {partition} is not sequenced here"))
}
