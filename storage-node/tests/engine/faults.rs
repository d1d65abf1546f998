//! Everything that can be wrong with a directory, done to it on purpose: what was durable is served or its loss is reported,
//! never a wrong byte, never a silent gap, and the shard can always be started.

use std::collections::BTreeMap;

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::disk::Disk;
use dlog_storage_node::disk::simulated::{Fault, Operation};
use dlog_storage_node::entry::{Entry, PartitionMeta, ShardMeta};
use dlog_storage_node::read::{ReadItem, Reader};
use dlog_storage_node::{AppendError, EngineConfig};
use fastrand::Rng;

use crate::machine::Machine;
use crate::model::observe;
use crate::workload::{block, placement};

pub(crate) const PARTITIONS: [PartitionUid; 3] = [PartitionUid(1), PartitionUid(2), PartitionUid(3)];
pub(crate) const BLOCKS: u32 = 60;

pub(crate) fn entry(partition: u64, esn: u32, len: usize) -> Entry {
    let block = block(partition, 1, esn, 1, len, esn as u8);
    Entry::Block { placement: placement(1, 1, esn), block }
}

/// A shard with some segments, stopped cleanly.
pub(crate) fn stopped() -> Machine {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    let mut rng = Rng::with_seed(1);
    for esn in 1..=BLOCKS {
        let entries: Vec<Entry> = (1..=3).map(|partition| entry(partition, esn, rng.usize(50..2500))).collect();
        engine.append(&entries).unwrap();
        if esn % 10 == 0 {
            let seal = Epoch(esn / 10);
            let meta = PartitionMeta { seal, ..PartitionMeta::new(PartitionUid(1)) };
            engine.append(&[Entry::Partition(meta)]).unwrap();
            engine.sync().unwrap();
            engine.upkeep(0).unwrap();
        }
    }
    engine.append(&[Entry::Shard(ShardMeta { incomplete_before: 5 })]).unwrap();
    engine.close().unwrap();
    machine
}

/// Checksums of the blocks of all partitions.
pub(crate) fn truth() -> BTreeMap<(PartitionUid, u32), u32> {
    let state = observe(&stopped().open().0.reader(), PARTITIONS);
    let blocks = state.iter().flat_map(|(partition, state)| {
        state.blocks.iter().map(|(first, (crc, _))| ((*partition, first.esn().0), *crc))
    });
    blocks.collect()
}

/// What a reader gives, checked against the truth. Says how many blocks are missing without a word, and how many ranges are
/// called damaged.
pub(crate) fn compare(reader: &Reader, truth: &BTreeMap<(PartitionUid, u32), u32>) -> (usize, usize) {
    let (mut silent, mut damaged) = (0, 0);
    for partition in PARTITIONS {
        let (mut covered, mut next) = (vec![false; BLOCKS as usize + 2], Some(Lsn::ZERO));
        while let Some(from) = next {
            let chunk = reader.read(partition, from, Lsn::MAX, 10_000).unwrap();
            for item in &chunk.items {
                match item {
                    ReadItem::Block(stored) => {
                        let header = stored.block.header();
                        assert_eq!(truth[&(partition, header.first_esn.0)], header.crc, "a wrong block");
                        covered[header.first_esn.0 as usize] = true;
                    }
                    ReadItem::Damaged { first, last } => {
                        damaged += 1;
                        let last = last.esn().0.min(BLOCKS);
                        (first.esn().0..=last).for_each(|esn| covered[esn as usize] = true);
                    }
                }
            }
            next = chunk.next;
        }
        silent += (1..=BLOCKS).filter(|esn| !covered[*esn as usize]).count();
    }
    (silent, damaged)
}

fn segment_files(machine: &Machine) -> Vec<(String, u64)> {
    let files = machine.disk.list().unwrap();
    files.into_iter().filter(|(name, _)| name.ends_with(".seg")).collect()
}

#[test]
fn a_flipped_bit_is_never_served_and_never_a_silent_gap() {
    let (whole, truth) = (stopped(), truth());
    let files = segment_files(&whole);
    assert!(files.len() >= 4);
    let (mut seen_damage, mut seen_loss) = (0, 0);
    for seed in 0..600 {
        let mut rng = Rng::with_seed(seed);
        let machine = whole.fork();
        let (name, len) = rng.choice(&files).unwrap();
        machine.disk.flip_bit(name, rng.u64(..len * 8));
        let without_index = seed % 2 == 0;
        if without_index {
            machine.kv.lose();
        }
        let (engine, recovered) = machine.open();
        let (silent, damaged) = compare(&engine.reader(), &truth);
        assert!(silent == 0 || !recovered.losses.is_empty(), "seed {seed}: {silent} blocks are missing: {recovered:?}");
        if !without_index {
            assert_eq!(silent, 0, "seed {seed}: the index knows what should be there");
            let meta = engine.reader().load(PARTITIONS[0]).unwrap().unwrap().meta;
            assert_eq!(meta.seal, Epoch(BLOCKS / 10));
            assert_eq!(recovered.shard.incomplete_before, 5);
        }
        (seen_damage, seen_loss) = (seen_damage + damaged, seen_loss + recovered.losses.len());
        let losses = recovered.losses;
        engine.close().unwrap();
        let (engine, again) = machine.open();
        assert_eq!(
            (again.losses, again.new_losses),
            (losses, 0),
            "seed {seed}: losses are remembered, not found again"
        );
        assert_eq!(compare(&engine.reader(), &truth), (silent, damaged));
    }
    assert!(seen_damage > 50 && seen_loss > 10, "{seen_damage} {seen_loss}");
}

#[test]
fn a_killed_shard_loses_nothing_to_a_bit_below_its_marks() {
    let truth = truth();
    let whole = stopped();
    let (mut engine, _) = whole.open();
    engine.append(&[entry(1, BLOCKS + 1, 100)]).unwrap();
    engine.sync().unwrap();
    engine.mark().unwrap();
    drop(engine);
    whole.kill();
    let last = segment_files(&whole).iter().map(|(name, _)| name.clone()).max().unwrap();
    for seed in 0..200 {
        let machine = whole.fork();
        // Frames begin at 4096; the last segment holds some tens of KiB.
        machine.disk.flip_bit(&last, Rng::with_seed(seed).u64(4096 * 8..20_000 * 8));
        machine.kv.lose();
        let (engine, recovered) = machine.open();
        assert_eq!(recovered.torn_bytes, 0, "seed {seed}: what was durable is not torn: {recovered:?}");
        let (silent, damaged) = compare_upto(&engine.reader(), &truth);
        assert!(silent == 0 || !recovered.losses.is_empty(), "seed {seed}: {silent} {damaged} {recovered:?}");
    }
}

#[test]
fn a_killed_process_tears_nothing_but_its_last_write() {
    for esn in 1..=5u32 {
        let machine = Machine::new();
        let (mut engine, _) = machine.open();
        for esn in 1..=5 {
            engine.append(&[entry(1, esn, 1000)]).unwrap();
        }
        engine.sync().unwrap();
        drop(engine);
        machine.kill();
        // Nothing in the log says that it is durable. A bit of one block's body, found by what it is filled with.
        let name = "00000000000000000001.seg";
        let bytes = machine.disk.bytes(name).unwrap();
        let at = bytes.windows(900).position(|window| window.iter().all(|byte| *byte == esn as u8)).unwrap();
        machine.disk.flip_bit(name, (at as u64 + 50) * 8);
        let (engine, recovered) = machine.open();
        let held = engine.reader().read(PARTITIONS[0], Lsn::ZERO, Lsn::MAX, 1 << 20).unwrap().items;
        let is_damage = |item: &&ReadItem| matches!(item, ReadItem::Damaged { .. });
        match esn {
            5 => {
                assert!(held.len() == 4 && recovered.torn_bytes > 0, "the last may have been cut short: {recovered:?}")
            }
            _ => assert_eq!((held.iter().filter(is_damage).count(), recovered.torn_bytes), (1, 0), "{esn}: {held:?}"),
        }
    }
}

/// As [`compare`], not minding the block that came after the truth was taken.
fn compare_upto(reader: &Reader, truth: &BTreeMap<(PartitionUid, u32), u32>) -> (usize, usize) {
    let mut truth = truth.clone();
    let Entry::Block { block, .. } = entry(1, BLOCKS + 1, 100) else { unreachable!() };
    truth.insert((PARTITIONS[0], BLOCKS + 1), block.header().crc);
    compare(reader, &truth)
}

#[test]
fn a_missing_segment_is_a_loss_with_and_without_an_index() {
    let truth = truth();
    let whole = stopped();
    for (name, _) in segment_files(&whole) {
        for without_index in [false, true] {
            let machine = whole.fork();
            machine.disk.remove(&name).unwrap();
            machine.disk.sync_dir().unwrap();
            if without_index {
                machine.kv.lose();
            }
            let (engine, recovered) = machine.open();
            let (silent, damaged) = compare(&engine.reader(), &truth);
            let reported = !recovered.losses.is_empty();
            assert!(reported || (silent, damaged) == (0, 0), "{name} {without_index}: {silent} {damaged}");
            if reported && recovered.index_rebuilt.is_none() && !without_index {
                assert!(silent == 0 && damaged > 0, "{name}: the index knows what was there");
                assert!(!engine.reader().lost_ranges(&recovered.losses[..1]).unwrap()[0].is_empty());
            }
        }
    }
}

#[test]
fn a_renamed_segment_gets_its_name_back_and_a_copy_is_moved_aside() {
    let truth = truth();
    let machine = stopped();
    let files = segment_files(&machine);
    let bytes = machine.disk.bytes(&files[1].0).unwrap();
    machine.disk.rename(&files[0].0, "00000000000000000777.seg").unwrap();
    machine.disk.put("00000000000000000888.seg", &bytes);
    machine.disk.put("00000000000000000999.txt", b"not ours");
    let (engine, recovered) = machine.open();
    assert!(recovered.losses.is_empty(), "{recovered:?}");
    assert_eq!(compare(&engine.reader(), &truth), (0, 0));
    let names: Vec<String> = machine.disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(
        names.contains(&files[0].0) && names.contains(&"00000000000000000888.seg.duplicate".to_owned()),
        "{names:?}"
    );
}

#[test]
fn a_segment_cut_short_or_without_a_header_is_reported() {
    let truth = truth();
    let whole = stopped();
    for (at, (name, len)) in segment_files(&whole).into_iter().enumerate() {
        let bytes = whole.disk.bytes(&name).unwrap();
        for keep in [0, 10, 4096, 5000, len as usize / 2] {
            let machine = whole.fork();
            machine.disk.put(&name, &bytes[..keep]);
            check_reported(&machine, &truth, &format!("segment {at} cut to {keep}"));
        }
        let machine = whole.fork();
        let mut headless = bytes.clone();
        headless[..4096].fill(0xee);
        machine.disk.put(&name, &headless);
        check_reported(&machine, &truth, &format!("segment {at} without a header"));
    }
}

fn check_reported(machine: &Machine, truth: &BTreeMap<(PartitionUid, u32), u32>, what: &str) {
    let (mut engine, recovered) = machine.open();
    let (silent, damaged) = compare(&engine.reader(), truth);
    assert!(silent == 0 || !recovered.losses.is_empty(), "{what}: {silent} {damaged} {recovered:?}");
    // And it goes on.
    engine.append(&[entry(9, 1, 3000)]).unwrap();
    engine.close().unwrap();
    let (engine, _) = machine.open();
    assert_eq!(engine.reader().blocks_above(PartitionUid(9), Lsn::ZERO).unwrap().len(), 1, "{what}");
}

#[test]
fn errors_of_the_disk_take_the_shard_out_and_nothing_that_was_durable() {
    let truth = truth();
    for operation in [Operation::Write, Operation::Sync] {
        for after in 0..6 {
            let machine = stopped();
            let (mut engine, _) = machine.open();
            machine.disk.inject(Fault { operation, after, times: 1, error: Fault::EIO });
            let (mut failed, mut no_space) = (false, false);
            for esn in 0..8 {
                let appended = engine.append(&[entry(7, esn + 1, 9000)]);
                let synced = engine.sync();
                if failed {
                    assert!(matches!(appended, Err(AppendError::Failed(_))) && synced.is_err(), "for good");
                }
                // Nothing is lost if the next segment cannot be made: that is tried again.
                no_space |= matches!(appended, Err(AppendError::NoSpace));
                failed |= matches!(appended, Err(AppendError::Failed(_))) || synced.is_err();
            }
            assert!(failed || no_space, "{operation:?} {after}");
            if !failed {
                continue;
            }
            assert_eq!(compare(&engine.reader(), &truth), (0, 0), "reads go on");
            assert!(engine.close().is_err());
            machine.kill();
            let (engine, recovered) = machine.open();
            assert!(!recovered.clean && recovered.losses.is_empty(), "{recovered:?}");
            assert_eq!(compare(&engine.reader(), &truth), (0, 0));
        }
    }
}

#[test]
fn what_cannot_be_read_is_called_damaged() {
    let truth = truth();
    let machine = Machine { config: EngineConfig { recent_bytes_max: 0, ..stopped().config }, ..stopped() };
    let (engine, _) = machine.open();
    for after in [0, 3, 20] {
        machine.disk.inject(Fault { operation: Operation::Read, after, times: 2, error: Fault::EIO });
        let (silent, damaged) = compare(&engine.reader(), &truth);
        assert!(silent == 0 && damaged > 0, "{silent} {damaged}");
        assert_eq!(compare(&engine.reader(), &truth), (0, 0), "the disk is well again");
    }
    drop(engine);
    machine.kill();
    // While it is opened: it opens or it says why, and the next time it opens.
    for after in 0..12 {
        machine.disk.inject(Fault { operation: Operation::Read, after, times: 1, error: Fault::EIO });
        if let Ok((engine, _)) = machine.try_open() {
            drop(engine);
        }
        machine.kill();
    }
}

#[test]
fn a_full_disk_at_any_size_is_an_answer() {
    for capacity in (8..400).map(|pages| pages * 4096) {
        let machine = Machine::new();
        machine.disk.set_capacity(Some(capacity));
        let Ok((mut engine, _)) = machine.try_open() else { continue };
        let mut stored = 0;
        for esn in 1..=120 {
            match engine.append(&[entry(1, esn, 2500)]) {
                Ok(()) => stored = esn,
                Err(AppendError::NoSpace) => break,
                Err(error) => panic!("{capacity}: {error}"),
            }
            engine.sync().unwrap();
            engine.upkeep(0).unwrap();
        }
        // What must not fail has room, and then there is room again.
        let trim = Lsn::new(Epoch(1), Esn(stored));
        engine.append(&[Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(1)) })]).unwrap();
        engine.sync().unwrap();
        let freed = engine.reclaim().unwrap();
        if freed > 0 {
            engine.append(&[entry(1, stored + 1, 2500)]).unwrap();
        }
        machine.disk.set_capacity(None);
        engine.append(&[entry(1, stored + 2, 2500)]).unwrap();
        engine.close().unwrap();
        let (engine, recovered) = machine.open();
        assert!(recovered.losses.is_empty());
        let held = engine.reader().blocks_above(PartitionUid(1), Lsn::ZERO).unwrap().len();
        assert_eq!(held, if freed > 0 { 2 } else { 1 });
    }
}
