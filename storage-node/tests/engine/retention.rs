//! What may be given up by age and by size, and that giving it up lasts.

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::Engine;
use dlog_storage_node::entry::{Entry, Marks, PartitionMeta};
use dlog_storage_node::read::Retention;

use crate::machine::Machine;
use crate::workload::{block, placement};

const PARTITION: PartitionUid = PartitionUid(1);

fn lsn(epoch: u32, esn: u32) -> Lsn {
    Lsn::new(Epoch(epoch), Esn(esn))
}

/// A block that was made at `epoch * 1,000,000 + esn` ms.
fn append(engine: &mut Engine, epoch: u32, esn: u32) {
    let block = block(1, epoch, esn, 1, 1000, 1);
    engine.append(&[Entry::Block { placement: placement(epoch, 1, esn), block }]).unwrap();
}

fn release(engine: &Engine, released: Lsn) {
    engine.note_marks(PARTITION, &Marks { released, ..Marks::default() });
}

/// Ten blocks of epoch 1, each a run, and what is released.
fn filled() -> (Machine, Engine) {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    (1..=10).for_each(|esn| append(&mut engine, 1, esn));
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    release(&engine, lsn(1, 10));
    (machine, engine)
}

const fn by_age(ms: u64) -> Retention {
    Retention { age_ms_max: Some(ms), bytes_max: None }
}

const fn by_size(bytes: u64) -> Retention {
    Retention { age_ms_max: None, bytes_max: Some(bytes) }
}

fn trim(engine: &mut Engine, to: Lsn) {
    engine.append(&[Entry::Partition(PartitionMeta { trim: to, ..PartitionMeta::new(PARTITION) })]).unwrap();
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
}

#[test]
fn what_is_older_than_it_may_be_is_given_up() {
    let (_machine, engine) = filled();
    let point = |retention, now| engine.reader().retention_point(PARTITION, &retention, now).unwrap();
    assert_eq!(point(by_age(100), 1_000_050), None);
    assert_eq!(point(by_age(100), 1_000_104), Some(lsn(1, 3)), "those made before 1,000,004");
    assert_eq!(point(by_age(100), 2_000_000), Some(lsn(1, 10)));
    assert_eq!(point(by_age(100), 5), None, "a clock that went back");
    assert_eq!(point(by_age(u64::MAX), i64::MAX), None);
    assert_eq!(point(Retention::default(), i64::MAX), None);
    assert_eq!(engine.reader().retention_point(PartitionUid(99), &by_age(0), i64::MAX).unwrap(), None);
}

#[test]
fn at_least_as_much_as_asked_is_kept() {
    let (_machine, engine) = filled();
    let size = engine.reader().size(PARTITION).unwrap().bytes;
    let each = size / 10;
    let point = |bytes| engine.reader().retention_point(PARTITION, &by_size(bytes), 0).unwrap();
    assert_eq!(point(size), None);
    assert_eq!(point(size - each + 1), None);
    assert_eq!(point(size - each), Some(lsn(1, 1)));
    assert_eq!(point(3 * each), Some(lsn(1, 7)));
    assert_eq!(point(0), Some(lsn(1, 10)));
}

#[test]
fn only_what_is_released_is_given_up() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    (1..=10).for_each(|esn| append(&mut engine, 1, esn));
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    let point = |engine: &Engine| engine.reader().retention_point(PARTITION, &by_age(0), i64::MAX).unwrap();
    assert_eq!(point(&engine), None, "nothing is released");
    release(&engine, lsn(1, 4));
    assert_eq!(point(&engine), Some(lsn(1, 4)));
    // The mark outlives the process once the index was flushed.
    engine.checkpoint().unwrap();
    drop(engine);
    machine.kill();
    assert_eq!(point(&machine.open().0), Some(lsn(1, 4)));
}

#[test]
fn late_blocks_count_where_they_belong() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    for esn in [1, 2, 5, 6, 4, 3] {
        append(&mut engine, 1, esn);
    }
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    release(&engine, lsn(1, 6));
    let point = |now| engine.reader().retention_point(PARTITION, &by_age(0), now).unwrap();
    for esn in 1..=6 {
        assert_eq!(point(1_000_001 + i64::from(esn)), Some(lsn(1, esn)));
    }
}

#[test]
fn trims_last_whatever_the_clock_does_and_are_found_again_without_an_index() {
    let (machine, mut engine) = filled();
    let point = engine.reader().retention_point(PARTITION, &by_age(100), 1_000_107).unwrap().unwrap();
    trim(&mut engine, point);
    let left = |engine: &Engine| engine.reader().blocks_above(PARTITION, Lsn::ZERO).unwrap().len();
    assert_eq!(left(&engine), 4);
    for now in [0, 1_000_107, i64::MIN] {
        assert_eq!(engine.reader().retention_point(PARTITION, &by_age(100), now).unwrap(), None);
    }
    append(&mut engine, 1, 2);
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    assert_eq!(left(&engine), 4, "what comes below the trim point is given up at once");
    drop(engine);
    machine.kill();
    machine.kv.lose();
    let (engine, _) = machine.open();
    assert_eq!(left(&engine), 4);
    assert_eq!(engine.reader().load(PARTITION).unwrap().unwrap().meta.trim, point);
}

#[test]
fn a_deleted_log_gives_everything_up_in_every_order() {
    for order in 0..3 {
        let (machine, mut engine) = filled();
        let deleted = Entry::Partition(PartitionMeta { deleted: true, ..PartitionMeta::new(PARTITION) });
        if order == 1 {
            trim(&mut engine, lsn(1, 4));
        }
        engine.append(&[deleted]).unwrap();
        if order == 2 {
            append(&mut engine, 1, 11);
        }
        engine.sync().unwrap();
        engine.upkeep(0).unwrap();
        assert_eq!(engine.reader().size(PARTITION).unwrap().bytes, 0);
        assert_eq!(engine.reader().retention_point(PARTITION, &by_age(0), i64::MAX).unwrap(), None);
        drop(engine);
        machine.kill();
        machine.kv.lose();
        let (engine, _) = machine.open();
        assert!(engine.reader().load(PARTITION).unwrap().unwrap().meta.deleted);
        assert!(engine.reader().blocks_above(PARTITION, Lsn::ZERO).unwrap().is_empty());
    }
}
