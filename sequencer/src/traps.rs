//! The traces that broke drafts of the protocol, and what else must go right, as far as one sequencer decides it. The other
//! half is in the simulator.

use std::sync::Arc;
use std::time::Duration;

use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord};
use dlog_proto::wire::{
    Acks, AppendError, AppendOk, EpochEnd, Kept, SealRefusal, SealedEpoch, SealedPartition, SealedState, Store,
    StoreAnswer, StoreRefusal,
};
use dlog_proto::{
    End, Epoch, EpochEntry, EpochTable, Esn, Incarnation, Location, LogOffset, Lsn, Member, NodeId, Nodeset,
    PartitionUid, ProcessId, QuorumConfig, Replication, ShardId, ShardRef, Time,
};

use crate::output::{NewEpochReason, Output, Proposal, Token};
use crate::partition::{AppendRequest, PartitionSequencer};
use crate::settings::Settings;

const MS: Duration = Duration::from_millis(1);

/// A table of epochs 1 to `newest` on shards n1s0 to n3s0; `ends` of the first of them.
fn table(quorum: QuorumConfig, newest: u32, ends: &[u32]) -> EpochTable {
    let member = |node| Member {
        shard: ShardId::new(node, 0),
        incarnation: Incarnation(1),
        location: Location::default(),
        weight: 1,
    };
    let nodeset = Arc::new(Nodeset::new((1..=3).map(member).collect()).unwrap());
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
    EpochTable { partition: PartitionUid(1), revision: 1, trim: Lsn::ZERO, epochs: (1..=newest).map(entry).collect() }
}

struct Rig {
    sequencer: PartitionSequencer,
    now: Time,
    /// Stores that are not answered yet.
    stores: Vec<(ShardId, StoreAnswer)>,
    proposals: Vec<Proposal>,
    replies: Vec<(u64, Result<AppendOk, AppendError>)>,
    settled: Esn,
}

impl Rig {
    fn new(quorum: QuorumConfig, settings: Settings) -> Self {
        Self::of(table(quorum, 1, &[]), settings)
    }

    fn of(table: EpochTable, settings: Settings) -> Self {
        let sequencer = PartitionSequencer::new(table, Arc::new(settings), 1, Time::ZERO, |_| true);
        let (stores, proposals, replies) = (Vec::new(), Vec::new(), Vec::new());
        let mut rig = Self { sequencer, now: Time::ZERO, stores, proposals, replies, settled: Esn::ZERO };
        rig.pump();
        rig
    }

    fn pump(&mut self) {
        self.sequencer.pump(self.now, 0);
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
                        snapshot: false,
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
                Output::Release { release, .. } => self.settled = release.settled,
                _ => {}
            }
        }
    }

    fn append(&mut self, token: u64, acks: Acks) {
        let mut batch = BatchBuilder::new(256);
        batch.append(&NewRecord::of_value(0, b"record"));
        let batch = batch.finish(BatchOptions::default()).freeze();
        let request = AppendRequest { token: Token(token), acks, with_offset: false, append_time: false, batch };
        self.sequencer.handle_append(self.now, 0, request);
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
        self.pump();
    }

    fn link(&mut self, node: u16, up: bool) {
        self.sequencer.handle_link(self.now, ShardId::new(node, 0), up);
        self.pump();
    }

    fn sealed(&mut self, node: u16, by: u32, result: Result<SealedState, SealRefusal>) {
        let incarnation = match result {
            Err(SealRefusal::Incarnation(Some(current))) => current,
            _ => Incarnation(1),
        };
        let from = ShardRef { shard: ShardId::new(node, 0), incarnation };
        let answer = SealedPartition { partition: PartitionUid(1), epoch: Epoch(by), result };
        self.sequencer.handle_sealed(from, 0, answer);
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
    successor.wait(lease - MS);
    assert_eq!(successor.proposals, [], "the old one may still acknowledge what only others have");
    successor.wait(MS);
    successor.wait(Settings::default().recovery_grace);
    assert!(matches!(successor.proposals[..], [Proposal::Decide(_)]), "{:?}", successor.proposals);
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
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings { window_bytes_max: 100, ..Settings::default() });
    (1..=3).for_each(|token| rig.append(token, Acks::Quorum));
    assert!(matches!(rig.replies.last(), Some((3, Err(AppendError::Overloaded { .. })))), "{:?}", rig.replies);
    assert!(rig.sequencer.window_bytes() < 1000);
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
    let mut sequencer = PartitionSequencer::new(table, Arc::new(Settings::default()), 1, Time::ZERO, |_| true);
    sequencer.pump(Time::ZERO, 0);
    let ends = std::iter::from_fn(|| sequencer.poll_output()).find_map(|output| match output {
        Output::Release { release, .. } => Some(release.ends),
        _ => None,
    });
    let end = |EpochEnd { epoch, last_esn, .. }: EpochEnd| (epoch.0, last_esn.0);
    assert_eq!(ends.unwrap().into_iter().map(end).collect::<Vec<_>>(), [(1, 5), (2, 0), (3, 7)]);
}
