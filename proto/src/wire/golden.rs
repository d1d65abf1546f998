//! The bytes of every message, pinned. If a test here fails, a layout changed: add a version instead.

use bytes::Bytes;

use super::*;
use crate::block::PlacementVersion;
use crate::ids::{Incarnation, NodeId, PartitionUid, ProcessId, RequestId, ShardId};
use crate::lsn::{Epoch, Esn, LogOffset, Lsn};

const SHARD: ShardId = ShardId::new(2, 1);
const INCARNATION: Incarnation = Incarnation(9);
const PARTITION: PartitionUid = PartitionUid(0x1122);
const LSN: Lsn = Lsn::new(Epoch(3), Esn(42));

fn placement() -> WirePlacement {
    let version = PlacementVersion { writer_epoch: Epoch(3), wave: 1 };
    WirePlacement { version, copyset: vec![0x10000, 0x20001], acked: Esn(41), settled: Esn(40) }
}

fn check<M: Message + PartialEq + std::fmt::Debug>(message: &M, expected: &str) {
    let frame = message.to_frame(5, Bytes::from_static(b"payload").into());
    assert_eq!(M::from_frame(&frame).as_ref(), Ok(message));
    assert_eq!((frame.kind, frame.body_version, frame.corr, frame.payload.len()), (M::KIND as u8, M::VERSION, 5, 7));
    let hex: String = frame.body.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, expected, "{:?}", M::KIND);
    // A shorter body is never taken for the message, and never panics.
    for len in 0..frame.body.len() {
        let _ = M::from_frame(&Frame { body: frame.body.slice(..len), ..frame.clone() });
    }
    let other_version = Frame { body_version: 99, ..frame.clone() };
    assert!(matches!(M::from_frame(&other_version), Err(MessageError::Version { found: 99, .. })));
    let other_kind = Frame { kind: 255, ..frame };
    assert!(matches!(M::from_frame(&other_kind), Err(MessageError::Unexpected { found: 255, .. })));
}

#[test]
fn answers_that_refuse() {
    check(
        &Failed::new(ErrorCode::NotFound, "no log demo/x").retry_after_ms(7),
        "6e6f206c6f672064656d6f2f78028d000000f2ffffff07000000",
    );
}

#[test]
fn appending() {
    check(&Append { partition: PARTITION, acks: Acks::All, with_offset: true }, "22110000000000000201");
    let ok = AppendOk { lsn: LSN, offset: Some(LogOffset(77)), append_time: -1, duplicate: true };
    check(
        &Appended { partition: PARTITION, outcome: Ok(ok) },
        "2211000000000000002a00000003000000014d00000000000000ffffffffffffffff01",
    );
    let error = AppendError::NotSequencer { node: Some(NodeId(3)), epoch: Epoch(4) };
    check(
        &Appended { partition: PARTITION, outcome: Err(error) },
        "2211000000000000010001030004000000000000000000000000000000000000000000",
    );
}

#[test]
fn storing() {
    let mode = StoreMode::Recovery { recoverer: Epoch(4) };
    let store = Store { shard: SHARD, incarnation: INCARNATION, mode, sync: true, placement: placement() };
    check(&store, "000001000100020002000100090000000104000000010300000001000000e2ffffff020000002900000028000000");
    let (shard, incarnation, partition) = (SHARD, INCARNATION, PARTITION);
    let (epoch, first_esn, mode) = (Epoch(3), Esn(42), StoreMode::Append);
    check(
        &Amend { shard, incarnation, partition, epoch, first_esn, mode, placement: placement() },
        "000001000100020002000100090000002211000000000000030000002a00000000000000000300000001000000d3ffffff020000002900000028000000",
    );
    let version = placement().version;
    let answer =
        |result| StoreAnswer { shard, incarnation, partition, epoch, first_esn, snapshot: true, version, result };
    let answers = vec![answer(Ok(Kept::Flushed)), answer(Err(StoreRefusal::Sealed(Epoch(4))))];
    check(
        &Stored { answers },
        "02000100090000002211000000000000030000002a0000000103000000010000000001000000000002000100090000002211000000000000030000002a00000001030000000100000001000400000000b0ffffff02000000",
    );
    let upto = vec![FlushedUpto { partition, epoch, first_esn }];
    check(&Flushed { shard, incarnation, upto }, "2211000000000000030000002a0000000200010009000000e8ffffff01000000");
    let ends = vec![EpochEnd { epoch: Epoch(2), last_esn: Esn(10), authoritative: true }];
    let partitions = vec![PartitionRelease { partition, released: LSN, settled: Esn(40), trim_limit: Lsn(7), ends }];
    check(
        &Release { shard, incarnation, partitions },
        "020000000a0000000122110000000000002a00000003000000280000000700000000000000dbffffff010000000200010009000000d4ffffff01000000",
    );
}

#[test]
fn sealing() {
    let (shard, incarnation, partition, epoch) = (SHARD, INCARNATION, PARTITION, Epoch(4));
    let partitions = vec![SealPartition { partition, epoch, undecided: vec![Epoch(2), Epoch(3)] }];
    check(
        &Seal { shard, incarnation, partitions },
        "0200000003000000221100000000000004000000ecffffff020000000200010009000000e4ffffff01000000",
    );
    let version = placement().version;
    let block = BlockSummary { first_esn: Esn(42), span: 3, crc: 0xabcd, len: 100, version, copyset: vec![0x10000] };
    let end = EpochEnd { epoch: Epoch(3), last_esn: Esn(44), authoritative: false };
    let epochs = vec![SealedEpoch {
        epoch: Epoch(3),
        acked: Esn(41),
        settled: Esn(40),
        known_end: Some(end),
        blocks: vec![block],
    }];
    let state = SealedState { trim: Lsn(7), epochs, snapshot: Some(LSN) };
    let sealed = |result| SealedPartition { partition, epoch, result };
    let partitions = vec![sealed(Ok(state)), sealed(Err(SealRefusal::Sealed(Epoch(5))))];
    check(
        &Sealed { shard, incarnation, lost: LostBefore { cached: 6, durable: 7 }, partitions },
        "000001002a00000003000000cdab0000640000000300000001000000e4ffffff0100000003000000290000002800000001030000002c00000000caffffff01000000221100000000000004000000000700000000000000cdffffff01000000012a0000000300000022110000000000000400000001000500000000000000000000000000000000000000000000000200010009000000060000000000000007000000000000009cffffff02000000",
    );
    let target = FetchTarget::Records { epoch: Epoch(3), first_esn: Esn(42) };
    check(&FetchBlock { shard, incarnation, partition, target }, "0200010009000000221100000000000000030000002a000000");
    check(
        &FetchedBlock { shard, incarnation, partition, target: FetchTarget::ProducerSnapshot, found: true },
        "0200010009000000221100000000000001000000000000000001",
    );
    check(
        &ReadProducers { shard, incarnation, partition, epoch, after: LSN, ends: vec![end] },
        "030000002c0000000002000100090000002211000000000000040000002a00000003000000dbffffff01000000",
    );
    let (lost, snapshot) = (LostBefore { cached: 6, durable: 7 }, Some(LSN));
    let read = ProducersRead { shard, incarnation, partition, epoch, after: LSN, lost, snapshot, ok: true };
    check(
        &read,
        "02000100090000002211000000000000040000002a0000000300000006000000000000000700000000000000012a0000000300000001",
    );
}

#[test]
fn reading() {
    let (shard, incarnation, partition, version) = (SHARD, INCARNATION, PARTITION, 2);
    let mode = ReadMode::SingleCopy { known_down: vec![SHARD] };
    check(
        &StartRead { shard, incarnation, partition, version, from: LSN, until: Lsn::MAX, mode },
        "0200010002000100090000002211000000000000020000002a00000003000000ffffffffffffffff01d7ffffff01000000",
    );
    let lost = LostBefore { cached: 6, durable: 7 };
    let started = ReadStarted { shard, version, status: ReadStatus::Disabled, released: LSN, trim: Lsn(1), lost };
    check(&started, "0200010002000000022a00000003000000010000000000000006000000000000000700000000000000");
    check(
        &ReadBlock { version, placement: placement(), released: LSN },
        "0000010001000200020000000300000001000000ecffffff0200000029000000280000002a00000003000000",
    );
    let claim = ReadClaim { version, upto: LSN, kind: ClaimKind::UnderReplicated, released: LSN, trim: Lsn(1) };
    check(&claim, "020000002a00000003000000012a000000030000000100000000000000");
    check(&DescribeBlock { partition, lsn: LSN }, "22110000000000002a00000003000000");
    let copy =
        CopyDescription { shard, incarnation, first: LSN, span: 3, crc: 0xabcd, len: 100, placement: placement() };
    check(
        &BlockDescribed { copies: vec![copy] },
        "000001000100020002000100090000002a0000000300000003000000cdab0000640000000300000001000000d4ffffff020000002900000028000000ccffffff01000000",
    );
    check(&GetTail { partition }, "2211000000000000");
    let tail = Tail { acked: LSN, released: Some(LSN), next_offset: Some(LogOffset(77)) };
    check(&tail, "2a00000003000000012a00000003000000014d00000000000000");
    check(
        &FindTime { shard, incarnation, partition, from: LSN, timestamp: 1000 },
        "020001000900000022110000000000002a00000003000000e803000000000000",
    );
    check(&TimeFound { status: ReadStatus::Ok, lsn: Some(LSN) }, "00012a00000003000000");
}

#[test]
fn metadata() {
    let process = ProcessId(0x0102_0304);
    check(&Propose { request: RequestId { process, counter: 8 } }, "040302010000000000000000000000000800000000000000");
    check(&Proposed { revision: 9 }, "0900000000000000");
    check(&Query { freshness: Freshness::AtLeast(9) }, "010900000000000000");
    check(&Answer { revision: 9 }, "0900000000000000");
    check(&Watch { after: 9 }, "0900000000000000");
    check(&Change { revision: 10 }, "0a00000000000000");
    check(&Heartbeat { node: NodeId(2), process, stopping: true }, "02000403020100000000000000000000000001");
    let alive = vec![AliveNode { node: NodeId(2), process, stopping: false }];
    check(
        &Liveness { term: 1, version: 2, alive },
        "0200040302010000000000000000000000000001000000000000000200000000000000ddffffff01000000",
    );
    check(&Raft { rpc: RaftRpc::Append }, "02");
    check(&RaftAnswer { rpc: RaftRpc::Vote }, "01");
}

#[test]
fn relations_between_fields_are_checked() {
    let invalid = |frame: &Frame| matches!(Store::from_frame(frame), Err(MessageError::Invalid { .. }));
    let with = |copyset: Vec<u32>| {
        let placement = WirePlacement { copyset, ..placement() };
        let mode = StoreMode::Append;
        Store { shard: SHARD, incarnation: INCARNATION, mode, sync: true, placement }.to_frame(1, Payload::empty())
    };
    assert!(invalid(&with(vec![])) && invalid(&with(vec![1, 1])) && invalid(&with((0..17).collect())));
    assert!(!invalid(&with(vec![1])));
    let seal = |undecided: Vec<u32>| {
        let undecided = undecided.into_iter().map(Epoch).collect();
        let partitions = vec![SealPartition { partition: PARTITION, epoch: Epoch(4), undecided }];
        Seal::from_frame(&Seal { shard: SHARD, incarnation: INCARNATION, partitions }.to_frame(1, Payload::empty()))
    };
    assert!(seal(vec![2, 1]).is_err() && seal(vec![4]).is_err() && seal(vec![1, 3]).is_ok());
    assert_eq!(Failed::new(ErrorCode::Invalid, "ä".repeat(2000)).message.len(), Failed::MESSAGE_LEN_MAX);
}
