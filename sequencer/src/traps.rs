//! The traces that broke drafts of the protocol, and what else must go right, as far as one sequencer decides it. The other
//! half is in the simulator.

use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::{BlockBuilder, BlockKind, PlacementVersion};
use dlog_proto::producer::ProducerTable;
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use dlog_proto::wire::{
    Acks, AppendError, AppendOk, BlockSummary, EpochEnd, FetchBlock, FetchedBlock, Flushed, FlushedUpto, Kept,
    LostBefore, ProducersRead, SealRefusal, SealedEpoch, SealedPartition, SealedState, Store, StoreAnswer,
    StoreRefusal,
};
use dlog_proto::{
    Durability, End, Epoch, EpochEntry, EpochTable, Esn, Incarnation, LogOffset, Lsn, Member, NodeId, Nodeset,
    PartitionUid, ProcessId, QuorumConfig, Replication, Scope, ShardId, ShardRef, Time,
};

use crate::output::{NewEpochReason, Output, Proposal, Token};
use crate::partition::{AppendRequest, PartitionSequencer};
use crate::settings::Settings;
use crate::testing::nodeset;

const MS: Duration = Duration::from_millis(1);

/// A table of epochs 1 to `newest` on shards n1s0 to n3s0; `ends` of the first of them.
pub(crate) fn table(quorum: QuorumConfig, newest: u32, ends: &[u32]) -> EpochTable {
    let nodeset = Arc::new(nodeset(1..=3));
    let replication = Arc::new(Replication::new(quorum));
    let mut base = Some(0);
    let entry = |epoch: u32| {
        let end = ends.get(epoch as usize - 1).copied();
        let entry = EpochEntry {
            epoch: Epoch(epoch),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: nodeset.clone(),
            replication: replication.clone(),
            base_offset: base.map(LogOffset),
            end: end.map(|last| End { last_esn: Esn(last), authoritative: true }),
            activated_at: 0,
        };
        base = base.and_then(|base| Some(base + u64::from(end?)));
        entry
    };
    EpochTable {
        partition: PartitionUid(1),
        revision: 1,
        trim: Lsn::ZERO,
        covered: Epoch::ZERO,
        epochs: (1..=newest).map(entry).collect(),
    }
}

struct Rig {
    sequencer: PartitionSequencer,
    now: Time,
    now_ms: i64,
    /// Stores that are not answered yet.
    stores: Vec<(ShardId, StoreAnswer)>,
    proposals: Vec<Proposal>,
    seals: Vec<ShardId>,
    fetches: Vec<FetchBlock>,
    /// After which LSN what producers wrote was asked for.
    read_after: Vec<Lsn>,
    replies: Vec<(u64, Result<AppendOk, AppendError>)>,
    released: Lsn,
    settled: Esn,
    trim_limit: Lsn,
}

impl Rig {
    fn new(quorum: QuorumConfig, settings: Settings) -> Self {
        Self::of(table(quorum, 1, &[]), settings)
    }

    fn of(table: EpochTable, settings: Settings) -> Self {
        let sequencer = PartitionSequencer::new(table, Arc::new(settings), 1, Time::ZERO, |_| true);
        let (stores, proposals, replies) = (Vec::new(), Vec::new(), Vec::new());
        let (seals, fetches, read_after) = (Vec::new(), Vec::new(), Vec::new());
        let (now, released, settled, trim_limit) = (Time::ZERO, Lsn::ZERO, Esn::ZERO, Lsn::ZERO);
        let mut rig = Self {
            sequencer,
            now,
            now_ms: 0,
            stores,
            proposals,
            seals,
            fetches,
            read_after,
            replies,
            released,
            settled,
            trim_limit,
        };
        rig.pump();
        rig
    }

    fn pump(&mut self) {
        self.sequencer.pump(self.now, self.now_ms);
        while let Some(output) = self.sequencer.poll_output() {
            match output {
                Output::Store { store, block } => {
                    let header = *block.header();
                    let Store { shard, incarnation, placement, .. } = store;
                    let answer = StoreAnswer {
                        shard,
                        incarnation,
                        partition: header.partition,
                        epoch: header.epoch,
                        first_esn: header.first_esn,
                        snapshot: header.kind == BlockKind::ProducerSnapshot,
                        version: placement.version,
                        result: Ok(Kept::Flushed),
                    };
                    self.stores.push((shard, answer));
                }
                Output::Amend(amend) => {
                    let answer = StoreAnswer {
                        shard: amend.shard,
                        incarnation: amend.incarnation,
                        partition: amend.partition,
                        epoch: amend.epoch,
                        first_esn: amend.first_esn,
                        snapshot: false,
                        version: amend.placement.version,
                        result: Ok(Kept::Flushed),
                    };
                    self.stores.push((amend.shard, answer));
                }
                Output::Propose(proposal) => self.proposals.push(proposal),
                Output::Reply { token, outcome } => self.replies.push((token.0, outcome)),
                Output::Release { release, .. } => {
                    (self.released, self.settled) = (release.released, release.settled);
                    self.trim_limit = release.trim_limit;
                }
                Output::Seal { to, .. } => self.seals.push(to.shard),
                Output::Fetch(fetch) => self.fetches.push(fetch),
                Output::ReadProducers(read) => self.read_after.push(read.after),
                _ => {}
            }
        }
    }

    fn append(&mut self, token: u64, acks: Acks) {
        self.append_with(token, acks, BatchOptions::default());
    }

    fn append_with(&mut self, token: u64, acks: Acks, options: BatchOptions) {
        let mut batch = BatchBuilder::new(256);
        batch.append(&NewRecord::of_value(0, b"record"));
        let batch = batch.finish(options).freeze();
        let request = AppendRequest { token: Token(token), acks, with_offset: false, append_time: false, batch };
        self.sequencer.handle_append(self.now, self.now_ms, request);
        self.pump();
    }

    /// Answers what these nodes were asked.
    fn answer(&mut self, nodes: &[u16]) {
        let (now, rest) = std::mem::take(&mut self.stores).into_iter().partition(|(s, _)| nodes.contains(&s.node.0));
        self.stores = rest;
        let answers: Vec<(ShardId, StoreAnswer)> = now;
        answers.iter().for_each(|(_, answer)| self.sequencer.handle_stored(self.now, answer));
        self.pump();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.now_ms += time.as_millis() as i64;
        self.pump();
    }

    fn link(&mut self, node: u16, up: bool) {
        self.sequencer.handle_link(self.now, ShardId::new(node, 0), up);
        self.pump();
    }

    fn sealed(&mut self, node: u16, by: u32, result: Result<SealedState, SealRefusal>) {
        self.sealed_after_loss(node, by, LostBefore::default(), result);
    }

    fn sealed_after_loss(&mut self, node: u16, by: u32, lost: LostBefore, result: Result<SealedState, SealRefusal>) {
        let incarnation = match result {
            Err(SealRefusal::Incarnation(Some(current))) => current,
            _ => Incarnation(1),
        };
        let from = ShardRef { shard: ShardId::new(node, 0), incarnation };
        let answer = SealedPartition { partition: PartitionUid(1), epoch: Epoch(by), result };
        self.sequencer.handle_sealed(from, lost, answer);
        self.pump();
    }

    fn replied(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.replies)
            .into_iter()
            .map(|(token, outcome)| {
                assert!(outcome.is_ok(), "{token}: {outcome:?}");
                token
            })
            .collect()
    }
}

/// The same, acknowledged from memory.
fn cached(mut table: EpochTable) -> EpochTable {
    for entry in &mut table.epochs {
        let durability = Durability::WriteCache;
        entry.replication = Arc::new(Replication { durability, ..(*entry.replication).clone() });
    }
    table
}

fn nothing_held(epoch: u32) -> SealedState {
    let (epoch, blocks) = (Epoch(epoch), Vec::new());
    let epochs = vec![SealedEpoch { epoch, acked: Esn::ZERO, settled: Esn::ZERO, known_end: None, blocks }];
    SealedState { trim: Lsn::ZERO, epochs, snapshot: None }
}

#[test]
fn an_append_may_ask_for_fewer_or_more_copies_than_its_log() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    [(1, Acks::One), (2, Acks::Quorum), (3, Acks::All)].into_iter().for_each(|(t, acks)| rig.append(t, acks));
    rig.answer(&[1]);
    assert_eq!(rig.replied(), [1]);
    rig.answer(&[2]);
    assert_eq!(rig.replied(), [2]);
    rig.answer(&[3]);
    assert_eq!(rig.replied(), [3]);
}

#[test]
fn acknowledgements_come_in_order() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    let first = std::mem::take(&mut rig.stores);
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [0; 0], "the first is on no disk yet");
    rig.stores = first;
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [1, 2]);
}

#[test]
fn c2_a_shard_that_lost_its_write_cache_is_not_believed_about_what_it_lacks() {
    let mut rig = Rig::of(cached(table(QuorumConfig::majority(3), 2, &[])), Settings::default());
    rig.sealed_after_loss(1, 2, LostBefore { cached: 5, durable: 0 }, Ok(nothing_held(1)));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "what the first had in memory, the second may have");
    rig.sealed(2, 2, Ok(first_block_held(0)));
    rig.wait(Settings::default().recovery_grace * 2);
    let fetch = rig.fetches.pop().expect("its block is copied");
    assert_eq!(fetch.shard, ShardId::new(2, 0));
}

#[test]
fn c3_c18_what_is_in_memory_only_is_acknowledged_and_neither_released_nor_settled() {
    let mut rig = Rig::of(cached(table(QuorumConfig::majority(3), 1, &[])), Settings::default());
    rig.append(1, Acks::Quorum);
    rig.stores.iter_mut().for_each(|(_, answer)| answer.result = Ok(Kept::Cached));
    rig.answer(&[1, 2, 3]);
    let begin = Lsn::new(Epoch(1), Esn::ZERO);
    assert_eq!((rig.replied(), rig.released, rig.settled), (vec![1], begin, Esn(0)));
    let flush = |rig: &mut Rig, node| {
        let upto = vec![FlushedUpto { partition: PartitionUid(1), epoch: Epoch(1), first_esn: Esn(1) }];
        let (shard, incarnation) = (ShardId::new(node, 0), Incarnation(1));
        rig.sequencer.handle_flushed(rig.now, &Flushed { shard, incarnation, upto });
        rig.pump();
    };
    (1..=2).for_each(|node| flush(&mut rig, node));
    assert_eq!((rig.released, rig.settled), (begin.next(), Esn(0)), "a write quorum of disks has it");
    flush(&mut rig, 3);
    assert_eq!(rig.settled, Esn(1));
}

#[test]
fn c5_where_a_disk_is_lost_the_epoch_ends_at_the_last_record_that_anybody_has() {
    let single = QuorumConfig { replication_factor: 1, write_quorum: 1, read_quorum: 1 };
    let mut rig = Rig::of(table(single, 2, &[]), Settings::default());
    rig.sealed(1, 2, Err(SealRefusal::Incarnation(Some(Incarnation(9)))));
    rig.sealed(2, 2, Ok(block_held(3, &[2], 0)));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(4), false), "1 and 2 were on the lost disk");
}

#[test]
fn c6_what_is_trimmed_does_not_move_the_end_back() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Ok(first_block_held(2)));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(2), true), "its offsets were read");
}

#[test]
fn c7b_c9_an_epoch_is_decided_when_its_last_blocks_are_on_a_write_quorum_of_disks_under_a_new_placement() {
    let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), Esn(1), 0);
    builder.push(&bytes::Bytes::from(vec![0; 61]), 2, (0, 0));
    let block = builder.finish();
    let mut held = first_block_held(0);
    held.epochs[0].blocks[0].crc = block.header().crc;
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.link(3, false);
    rig.sealed(1, 2, Ok(held));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    let FetchBlock { shard, incarnation, partition, target } = rig.fetches.pop().expect("the second is to get a copy");
    let answer = FetchedBlock { shard, incarnation, partition, target, found: true };
    rig.sequencer.handle_fetched(rig.now, &answer, Some(block));
    rig.pump();
    let version = PlacementVersion { writer_epoch: Epoch(2), wave: 1 };
    assert!(rig.stores.iter().all(|(_, answer)| answer.version == version), "it wins over any of the old sequencer's");
    rig.answer(&[1]);
    assert_eq!(rig.proposals, [], "one disk has it");
    let cached = rig.stores.clone();
    rig.stores.iter_mut().for_each(|(_, answer)| answer.result = Ok(Kept::Cached));
    rig.answer(&[2]);
    assert_eq!(rig.proposals, [], "and one memory");
    rig.stores = cached;
    rig.answer(&[2]);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(2), true));
}

#[test]
fn c7_recovery_needs_a_write_quorum_and_puts_on_record_who_lacks_copies() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.link(3, false);
    (1..=2).for_each(|node| rig.sealed(node, 2, Ok(first_block_held(0))));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "its holders are to know that the third has no copy");
    rig.answer(&[1, 2]);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    let third = ShardRef { shard: ShardId::new(3, 0), incarnation: Incarnation(1) };
    assert_eq!((decision.last_esn, &decision.missing[..]), (Esn(2), &[(third, Esn(1))][..]));
}

#[test]
fn c10_a_disk_that_is_lost_while_its_epoch_is_open_does_not_leave_the_arithmetic() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.link(2, false);
    rig.sealed(1, 2, Err(SealRefusal::Incarnation(Some(Incarnation(9)))));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "what the lost one had, the second may have: the third alone proves nothing");
    rig.link(2, true);
    rig.sealed(2, 2, Ok(first_block_held(0)));
    rig.wait(Settings::default().recovery_grace * 2);
    let fetch = rig.fetches.pop().expect("what survives is copied");
    assert_eq!(fetch.shard, ShardId::new(2, 0));
}

#[test]
fn c14_an_f_majority_meets_every_write_quorum_not_every_full_set_of_copies() {
    // Three copies across two racks, two of them waited for: n1 is alone in its rack, so every two that span both have it.
    let spread = || {
        let mut table = table(QuorumConfig::majority(3), 2, &[]);
        let member = |node: u16| Member {
            shard: ShardId::new(node, 0),
            incarnation: Incarnation(1),
            location: format!("rack=r{}", u16::from(node == 1)).parse().unwrap(),
            weight: 1,
        };
        let nodeset = Arc::new(Nodeset::new((1..=3).map(member).collect()).unwrap());
        let mut replication = Replication::new(QuorumConfig::majority(3));
        replication.across.insert(Scope::Rack, 2);
        let replication = Arc::new(replication);
        for entry in &mut table.epochs {
            (entry.nodeset, entry.replication) = (nodeset.clone(), replication.clone());
        }
        table
    };
    let mut rig = Rig::of(spread(), Settings::default());
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "n1 and n3 may have what it lacks");
    let mut rig = Rig::of(spread(), Settings::default());
    rig.sealed(1, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(0), true));
}

#[test]
fn c11_a_retry_waits_for_the_first_attempt() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    let producer = Some(ProducerStamp { id: 7, epoch: 0, base_sequence: 0 });
    (1..=2).for_each(|token| {
        rig.append_with(token, Acks::Quorum, BatchOptions { producer, ..BatchOptions::default() });
    });
    rig.answer(&[1]);
    assert_eq!(rig.replied(), [0; 0], "on one disk only: a later epoch may be decided without it");
    rig.answer(&[2]);
    let lsns: Vec<_> = rig.replies.iter().map(|(token, outcome)| (*token, outcome.as_ref().unwrap().lsn)).collect();
    let first = Lsn::new(Epoch(1), Esn(1));
    assert_eq!(lsns, [(1, first), (2, first)]);
}

/// A day counts from a producer's own last batch, whatever others append and snapshots keep meanwhile: Kafka's clients come
/// back after hours and go on with their numbers.
#[test]
fn c11_an_idle_producer_is_known_for_a_day() {
    let by = |id, base_sequence| {
        let producer = Some(ProducerStamp { id, epoch: 0, base_sequence });
        BatchOptions { producer, ..BatchOptions::default() }
    };
    let after_hours = |hours: u32| {
        let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
        rig.append_with(1, Acks::Quorum, by(7, 0));
        rig.answer(&[1, 2, 3]);
        for hour in 0..hours {
            rig.wait(Duration::from_secs(3600));
            rig.append_with(100, Acks::Quorum, by(8, hour as i32));
            rig.answer(&[1, 2, 3]);
        }
        assert_eq!(rig.replied().len() as u32, hours + 1);
        rig.append_with(2, Acks::Quorum, by(7, 1));
        rig.answer(&[1, 2, 3]);
        rig.replies.pop().expect("there is an answer").1
    };
    assert!(after_hours(23).is_ok());
    assert!(matches!(after_hours(26), Err(AppendError::UnknownProducer { producer: 7 })));
}

#[test]
fn c11_nobody_is_told_from_a_stranger_before_the_past_is_known() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    let producer = Some(ProducerStamp { id: 7, epoch: 0, base_sequence: 3 });
    rig.append_with(1, Acks::Quorum, BatchOptions { producer, ..BatchOptions::default() });
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [2], "whether the first is new, the epoch before must tell");
}

#[test]
fn c11_where_one_answer_is_enough_the_others_get_a_moment() {
    let mut rig = Rig::of(table(QuorumConfig::available(3), 2, &[]), Settings::default());
    (1..=3).for_each(|node| rig.sealed(node, 2, Ok(nothing_held(1))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(1), last_esn: Esn(9), authoritative: true });
    rig.pump();
    let tell = |rig: &mut Rig, node| {
        let (shard, partition, epoch) = (ShardId::new(node, 0), PartitionUid(1), Epoch(2));
        let (incarnation, after, lost, snapshot) = (Incarnation(1), Lsn::ZERO, LostBefore::default(), None);
        let answer = ProducersRead { shard, incarnation, partition, epoch, after, lost, snapshot, ok: true };
        rig.sequencer.handle_producers(&answer, Some(&ProducerTable::default()));
        rig.pump();
    };
    tell(&mut rig, 1);
    assert!(!rig.sequencer.is_ready(), "it may lack what the others have");
    tell(&mut rig, 2);
    rig.link(3, false);
    assert!(rig.sequencer.is_ready(), "who is away is not waited for");

    let mut rig = Rig::of(table(QuorumConfig::available(3), 2, &[]), Settings::default());
    (1..=3).for_each(|node| rig.sealed(node, 2, Ok(nothing_held(1))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(1), last_esn: Esn(9), authoritative: true });
    rig.pump();
    tell(&mut rig, 1);
    rig.wait(Settings::default().recovery_retry);
    assert!(rig.sequencer.is_ready(), "nor who is silent");
}

#[test]
fn c11_if_the_newest_snapshot_is_lost_the_one_before_it_is_taken() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    let with = |esn| SealedState { snapshot: Some(Lsn::new(Epoch(1), Esn(esn))), ..nothing_held(1) };
    for (node, state) in [(1, with(9)), (2, with(5)), (3, nothing_held(1))] {
        rig.sealed(node, 2, Ok(state));
    }
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(1), last_esn: Esn(9), authoritative: true });
    rig.pump();
    let older =
        BlockBuilder::producer_snapshot(PartitionUid(1), Epoch(1), Esn(5), 0, ProducerTable::default().encode());
    for _ in 0..100 {
        for FetchBlock { shard, incarnation, partition, target } in std::mem::take(&mut rig.fetches) {
            let block = (shard.node == NodeId(2)).then(|| older.clone());
            let answer = FetchedBlock { shard, incarnation, partition, target, found: block.is_some() };
            rig.sequencer.handle_fetched(rig.now, &answer, block);
        }
        rig.wait(Settings::default().recovery_retry);
    }
    assert_eq!(rig.read_after.first(), Some(&Lsn::new(Epoch(1), Esn(5))));
}

#[test]
fn c11_whoever_keeps_a_snapshot_to_himself_makes_nobody_spin() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    let with = |esn| SealedState { snapshot: Some(Lsn::new(Epoch(1), Esn(esn))), ..nothing_held(1) };
    (1..=3).for_each(|node| rig.sealed(node, 2, Ok(with(u32::from(10 - node)))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(1), last_esn: Esn(9), authoritative: true });
    rig.pump();
    assert_eq!(rig.fetches.len(), 1, "the newest is asked for");
    [2, 3].into_iter().for_each(|node| rig.link(node, false));
    rig.wait(Settings::default().recovery_retry);
    let timeout = rig.sequencer.next_timeout();
    assert!(timeout.is_none_or(|at| at > rig.now), "{timeout:?} at {:?}: that is over", rig.now);
    [2, 3].into_iter().for_each(|node| rig.link(node, true));
    assert_eq!(rig.fetches.len(), 2, "asked again when it proves something");
}

#[test]
fn c11_what_no_stored_snapshot_tells_of_is_not_trimmed() {
    let lsn = |esn| Lsn::new(Epoch(1), Esn(esn));
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.trim_limit, lsn(1), "nobody is known by it");
    let producer = |base_sequence| BatchOptions {
        producer: Some(ProducerStamp { id: 7, epoch: 0, base_sequence }),
        ..BatchOptions::default()
    };
    rig.append_with(2, Acks::Quorum, producer(0));
    rig.answer(&[1, 2, 3]);
    assert_eq!((rig.settled, rig.trim_limit), (Esn(2), lsn(1)));
    rig.wait(Settings::default().snapshot_time);
    rig.append_with(3, Acks::Quorum, producer(1));
    assert_eq!(rig.stores.iter().filter(|(_, answer)| answer.snapshot).count(), 3, "a snapshot is on its way");
    rig.answer(&[1]);
    assert_eq!(rig.trim_limit, lsn(1), "one disk has it, and that is not enough");
    rig.answer(&[2, 3]);
    assert_eq!((rig.settled, rig.trim_limit), (Esn(3), lsn(2)), "the third is not in it");
    rig.wait(Settings::default().snapshot_time);
    rig.stores.clear();
    rig.wait(Settings::default().snapshot_time);
    assert!(!rig.stores.is_empty(), "what nobody has stored is taken again");
    rig.answer(&[1, 2]);
    assert_eq!(rig.trim_limit, lsn(3));
}

#[test]
fn c11_nothing_is_trimmed_before_it_is_on_record_where_producers_are_known_from() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    (1..=3).for_each(|node| rig.sealed(node, 2, Ok(nothing_held(1))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(1), last_esn: Esn(0), authoritative: true });
    rig.pump();
    rig.append(1, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!((rig.released, rig.trim_limit), (Lsn::new(Epoch(2), Esn(1)), Lsn::ZERO));
    let cover = Proposal::Cover { partition: PartitionUid(1), epoch: Epoch(2) };
    assert_eq!(rig.proposals.iter().filter(|proposal| **proposal == cover).count(), 1);
    rig.sequencer.handle_covered();
    rig.pump();
    assert_eq!(rig.trim_limit, rig.released);
}

#[test]
fn c11_the_snapshot_is_looked_for_where_the_covering_epoch_has_stored_it() {
    let mut past = table(QuorumConfig::majority(3), 3, &[9]);
    past.covered = Epoch(1);
    past.epochs[1].nodeset = Arc::new(nodeset(4..=6));
    let mut rig = Rig::of(past, Settings::default());
    (4..=6).for_each(|node| rig.sealed(node, 3, Ok(nothing_held(2))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(2), last_esn: Esn(0), authoritative: true });
    rig.pump();
    assert!(
        !rig.read_after.is_empty() && rig.read_after.iter().all(|after| *after == Lsn::MAX),
        "{:?}",
        rig.read_after
    );
    for (node, snapshot) in [(1, Some(Lsn::new(Epoch(1), Esn(5)))), (2, None)] {
        assert!(rig.fetches.is_empty(), "one more than one must tell");
        let (shard, incarnation, lost) = (ShardId::new(node, 0), Incarnation(1), LostBefore::default());
        let (partition, epoch, after) = (PartitionUid(1), Epoch(3), Lsn::MAX);
        let answer = ProducersRead { shard, incarnation, partition, epoch, after, lost, snapshot, ok: true };
        rig.sequencer.handle_producers(&answer, Some(&ProducerTable::default()));
        rig.pump();
    }
    let asked: Vec<ShardId> = rig.fetches.iter().map(|fetch| fetch.shard).collect();
    assert_eq!(asked, [ShardId::new(1, 0)]);
}

#[test]
fn c12_settled_waits_until_it_is_on_record_what_is_missing() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    rig.link(3, false);
    rig.answer(&[1, 2]);
    assert_eq!((rig.replied(), rig.settled), (vec![1], Esn(0)), "acknowledged, and not settled");
    rig.wait(Settings::default().straggler_timeout);
    let Some(Proposal::OpenMissing { shard, from, .. }) = rig.proposals.pop() else { panic!("not put on record") };
    assert_eq!((shard.shard, from, rig.settled), (ShardId::new(3, 0), Esn(1), Esn(0)));
    rig.sequencer.handle_missing_recorded(rig.now, shard);
    rig.pump();
    rig.answer(&[1, 2]);
    assert_eq!(rig.settled, Esn(1), "on record, and the holders know their copyset");
}

#[test]
fn c12_the_record_settles_blocks_though_the_shard_is_back() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    rig.link(3, false);
    rig.answer(&[1, 2]);
    rig.wait(Settings::default().straggler_timeout);
    let Some(Proposal::OpenMissing { shard, .. }) = rig.proposals.pop() else { panic!("not put on record") };
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2]);
    rig.link(3, true);
    rig.answer(&[3]);
    assert_eq!(rig.settled, Esn(1), "the second was planned without the third shard, and that is not on record yet");
    rig.sequencer.handle_missing_recorded(rig.now, shard);
    rig.pump();
    assert_eq!(rig.settled, Esn(2));
    assert!(matches!(rig.proposals[..], [Proposal::CloseMissing { .. }]), "{:?}", rig.proposals);
}

#[test]
fn c13_where_recovery_needs_few_answers_a_sequencer_acknowledges_only_under_a_lease() {
    let lease = 300 * MS;
    let settings = || Settings { lease: Some(lease), ..Settings::default() };
    let mut rig = Rig::new(QuorumConfig::available(3), settings());
    rig.append(1, Acks::Quorum);
    rig.answer(&[1]);
    assert_eq!(rig.replied(), [0; 0], "somebody may have decided the end already");
    rig.sequencer.handle_lease(rig.now + lease);
    rig.pump();
    assert_eq!(rig.replied(), [1]);
    rig.wait(lease + MS);
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [0; 0]);
    rig.sequencer.handle_superseded(rig.now, Epoch(2));
    rig.pump();
    assert!(matches!(rig.replies[..], [(2, Err(AppendError::Preempted { .. }))]), "{:?}", rig.replies);

    let mut successor = Rig::of(table(QuorumConfig::available(3), 2, &[]), settings());
    successor.sealed(1, 2, Ok(nothing_held(1)));
    assert!(successor.sequencer.next_timeout().is_some_and(|at| at > successor.now), "it waits, and does not spin");
    successor.wait(lease - MS);
    assert_eq!(successor.proposals, [], "the old one may still acknowledge what only others have");
    successor.wait(MS);
    successor.wait(Settings::default().recovery_grace);
    assert!(matches!(successor.proposals[..], [Proposal::Decide(_)]), "{:?}", successor.proposals);
}

#[test]
fn c13_nothing_is_released_without_a_lease() {
    let lease = 300 * MS;
    let mut rig = Rig::new(QuorumConfig::available(3), Settings { lease: Some(lease), ..Settings::default() });
    rig.append(1, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    let begin = Lsn::new(Epoch(1), Esn::ZERO);
    assert_eq!(rig.released, begin, "a reader would see what lies beyond the end, if one is decided");
    assert!(rig.sequencer.handle_lease(rig.now + lease), "something waits for it");
    rig.pump();
    assert_eq!(rig.released, begin.next());
}

#[test]
fn where_too_few_answered_the_end_is_the_last_record_that_anybody_has() {
    let lease = 300 * MS;
    let settings = || Settings { lease: Some(lease), ..Settings::default() };
    let mut rig = Rig::of(table(QuorumConfig::available(3), 2, &[]), settings());
    rig.link(1, false);
    rig.sealed(2, 2, Ok(block_held(3, &[2, 3], 0)));
    rig.wait(lease + Settings::default().recovery_grace);
    rig.wait(Settings::default().recovery_grace);
    rig.answer(&[2]);
    for FetchBlock { shard, incarnation, partition, target } in std::mem::take(&mut rig.fetches) {
        let answer = FetchedBlock { shard, incarnation, partition, target, found: false };
        rig.sequencer.handle_fetched(rig.now, &answer, None);
    }
    rig.pump();
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(4), false), "n1 may have 1 and 2; 3 and 4 are here");
    assert_eq!(decision.answered, [ShardRef { shard: ShardId::new(2, 0), incarnation: Incarnation(1) }]);

    let mut all = Rig::of(table(QuorumConfig::available(3), 2, &[]), settings());
    (1..=3)
        .for_each(|node| all.sealed(node, 2, Ok(if node == 2 { block_held(3, &[2, 3], 0) } else { nothing_held(1) })));
    all.wait(lease + Settings::default().recovery_grace);
    let [Proposal::Decide(decision)] = &all.proposals[..] else { panic!("{:?}", all.proposals) };
    assert_eq!(
        (decision.last_esn, decision.authoritative),
        (Esn(0), true),
        "nobody has 1, so 3 was never acknowledged"
    );
}

#[test]
fn a_strict_log_needs_no_lease() {
    let mut rig =
        Rig::new(QuorumConfig::majority(3), Settings { lease: Some(Duration::from_secs(1)), ..Settings::default() });
    rig.append(1, Acks::Quorum);
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [1]);
}

#[test]
fn c15_a_shard_whose_log_was_damaged_is_not_believed_about_what_it_lacks() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed_after_loss(1, 2, LostBefore { cached: 0, durable: 5 }, Ok(nothing_held(1)));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "what the first had on its disk, the second may have");
    rig.sealed(2, 2, Ok(first_block_held(0)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.fetches.pop().map(|fetch| fetch.shard), Some(ShardId::new(2, 0)), "its block is copied");
}

#[test]
fn a_planned_change_of_epoch_is_seen_by_nobody() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    rig.sequencer.begin_planned_succession();
    rig.append(2, Acks::Quorum);
    assert_eq!(rig.proposals, [], "the first is still on its way");
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [1]);
    let reason = NewEpochReason::Planned;
    assert_eq!(rig.proposals, [Proposal::NewEpoch { partition: PartitionUid(1), current: Epoch(1), reason }]);
    assert_eq!(rig.sequencer.take_waiting_appends().len(), 1, "the second is for the next epoch");
    assert_eq!(rig.replies, []);
}

#[test]
fn records_get_the_time_at_which_an_epoch_takes_them_and_retries_are_told_the_first_time() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    let stamped = |token, base_sequence| {
        let mut batch = BatchBuilder::new(256);
        batch.append(&NewRecord::of_value(5, b"record"));
        let producer = Some(ProducerStamp { id: 7, epoch: 0, base_sequence });
        let batch = batch.finish(BatchOptions { producer, ..BatchOptions::default() }).freeze();
        AppendRequest { token: Token(token), acks: Acks::Quorum, with_offset: false, append_time: true, batch }
    };
    rig.sequencer.handle_append(rig.now, 1000, stamped(1, 0));
    rig.sequencer.handle_append(rig.now, 2000, stamped(2, 0));
    rig.pump();
    rig.answer(&[1, 2, 3]);
    rig.sequencer.handle_append(rig.now, 3000, stamped(3, 0));
    rig.pump();
    let times: Vec<_> = rig.replies.iter().map(|(token, ok)| (*token, ok.as_ref().unwrap().append_time)).collect();
    assert_eq!(times, [(1, 1000), (2, 1000), (3, 1000)]);
    rig.sequencer.begin_planned_succession();
    rig.sequencer.handle_append(rig.now, 4000, stamped(4, 1));
    rig.pump();
    // What waited is checked by the next epoch as if it had just come.
    let waiting = rig.sequencer.take_waiting_appends();
    let mut next = Rig::new(QuorumConfig::majority(3), Settings::default());
    waiting.into_iter().for_each(|request| next.sequencer.handle_append(next.now, 5000, request));
    next.pump();
    assert!(
        matches!(next.replies[..], [(4, Err(AppendError::UnknownProducer { .. }))]),
        "it is new here, and nothing else is wrong with it: {:?}",
        next.replies
    );
}

#[test]
fn an_epoch_gives_way_before_its_numbers_run_out() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings { esn_max: Esn(2), ..Settings::default() });
    (1..=3).for_each(|token| rig.append(token, Acks::Quorum));
    rig.answer(&[1, 2, 3]);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [1, 2]);
    assert!(matches!(rig.proposals[..], [Proposal::NewEpoch { reason: NewEpochReason::EpochFull, .. }]));
}

#[test]
fn a_full_window_says_so() {
    let by_bytes = Settings { window_bytes_max: 100, ..Settings::default() };
    let by_records = Settings { window_records_max: 2, ..Settings::default() };
    for settings in [by_bytes, by_records] {
        let mut rig = Rig::new(QuorumConfig::majority(3), settings);
        (1..=3).for_each(|token| rig.append(token, Acks::Quorum));
        assert!(matches!(rig.replies.last(), Some((3, Err(AppendError::Overloaded { .. })))), "{:?}", rig.replies);
        assert!(rig.sequencer.window_bytes() < 1000);
        rig.answer(&[1, 2, 3]);
        rig.answer(&[1, 2, 3]);
        rig.replies.clear();
        rig.append(4, Acks::Quorum);
        rig.answer(&[1, 2, 3]);
        assert_eq!(rig.replied(), [4], "it is settled and has left the window");
    }
}

#[test]
fn a_sealed_sequencer_stops() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    let (_, mut answer) = rig.stores.pop().unwrap();
    answer.result = Err(StoreRefusal::Sealed(Epoch(4)));
    rig.sequencer.handle_stored(rig.now, &answer);
    rig.pump();
    assert_eq!(rig.sequencer.preempted_by(), Some(Epoch(4)));
    assert!(matches!(rig.replies[..], [(1, Err(AppendError::Preempted { .. }))]));
}

#[test]
fn c4_recovery_does_not_wait_for_a_disk_that_was_replaced() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Err(SealRefusal::Incarnation(Some(Incarnation(9)))));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.proposals, [], "the third may have what the first had");
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(0), true));
}

#[test]
fn c8_the_ends_of_all_earlier_epochs_are_told() {
    let mut table = table(QuorumConfig::majority(3), 4, &[5, 0, 7]);
    table.epochs.remove(1); // decided empty: it has left the table
    table.trim = Lsn::new(Epoch(1), Esn(2));
    let mut sequencer = PartitionSequencer::new(table, Arc::new(Settings::default()), 1, Time::ZERO, |_| true);
    sequencer.pump(Time::ZERO, 0);
    let ends = std::iter::from_fn(|| sequencer.poll_output()).find_map(|output| match output {
        Output::Release { release, .. } => Some(release.ends),
        _ => None,
    });
    let end = |EpochEnd { epoch, last_esn, .. }: EpochEnd| (epoch.0, last_esn.0);
    assert_eq!(ends.unwrap().into_iter().map(end).collect::<Vec<_>>(), [(1, 5), (2, 0), (3, 7)]);
}

#[test]
fn c8_the_end_of_an_empty_epoch_is_told_though_the_trim_point_lies_in_it() {
    let mut table = table(QuorumConfig::majority(3), 4, &[5, 0, 7]);
    table.epochs.drain(..2); // trimmed, and decided empty
    (table.trim, table.covered) = (Lsn::new(Epoch(2), Esn::ZERO), Epoch(3));
    let ends: Vec<_> = crate::partition::earlier_ends(&table).iter().map(|end| (end.epoch.0, end.last_esn.0)).collect();
    assert_eq!(ends, [(2, 0), (3, 7)]);
    table.covered = Epoch(4);
    table.trim = Lsn::new(Epoch(3), Esn(1));
    assert_eq!(crate::partition::earlier_ends(&table).len(), 1, "where a trimmed epoch ended is not known");
}

#[test]
fn c8_whoever_was_away_for_long_is_told_every_end() {
    let ends: Vec<u32> = (1..=40).collect();
    let table = table(QuorumConfig::majority(3), 41, &ends);
    let mut sequencer =
        PartitionSequencer::new(table, Arc::new(Settings::default()), 1, Time::ZERO, |shard| shard.node != NodeId(3));
    sequencer.pump(Time::ZERO, 0);
    while sequencer.poll_output().is_some() {}
    sequencer.handle_link(Time::ZERO, ShardId::new(3, 0), true);
    sequencer.pump(Time::ZERO, 0);
    let told = std::iter::from_fn(|| sequencer.poll_output()).find_map(|output| match output {
        Output::Release { to, release } if to.iter().any(|s| s.shard.node == NodeId(3)) => Some(release.ends),
        _ => None,
    });
    let told: Vec<u32> = told.expect("it is told").iter().map(|end| end.last_esn.0).collect();
    assert_eq!(told, ends);
}

/// One block of two records at ESN 1, under the placement of a wave that is to be on all three.
fn first_block_held(trim: u32) -> SealedState {
    block_held(1, &[1, 2, 3], trim)
}

fn block_held(first: u32, copyset: &[u16], trim: u32) -> SealedState {
    let version = PlacementVersion { writer_epoch: Epoch(1), wave: 1 };
    let copyset = copyset.iter().map(|node| ShardId::new(*node, 0).to_u32()).collect();
    let block = BlockSummary { first_esn: Esn(first), span: 2, crc: 1, len: 100, version, copyset };
    let blocks = if trim < 2 { vec![block] } else { Vec::new() };
    let (acked, settled) = (Esn::ZERO, Esn::ZERO);
    let epochs = vec![SealedEpoch { epoch: Epoch(1), acked, settled, known_end: None, blocks }];
    SealedState { trim: Lsn::new(Epoch(1), Esn(trim)), epochs, snapshot: None }
}

#[test]
fn c5_a_disk_that_is_lost_while_its_records_are_copied_is_not_waited_for() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Ok(first_block_held(0)));
    (2..=3).for_each(|node| rig.sealed(node, 2, Ok(nothing_held(1))));
    assert!(!rig.fetches.is_empty() && rig.proposals.is_empty(), "the others are to get copies");
    rig.sealed(1, 2, Err(SealRefusal::Incarnation(Some(Incarnation(9)))));
    rig.wait(Settings::default().recovery_grace * 2);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(0), true), "nobody was told that it is stored");
}

#[test]
fn a_block_that_nobody_can_read_is_not_waited_for() {
    let cannot_read = |rig: &mut Rig, times| {
        for _ in 0..times {
            for FetchBlock { shard, incarnation, partition, target } in std::mem::take(&mut rig.fetches) {
                assert_eq!(shard, ShardId::new(1, 0), "the only one who has it");
                let answer = FetchedBlock { shard, incarnation, partition, target, found: false };
                rig.sequencer.handle_fetched(rig.now, &answer, None);
                rig.sealed(1, 2, Ok(first_block_held(0)));
            }
            rig.wait(Settings::default().recovery_retry);
        }
    };
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Ok(first_block_held(0)));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace);
    cannot_read(&mut rig, 10);
    rig.wait(Settings::default().recovery_grace);
    assert_eq!(rig.proposals, [], "n3s0 may have it, if it was acknowledged");
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(0), true), "it was on one disk only");

    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Ok(first_block_held(0)));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace);
    cannot_read(&mut rig, 2);
    assert_eq!(rig.fetches.len(), 1, "a disk's error may pass");
    cannot_read(&mut rig, 1);
    rig.sealed(3, 2, Err(SealRefusal::Incarnation(Some(Incarnation(9)))));
    rig.stores.clear();
    rig.link(1, false);
    rig.wait(Settings::default().recovery_grace);
    assert_eq!((&rig.proposals, &rig.stores), (&Vec::new(), &Vec::new()), "who is away may be able to read it");
    rig.link(1, true);
    rig.wait(Settings::default().recovery_retry);
    cannot_read(&mut rig, 3);
    rig.wait(Settings::default().recovery_grace);
    assert!(rig.stores.iter().all(|(shard, _)| shard.node == NodeId(1)), "{:?}", rig.stores);
    assert_eq!(rig.proposals, [], "it is to know that it is the whole copyset");
    rig.answer(&[1]);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(2), false), "readers are told that it is lost");
    let missing: Vec<_> = decision.missing.iter().map(|(shard, from)| (shard.shard.node.0, *from)).collect();
    assert_eq!(missing, [(2, Esn(1)), (3, Esn(1))], "so that it gets its copies if it can be read after all");
}

#[test]
fn what_is_trimmed_while_it_is_recovered_needs_no_copies() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.sealed(1, 2, Ok(first_block_held(0)));
    rig.sealed(2, 2, Ok(first_block_held(0)));
    rig.sealed(3, 2, Ok(nothing_held(1)));
    rig.seals.clear();
    assert!(!rig.fetches.is_empty() && rig.proposals.is_empty(), "n3s0 is to get a copy");
    for (_, mut answer) in std::mem::take(&mut rig.stores) {
        answer.result = Err(StoreRefusal::NoPayload);
        rig.sequencer.handle_stored(rig.now, &answer);
    }
    for fetch in std::mem::take(&mut rig.fetches) {
        let FetchBlock { shard, incarnation, partition, target } = fetch;
        let answer = FetchedBlock { shard, incarnation, partition, target, found: false };
        rig.sequencer.handle_fetched(rig.now, &answer, None);
    }
    rig.wait(Settings::default().recovery_retry);
    assert!(rig.seals.contains(&ShardId::new(1, 0)), "it has what it listed no more: it is asked again");
    assert_eq!(rig.proposals, []);
    rig.sealed(1, 2, Ok(first_block_held(2)));
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, &decision.missing), (Esn(2), &Vec::new()), "trimmed, and part of the epoch");
}

#[test]
fn recovery_that_waits_for_shards_when_the_lease_is_over_does_not_ask_to_be_woken_at_once() {
    let lease = 300 * MS;
    let mut rig =
        Rig::of(table(QuorumConfig::available(3), 2, &[]), Settings { lease: Some(lease), ..Settings::default() });
    (1..=3).for_each(|node| rig.link(node, false));
    rig.wait(lease * 2);
    let next = rig.sequencer.next_timeout();
    assert!(next.is_none_or(|at| at > rig.now), "{next:?} is past");
}
