//! Appending once (trap C11): who is known, from what, and until when.

use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::BlockBuilder;
use dlog_proto::producer::{ProducerBatch, ProducerTable};
use dlog_proto::record::{BatchOptions, ProducerStamp};
use dlog_proto::wire::{Acks, AppendError, EpochEnd, FetchBlock, FetchedBlock, LostBefore, ProducersRead, SealedState};
use dlog_proto::{Epoch, Esn, Incarnation, Lsn, NodeId, PartitionUid, QuorumConfig, ShardId};

use crate::output::Proposal;
use crate::settings::Settings;
use crate::testing::rig::{Rig, nothing_held};
use crate::testing::{nodeset, table};

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

/// The first attempt is in epoch 1, epoch 2 took nothing, the retry comes to epoch 3.
#[test]
fn c11_a_retry_is_known_from_before_an_empty_epoch() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 3, &[9]), Settings::default());
    let producer = ProducerStamp { id: 7, epoch: 0, base_sequence: 0 };
    rig.append_with(1, Acks::Quorum, BatchOptions { producer: Some(producer), ..BatchOptions::default() });
    (1..=3).for_each(|node| rig.sealed(node, 3, Ok(nothing_held(2))));
    rig.sequencer.handle_decided(EpochEnd { epoch: Epoch(2), last_esn: Esn(0), authoritative: true });
    rig.pump();
    assert_eq!(rig.read_after.first(), Some(&Lsn::ZERO), "no snapshot: from the beginning");
    let mut wrote = ProducerTable::default();
    let first = Lsn::new(Epoch(1), Esn(9));
    wrote.note(&ProducerBatch { producer: 7, epoch: 0, first_sequence: 0, last_sequence: 0 }, first, 0);
    for node in 1..=3 {
        let (shard, partition, epoch) = (ShardId::new(node, 0), PartitionUid(1), Epoch(3));
        let (incarnation, after, lost, snapshot) = (Incarnation(1), Lsn::ZERO, LostBefore::default(), None);
        let answer = ProducersRead { shard, incarnation, partition, epoch, after, lost, snapshot, ok: true };
        rig.sequencer.handle_producers(&answer, Some(&wrote));
        rig.pump();
    }
    let [(1, Ok(answer))] = &rig.replies[..] else { panic!("{:?}", rig.replies) };
    assert_eq!((answer.lsn, answer.duplicate), (first, true));
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
