//! The traces that broke drafts of the protocol, as far as a shard alone must stop them.

use bytes::Bytes;
use dlog_proto::block::{BlockBuilder, Copyset, Placement};
use dlog_proto::wire::{EpochEnd, ReadMode, StartRead, WirePlacement};

use super::*;
use crate::read::Chunk;

const ME: Asker = Asker(1);
const PARTITION: PartitionUid = PartitionUid(1);

fn placement(epoch: u32, wave: u32) -> Placement {
    Placement {
        version: PlacementVersion { writer_epoch: Epoch(epoch), wave },
        copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).unwrap(),
        acked: Esn::ZERO,
        settled: Esn::ZERO,
    }
}

fn block(epoch: u32, first: u32) -> Block {
    let mut builder = BlockBuilder::new(PARTITION, Epoch(epoch), Esn(first), 0);
    builder.push(&Bytes::from(vec![0; 61]), 1, (0, 0));
    builder.finish()
}

struct Rig {
    core: ShardCore,
    written: EntrySeq,
}

impl Rig {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(image: Option<PartitionImage>) -> Self {
        let mut core = ShardCore::new(ShardId::new(1, 0), Incarnation(7));
        core.want(PARTITION);
        core.handle_loaded(PARTITION, image);
        let mut rig = Self { core, written: EntrySeq(0) };
        rig.said();
        rig
    }

    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Submit { seq, .. } => self.written = seq,
                Output::Stored { answer, .. } => said.push(match answer.result {
                    Ok(kept) => format!("e{}n{} {kept:?}", answer.epoch.0, answer.first_esn),
                    Err(why) => format!("e{}n{} refused: {why}", answer.epoch.0, answer.first_esn),
                }),
                Output::Sealed { answer, .. } => said.push(match answer.result {
                    Ok(state) => {
                        let held: usize = state.epochs.iter().map(|epoch| epoch.blocks.len()).sum();
                        format!("sealed: {held} blocks, trim {}", state.trim)
                    }
                    Err(why) => format!("not sealed: {why}"),
                }),
                Output::Flushed { flushed, .. } => said.push(format!("flushed to {}", flushed.upto[0].first_esn)),
                Output::Released { released, .. } => said.push(format!("released {released}")),
                Output::Load(_) => {}
            }
        }
        said
    }

    fn store(&mut self, mode: StoreMode, (epoch, first, wave): (u32, u32, u32), sync: bool) -> Vec<String> {
        let writer = if let StoreMode::Recovery { recoverer } = mode { recoverer.0 } else { epoch };
        let placement = WirePlacement::from(&placement(writer, wave));
        let store = Store { shard: self.core.shard(), incarnation: Incarnation(7), mode, sync, placement };
        self.core.handle_store(ME, store, block(epoch, first));
        self.said()
    }

    fn append(&mut self, epoch: u32, first: u32) -> Vec<String> {
        self.store(StoreMode::Append, (epoch, first, 1), true)
    }

    fn amend(&mut self, epoch: u32, first: u32, wave: u32) -> Vec<String> {
        let placement = WirePlacement::from(&placement(epoch, wave));
        let (shard, mode) = (self.core.shard(), StoreMode::Append);
        let (epoch, first_esn) = (Epoch(epoch), Esn(first));
        let incarnation = Incarnation(7);
        self.core
            .handle_amend(ME, Amend { shard, incarnation, partition: PARTITION, epoch, first_esn, mode, placement });
        self.said()
    }

    fn seal(&mut self, epoch: u32, undecided: &[u32], incarnation: u32) -> Vec<String> {
        let undecided = undecided.iter().map(|epoch| Epoch(*epoch)).collect();
        let partitions = vec![SealPartition { partition: PARTITION, epoch: Epoch(epoch), undecided }];
        let incarnation = Incarnation(incarnation);
        self.core.handle_seal(ME, Seal { shard: self.core.shard(), incarnation, partitions });
        self.said()
    }

    fn release(&mut self, released: Lsn, ends: &[(u32, u32)]) -> Vec<String> {
        let end =
            |(epoch, last): &(u32, u32)| EpochEnd { epoch: Epoch(*epoch), last_esn: Esn(*last), authoritative: true };
        let ends = ends.iter().map(end).collect();
        self.release_up_to(released, released, ends)
    }

    fn release_up_to(&mut self, released: Lsn, trim_limit: Lsn, ends: Vec<EpochEnd>) -> Vec<String> {
        let settled = Esn::ZERO;
        let partitions = vec![PartitionRelease { partition: PARTITION, released, settled, trim_limit, ends }];
        self.core.handle_release(Release { shard: self.core.shard(), incarnation: Incarnation(7), partitions });
        self.said()
    }

    /// Everything that was submitted is on the disk.
    fn sync(&mut self) -> Vec<String> {
        self.core.handle_progress(self.written, self.written);
        self.said()
    }
}

fn lsn(epoch: u32, esn: u32) -> Lsn {
    Lsn::new(Epoch(epoch), Esn(esn))
}

#[test]
fn c1_a_seal_is_answered_when_all_that_was_admitted_before_it_is_durable() {
    let mut rig = Rig::new();
    assert_eq!(rig.append(1, 1), [""; 0]);
    assert_eq!(rig.seal(2, &[1], 7), [""; 0], "e1n1 is in the queue before it");
    assert_eq!(rig.append(1, 2), ["e1n2 refused: sealed by e2"]);
    assert_eq!(rig.sync(), ["e1n1 Flushed", "sealed: 1 blocks, trim e0n0"], "and it is listed");
}

/// The recoverer asks again, and meanwhile stores: it must not count on its own copy before that is on the disk.
#[test]
fn c1_a_seal_tells_only_of_what_was_admitted_before_it() {
    let mut rig = Rig::new();
    rig.seal(2, &[1], 7);
    let sealed = rig.written;
    rig.store(StoreMode::Recovery { recoverer: Epoch(2) }, (1, 1, 1), true);
    rig.core.handle_progress(rig.written, sealed);
    assert_eq!(rig.said(), ["sealed: 0 blocks, trim e0n0"]);
    rig.seal(2, &[1], 7);
    assert_eq!(rig.sync(), ["e1n1 Flushed", "sealed: 1 blocks, trim e0n0"]);
}

#[test]
fn c4_a_replaced_disk_answers_for_nobody_else() {
    let mut rig = Rig::new();
    let refused = rig.seal(2, &[1], 6);
    assert!(refused[0].starts_with("not sealed"), "{refused:?}");
    let placement = WirePlacement::from(&placement(1, 1));
    let (shard, incarnation, mode) = (rig.core.shard(), Incarnation(6), StoreMode::Append);
    rig.core.handle_store(ME, Store { shard, incarnation, mode, sync: true, placement }, block(1, 1));
    assert!(rig.said()[0].contains("another one"));
}

#[test]
fn c6_a_seal_tells_of_the_trim_point() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.release(lsn(1, 1), &[]);
    rig.core.handle_trim(PARTITION, lsn(1, 1));
    rig.sync();
    rig.seal(2, &[1], 7);
    assert_eq!(rig.sync(), ["sealed: 0 blocks, trim e1n1"], "the block is gone, and that is why");
}

#[test]
fn c11_trim_waits_until_a_snapshot_knows_the_producers() {
    let mut rig = Rig::new();
    (1..=3).for_each(|esn| drop(rig.append(1, esn)));
    rig.core.handle_trim(PARTITION, lsn(1, 3));
    rig.release_up_to(lsn(1, 3), lsn(1, 0), Vec::new());
    let trim = |rig: &Rig| rig.core.partition(PARTITION).unwrap().meta().trim;
    assert_eq!(trim(&rig), lsn(1, 0), "only the records tell who wrote them");
    rig.release_up_to(lsn(1, 3), lsn(1, 2), Vec::new());
    assert_eq!(trim(&rig), lsn(1, 2), "nothing more is released, and yet it goes on");
    rig.release_up_to(lsn(2, 0), lsn(0, 0), vec![EpochEnd { epoch: Epoch(1), last_esn: Esn(3), authoritative: true }]);
    rig.sync();
    assert_eq!(trim(&rig), lsn(1, 2), "the next sequencer has read nothing back yet");
    rig.release_up_to(lsn(2, 0), lsn(2, 0), Vec::new());
    assert_eq!(trim(&rig), lsn(1, 3));
}

#[test]
fn c8_nothing_comes_back_beyond_an_end_and_released_waits_for_it() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.sync();
    assert_eq!(rig.release(lsn(2, 0), &[(1, 0)]), [""; 0], "the end is not durable yet");
    assert_eq!(rig.release(lsn(2, 1), &[(1, 0)]), [""; 0], "nor for the release behind it");
    assert_eq!(rig.sync(), ["released e2n0", "released e2n1"]);
    assert_eq!(rig.append(1, 1), ["e1n1 refused: sealed by e2"], "an end implies a seal");
    let recovery = StoreMode::Recovery { recoverer: Epoch(9) };
    for mode in [recovery, StoreMode::Rebuild] {
        assert_eq!(rig.store(mode, (1, 1, 1), true), ["e1n1 refused: the epoch is known to end before it"]);
    }
}

#[test]
fn c9_an_amend_obeys_the_seal_and_recoverys_placement_wins() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.seal(2, &[1], 7);
    rig.sync();
    assert_eq!(rig.store(StoreMode::Recovery { recoverer: Epoch(2) }, (1, 1, 1), true), [""; 0]);
    assert_eq!(rig.sync(), ["e1n1 Flushed"]);
    assert_eq!(rig.amend(1, 1, 9), ["e1n1 refused: sealed by e2"]);
    rig.seal(3, &[1], 7);
    let stale = StoreMode::Recovery { recoverer: Epoch(2) };
    assert_eq!(rig.store(stale, (1, 1, 2), true), ["e1n1 refused: sealed by e3"], "trap C9b");
}

#[test]
fn c17_a_shard_that_a_block_is_still_on_its_way_to_claims_nothing_about_it() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.sync();
    let release = |rig: &mut Rig, settled| {
        let (released, ends) = (lsn(1, 2), Vec::new());
        let settled = Esn(settled);
        let partitions = vec![PartitionRelease { partition: PARTITION, released, settled, trim_limit: released, ends }];
        rig.core.handle_release(Release { shard: rig.core.shard(), incarnation: Incarnation(7), partitions });
        rig.said();
        rig.core.readable(PARTITION).unwrap()
    };
    // Others have e1n2, so it is released; here it is not yet, and this shard may be the one that is to ship it.
    let readable = release(&mut rig, 1);
    let shard = rig.core.shard();
    let claims = |mode: ReadMode, told: &[Readable]| -> Vec<Lsn> {
        let (partition, incarnation) = (PARTITION, Incarnation(7));
        let (from, until) = (lsn(1, 1), Lsn::MAX);
        let request = StartRead { shard, incarnation, partition, version: 1, from, until, mode };
        let mut stream = ReadStream::new(shard, request);
        told.iter().for_each(|readable| {
            stream.handle_readable(*readable);
            stream.handle_chunk(1, Chunk::default());
        });
        let outputs = std::iter::from_fn(|| stream.poll_output());
        outputs
            .filter_map(|output| if let ReadOutput::Claim(claim) = output { Some(claim.upto) } else { None })
            .collect()
    };
    let single_copy = || ReadMode::SingleCopy { known_down: Vec::new() };
    assert_eq!(claims(single_copy(), &[readable]), [lsn(1, 1)], "its silence proves nothing about e1n2");
    assert_eq!(claims(ReadMode::AllSendAll, &[readable]), [lsn(1, 2)], "where everybody answers for himself, it does");
    let settled = release(&mut rig, 2);
    assert_eq!(claims(single_copy(), &[readable, settled]), [lsn(1, 1), lsn(1, 2)], "whoever is to have it has it");
}

#[test]
fn what_is_flushed_is_told_up_to_the_first_block_that_is_not() {
    // A later wave brings an earlier block: that the one after it is on the disk says nothing of it.
    let mut rig = Rig::new();
    assert_eq!(rig.store(StoreMode::Append, (1, 5, 1), false), [""; 0]);
    let first = rig.written;
    assert!(rig.core.poll_output().is_none());
    rig.core.handle_progress(first, EntrySeq(0));
    assert_eq!(rig.said(), ["e1n5 Cached"]);
    rig.store(StoreMode::Append, (1, 2, 2), false);
    let second = rig.written;
    rig.core.handle_progress(second, EntrySeq(0));
    assert_eq!(rig.said(), ["e1n2 Cached"]);
    rig.core.handle_progress(second, first);
    assert_eq!(rig.said(), ["flushed to 1"], "e1n2 is not");
    rig.core.handle_progress(second, second);
    assert_eq!(rig.said(), ["flushed to 5"]);
}

#[test]
fn the_marks_of_a_snapshot_are_told_before_and_after_the_index_is_lost() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    let placement = WirePlacement::from(&Placement { acked: Esn(1), settled: Esn(1), ..placement(1, 1) });
    let snapshot = BlockBuilder::producer_snapshot(PARTITION, Epoch(1), Esn(2), 0, Bytes::from_static(b"table"));
    let (shard, incarnation) = (rig.core.shard(), Incarnation(7));
    let store = Store { shard, incarnation, mode: StoreMode::Append, sync: true, placement };
    rig.core.handle_store(ME, store, snapshot);
    rig.seal(2, &[1], 7);
    assert_eq!(rig.sync().last().unwrap(), "sealed: 0 blocks, trim e0n0", "e1n1 is settled");
}

#[test]
fn what_an_earlier_process_wrote_counts_when_it_is_synced() {
    let mut before = Rig::new();
    before.append(1, 1);
    let held = crate::entry::HeldBlock { placement: placement(1, 1), header: *block(1, 1).header() };
    let meta = PartitionMeta::new(PARTITION);
    let image = PartitionImage { meta, marks: Default::default(), snapshot: None, unsettled: vec![held] };
    let mut after = Rig::with(Some(image));
    assert_eq!(after.append(1, 1), [""; 0], "it may be in the page cache only");
    assert_eq!(after.sync(), ["e1n1 Flushed"]);
}

#[test]
fn c15_a_damaged_shard_takes_nothing_before_it_is_sealed_anew() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.sync();
    rig.core.handle_damaged();
    assert!(rig.append(1, 2)[0].contains("refused"), "a seal may have been lost");
    assert!(rig.amend(1, 1, 2)[0].contains("refused"));
    assert!(rig.seal(2, &[1], 7)[0].starts_with("not sealed"), "what it lacks proves nothing");
    assert_eq!(rig.release(lsn(1, 1), &[]), ["released e1n1"], "reads go on");

    let other = PartitionUid(2);
    rig.core.handle_seal_anew([(PARTITION, Epoch(3)), (other, Epoch(5))]);
    rig.said();
    assert_eq!(rig.append(1, 2), ["e1n2 refused: sealed by e3"]);
    assert_eq!(rig.append(3, 1), [""; 0]);
    assert_eq!(rig.sync(), ["e3n1 Flushed"]);
    assert!(!rig.core.is_sealed_anew(), "the other partition is not loaded");
    rig.core.handle_load_failed(other);
    assert!(!rig.core.is_sealed_anew(), "and cannot be read");
    rig.core.handle_seal_anew([(other, Epoch(5))]);
    rig.core.handle_loaded(other, None);
    rig.said();
    assert!(!rig.core.is_sealed_anew(), "not durably");
    rig.sync();
    assert!(rig.core.is_sealed_anew());
    assert_eq!(rig.core.partition(other).unwrap().meta().seal, Epoch(5));
}

#[test]
fn who_is_about_to_end_takes_nothing_and_answers_for_what_it_took() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.core.handle_draining();
    assert_eq!(rig.append(1, 2), ["e1n2 refused: its process is about to end"]);
    assert_eq!(rig.amend(1, 1, 2), ["e1n1 refused: its process is about to end"]);
    assert_eq!(rig.seal(2, &[1], 7), ["not sealed: out of service"]);
    let written = rig.written;
    assert_eq!(rig.release(lsn(2, 0), &[(1, 1)]), [""; 0]);
    assert_eq!(rig.written, written, "nothing more for the disk");
    assert_eq!(rig.sync(), ["e1n1 Flushed"]);
}

#[test]
fn a_copy_of_recovery_is_written_though_the_block_is_here() {
    let mut rig = Rig::new();
    rig.append(1, 1);
    rig.seal(2, &[1], 7);
    rig.sync();
    let recovery = StoreMode::Recovery { recoverer: Epoch(2) };
    let placement = WirePlacement::from(&placement(2, 1));
    let store = Store { shard: rig.core.shard(), incarnation: Incarnation(7), mode: recovery, sync: true, placement };
    for is_written in [true, false] {
        rig.core.handle_store(ME, store.clone(), block(1, 1));
        let outputs = std::iter::from_fn(|| rig.core.poll_output());
        let written = outputs.filter(|output| matches!(output, Output::Submit { entry: Entry::Block { .. }, .. }));
        assert_eq!(
            written.count() == 1,
            is_written,
            "the one that is here could not be read; the new one once is enough"
        );
    }
}
