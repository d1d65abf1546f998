//! Sequencers' effects: what they say to shards is gathered, and sent together at the end of a round.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dlog_metadata::state::{CoverItem, UnderReplicatedChange, UnderReplicatedItem};
use dlog_proto::block::Block;
use dlog_proto::producer::ProducerTable;
use dlog_proto::transport::LaneSender;
use dlog_proto::wire::{
    Append, AppendError, AppendOk, Appended, FetchedBlock, Flushed, Frame, Message, PartitionRelease, Payload,
    ProducersRead, Release, Seal, SealPartition, Sealed, Stored, Tail,
};
use dlog_proto::{Epoch, PartitionUid, ShardRef, Time, TimestampMs};
use dlog_sequencer::{
    AppendRequest, Event, Host, HostOutput, NewEpochReason, Output, PartitionSequencer, Proposal, Token,
};
use slab::Slab;
use tokio::sync::oneshot;

use super::inbox::{LaneNumber, LocalAppend, SequencingInput};
use super::links::Links;
use super::tails::{OwnTails, Tails};
use crate::node::metrics::CoreCounters;
use crate::node::proposer::{Ask, Proposer};

/// Partitions in one seal or release.
const PARTITIONS_AT_ONCE: usize = 256;
/// A sequencer whose nodeset cannot take writes for so long asks for another.
const NODESET_PATIENCE: Duration = Duration::from_secs(2);

/// Whom the answer to an append goes to.
#[derive(Debug)]
enum Waiter {
    Lane {
        lane: LaneNumber,
        corr: u64,
        partition: PartitionUid,
    },
    /// Somebody in this process.
    Local(oneshot::Sender<Result<AppendOk, AppendError>>),
}

/// This core's sequencers, and who waits for them.
#[derive(Debug)]
pub(super) struct Sequencing {
    pub(super) host: Host,
    pub(super) tails: OwnTails,
    /// Partitions to which native clients append records that get the time of this moment. Others in this process know by themselves.
    append_time: HashSet<PartitionUid>,
    waiters: Slab<Waiter>,
    core: u16,
    proposer: Proposer,
    counters: Arc<CoreCounters>,
    seals: BTreeMap<ShardRef, Vec<SealPartition>>,
    releases: BTreeMap<ShardRef, Vec<PartitionRelease>>,
}

impl Sequencing {
    pub(super) fn new(host: Host, core: u16, proposer: Proposer, tails: Tails, counters: Arc<CoreCounters>) -> Self {
        let (seals, releases) = (BTreeMap::new(), BTreeMap::new());
        let (tails, append_time, waiters) = (OwnTails::new(tails), HashSet::new(), Slab::new());
        Self { host, tails, append_time, waiters, core, proposer, counters, seals, releases }
    }

    /// What others than clients and shards say.
    pub(super) fn handle(&mut self, (now, now_ms): (Time, TimestampMs), input: SequencingInput) {
        use SequencingInput as Input;
        let host = &mut self.host;
        match input {
            Input::Assigned(partitions) => {
                partitions.into_iter().for_each(|(partition, assigned)| host.handle_assigned(partition, assigned));
            }
            Input::AppendTime(partitions) => self.handle_append_time(partitions),
            Input::Lease(until) => host.handle_lease(until),
            Input::Renew(partitions) => partitions.into_iter().for_each(|partition| host.handle_renew(partition)),
            Input::Superseded(partitions) => {
                partitions.into_iter().for_each(|(partition, by)| host.handle_superseded(now, partition, by));
            }
            Input::Activated(tables) => {
                for (partition, table) in tables {
                    host.handle_activated(now, now_ms, partition, table);
                    self.tails.touch(partition);
                }
            }
            Input::Decided(ends) => {
                ends.into_iter().for_each(|(partition, end)| host.handle_decided(partition, end));
            }
            Input::DecisionRefused { partition, by } => host.handle_decision_refused(now, partition, by),
            Input::MissingRecorded(items) => items
                .into_iter()
                .for_each(|(partition, epoch, shard)| host.handle_missing_recorded(now, partition, epoch, shard)),
            Input::Covered(items) => {
                items.into_iter().for_each(|(partition, epoch)| host.handle_covered(partition, epoch));
            }
            Input::Append(append) => self.handle_local_append((now, now_ms), append),
            // Whoever asked may have given up.
            Input::GetTail { partition, reply } => drop(reply.send(self.tail(partition))),
            Input::GetUsable { partition, reply } => {
                let usable = host.sequencer(partition).map(|sequencer| sequencer.usable_members(now));
                drop(reply.send(usable.unwrap_or_default()));
            }
            Input::GetProducers { partition, reply } => {
                let sequencer = host.sequencer(partition).filter(|sequencer| sequencer.is_ready());
                drop(reply.send(sequencer.map(|sequencer| sequencer.producers().collect())));
            }
        }
    }

    pub(super) fn handle_tick(&mut self, now: Time) {
        self.counters.sequencers.store(self.host.sequencers().count() as u64, Ordering::Relaxed);
        self.host.retry_assigned();
        self.host.renew_stalled(now, NODESET_PATIENCE);
    }

    pub(super) fn tail(&self, partition: PartitionUid) -> Option<Tail> {
        self.host.sequencer(partition).map(PartitionSequencer::tail)
    }

    fn handle_append_time(&mut self, partitions: Vec<(PartitionUid, bool)>) {
        for (partition, append_time) in partitions {
            let _ = if append_time { self.append_time.insert(partition) } else { self.append_time.remove(&partition) };
        }
    }

    /// An append came in. `Err` if the frame is none.
    pub(super) fn handle_append(
        &mut self,
        (now, now_ms): (Time, TimestampMs),
        lane: LaneNumber,
        frame: Frame,
    ) -> Result<(), String> {
        let append = Append::from_frame(&frame).map_err(|error| error.to_string())?;
        let waiter = Waiter::Lane { lane, corr: frame.corr, partition: append.partition };
        let token = Token(self.waiters.insert(waiter) as u64);
        let Append { partition, acks, with_offset } = append;
        // Contiguous already, unless it was sent in pieces.
        let batch = frame.payload.into_contiguous();
        CoreCounters::add(&self.counters.append_batches, 1);
        CoreCounters::add(&self.counters.append_bytes, batch.len() as u64);
        let append_time = self.append_time.contains(&partition);
        self.host.handle_append(now, now_ms, partition, AppendRequest { token, acks, with_offset, append_time, batch });
        Ok(())
    }

    /// An append of another part of this process.
    fn handle_local_append(&mut self, (now, now_ms): (Time, TimestampMs), append: LocalAppend) {
        let LocalAppend { partition, acks, with_offset, append_time, batch, reply } = append;
        let token = Token(self.waiters.insert(Waiter::Local(reply)) as u64);
        self.host.handle_append(now, now_ms, partition, AppendRequest { token, acks, with_offset, append_time, batch });
    }

    /// A shard has said something. `Err` if it makes no sense.
    pub(super) fn handle_shard_frame(&mut self, now: Time, frame: Frame) -> Result<(), String> {
        let invalid = |error: dlog_proto::wire::MessageError| error.to_string();
        if Stored::is(&frame) {
            let stored = Stored::from_frame(&frame).map_err(invalid)?;
            stored.answers.iter().for_each(|answer| self.host.handle_stored(now, answer));
        } else if Flushed::is(&frame) {
            self.host.handle_flushed(now, &Flushed::from_frame(&frame).map_err(invalid)?);
        } else if Sealed::is(&frame) {
            self.host.handle_sealed(Sealed::from_frame(&frame).map_err(invalid)?);
        } else if FetchedBlock::is(&frame) {
            let answer = FetchedBlock::from_frame(&frame).map_err(invalid)?;
            // A block that arrives damaged is one that was not found: others have it too.
            let block = answer.found.then(|| Block::decode(frame.payload).ok()).flatten();
            self.host.handle_fetched(now, &answer, block);
        } else {
            let answer = ProducersRead::from_frame(&frame).map_err(invalid)?;
            let table = answer.ok.then(|| ProducerTable::decode(&frame.payload.into_contiguous()).ok()).flatten();
            self.host.handle_producers(&answer, table.as_ref());
        }
        Ok(())
    }

    /// Lets sequencers go on, and carries out what they want. `answer` finds a lane's sender.
    pub(super) fn pump<'a>(
        &mut self,
        (now, now_ms): (Time, TimestampMs),
        links: &Links,
        answer: impl Fn(LaneNumber) -> Option<&'a LaneSender>,
    ) {
        self.host.pump(now, now_ms);
        while let Some(output) = self.host.poll_output() {
            match output {
                HostOutput::Activate(partitions) => self.activate(partitions, false),
                HostOutput::Partition { partition, epoch, output: Output::Reply { token, outcome } } => {
                    if matches!(outcome, Err(AppendError::Invalid { .. })) {
                        tracing::debug!(%partition, %epoch, ?outcome, "an append was refused");
                    }
                    self.tails.touch(partition);
                    let counted = match outcome {
                        Ok(_) => &self.counters.appends_acknowledged,
                        Err(_) => &self.counters.appends_refused,
                    };
                    CoreCounters::add(counted, 1);
                    match self.waiters.try_remove(token.0 as usize) {
                        Some(Waiter::Lane { lane, corr, partition }) => {
                            if let Some(tx) = answer(lane) {
                                let _ = tx.send(Appended { partition, outcome }.to_frame(corr, Payload::empty()));
                            }
                        }
                        // Whoever asked may have given up.
                        Some(Waiter::Local(reply)) => drop(reply.send(outcome)),
                        None => {}
                    }
                }
                HostOutput::Partition { partition, epoch, output } => {
                    self.tails.touch(partition);
                    self.carry_out(links, partition, epoch, output);
                }
            }
        }
        self.tails.tell(|partition| Some(self.host.sequencer(partition)?.tail()));
        self.send_gathered(links);
    }

    fn carry_out(&mut self, links: &Links, partition: PartitionUid, epoch: Epoch, output: Output) {
        let nothing = Payload::empty;
        match output {
            Output::Store { store, block } => {
                links.send(store.shard, store.to_frame(0, block.bytes().clone()));
            }
            Output::Amend(amend) => links.send(amend.shard, amend.to_frame(0, nothing())),
            Output::Seal { to, seal } => self.seals.entry(to).or_default().push(seal),
            Output::Fetch(fetch) => links.send(fetch.shard, fetch.to_frame(0, nothing())),
            Output::ReadProducers(read) => links.send(read.shard, read.to_frame(0, nothing())),
            Output::Release { to, release } => {
                for shard in to {
                    self.releases.entry(shard).or_default().push(release.clone());
                }
            }
            Output::Reply { .. } => unreachable!("replies are sent where waiters are known"),
            Output::Propose(proposal) => self.propose(proposal),
            Output::Event(event) => log(partition, epoch, &event),
        }
    }

    fn activate(&self, partitions: Vec<PartitionUid>, planned: bool) {
        self.proposer.ask(Ask::Activate { core: self.core, partitions, planned });
    }

    fn propose(&self, proposal: Proposal) {
        let core = self.core;
        let change = |partition, epoch, shard: ShardRef, change| Ask::Missing {
            core,
            item: UnderReplicatedItem::new(partition, epoch, shard, change),
        };
        self.proposer.ask(match proposal {
            Proposal::Decide(decision) => Ask::Decide { core, decision },
            Proposal::OpenMissing { partition, epoch, shard, from } => {
                change(partition, epoch, shard, UnderReplicatedChange::Open { from })
            }
            Proposal::CloseMissing { partition, epoch, shard, to } => {
                change(partition, epoch, shard, UnderReplicatedChange::Close { to })
            }
            Proposal::Cover { partition, epoch } => Ask::Cover { core, item: CoverItem { partition, epoch } },
            Proposal::NewEpoch { partition, current, reason } => {
                match reason {
                    NewEpochReason::EpochFull => tracing::info!(%partition, %current, "the epoch is full"),
                    NewEpochReason::Planned => tracing::info!(%partition, %current, "a planned change of epoch"),
                    NewEpochReason::NoShards => {
                        tracing::warn!(%partition, %current, "too few shards take writes: asking for others");
                    }
                }
                Ask::Activate { core, partitions: vec![partition], planned: true }
            }
        });
    }

    fn send_gathered(&mut self, links: &Links) {
        for (to, partitions) in std::mem::take(&mut self.seals) {
            let ShardRef { shard, incarnation } = to;
            for partitions in partitions.chunks(PARTITIONS_AT_ONCE) {
                let seal = Seal { shard, incarnation, partitions: partitions.to_vec() };
                links.send(shard, seal.to_frame(0, Payload::empty()));
            }
        }
        for (to, partitions) in std::mem::take(&mut self.releases) {
            let ShardRef { shard, incarnation } = to;
            for partitions in partitions.chunks(PARTITIONS_AT_ONCE) {
                let release = Release { shard, incarnation, partitions: partitions.to_vec() };
                links.send(shard, release.to_frame(0, Payload::empty()));
            }
        }
    }
}

fn log(partition: PartitionUid, of_epoch: Epoch, event: &Event) {
    match event {
        Event::Preempted { epoch, by: Epoch::MAX } => tracing::debug!(%partition, %epoch, "the log was deleted"),
        Event::Preempted { epoch, by } => tracing::info!(%partition, %epoch, %by, "another epoch has taken over"),
        Event::Stalled { epoch, usable, needed } => {
            tracing::warn!(%partition, %epoch, usable, needed, "appends wait: too few shards take writes");
        }
        Event::Conflict { shard, epoch, first_esn } => tracing::error!(
            %partition, %shard, %epoch, %first_esn,
            "a shard has another block where this one belongs: please report it, with the logs of the nodes involved"
        ),
        Event::RecoveryWaits { epoch, answered, of } => {
            tracing::warn!(%partition, %epoch, answered, of, "recovery of earlier epochs waits for shards to answer");
        }
        Event::Decided { epoch, last_esn, authoritative } => {
            tracing::debug!(%partition, %epoch, %last_esn, authoritative, by = %of_epoch, "an epoch was decided");
        }
        Event::Recovered { epoch } => tracing::debug!(%partition, %epoch, "earlier epochs are recovered"),
    }
}
