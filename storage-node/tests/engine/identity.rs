//! Whose directory it is, how it was left, and an index that does not fit it.

use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, Lsn, PartitionUid, ShardId};
use dlog_storage_node::disk::Disk;
use dlog_storage_node::{Identity, OpenError};
use fastrand::Rng;

use crate::faults::{BLOCKS, compare, entry, stopped, truth};
use crate::machine::{Machine, identity};

#[test]
fn somebody_elses_directory_is_refused_by_name() {
    let machine = stopped();
    let refused = |other: Identity| machine.open_as(other).unwrap_err().to_string();
    let foreign = "is it the right disk?";
    let cluster = refused(Identity { cluster: ClusterId(8), ..identity() });
    assert!(cluster.contains("cluster 00000000000000000000000000000007") && cluster.contains(foreign), "{cluster}");
    let node = refused(Identity { shard: ShardId::new(2, 0), ..identity() });
    assert!(node.contains("marker belongs to node n1, this is node n2"), "{node}");
    assert!(refused(Identity { shard: ShardId::new(1, 3), ..identity() }).contains("shard n1s0, this is shard n1s3"));
    assert!(refused(Identity { incarnation: Incarnation(2), ..identity() }).contains("incarnation 1"));
    // Without a marker the segments say it.
    machine.disk.remove("marker").unwrap();
    assert!(
        refused(Identity { incarnation: Incarnation(2), ..identity() }).contains("00000000000000000001.seg belongs to")
    );
}

#[test]
fn a_newer_format_is_refused_and_a_lost_marker_is_not_missed() {
    let truth = truth();
    let machine = stopped();
    let marker = machine.disk.bytes("marker").unwrap();
    let mut newer = marker.clone();
    newer[4] = 2;
    machine.disk.put("marker", &newer);
    assert!(matches!(machine.try_open(), Err(OpenError::Marker(error)) if error.contains("upgrade")));
    for damaged in [&marker[..10], &[], &[7; 72]] {
        machine.disk.put("marker", damaged);
        let (engine, recovered) = machine.open();
        assert!(!recovered.formatted && !recovered.clean && recovered.lost_write_cache, "the worst is assumed");
        assert_eq!(compare(&engine.reader(), &truth), (0, 0));
        drop(engine);
        machine.kill();
    }
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let machine = stopped();
    let (engine, _) = machine.open();
    assert!(matches!(machine.try_open(), Err(OpenError::Lock(_))));
    drop(engine);
    assert!(machine.try_open().is_ok());
}

#[test]
fn an_index_that_is_of_no_use_is_set_aside_and_made_again() {
    let machine = stopped();
    let (engine, recovered) = machine.open();
    assert!(recovered.clean && recovered.index_rebuilt.is_none());
    engine.close().unwrap();
    let index = machine.kv.dump();
    machine.kv.damage();
    let (engine, recovered) = machine.open();
    assert!(recovered.index_rebuilt.is_some_and(|reason| reason.contains("on purpose")));
    engine.close().unwrap();
    let different: Vec<_> = machine.kv.dump().into_iter().zip(index).filter(|(new, old)| new != old).collect();
    assert!(different.is_empty() && machine.kv.set_aside_count() == 1, "{different:?}");

    // One that belongs to another directory.
    let other = Machine::new();
    other.open().0.close().unwrap();
    let stranger = Machine { kv: machine.kv.fork(), ..Machine::new() };
    let other_identity = Identity { incarnation: Incarnation(5), ..identity() };
    let (mut engine, _) = stranger.open_as(other_identity).unwrap();
    engine.append(&[entry(1, 1, 10)]).unwrap();
    engine.close().unwrap();
    let mixed = Machine { kv: machine.kv.fork(), disk: stranger.disk.fork(), ..Machine::new() };
    let (engine, recovered) = mixed.open_as(other_identity).unwrap();
    assert!(recovered.index_rebuilt.is_some_and(|reason| reason.contains("another shard")));
    assert_eq!(engine.reader().blocks_above(PartitionUid(1), Lsn::ZERO).unwrap().len(), 1);
}

#[test]
fn unclean_stops_are_told_apart() {
    let mut machine = stopped();
    let open = |machine: &Machine| machine.open();
    let (mut engine, recovered) = open(&machine);
    assert!(recovered.clean && !recovered.lost_write_cache);
    engine.append(&[entry(1, BLOCKS + 1, 100)]).unwrap();
    drop(engine);
    machine.kill();
    let (engine, recovered) = open(&machine);
    assert!(!recovered.clean && !recovered.lost_write_cache, "the machine stayed up: nothing is lost");
    assert_eq!(engine.reader().blocks_above(PartitionUid(1), Lsn::new(Epoch(1), Esn(BLOCKS))).unwrap().len(), 1);
    drop(engine);
    machine.crash(&mut Rng::with_seed(1));
    assert!(open(&machine).1.lost_write_cache);
}

#[test]
fn a_lost_write_cache_is_told_of_until_it_is_on_record() {
    let mut machine = stopped();
    drop(machine.open());
    machine.crash(&mut Rng::with_seed(1));
    assert!(machine.open().1.lost_write_cache);
    machine.kill();
    let (engine, recovered) = machine.open();
    assert!(recovered.lost_write_cache, "the process before may have been killed before it told anybody");
    engine.close().unwrap();
    let (mut engine, recovered) = machine.open();
    assert!(recovered.clean && recovered.lost_write_cache);
    engine.forget_lost_write_cache().unwrap();
    drop(engine);
    machine.kill();
    let (engine, recovered) = machine.open();
    assert!(!recovered.lost_write_cache);
    engine.close().unwrap();
    assert!(!machine.open().1.lost_write_cache);
}
