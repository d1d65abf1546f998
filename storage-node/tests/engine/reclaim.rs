//! Segments in which nothing is needed any more.

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::disk::Disk;
use dlog_storage_node::entry::{Entry, PartitionMeta, ShardMeta};
use dlog_storage_node::read::ReadItem;
use dlog_storage_node::{Engine, EngineConfig};
use fastrand::Rng;

use crate::faults::entry;
use crate::machine::Machine;

/// Appends these blocks of partition 1.
fn fill(engine: &mut Engine, esns: std::ops::RangeInclusive<u32>) {
    for esn in esns {
        engine.append(&[entry(1, esn, 2500)]).unwrap();
    }
}

fn trim(engine: &mut Engine, upto: u32) {
    let trim = Lsn::new(Epoch(1), Esn(upto));
    engine.append(&[Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(1)) })]).unwrap();
    engine.sync().unwrap();
}

fn files(machine: &Machine, ending: &str) -> usize {
    machine.disk.list().unwrap().into_iter().filter(|(name, _)| name.ends_with(ending)).count()
}

#[test]
fn what_is_still_true_outlives_the_segment_in_which_it_was_said() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    let quiet = PartitionMeta { seal: Epoch(7), deleted: true, ..PartitionMeta::new(PartitionUid(9)) };
    engine.append(&[Entry::Partition(quiet.clone()), Entry::Shard(ShardMeta { incomplete_before: 33 })]).unwrap();
    for round in 0..3 {
        fill(&mut engine, round * 60 + 1..=round * 60 + 60);
        trim(&mut engine, round * 60 + 60);
        assert!(engine.reclaim().unwrap() >= 1);
    }
    assert!(files(&machine, ".seg") <= 4);
    engine.close().unwrap();
    for without_index in [false, true] {
        if without_index {
            machine.kv.lose();
        }
        let (engine, recovered) = machine.open();
        assert_eq!((recovered.shard.incomplete_before, recovered.losses.len()), (33, 0));
        assert_eq!(engine.reader().load(PartitionUid(9)).unwrap().unwrap().meta, quiet);
        drop(engine);
        machine.kill();
    }
}

#[test]
fn power_cut_at_every_operation_of_a_reclaim() {
    let whole =
        Machine { config: EngineConfig { checkpoint_bytes: 1 << 40, ..EngineConfig::small() }, ..Machine::new() };
    let (mut engine, _) = whole.open();
    let quiet = PartitionMeta { seal: Epoch(7), ..PartitionMeta::new(PartitionUid(9)) };
    engine.append(&[Entry::Partition(quiet.clone())]).unwrap();
    fill(&mut engine, 1..=10);
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    engine.checkpoint().unwrap();
    fill(&mut engine, 11..=80);
    trim(&mut engine, 75);
    drop(engine);
    whole.disk.kill();
    for cut in 0.. {
        let machine = whole.fork();
        let (mut engine, _) = machine.open();
        machine.disk.cut_power_at(cut);
        let outcome = engine.reclaim();
        for seed in 0..8 {
            let mut machine = machine.fork();
            machine.crash(&mut Rng::with_seed(seed << 16 | cut));
            let (mut engine, recovered) = machine.open();
            assert!(recovered.losses.is_empty() && recovered.index_rebuilt.is_none(), "cut {cut}: {recovered:?}");
            assert_eq!(engine.reader().load(PartitionUid(9)).unwrap().unwrap().meta, quiet);
            assert_eq!(engine.reader().blocks_above(PartitionUid(1), Lsn::ZERO).unwrap().len(), 5);
            engine.reclaim().unwrap();
            fill(&mut engine, 81..=120);
            assert_eq!(engine.reader().blocks_above(PartitionUid(1), Lsn::ZERO).unwrap().len(), 45);
        }
        if let Ok(freed) = outcome {
            assert!(freed >= 2 && cut > 6);
            return;
        }
    }
}

#[test]
fn one_block_keeps_its_segment() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    engine.append(&[entry(2, 1, 100)]).unwrap();
    fill(&mut engine, 1..=60);
    trim(&mut engine, 60);
    let freed = engine.reclaim().unwrap();
    assert_eq!(engine.reclaim().unwrap(), 0);
    assert_eq!(engine.reader().blocks_above(PartitionUid(2), Lsn::ZERO).unwrap().len(), 1);
    engine.append(&[Entry::Partition(PartitionMeta { deleted: true, ..PartitionMeta::new(PartitionUid(2)) })]).unwrap();
    engine.sync().unwrap();
    assert_eq!((freed, engine.reclaim().unwrap()), (1, 1));
}

#[test]
fn losses_are_told_until_they_are_on_record() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    fill(&mut engine, 1..=60);
    engine.close().unwrap();
    machine.disk.remove("00000000000000000002.seg").unwrap();
    machine.disk.sync_dir().unwrap();
    for without_index in [true, false, true] {
        let (engine, recovered) = machine.open();
        assert_eq!(recovered.losses.len(), 1);
        engine.close().unwrap();
        if without_index {
            machine.kv.lose();
        }
    }
    let (mut engine, _) = machine.open();
    let losses = engine.reader().losses().unwrap();
    engine.forget_losses(&losses).unwrap();
    drop(engine);
    machine.kill();
    assert!(machine.open().0.close().is_ok());
    let (mut engine, recovered) = machine.open();
    assert_eq!(recovered.losses.len(), 0);
    // What the index has of it is trimmed as any other.
    trim(&mut engine, 60);
    assert!(engine.reclaim().unwrap() >= 1);
}

#[test]
fn a_freed_file_is_not_reused_under_a_reader() {
    let machine = Machine { config: EngineConfig { recent_bytes_max: 0, ..Machine::new().config }, ..Machine::new() };
    let (mut engine, _) = machine.open();
    for esn in 1..=60 {
        engine.append(&[entry(1, esn, 2500)]).unwrap();
    }
    let chunk = engine.reader().read(PartitionUid(1), Lsn::ZERO, Lsn::MAX, 5000).unwrap();
    let held: Vec<Vec<u8>> = chunk.items.iter().map(|item| bytes_of(item).to_vec()).collect();
    let trim = Lsn::new(Epoch(1), Esn(60));
    engine.append(&[Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(1)) })]).unwrap();
    engine.sync().unwrap();
    let freed = engine.reclaim().unwrap();
    let free = machine.disk.list().unwrap().into_iter().filter(|(name, _)| name.starts_with("free-")).count();
    for esn in 61..=120 {
        engine.append(&[entry(1, esn, 2500)]).unwrap();
    }
    let now: Vec<Vec<u8>> = chunk.items.iter().map(|item| bytes_of(item).to_vec()).collect();
    assert_eq!(now, held);
    assert_eq!((freed, free), (2, 1), "the one that is read is unlinked, the other reused");
    assert!(machine.disk.list().unwrap().iter().all(|(name, _)| !name.starts_with("free-")));
}

fn bytes_of(item: &ReadItem) -> bytes::Bytes {
    let ReadItem::Block(stored) = item else { panic!("{item:?}") };
    stored.block.bytes().clone().into_contiguous()
}

#[test]
fn zeros_are_written_ahead_only_while_somebody_waits_for_syncs() {
    let machine =
        Machine { config: EngineConfig { zero_ahead_bytes: 12 << 10, ..EngineConfig::small() }, ..Machine::new() };
    let (mut engine, _) = machine.open();
    fill(&mut engine, 1..=10);
    engine.upkeep(0).unwrap();
    assert_eq!(engine.counters().zeroed_bytes, 0);

    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    let zeroed = engine.counters().zeroed_bytes;
    assert!((4 << 10..=24 << 10).contains(&zeroed), "{zeroed} bytes");

    fill(&mut engine, 11..=100);
    engine.upkeep(0).unwrap();
    assert_eq!(engine.counters().zeroed_bytes, zeroed);
}
