//! Segments that are written again: the same can be read, from less and in order, whatever happens on the way.

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::Engine;
use dlog_storage_node::EngineConfig;
use dlog_storage_node::disk::Disk;
use dlog_storage_node::disk::simulated::{Fault, Operation};
use dlog_storage_node::entry::{Entry, PartitionMeta, ShardMeta};
use dlog_storage_node::index::kv::KvStore;
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::offline::{Content, Item, ShardFiles};
use dlog_storage_node::read::ReadItem;
use fastrand::Rng;
use std::sync::Arc;

use crate::faults::{PARTITIONS, entry};
use crate::machine::Machine;
use crate::model::observe;
use crate::workload::{Action, Workload};

/// Segments full of small blocks of three partitions, one after the other, and metas among them.
fn scattered() -> (Machine, Engine) {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    let quiet = PartitionMeta { seal: Epoch(7), ..PartitionMeta::new(PartitionUid(9)) };
    engine.append(&[Entry::Partition(quiet), Entry::Shard(ShardMeta { incomplete_before: 33 })]).unwrap();
    for esn in 1..=60 {
        let entries: Vec<Entry> = (1..=3).map(|partition| entry(partition, esn, 900)).collect();
        engine.append(&entries).unwrap();
    }
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    (machine, engine)
}

fn names(machine: &Machine) -> Vec<String> {
    machine.disk.list().unwrap().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg")).collect()
}

/// How often, going through a segment, the partition changes from one block to the next.
fn changes(machine: &Machine, name: &str) -> usize {
    let files = ShardFiles::open(Arc::new(machine.disk.clone())).unwrap();
    let file = files.segments.iter().find(|file| file.name == name).unwrap();
    let partitions: Vec<_> = (files.frames(file).unwrap())
        .filter_map(|item| match item {
            Item::Frame(frame) => match frame.content {
                Content::Block { header, .. } => Some(header.partition),
                _ => None,
            },
            Item::Gap { .. } => panic!("{item:?}"),
        })
        .collect();
    partitions.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

fn is_well(machine: &Machine) {
    let files = ShardFiles::open(Arc::new(machine.disk.clone())).unwrap();
    let verdict = files.verify(machine.kv.open().map(Some), &MemoryKv::new()).unwrap();
    assert!(verdict.is_well(), "{:#?}", verdict.faults);
}

#[test]
fn blocks_of_a_partition_come_to_lie_together() {
    let (machine, mut engine) = scattered();
    let first = "00000000000000000001.seg";
    assert!(changes(&machine, first) > 40);
    let before = observe(&engine.reader(), PARTITIONS);
    let mut rewritten = 0;
    while engine.rewrite().unwrap() {
        rewritten += 1;
    }
    assert!(rewritten >= 2, "all but the one that is written to");
    assert_eq!(observe(&engine.reader(), PARTITIONS), before);
    let names = names(&machine);
    assert!(
        names.contains(&"00000000000000000001.1.seg".to_owned()) && !names.contains(&first.to_owned()),
        "{names:?}"
    );
    assert_eq!(changes(&machine, "00000000000000000001.1.seg"), 2);
    engine.close().unwrap();
    is_well(&machine);
    for without_index in [false, true, true] {
        if without_index {
            machine.kv.lose();
        }
        let (engine, recovered) = machine.open();
        assert_eq!((recovered.losses.len(), recovered.shard.incomplete_before), (0, 33));
        assert_eq!(observe(&engine.reader(), PARTITIONS), before);
        assert_eq!(engine.reader().load(PartitionUid(9)).unwrap().unwrap().meta.seal, Epoch(7));
        engine.close().unwrap();
        is_well(&machine);
    }
}

#[test]
fn of_a_rewritten_segment_that_is_gone_it_is_known_what_it_held() {
    let (machine, mut engine) = scattered();
    while engine.rewrite().unwrap() {}
    engine.close().unwrap();
    machine.disk.remove("00000000000000000001.1.seg").unwrap();
    machine.disk.sync_dir().unwrap();
    let (engine, recovered) = machine.open();
    let lost = engine.reader().lost_ranges(&recovered.losses).unwrap().concat();
    let partitions: Vec<u64> = lost.iter().map(|range| range.partition.0).collect();
    assert_eq!(partitions, [1, 2, 3], "{lost:?}");
    assert!(lost.iter().all(|range| range.first == Lsn::new(Epoch(1), Esn(1)) && range.last.esn() < Esn(60)));
}

#[test]
fn what_is_mostly_given_up_shrinks_and_goes_in_the_end() {
    let machine = Machine { config: EngineConfig { sort_below_bytes: 0, ..Machine::new().config }, ..Machine::new() };
    let (mut engine, _) = machine.open();
    for esn in 1..=60 {
        let entries: Vec<Entry> = (1..=3).map(|partition| entry(partition, esn, 900)).collect();
        engine.append(&entries).unwrap();
    }
    let give_up = |engine: &mut Engine, partition, upto| {
        let trim = Lsn::new(Epoch(1), Esn(upto));
        let meta = PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(partition)) };
        engine.append(&[Entry::Partition(meta)]).unwrap();
        engine.sync().unwrap();
        engine.upkeep(0).unwrap();
    };
    assert!(!engine.rewrite().unwrap(), "all of it is needed");
    give_up(&mut engine, 1, 60);
    give_up(&mut engine, 2, 60);
    assert!(!engine.rewrite().unwrap(), "a third of it is needed");
    give_up(&mut engine, 3, 12);
    let before = observe(&engine.reader(), PARTITIONS);
    assert!(engine.rewrite().unwrap());
    let first =
        machine.disk.list().unwrap().into_iter().find(|(name, _)| name == "00000000000000000001.1.seg").unwrap();
    assert!(first.1 < 16 << 10, "{first:?}");
    assert_eq!(observe(&engine.reader(), PARTITIONS), before);
    while engine.rewrite().unwrap() {}
    give_up(&mut engine, 3, 60);
    assert!(engine.reclaim().unwrap() >= 1);
    assert!(!names(&machine).contains(&"00000000000000000001.1.seg".to_owned()));
    assert!(!engine.rewrite().unwrap(), "nothing is written again and again");
    engine.close().unwrap();
    is_well(&machine);
}

#[test]
fn a_reader_under_way_keeps_the_file() {
    let (machine, mut engine) = scattered();
    let reader = engine.reader();
    let chunk = reader.read(PARTITIONS[0], Lsn::ZERO, Lsn::MAX, 5000).unwrap();
    let bytes = |item: &ReadItem| match item {
        ReadItem::Block(stored) => stored.block.bytes().clone().into_contiguous(),
        ReadItem::Damaged { .. } => panic!("{item:?}"),
    };
    let held: Vec<Vec<u8>> = chunk.items.iter().map(|item| bytes(item).to_vec()).collect();
    while engine.rewrite().unwrap() {}
    (61..=100).for_each(|esn| engine.append(&[entry(4, esn, 2500)]).unwrap());
    assert_eq!(chunk.items.iter().map(|item| bytes(item).to_vec()).collect::<Vec<_>>(), held);
    drop(machine);
}

#[test]
fn damage_is_not_written_away() {
    let (whole, engine) = scattered();
    engine.close().unwrap();
    let (mut kept, mut seen) = (0, 0);
    for seed in 0..40 {
        let machine = whole.fork();
        machine.disk.flip_bit("00000000000000000001.seg", Rng::with_seed(seed).u64(4096 * 8..60_000 * 8));
        let (mut engine, _) = machine.open();
        while engine.rewrite().unwrap() {}
        kept += usize::from(names(&machine).contains(&"00000000000000000001.seg".to_owned()));
        let mut next = Some(Lsn::ZERO);
        let mut found = 0;
        while let Some(from) = next {
            let chunk = engine.reader().read(PARTITIONS[0], from, Lsn::MAX, 1 << 20).unwrap();
            for item in &chunk.items {
                seen += usize::from(matches!(item, ReadItem::Damaged { .. }));
                found += usize::from(matches!(item, ReadItem::Block(_)));
            }
            next = chunk.next;
        }
        assert!(found >= 50);
        engine.close().unwrap();
    }
    assert!(kept > 30 && seen > 5, "{kept} {seen}");
}

#[test]
fn errors_and_a_full_disk_leave_the_segment_as_it_is() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Name, Operation::Read] {
        for after in [0, 1, 3, 8] {
            for error in [Fault::EIO, Fault::ENOSPC] {
                let (machine, mut engine) = scattered();
                let before = observe(&engine.reader(), PARTITIONS);
                machine.disk.inject(Fault { operation, after, times: 1, error });
                while let Ok(true) = engine.rewrite() {}
                machine.kill();
                drop(engine);
                let (engine, recovered) = machine.open();
                assert!(recovered.losses.is_empty(), "{operation:?} {after}: {recovered:?}");
                assert_eq!(observe(&engine.reader(), PARTITIONS), before, "{operation:?} {after}");
            }
        }
    }
}

#[test]
fn power_cut_at_every_operation_of_a_rewrite() {
    let (whole, engine) = scattered();
    let before = observe(&engine.reader(), PARTITIONS);
    drop(engine);
    whole.kill();
    for cut in 0.. {
        let machine = whole.fork();
        let (mut engine, _) = machine.open();
        machine.disk.cut_power_at(cut);
        let outcome = engine.rewrite();
        for seed in 0..6 {
            let mut machine = machine.fork();
            machine.crash(&mut Rng::with_seed(seed << 16 | cut));
            is_well(&machine);
            if seed % 3 == 2 {
                machine.kv.lose();
            }
            let (mut engine, recovered) = machine.open();
            assert!(recovered.losses.is_empty(), "cut {cut}: {recovered:?}");
            assert_eq!(observe(&engine.reader(), PARTITIONS), before);
            engine.rewrite().unwrap();
            assert_eq!(observe(&engine.reader(), PARTITIONS), before);
            engine.close().unwrap();
            is_well(&machine);
        }
        if let Ok(true) = outcome {
            assert!(cut > 6);
            return;
        }
    }
}

#[test]
fn any_lawful_life_reads_the_same_with_and_without_rewriting() {
    for seed in 300..320 {
        let (with, without) = (Machine::new(), Machine::new());
        let mut rewritten = 0;
        let mut states = Vec::new();
        for (machine, rewrites) in [(&with, true), (&without, false)] {
            let mut workload = Workload::new(seed, 3, 3000, true);
            let mut engine = Some(machine.open().0);
            for _ in 0..200 {
                match workload.next() {
                    Action::Append(entries) => engine.as_mut().unwrap().append(&entries).unwrap(),
                    Action::Sync => engine.as_mut().unwrap().sync().unwrap(),
                    Action::Upkeep => engine.as_mut().unwrap().upkeep(0).unwrap(),
                    Action::Restart => {
                        engine.take().unwrap().close().unwrap();
                        engine = Some(machine.open().0);
                    }
                    Action::Reclaim => drop(engine.as_mut().unwrap().reclaim().unwrap()),
                    Action::Rewrite if rewrites => {
                        rewritten += usize::from(engine.as_mut().unwrap().rewrite().unwrap());
                    }
                    _ => {}
                }
            }
            let mut engine = engine.unwrap();
            engine.sync().unwrap();
            states.push(observe(&engine.reader(), workload.partitions()));
            engine.close().unwrap();
            is_well(machine);
            machine.kv.lose();
            states.push(observe(&machine.open().0.reader(), workload.partitions()));
        }
        let names = ["rewritten", "without an index", "not rewritten", "and without an index"];
        for (at, name) in names.iter().enumerate().skip(1) {
            assert_eq!(states[at], states[0], "seed {seed}: {name}");
        }
        assert!(rewritten > 0, "seed {seed}");
    }
}
