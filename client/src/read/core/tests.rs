use std::sync::Arc;

use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::wire::WirePlacement;
use dlog_proto::{End, Epoch, Incarnation, Location, NodeId, Nodeset, ProcessId, QuorumConfig, Replication};

use super::*;

fn lsn(epoch: u32, esn: u32) -> Lsn {
    Lsn::new(Epoch(epoch), Esn(esn))
}

fn shard(node: u16) -> ShardRef {
    ShardRef { shard: ShardId::new(node, 0), incarnation: Incarnation(1) }
}

/// A table of epochs with these ends, all on shards n1s0 to n3s0 with R = 3 and W = 2.
fn table(revision: u64, ends: &[(u32, Option<u32>)]) -> EpochTable {
    let member = |node| Member {
        shard: ShardId::new(node, 0),
        incarnation: Incarnation(1),
        location: Location::default(),
        weight: 1,
    };
    let nodeset = Arc::new(Nodeset::new((1..=3).map(member).collect()).unwrap());
    let replication = Arc::new(Replication::new(QuorumConfig::majority(3)));
    let mut base = Some(0);
    let entry = |(epoch, end): &(u32, Option<u32>)| {
        let entry = EpochEntry {
            epoch: Epoch(*epoch),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: nodeset.clone(),
            replication: replication.clone(),
            base_offset: base.map(LogOffset),
            end: end.map(|last| End { last_esn: Esn(last), authoritative: true }),
            activated_at: 0,
        };
        base = base.and_then(|base| Some(base + u64::from((*end)?)));
        entry
    };
    let epochs = ends.iter().map(entry).collect();
    EpochTable { partition: PartitionUid(1), revision, trim: Lsn::ZERO, covered: Epoch::ZERO, epochs }
}

fn block(epoch: u32, first: u32, span: u32) -> Block {
    let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(epoch), Esn(first), 0);
    builder.push(&bytes::Bytes::from(vec![0; 61]), span, (0, 0));
    builder.finish()
}

struct Rig {
    core: ReaderCore,
    now: Time,
}

impl Rig {
    fn new(table: EpochTable) -> Self {
        let mut core = ReaderCore::new(table, Lsn::FIRST, Lsn::MAX, ReaderSettings::default());
        core.handle_tick(Time::ZERO);
        let mut rig = Self { core, now: Time::ZERO };
        assert_eq!(rig.outputs().len(), 3, "a stream to each shard");
        rig
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.core.poll_output())
            .map(|output| match output {
                Output::Start { to, request } => {
                    format!("start {} v{} at {} {:?}", to.shard, request.version, request.from, request.mode)
                }
                Output::Close(to) => format!("close {}", to.shard),
                Output::WantTable => "table?".to_owned(),
                Output::Done => "done".to_owned(),
                Output::Item(Item::Block { block, from, base }) => {
                    format!("{from}..{} base {base}", block.header().last_lsn())
                }
                Output::Item(Item::Gap { from, to, reason }) => format!("{reason:?} {from}..{to}"),
            })
            .collect()
    }

    fn block(&mut self, from: u16, released: Lsn, block: Block) -> Vec<String> {
        let placement = WirePlacement::from(&Placement {
            version: PlacementVersion::default(),
            copyset: Copyset::new([ShardId::new(from, 0)]).unwrap(),
            acked: Esn::ZERO,
            settled: Esn::ZERO,
        });
        let message = ReadBlock { version: self.core.version, placement, released };
        self.core.handle_block(self.now, shard(from), &message, block);
        self.outputs()
    }

    fn claim(&mut self, from: u16, upto: Lsn, released: Lsn) -> Vec<String> {
        let (version, kind) = (self.core.version, ClaimKind::NoRecords);
        let claim = ReadClaim { version, upto, kind, released, trim: Lsn::ZERO };
        self.core.handle_claim(self.now, shard(from), &claim);
        self.outputs()
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        self.now = self.now + Duration::from_millis(ms);
        self.core.handle_tick(self.now);
        self.outputs()
    }
}

#[test]
fn blocks_of_different_shards_come_out_in_order_and_once() {
    let mut rig = Rig::new(table(1, &[(1, None)]));
    assert_eq!(rig.block(2, lsn(1, 6), block(1, 3, 2)), [""; 0], "e1n1 comes first");
    assert_eq!(rig.block(1, lsn(1, 6), block(1, 1, 2)), ["e1n1..e1n2 base 0", "e1n3..e1n4 base 0"]);
    assert_eq!(rig.block(3, lsn(1, 6), block(1, 1, 2)), [""; 0], "a second copy");
    assert_eq!(rig.block(3, lsn(1, 6), block(1, 7, 1)), [""; 0]);
    assert_eq!(rig.block(3, lsn(1, 6), block(1, 5, 2)), ["e1n5..e1n6 base 0"]);
    assert_eq!(rig.claim(1, lsn(1, 7), lsn(1, 7)), ["e1n7..e1n7 base 0"], "released now");
}

#[test]
fn c8_what_is_not_released_in_its_own_epoch_waits_for_the_table() {
    // Trap C8: released is in epoch 2, but whether e1n1 is part of the log only the table can say.
    let mut rig = Rig::new(table(1, &[(1, None), (2, None)]));
    assert_eq!(rig.block(3, lsn(2, 0), block(1, 1, 1)), ["table?"]);
    rig.core.handle_table(rig.now, table(2, &[(1, Some(0)), (2, None)]));
    assert_eq!(rig.outputs(), [""; 0], "decided empty: a zombie wrote it");
    assert_eq!(rig.core.cursor(), lsn(2, 1));
    assert_eq!(rig.block(1, lsn(2, 1), block(2, 1, 1)), ["e2n1..e2n1 base 0"]);
}

#[test]
fn offsets_go_on_across_epochs() {
    let mut rig = Rig::new(table(1, &[(1, Some(2)), (4, Some(3)), (5, None)]));
    assert_eq!(rig.block(1, lsn(5, 0), block(4, 1, 3)), [""; 0]);
    assert_eq!(rig.block(1, lsn(5, 0), block(1, 1, 2)), ["e1n1..e1n2 base 0", "e4n1..e4n3 base 2"]);
    assert_eq!(rig.core.cursor(), lsn(5, 1));
}

#[test]
fn a_loss_is_declared_only_by_an_f_majority_that_was_asked_for_everything() {
    let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
    let released = lsn(2, 0);
    assert_eq!(rig.claim(1, released, released), [""; 0]);
    assert_eq!(rig.claim(2, released, released), [""; 0], "the third is the one that sends it, perhaps");
    let asked = rig.claim(3, released, released);
    assert_eq!(asked.len(), 3, "single copies prove nothing: everybody is asked again, {asked:?}");
    assert!(asked.iter().all(|a| a.contains("v2 at e1n1 AllSendAll")));
    assert_eq!(rig.claim(1, lsn(1, 2), released), [""; 0]);
    assert_eq!(rig.claim(2, lsn(1, 2), released), [""; 0], "the third may still have it");
    assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"]);
    assert_eq!(rig.block(3, released, block(1, 3, 2)), ["e1n3..e1n4 base 0"]);
}

#[test]
fn a_lost_stream_is_passed_over_and_opened_again() {
    let mut rig = Rig::new(table(1, &[(1, None)]));
    rig.core.handle_closed(rig.now, shard(2));
    let outputs = rig.outputs();
    assert_eq!(outputs.len(), 2, "the others take over what it would have sent: {outputs:?}");
    assert!(outputs.iter().all(|o| o.contains("known_down: [ShardId { node: NodeId(2)")));
    assert_eq!(rig.wait(25).len(), 1, "reopened");
    let outputs = rig.block(2, lsn(1, 1), block(1, 1, 1));
    assert!(outputs.iter().any(|o| o == "e1n1..e1n1 base 0"));
    assert!(outputs.iter().any(|o| o.contains("known_down: []")), "it sends, so it is not down: {outputs:?}");
}

#[test]
fn a_shard_that_is_silent_is_not_counted_on_again() {
    let mut rig = Rig::new(table(1, &[(1, None)]));
    assert_eq!(rig.claim(1, lsn(1, 0), lsn(1, 2)), [""; 0]);
    let starts = |outputs: Vec<String>| outputs.into_iter().filter(|o| o.starts_with("start")).collect::<Vec<_>>();
    assert_eq!(starts(rig.wait(1_000)).len(), 3, "something is due, and nothing comes: everybody is asked");
    for node in [1, 2] {
        let (shard_id, version) = (ShardId::new(node, 0), rig.core.version);
        let (released, trim) = (lsn(1, 2), Lsn::ZERO);
        let started = ReadStarted {
            shard: shard_id,
            version,
            status: ReadStatus::Ok,
            lost: LostBefore::default(),
            released,
            trim,
        };
        rig.core.handle_started(rig.now, shard(node), &started);
    }
    assert_eq!(rig.block(1, lsn(1, 2), block(1, 1, 2)), ["e1n1..e1n2 base 0"]);
    let again = starts(rig.wait(10_000));
    assert_eq!(again.len(), 3, "single copies again, of those who answer: {again:?}");
    assert!(again.iter().all(|start| start.contains("known_down: [ShardId { node: NodeId(3)")), "{again:?}");
}

#[test]
fn what_a_shard_said_before_it_went_away_does_not_outlive_a_rewind() {
    let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
    let released = lsn(2, 0);
    for node in [1, 2, 3] {
        rig.claim(node, released, released);
    }
    assert_eq!(rig.claim(1, released, released), [""; 0], "everybody is asked now");
    rig.core.handle_closed(rig.now, shard(1));
    rig.outputs();
    rig.core.rewind(rig.now);
    rig.outputs();
    assert_eq!(rig.claim(2, released, released), [""; 0]);
    assert_eq!(rig.wait(10_000).iter().filter(|o| o.starts_with("DataLoss")).count(), 0, "one shard is no f-majority");
}

#[test]
fn answers_to_an_older_version_are_void() {
    let mut rig = Rig::new(table(1, &[(1, None)]));
    rig.core.handle_closed(rig.now, shard(2));
    rig.outputs();
    let claim =
        ReadClaim { version: 1, upto: lsn(1, 9), kind: ClaimKind::NoRecords, released: lsn(1, 9), trim: Lsn::ZERO };
    rig.core.handle_claim(rig.now, shard(1), &claim);
    assert_eq!((rig.outputs(), rig.core.released()), (vec![], Lsn::ZERO));
}

#[test]
fn trimmed_records_are_told_of() {
    let mut rig = Rig::new(table(1, &[(1, None)]));
    let claim =
        ReadClaim { version: 1, upto: lsn(1, 9), kind: ClaimKind::NoRecords, released: lsn(1, 9), trim: lsn(1, 5) };
    rig.core.handle_claim(rig.now, shard(1), &claim);
    assert_eq!(rig.outputs(), ["Trimmed e1n1..e1n5"]);
    assert_eq!(rig.block(1, lsn(1, 9), block(1, 5, 3)), ["e1n6..e1n7 base 0"]);
}

#[test]
fn a_replaced_disk_counts_as_lost() {
    let mut rig = Rig::new(table(1, &[(1, Some(1)), (2, None)]));
    let started = ReadStarted {
        shard: ShardId::new(3, 0),
        version: 1,
        status: ReadStatus::Incarnation,
        released: Lsn::ZERO,
        trim: Lsn::ZERO,
        lost: LostBefore::default(),
    };
    rig.core.handle_started(rig.now, shard(3), &started);
    assert_eq!(rig.outputs(), ["close n3s0"]);
    for node in [1, 2] {
        rig.claim(node, lsn(2, 0), lsn(2, 0));
    }
    for node in [1, 2] {
        rig.claim(node, lsn(2, 0), lsn(2, 0));
    }
    assert_eq!(rig.core.cursor(), lsn(2, 1), "an f-majority without it says that e1n1 is lost");
}

/// All of `nodes` say that they have nothing.
fn nothing_from(rig: &mut Rig, nodes: &[u16]) -> Vec<String> {
    nodes.iter().flat_map(|node| rig.claim(*node, lsn(2, 0), lsn(2, 0))).collect()
}

fn starts(outputs: &[String]) -> usize {
    outputs.iter().filter(|output| output.starts_with("start")).count()
}

#[test]
fn who_said_that_he_has_none_is_asked_again_when_the_others_are_given_up() {
    let available = |rig: &mut Rig| {
        rig.core.handle_closed(rig.now, shard(3));
        rig.outputs();
        assert_eq!(starts(&nothing_from(rig, &[1, 2])), 2, "single copies prove nothing");
        assert_eq!(nothing_from(rig, &[1, 2]), [""; 0], "the third may come back");
        rig.core.handle_closed(rig.now, shard(3));
        let again = rig.wait(1_000);
        assert_eq!(starts(&again), 3, "it did not, and those who are there are asked once more: {again:?}");
    };
    let mut past = table(1, &[(1, Some(2)), (2, None)]);
    for entry in &mut past.epochs {
        entry.replication = Arc::new(Replication::new(QuorumConfig::available(3)));
    }
    let mut rig = Rig::new(past.clone());
    available(&mut rig);
    assert_eq!(nothing_from(&mut rig, &[1]), [""; 0], "the second is not given up");
    let read = rig.block(2, lsn(2, 0), block(1, 1, 2));
    assert!(read.contains(&"e1n1..e1n2 base 0".to_owned()), "recovery had copied it meanwhile: {read:?}");

    let mut rig = Rig::new(past.clone());
    available(&mut rig);
    assert_eq!(nothing_from(&mut rig, &[1, 2]), [""; 0]);
    assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"], "for the third nobody waits another second");

    let mut rig = Rig::new(past);
    available(&mut rig);
    assert_eq!(nothing_from(&mut rig, &[1]), [""; 0]);
    let again = rig.wait(1_000);
    assert_eq!(starts(&again), 3, "the second is given up only now: {again:?}");
    assert_eq!(nothing_from(&mut rig, &[1]), [""; 0]);
    assert_eq!(rig.wait(150), ["DataLoss e1n1..e1n2"]);
}

#[test]
fn a_loss_that_rests_on_lost_disks_is_asked_for_again() {
    let mut rig = Rig::new(table(1, &[(1, Some(1)), (2, None)]));
    let is_lost = |rig: &mut Rig, node| {
        let (version, status, lost) = (rig.core.version, ReadStatus::Incarnation, LostBefore::default());
        let (shard_id, released, trim) = (ShardId::new(node, 0), Lsn::ZERO, Lsn::ZERO);
        let started = ReadStarted { shard: shard_id, version, status, lost, released, trim };
        rig.core.handle_started(rig.now, shard(node), &started);
        rig.outputs()
    };
    is_lost(&mut rig, 2);
    assert_eq!(nothing_from(&mut rig, &[1]), [""; 0], "an f-majority could prove it");
    assert_eq!(starts(&is_lost(&mut rig, 3)), 1, "single copies prove nothing");
    let again = nothing_from(&mut rig, &[1]);
    assert_eq!(starts(&again), 1, "the third may have had it, and given it to the first: {again:?}");
    assert!(nothing_from(&mut rig, &[1]).contains(&"DataLoss e1n1..e1n1".to_owned()));
}

#[test]
fn what_lies_behind_damage_is_waited_for() {
    let mut rig = Rig::new(table(1, &[(1, Some(4)), (2, None)]));
    for node in [2, 3] {
        let (shard_id, status) = (ShardId::new(node, 0), ReadStatus::Incarnation);
        let (released, trim, lost) = (Lsn::ZERO, Lsn::ZERO, LostBefore::default());
        let started = ReadStarted { shard: shard_id, version: rig.core.version, status, released, trim, lost };
        rig.core.handle_started(rig.now, shard(node), &started);
    }
    let mut told = Vec::new();
    for _ in 0..8 {
        let (version, kind) = (rig.core.version, ClaimKind::UnderReplicated);
        let claim = ReadClaim { version, upto: lsn(1, 1), kind, released: lsn(2, 0), trim: Lsn::ZERO };
        rig.core.handle_claim(rig.now, shard(1), &claim);
        told.extend(rig.outputs());
        told.extend(rig.wait(1_100));
    }
    told.extend(rig.block(1, lsn(2, 0), block(1, 2, 3)));
    told.retain(|told| !told.starts_with("start"));
    assert_eq!(told, ["close n2s0", "close n3s0", "DataLoss e1n1..e1n1", "e1n2..e1n4 base 0"]);
}

#[test]
fn reading_ends_where_it_was_asked_to() {
    let table = table(1, &[(1, None)]);
    let core = ReaderCore::new(table, lsn(1, 2), lsn(1, 3), ReaderSettings::default());
    let mut rig = Rig { core, now: Time::ZERO };
    rig.core.handle_tick(Time::ZERO);
    rig.outputs();
    let outputs = rig.block(1, lsn(1, 9), block(1, 1, 4));
    assert_eq!(outputs[..2], ["e1n2..e1n4 base 0", "done"]);
    assert_eq!(outputs.len(), 5, "and every stream is closed");
}
