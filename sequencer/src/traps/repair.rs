//! What recovery copies before it decides.

use dlog_proto::block::PlacementVersion;
use dlog_proto::wire::{FetchBlock, FetchedBlock, Kept, SealRefusal, StoreAnswer, StoreRefusal};
use dlog_proto::{Epoch, Esn, Incarnation, NodeId, QuorumConfig, ShardId, ShardRef};

use crate::output::Proposal;
use crate::settings::Settings;
use crate::testing::rig::{MS, Rig, first_block_held, nothing_held, stored_held};
use crate::testing::table;

#[test]
fn c7b_c9_an_epoch_is_decided_when_its_last_blocks_are_on_a_write_quorum_of_disks_under_a_new_placement() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.link(3, false);
    rig.sealed(1, 2, Ok(stored_held(1, &[1, 2, 3])));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    assert_eq!(rig.fetched(), [(1, Esn(1))], "the second is to get a copy");
    let version = PlacementVersion { writer_epoch: Epoch(2), wave: 1 };
    assert!(rig.stores.iter().all(|(_, answer)| answer.version == version), "it wins over any of the old sequencer's");
    assert_eq!(rig.proposals, [], "one disk has it");
    let cached = rig.stores.clone();
    rig.stores.iter_mut().for_each(|(_, answer)| answer.result = Ok(Kept::Cached));
    rig.answer(&[2]);
    assert_eq!(rig.proposals, [], "and one memory");
    rig.stores = cached;
    rig.answer(&[2]);
    assert_eq!(rig.proposals, [], "the first does not know of the new placement");
    rig.answer(&[1]);
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!((decision.last_esn, decision.authoritative), (Esn(2), true));
}

/// It may be settled on n1 and n3, by the word of n3; if this recoverer dies and n3 stays away, nobody comes to repair it.
#[test]
fn c9_a_recoverer_that_dies_leaves_no_holder_with_a_placement_that_names_nobody_else() {
    let mut rig = Rig::of(table(QuorumConfig::majority(3), 2, &[]), Settings::default());
    rig.link(3, false);
    rig.sealed(1, 2, Ok(stored_held(1, &[1, 3])));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(Settings::default().recovery_grace * 2);
    rig.fetched();
    let asked = |rig: &Rig| rig.stores.iter().map(|(shard, _)| shard.node.0).collect::<Vec<_>>();
    assert_eq!(asked(&rig), [2], "who has it keeps its placement until the new one is true");
    rig.answer(&[2]);
    assert_eq!(asked(&rig), [1]);
}

fn available(node_away: u16) -> Rig {
    let settings = Settings { lease: Some(300 * MS), ..Settings::default() };
    let mut rig = Rig::of(table(QuorumConfig::available(3), 2, &[]), settings);
    rig.link(node_away, false);
    rig
}

#[test]
fn an_answer_that_comes_while_blocks_are_copied_counts() {
    let mut rig = available(3);
    rig.sealed(1, 2, Ok(stored_held(1, &[1, 2, 3])));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(300 * MS + Settings::default().recovery_grace);
    assert_eq!(rig.fetched(), [(1, Esn(1))], "one answer is enough for this log");
    rig.link(3, true);
    rig.sealed(3, 2, Ok(stored_held(3, &[3])));
    rig.wait(Settings::default().recovery_grace);
    while !rig.fetched().is_empty() || !rig.stores.is_empty() {
        rig.answer(&[1, 2, 3]);
    }
    let [Proposal::Decide(decision)] = &rig.proposals[..] else { panic!("{:?}", rig.proposals) };
    assert_eq!(decision.last_esn, Esn(4), "3 and 4 may have been acknowledged");
    assert_eq!(decision.answered.len(), 3);
}

#[test]
fn a_newer_placement_that_is_heard_of_while_blocks_are_copied_counts() {
    let pairs = QuorumConfig { replication_factor: 2, write_quorum: 1, read_quorum: 1 };
    let settings = Settings { lease: Some(300 * MS), ..Settings::default() };
    let mut rig = Rig::of(table(pairs, 3, &[]), settings);
    rig.link(2, false);
    let mut both = stored_held(1, &[1, 3]);
    both.epochs[0].blocks.extend(stored_held(3, &[1]).epochs.remove(0).blocks);
    rig.sealed(1, 3, Ok(both));
    rig.sealed(3, 3, Ok(stored_held(1, &[1, 3])));
    rig.wait(300 * MS + Settings::default().recovery_grace);
    assert_eq!(rig.fetched(), [(1, Esn(3))], "n3 lacks it");
    let is_of_first = |(_, answer): &(ShardId, StoreAnswer)| answer.first_esn == Esn(1);
    assert!(!rig.stores.iter().any(is_of_first), "it is where it should be");
    rig.link(2, true);
    let mut late = stored_held(1, &[2]);
    late.epochs[0].blocks[0].version = PlacementVersion { writer_epoch: Epoch(2), wave: 1 };
    rig.sealed(2, 3, Ok(late));
    assert!(rig.stores.iter().any(is_of_first), "its newest placement names one copy, and nothing is on record");
}

#[test]
fn what_this_recoverer_began_to_place_anew_it_finishes_though_it_hears_that_it_is_settled() {
    let mut rig = available(3);
    rig.sealed(1, 2, Ok(stored_held(1, &[1, 3])));
    rig.sealed(2, 2, Ok(nothing_held(1)));
    rig.wait(300 * MS + Settings::default().recovery_grace);
    rig.fetched();
    rig.answer(&[2]);
    rig.link(3, true);
    let mut late = stored_held(3, &[3]);
    (late.epochs[0].acked, late.epochs[0].settled) = (Esn(2), Esn(2));
    rig.stores.clear();
    rig.sealed(3, 2, Ok(late));
    rig.wait(Settings::default().recovery_grace);
    assert!(rig.fetched().contains(&(1, Esn(1))), "n2 has it under a placement that n1 was told of, or not");
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
