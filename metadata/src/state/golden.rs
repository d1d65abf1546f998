//! The bytes of every command, answer, question and of a snapshot, pinned. If a test here fails, a layout changed: logs
//! and snapshots on disk, and nodes of other versions, could not be read. Add a variant instead.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use dlog_proto::{
    ClusterId, Durability, End, Epoch, Esn, Incarnation, LogOffset, Lsn, NodeId, PartitionUid, ProcessId, RequestId,
    Scope, ShardId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tests::{Machine, activate, create_log, decision, log_id, registration};
use super::*;

const PARTITION: PartitionUid = PartitionUid(0x1122);
const SHARD: ShardId = ShardId::new(2, 1);
const INCARNATION: Incarnation = Incarnation(9);

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, expected: &str) {
    let bytes = encode(value);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, expected, "{value:?}");
    for len in 0..bytes.len() {
        assert!(decode::<T>(&bytes[..len]).is_err(), "a shorter one is never taken for it");
    }
}

#[test]
fn commands() {
    check(&Command::InitCluster(InitCluster { cluster: ClusterId(0xabcd), created_ms: -2 }), "0200cdd70203");
    let mut register = registration(2, 0x0102_0304, &[None, Some(7)]);
    register.location = "region=eu,rack=r7".parse().unwrap();
    register.shards[1].unclean = true;
    check(
        &Command::RegisterNode(register),
        "0201020a686f7374323a39303932000101010201027237040265758486880804010200000001010701",
    );
    let mut create = create_log("demo/lines", 3, 3);
    create.attributes.replication.across.insert(Scope::Rack, 2);
    create.attributes.replication.durability = Durability::WriteCache;
    create.attributes.nodeset_size = Some(9);
    create.attributes.extra.insert("retention.ms".to_owned(), "1000".to_owned());
    check(
        &Command::CreateLog(create),
        "02020a64656d6f2f6c696e6573030302020200030102010109010c726574656e74696f6e2e6d7304313030300a",
    );
    let log = log_id("demo/lines");
    check(&Command::DeleteLog(DeleteLog { log: log.clone(), deleted_ms: 77 }), "02030a64656d6f2f6c696e65739a01");
    let changes = BTreeMap::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);
    check(
        &Command::SetAttributes(SetAttributes { log: log.clone(), changes }),
        "02040a64656d6f2f6c696e6573020161010131016200",
    );
    check(&Command::CreatePartitions(CreatePartitions { log, partitions: 300 }), "02050a64656d6f2f6c696e6573ac02");
    check(&activate(2, 0x0102_0304, &[1, 0x1122]), "020602848688080201a22200");
    let missing = MissingCopies { shard: SHARD, incarnation: INCARNATION, from: Esn(1), to: Esn(2) };
    let decisions = vec![Decision { under_replicated: vec![missing], ..decision(0x1122, 3, 42, 4) }];
    check(&Command::Decide(Decide { decisions }), "020701a222032a0104010201090102");
    let item = |change| UnderReplicatedItem {
        partition: PARTITION,
        epoch: Epoch(3),
        shard: SHARD,
        incarnation: INCARNATION,
        change,
    };
    let items = vec![
        item(UnderReplicatedChange::Open { from: Esn(1) }),
        item(UnderReplicatedChange::Close { to: Esn(2) }),
        item(UnderReplicatedChange::Repaired { from: Esn(3), to: Esn(4) }),
        item(UnderReplicatedChange::Lost { from: Esn(5), to: Esn(6) }),
    ];
    check(
        &Command::UnderReplicated(RecordUnderReplicated { items }),
        "020804a222030201090001a222030201090102a22203020109020304a22203020109030506",
    );
    let items = vec![TrimItem { partition: PARTITION, upto: Lsn::new(Epoch(3), Esn(42)) }];
    check(&Command::Trim(Trim { items }), "020901a222aa80808030");
    check(&Command::AllocateProducerIds(AllocateProducerIds { count: 1000 }), "020ae807");
    let items = vec![CoverItem { partition: PARTITION, epoch: Epoch(3) }];
    check(&Command::Cover(Cover { items }), "020b01a22203");
    check(&Command::Damaged(Damaged { shard: SHARD, incarnation: INCARNATION }), "020c020109");
}

#[test]
fn answers() {
    check(&Response::Forgotten, "0200");
    check(&Response::InitCluster(ClusterId(0xabcd)), "0201cdd702");
    let shards = vec![RegisteredShard { index: 1, incarnation: INCARNATION, incomplete_before: 5, damaged_before: 6 }];
    check(&Response::RegisterNode(Ok(Registered { cluster: ClusterId(0xabcd), shards })), "020200cdd7020101090506");
    let created = LogCreated { log: LogUid(1), first_partition: PARTITION, partitions: 3 };
    check(&Response::CreateLog(Ok(created)), "02030001a22203");
    let unknown = || UnknownLog(log_id("a/b"));
    check(&Response::DeleteLog(Err(unknown())), "02040103612f62");
    check(&Response::SetAttributes(Err(unknown().into())), "0205010003612f62");
    check(&Response::CreatePartitions(Ok(created)), "02060001a22203");
    let activation = Activation { partition: PARTITION, epoch: Epoch(3) };
    let stale = ActivateError::Stale { node: NodeId(2), registered: ProcessId(4) };
    let results = vec![Ok(activation), Err(stale)];
    let mut machine = Machine::cluster(1);
    machine.create("a/b", 1, 1).unwrap();
    machine.activate(1, 1, &[1]);
    let tables = PackedTables(machine.state.table(PartitionUid(1)).into_iter().collect());
    check(
        &Response::Activate(Ok(Activated { results, tables })),
        "0207000200a2220301020204010101000100010101010101000100010104000001010101000001000004",
    );
    let end = End { last_esn: Esn(42), authoritative: true };
    let newest = DecideError::Stale { partition: PARTITION, recoverer: Epoch(2), newest: Epoch(3) };
    let decided = vec![Ok(Decided { end, end_offset: Some(LogOffset(50)) }), Err(newest)];
    check(&Response::Decide(Ok(decided)), "02080002002a0101320103a2220203");
    check(&Response::UnderReplicated(Ok(vec![Ok(())])), "0209000100");
    check(
        &Response::Trim(Ok(vec![Ok(Lsn(7)), Err(PartitionError::Deleted(PARTITION).into())])),
        "020a00020007010001a222",
    );
    check(&Response::AllocateProducerIds(Ok(1000..2000)), "020b00d00fa01f");
    let gone = CoverError::Gone { partition: PARTITION, epoch: Epoch(2) };
    let stranger = DamagedError::NotRegistered { shard: SHARD, incarnation: INCARNATION };
    check(&Response::Damaged(Ok(5)), "020d0005");
    check(&Response::Damaged(Err(stranger)), "020d0100020109");
    check(&Response::Cover(Ok(vec![Ok(Epoch(3)), Err(gone)])), "020c000200030101a22202");
}

#[test]
fn questions_and_their_answers() {
    check(&Query::Cluster, "0200");
    let namespace = Some("a".to_owned());
    check(&Query::Logs { namespace, after: Some(log_id("a/b")), limit: 9 }, "02010101610103612f6209");
    check(&Query::Log { log: log_id("a/b") }, "020203612f62");
    check(&Query::LogsByUid { logs: vec![LogUid(1)] }, "02030101");
    check(&Query::Tables { partitions: vec![PARTITION] }, "020401a222");
    check(&Query::UndecidedTables { partitions: vec![PARTITION] }, "020501a222");
    check(&Query::UnderReplicated { after: None, limit: 9 }, "02060009");
    check(&Query::Changes { after: 9 }, "020709");
    let mut machine = Machine::cluster(1);
    machine.create("a/b", 2, 1).unwrap();
    let Ok(QueryAnswer::Cluster(cluster)) = machine.state.answer(&Query::Cluster) else { panic!() };
    check(
        &QueryAnswer::Cluster(cluster),
        "020001c1010201010a686f7374313a393039320001010100010401020100010100010000000102000000000000",
    );
    let log = machine.state.log(&log_id("a/b")).unwrap().clone();
    check(&QueryAnswer::Logs { logs: vec![log.clone()], more: true }, "0201010103612f620101010100010000000201020a0301");
    check(&QueryAnswer::Log(Some(log)), "0202010103612f620101010100010000000201020a03");
    check(&QueryAnswer::Tables(PackedTables(vec![])), "0203000000");
    let mut missing = UnderReplicated::default();
    let at = MissingAt { epoch: Epoch(3), shard: SHARD, incarnation: INCARNATION };
    missing.add(at, MissingRange { from: Esn(5), to: None });
    check(
        &QueryAnswer::UnderReplicated { partitions: vec![(PARTITION, Arc::new(missing))], more: false },
        "020401a222010302010901050000",
    );
    check(&QueryAnswer::Changes(Some(machine.state.take_changes())), "0205010101010101020102");
}

#[test]
fn snapshot() {
    let mut machine = Machine::cluster(1);
    machine.create("a/b", 1, 1).unwrap();
    let request = RequestId { process: ProcessId(1), counter: 3 };
    machine.apply_as(Some(request), activate(1, 1, &[1]));
    machine.activate(1, 1, &[1]);
    machine.decide(decision(1, 1, 10, 2)).unwrap();
    let bytes = machine.state.to_snapshot();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "020601c101020101010001010a686f7374313a3930393200010101000104010201000101000100000001010103612f6201010101000100000001010a03010100010100010001010100010101010001000101010000000201010100000100010a0104000201010000010a0005000000010103000700010001010000000100010300000102"
    );
    assert_eq!(State::from_snapshot(&bytes).unwrap().to_snapshot(), bytes);
    for len in 0..bytes.len() {
        assert!(State::from_snapshot(&bytes[..len]).is_err());
    }
}
