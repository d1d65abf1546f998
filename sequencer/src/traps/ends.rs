//! Where recovery finds that an epoch ended, and from whose answers.

use std::sync::Arc;

use dlog_proto::wire::{FetchBlock, FetchedBlock, LostBefore, SealRefusal};
use dlog_proto::{Esn, Incarnation, Member, Nodeset, QuorumConfig, Replication, Scope, ShardId, ShardRef};

use crate::output::Proposal;
use crate::settings::Settings;
use crate::testing::rig::{MS, Rig, block_held, cached, first_block_held, nothing_held};
use crate::testing::table;

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
fn recovery_that_waits_for_shards_when_the_lease_is_over_does_not_ask_to_be_woken_at_once() {
    let lease = 300 * MS;
    let mut rig =
        Rig::of(table(QuorumConfig::available(3), 2, &[]), Settings { lease: Some(lease), ..Settings::default() });
    (1..=3).for_each(|node| rig.link(node, false));
    rig.wait(lease * 2);
    let next = rig.sequencer.next_timeout();
    assert!(next.is_none_or(|at| at > rig.now), "{next:?} is past");
}
