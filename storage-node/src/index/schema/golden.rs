//! Golden bytes: a change of the layout fails here.

use dlog_proto::block::{Copyset, Placement, PlacementVersion};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, ShardId};
use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::entry::{EpochMarks, Marks, PartitionMeta};
use crate::segment::entries::SegmentRanges;
use crate::segment::header::tests::identity;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn golden<R: Row + std::fmt::Debug + PartialEq>(row: &R, expected: &[&str]) {
    let bytes = row.encode();
    assert_eq!(hex(&bytes), expected.concat());
    assert_eq!(&R::decode(&bytes).unwrap(), row);
    (0..bytes.len()).for_each(|len| drop(R::decode(&bytes[..len])));
}

const AT: Position = Position::new(SegmentId(5), 4096);

#[test]
fn keys() {
    let (partition, first) = (PartitionUid(7), Lsn::new(Epoch(3), Esn(10)));
    assert_eq!(hex(&Table::Checkpoint.key()), "63");
    assert_eq!(hex(&Table::Shard.key()), "68");
    assert_eq!(hex(&Table::Partition.partition(partition)), "700000000000000007");
    assert_eq!(hex(&Table::Run.block(partition, first)), "720000000000000007000000030000000a");
    assert_eq!(hex(&Table::Late.block(partition, first)), "6c0000000000000007000000030000000a");
    assert_eq!(hex(&Table::Quarantine.block(partition, first)), "710000000000000007000000030000000a");
    assert_eq!(hex(&Table::Amend.block(partition, first)), "610000000000000007000000030000000a");
    assert_eq!(hex(&Table::Segment.segment(AT.segment)), "730000000000000005");
    assert_eq!(hex(&Table::Loss.place(AT)), "78000000000000000500001000");
    assert_eq!(hex(&Table::Hints.partition(partition)), "6d0000000000000007");
    let key = Table::Run.block(partition, first);
    assert_eq!((partition_of(&key), first_lsn(&key)), (Some(partition), Some(first)));
    assert_eq!(place_of(&Table::Loss.place(AT)), Some(AT));
    assert_eq!(segment_of(&Table::Segment.segment(AT.segment)), Some(AT.segment));
}

#[test]
fn ranges_of_keys_end_where_they_should() {
    let all = Table::Run.blocks(PartitionUid(7), Lsn::ZERO, Lsn::MAX);
    assert!(all.contains(&Table::Run.block(PartitionUid(7), Lsn::MAX)));
    assert!(!all.contains(&Table::Run.block(PartitionUid(8), Lsn::ZERO)));
    let last = Table::Run.blocks(PartitionUid(u64::MAX), Lsn::ZERO, Lsn::MAX);
    assert!(last.contains(&Table::Run.block(PartitionUid(u64::MAX), Lsn::MAX)));
    assert!(!last.contains(&Table::Segment.segment(SegmentId(0))));
}

#[test]
fn rows() {
    let checkpoint = CheckpointRow { identity: identity(), position: AT, next_commit: 9 };
    let place = "050000000000000000100000";
    golden(&checkpoint, &["01", "040302010000000000000000000000000700010009000000", place, "0900000000000000"]);
    let segments: SegmentRanges = [SegmentId(4), SegmentId(5)].into_iter().collect();
    let shard = ShardRow { at: AT, incomplete_before: 3, segments };
    golden(&shard, &[place, "0300000000000000", "0400000000000000", "0200000000000000"]);
    let run = RunRow {
        segment: AT.segment,
        begin: 4096,
        end: 8192,
        last_esn: Esn(20),
        blocks: 2,
        bytes: 300,
        min_timestamp: -1,
        max_timestamp: 5,
    };
    let numbers = ["00100000", "00200000", "14000000", "02000000", "2c010000"].concat();
    golden(&run, &["0500000000000000", &numbers, "ffffffffffffffff", "0500000000000000"]);
    let late = LateRow { position: AT, len: 100, last_esn: Esn(9), timestamp: 5 };
    golden(&late, &[place, "64000000", "09000000", "0500000000000000"]);
    let segment = SegmentRow { live_bytes: 1, live_amends: 2, generation: 3, stretches: 4 };
    golden(&segment, &["0100000000000000", "0200000000000000", "0300", "04000000"]);
    golden(&LossRow { end: 9 }, &["09000000"]);
    let mut marks = Marks { released: Lsn::new(Epoch(2), Esn(1)), ..Marks::default() };
    marks.raise(EpochMarks { epoch: Epoch(2), acked: Esn(3), settled: Esn(1) });
    golden(&marks, &["0100000002000000", "02000000", "03000000", "01000000"]);
}

#[test]
fn amend_row() {
    let placement = Placement {
        version: PlacementVersion { writer_epoch: Epoch(3), wave: 1 },
        copyset: Copyset::new([ShardId::new(1, 0)]).unwrap(),
        acked: Esn(0),
        settled: Esn(0),
    };
    let mut encoded = Vec::new();
    placement.encode(&mut encoded);
    golden(&AmendRow { segment: AT.segment, placement }, &["0500000000000000", &hex(&encoded)]);
}

#[test]
fn partition_row() {
    let end = EpochEnd { epoch: Epoch(1), last_esn: Esn(12), authoritative: true };
    let row = PartitionRow {
        meta_at: Some(AT),
        snapshot: Some(SnapshotAt { lsn: Lsn::new(Epoch(2), Esn(7)), position: AT, len: 100 }),
        bytes: 500,
        blocks: 5,
        floor: Lsn::new(Epoch(1), Esn(1)),
        tails: smallvec![EpochTail { epoch: Epoch(2), last_esn: Esn(8), acked: Esn(7), settled: Esn(6) }],
        meta: PartitionMeta { ends: vec![end], seal: Epoch(2), ..PartitionMeta::new(PartitionUid(7)) },
    };
    let place = "050000000000000000100000";
    let expected = [
        place,
        "0700000002000000",
        place,
        "64000000",
        "f401000000000000",
        "0500000000000000",
        "0100000001000000",
        "01",
        "02000000080000000700000006000000",
        "0700000000000000",
        "0000000000000000",
        "02000000",
        "00000000",
        "010000000c00000001000000",
    ];
    golden(&row, &expected);
    let nothing = PartitionRow::new(PartitionUid(7));
    assert_eq!(PartitionRow::decode(&nothing.encode()).unwrap(), nothing);
}

#[test]
fn the_newest_epochs_are_kept() {
    let mut row = PartitionRow::new(PartitionUid(7));
    (1..=10).for_each(|epoch| row.tail(Epoch(epoch)).unwrap().last_esn = Esn(epoch));
    assert_eq!(row.tails.iter().map(|tail| tail.epoch.0).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(row.tail(Epoch(2)), None);
    assert_eq!(row.tail(Epoch(5)).unwrap().last_esn, Esn(5));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = CheckpointRow::decode(&bytes);
        let _ = ShardRow::decode(&bytes);
        let _ = PartitionRow::decode(&bytes);
        let _ = RunRow::decode(&bytes);
        let _ = LateRow::decode(&bytes);
        let _ = AmendRow::decode(&bytes);
        let _ = SegmentRow::decode(&bytes);
        let _ = LossRow::decode(&bytes);
        let _ = Marks::decode(&bytes);
    }
}
