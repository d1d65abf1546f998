//! Errors of the disk at every operation: the shard stops or goes on, and whatever it called durable is there afterwards, also
//! after the power was lost.

use std::sync::Arc;

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::disk::Disk;
use dlog_storage_node::disk::simulated::{Fault, Operation};
use dlog_storage_node::entry::{Entry, PartitionMeta};
use dlog_storage_node::{Engine, OpenError};
use fastrand::Rng;

use crate::crash::{History, run};
use crate::faults::{BLOCKS, compare, entry, stopped, truth};
use crate::machine::Machine;
use crate::model::{Fold, observe};
use crate::workload::Workload;

const OPERATIONS: [Operation; 5] =
    [Operation::Read, Operation::Write, Operation::Sync, Operation::Create, Operation::Name];

/// Opens, checks that a prefix no shorter than what was durable is there, loses power, and checks that nothing changed.
fn check(machine: &mut Machine, history: &History, what: &str) {
    let partitions = Workload::new(0, 3, 10, true).partitions();
    let (engine, recovered) = machine.open();
    assert_eq!((recovered.losses.len(), &recovered.index_rebuilt), (0, &None), "{what}: {recovered:?}");
    let state = observe(&engine.reader(), partitions.iter().copied());
    let mut fold = Fold::default();
    let (durable, later) = history.written.split_at(history.durable);
    durable.iter().for_each(|entry| fold.add(entry));
    let mut later = later.iter();
    while fold.state() != &state {
        fold.add(later.next().unwrap_or_else(|| panic!("{what}: no prefix comes to what is there")));
    }
    drop(engine);
    machine.crash(&mut Rng::with_seed(7));
    let (engine, recovered) = machine.open();
    assert!(recovered.losses.is_empty(), "{what}: {recovered:?}");
    assert_eq!(observe(&engine.reader(), partitions), state, "{what}: what one start showed the next one has");
}

#[test]
fn an_error_at_every_operation_of_a_lawful_life() {
    let (mut failed, mut unharmed) = (0, 0);
    for seed in 0..3 {
        for operation in OPERATIONS {
            for after in 0.. {
                let mut machine = Machine::new();
                machine.disk.inject(Fault { operation, after, times: 1, error: Fault::EIO });
                let history = run(&machine, 200 + seed, 60, true, None);
                let reached = machine.disk.faults_left() == 0;
                machine.kill();
                check(&mut machine, &history, &format!("seed {seed} {operation:?} {after}"));
                failed += usize::from(!history.finished);
                unharmed += usize::from(history.finished);
                if !reached {
                    break;
                }
            }
        }
    }
    assert!(failed > 50 && unharmed > 10, "{failed} {unharmed}");
}

#[test]
fn what_a_failed_sync_left_in_memory_is_not_believed_by_the_next_start() {
    let mut machine = Machine::new();
    let (mut engine, _) = machine.open();
    engine.append(&[entry(1, 1, 3000), entry(2, 1, 9000)]).unwrap();
    machine.disk.inject(Fault { operation: Operation::Sync, after: 0, times: 1, error: Fault::EIO });
    assert!(engine.sync().is_err());
    drop(engine);
    machine.kill();
    // The process is started again. The kernel shows what was written, and a sync now has nothing to do.
    let (engine, recovered) = machine.open();
    let held = |engine: &Engine| engine.reader().blocks_above(PartitionUid(2), Lsn::ZERO).unwrap().len();
    assert!(held(&engine) == 1 && !recovered.lost_write_cache);
    drop(engine);
    machine.crash(&mut Rng::with_seed(1));
    let (engine, _) = machine.open();
    assert_eq!(held(&engine), 1, "what a start shows is durable");
}

#[test]
fn a_full_disk_does_not_keep_a_shard_closed() {
    let truth = truth();
    let machine = stopped();
    let used: u64 = machine.disk.list().unwrap().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used));
    for _ in 0..2 {
        let (mut engine, recovered) = machine.open();
        assert!(recovered.clean);
        assert_eq!(compare(&engine.reader(), &truth), (0, 0));
        // And it can be trimmed until there is room.
        let trim = Lsn::new(Epoch(1), Esn(BLOCKS));
        engine
            .append(&[Entry::Partition(PartitionMeta { trim: Lsn::ZERO, ..PartitionMeta::new(PartitionUid(3)) })])
            .unwrap();
        assert!(trim > Lsn::ZERO);
        engine.close().unwrap();
    }
}

#[test]
fn a_full_disk_is_no_reason_to_throw_the_index_away() {
    #[derive(Debug)]
    struct Full;
    impl dlog_storage_node::index::kv::KvStore for Full {
        fn open(&self) -> Result<Arc<dyn dlog_storage_node::index::kv::Kv>, dlog_storage_node::index::kv::KvError> {
            Err(dlog_storage_node::index::kv::KvError("IO error: No space left on device: MANIFEST".to_owned()))
        }
        fn set_aside(&self) -> std::io::Result<()> {
            panic!("it is as good as ever")
        }
    }
    let machine = stopped();
    let start = dlog_storage_node::Start { boot_id: 1, now_ms: 0, random: 1 };
    let disk = Arc::new(machine.disk.clone());
    let opened = Engine::open(machine.config, disk, &Full, crate::machine::identity(), start);
    assert!(matches!(opened, Err(OpenError::Index(error)) if error.is_full_disk()));
    assert_eq!(compare(&machine.open().0.reader(), &truth()), (0, 0));
}

#[test]
fn a_segment_that_cannot_be_read_is_freed_and_what_stands_in_it_carried_on() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    let quiet = PartitionMeta { seal: Epoch(7), ..PartitionMeta::new(PartitionUid(9)) };
    engine.append(&[Entry::Partition(quiet.clone())]).unwrap();
    for esn in 1..=60 {
        engine.append(&[entry(1, esn, 2500)]).unwrap();
    }
    let trim = Lsn::new(Epoch(1), Esn(60));
    engine.append(&[Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(1)) })]).unwrap();
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    machine.disk.inject(Fault { operation: Operation::Read, after: 1, times: 10, error: Fault::EIO });
    let mut freed = 0;
    for _ in 0..20 {
        freed += engine.reclaim().unwrap_or(0);
    }
    assert!(freed >= 1);
    engine.close().unwrap();
    machine.kv.lose();
    let (engine, recovered) = machine.open();
    assert!(recovered.losses.is_empty());
    assert_eq!(engine.reader().load(PartitionUid(9)).unwrap().unwrap().meta, quiet);
}

#[test]
fn a_shard_that_fails_leaves_the_others_alone() {
    let (bad, good) = (Machine::new(), Machine::new());
    let (mut first, _) = bad.open();
    let (mut second, _) = good.open();
    bad.disk.inject(Fault { operation: Operation::Write, after: 0, times: u64::MAX, error: Fault::EIO });
    assert!(first.append(&[entry(1, 1, 100)]).is_err());
    for esn in 1..=40 {
        second.append(&[entry(1, esn, 2500)]).unwrap();
        second.sync().unwrap();
        second.upkeep(0).unwrap();
        assert!(first.append(&[entry(1, esn, 100)]).is_err());
    }
    second.close().unwrap();
    assert_eq!(good.open().0.reader().blocks_above(PartitionUid(1), Lsn::ZERO).unwrap().len(), 40);
}
