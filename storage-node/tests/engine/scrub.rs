//! Damage to data at rest is found, reported once, and only if it matters.

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::disk::simulated::{Fault, Operation};
use dlog_storage_node::entry::{Entry, PartitionMeta};
use dlog_storage_node::offline::{Content, Item, ShardFiles};
use dlog_storage_node::read::Found;
use dlog_storage_node::{Engine, Loss};
use std::sync::Arc;

use crate::faults::{BLOCKS, stopped};
use crate::machine::Machine;
use crate::workload::placement;

/// Offsets and partitions of all blocks in the first segment.
fn blocks(machine: &Machine) -> Vec<(u32, PartitionUid, Lsn)> {
    let files = ShardFiles::open(Arc::new(machine.disk.clone())).unwrap();
    let frames = files.frames(&files.segments[0]).unwrap();
    let block = |item| match item {
        Item::Frame(frame) => match frame.content {
            Content::Block { header, .. } => Some((frame.at.offset, header.partition, header.first_lsn())),
            _ => None,
        },
        Item::Gap { .. } => None,
    };
    frames.filter_map(block).collect()
}

const FIRST: &str = "00000000000000000001.seg";

#[test]
fn damage_is_found_reported_once_and_remembered() {
    let machine = stopped();
    let (mut engine, _) = machine.open();
    assert_eq!(engine.scrub().unwrap(), 0);
    assert!(engine.counters().scrubbed_bytes > 100_000);
    let hit = blocks(&machine)[7];
    // A bit of its body, some way behind the frame's head.
    machine.disk.flip_bit(FIRST, u64::from(hit.0 + 150) * 8);
    assert_eq!((engine.scrub().unwrap(), engine.scrub().unwrap()), (1, 0));
    let losses = engine.reader().losses().unwrap();
    assert_eq!((losses.len(), losses[0].begin.offset), (1, hit.0));
    let lost = engine.reader().lost_ranges(&losses).unwrap().concat();
    // No more than the one block, though others of its group lie around it.
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((lost[0].partition, lost[0].first), (hit.1, hit.2));
    assert_eq!(engine.reader().read(hit.1, hit.2, lost[0].last, 1).unwrap().items.len(), 1);
    engine.close().unwrap();
    let (mut engine, recovered) = machine.open();
    assert_eq!((&recovered.losses, recovered.new_losses), (&losses, 0));
    engine.forget_losses(&[Loss { end: losses[0].end - 8, ..losses[0] }]).unwrap();
    assert_eq!(engine.reader().losses().unwrap(), losses, "less was told of than is lost");
    engine.forget_losses(&losses).unwrap();
    assert!(engine.reader().losses().unwrap().is_empty());
}

#[test]
fn a_copy_that_is_stored_again_is_read_instead_of_the_damaged_one() {
    let whole = stopped();
    for loses_index in [false, true] {
        let machine = whole.fork();
        let (at, partition, lsn) = blocks(&machine)[7];
        let fetch = |engine: &Engine| engine.reader().fetch(partition, lsn.epoch(), lsn.esn()).unwrap();
        let (mut engine, _) = machine.open();
        let Found::Block(stored) = fetch(&engine) else { panic!("it is whole") };
        machine.disk.flip_bit(FIRST, u64::from(at + 150) * 8);
        assert!(matches!(fetch(&engine), Found::Damaged));
        engine.append(&[Entry::Block { placement: placement(2, 1, 0), block: stored.block }]).unwrap();
        engine.sync().unwrap();
        assert!(matches!(fetch(&engine), Found::Block(_)));
        engine.upkeep(0).unwrap();
        engine.close().unwrap();
        if loses_index {
            machine.kv.lose();
        }
        assert!(matches!(fetch(&machine.open().0), Found::Block(_)), "{loses_index}");
    }
}

#[test]
fn a_damaged_frame_is_found_too() {
    let machine = stopped();
    let (mut engine, _) = machine.open();
    let hit = blocks(&machine)[9];
    machine.disk.flip_bit(FIRST, u64::from(hit.0) * 8);
    assert_eq!(engine.scrub().unwrap(), 1);
    assert_eq!(engine.reader().losses().unwrap()[0].begin.offset, hit.0);
}

#[test]
fn what_nobody_needs_is_not_missed() {
    let machine = stopped();
    let (mut engine, _) = machine.open();
    let hit = blocks(&machine)[7];
    let trim = Lsn::new(Epoch(1), Esn(BLOCKS));
    engine.append(&[Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(hit.1) })]).unwrap();
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    machine.disk.flip_bit(FIRST, u64::from(hit.0 + 150) * 8);
    assert_eq!(engine.scrub().unwrap(), 0);
}

#[test]
fn one_error_of_the_disk_is_no_damage() {
    for after in 0..40 {
        let machine = stopped();
        let (mut engine, _) = machine.open();
        machine.disk.inject(Fault { operation: Operation::Read, after, times: 1, error: Fault::EIO });
        let _ = engine.scrub();
        assert!(engine.reader().losses().unwrap().is_empty(), "{after}");
        assert_eq!(engine.scrub().unwrap_or(0), 0);
    }
}
