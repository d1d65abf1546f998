//! How far records are settled and released.

use dlog_proto::wire::{Acks, Flushed, FlushedUpto, Kept};
use dlog_proto::{Epoch, Esn, Incarnation, Lsn, PartitionUid, QuorumConfig, ShardId};

use crate::output::Proposal;
use crate::settings::Settings;
use crate::testing::rig::{MS, Rig, cached};
use crate::testing::table;

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
