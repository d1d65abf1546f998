//! From one epoch to the next, and what shards are told of ends.

use std::sync::Arc;

use dlog_proto::wire::{Acks, EpochEnd};
use dlog_proto::{Epoch, Esn, Lsn, NodeId, PartitionUid, QuorumConfig, ShardId, Time};

use crate::output::{NewEpochReason, Output, Proposal};
use crate::partition::PartitionSequencer;
use crate::settings::Settings;
use crate::testing::rig::Rig;
use crate::testing::table;

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
