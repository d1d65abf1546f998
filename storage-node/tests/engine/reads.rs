//! Reads: the same answers whether what is asked for is in the overlay or in the index.

use bytes::Bytes;
use dlog_proto::block::BlockBuilder;
use dlog_proto::producer::{Admission, ProducerBatch, ProducerTable};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::Engine;
use dlog_storage_node::entry::{Entry, EpochMarks, Marks, PartitionMeta};
use dlog_storage_node::read::{Found, ReadItem, Reader};

use crate::machine::Machine;
use crate::workload::{block, placement};

const PARTITION: PartitionUid = PartitionUid(1);

fn lsn(epoch: u32, esn: u32) -> Lsn {
    Lsn::new(Epoch(epoch), Esn(esn))
}

fn entry(partition: u64, epoch: u32, first_esn: u32, span: u32) -> Entry {
    let block = block(partition, epoch, first_esn, span, 900, first_esn as u8);
    Entry::Block { placement: placement(epoch, 1, first_esn), block }
}

fn end(epoch: u32, last_esn: u32, authoritative: bool) -> EpochEnd {
    EpochEnd { epoch: Epoch(epoch), last_esn: Esn(last_esn), authoritative }
}

fn meta(ends: &[EpochEnd], trim: Lsn) -> PartitionMeta {
    PartitionMeta { ends: ends.to_vec(), trim, ..PartitionMeta::new(PARTITION) }
}

/// LSN ranges of what is read, in pieces of at most `bytes_max`.
fn read(reader: &Reader, from: Lsn, upto: Lsn, bytes_max: usize) -> Vec<String> {
    let (mut read, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let chunk = reader.read(PARTITION, from, upto, bytes_max).unwrap();
        for item in &chunk.items {
            read.push(match item {
                ReadItem::Block(stored) => {
                    let header = stored.block.header();
                    format!("{}-{}", header.first_lsn(), header.last_esn())
                }
                ReadItem::Damaged { first, last } => format!("{first}-{last} damaged"),
            });
        }
        next = chunk.next;
    }
    read
}

/// Appends groups, and checks before they are indexed, after, and after a restart.
fn always(groups: &[Vec<Entry>], check: impl Fn(&Engine)) {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    groups.iter().for_each(|group| engine.append(group).unwrap());
    check(&engine);
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    check(&engine);
    engine.close().unwrap();
    machine.kv.lose();
    check(&machine.open().0);
}

#[test]
fn blocks_come_in_order_however_they_were_stored() {
    let groups = [
        vec![entry(1, 1, 1, 2), entry(2, 1, 1, 1), entry(1, 1, 5, 1), entry(1, 1, 3, 2)],
        vec![entry(1, 2, 4, 1), entry(2, 1, 2, 1), entry(1, 2, 1, 3)],
        vec![entry(1, 2, 5, 1), entry(1, 1, 6, 1)],
    ];
    always(&groups, |engine| {
        let reader = engine.reader();
        let all = ["e1n1-2", "e1n3-4", "e1n5-5", "e1n6-6", "e2n1-3", "e2n4-4", "e2n5-5"];
        for bytes_max in [1, 1000, 2500, 1 << 20] {
            assert_eq!(read(&reader, Lsn::ZERO, Lsn::MAX, bytes_max), all, "{bytes_max}");
        }
        assert_eq!(read(&reader, lsn(1, 4), lsn(2, 2), 1), all[1..5], "a block that is asked for in part comes whole");
        assert_eq!(read(&reader, lsn(1, 7), lsn(1, 100), 1 << 20), [""; 0]);
        assert!(matches!(reader.fetch(PARTITION, Epoch(2), Esn(1)).unwrap(), Found::Block(_)));
        assert!(matches!(reader.fetch(PARTITION, Epoch(2), Esn(2)).unwrap(), Found::Nothing));
        let Found::Block(held) = reader.describe(PARTITION, lsn(2, 2)).unwrap() else { panic!() };
        assert_eq!((held.header.first_lsn(), held.header.span), (lsn(2, 1), 3));
        assert_eq!(reader.blocks_above(PARTITION, lsn(1, 6)).unwrap().len(), 3);
        assert!(reader.load(PartitionUid(99)).unwrap().is_none());
    });
}

#[test]
fn what_lies_beyond_an_end_is_purged_or_kept_aside() {
    let groups = [
        vec![entry(1, 1, 1, 1), entry(1, 1, 2, 1), entry(1, 1, 3, 1)],
        vec![entry(1, 1, 4, 1), entry(1, 2, 1, 1), entry(1, 2, 2, 1)],
        vec![entry(1, 2, 3, 1), entry(1, 3, 1, 1)],
        vec![Entry::Partition(meta(&[end(1, 2, true), end(2, 1, false)], Lsn::ZERO))],
    ];
    always(&groups, |engine| {
        let reader = engine.reader();
        assert_eq!(read(&reader, Lsn::ZERO, Lsn::MAX, 1), ["e1n1-1", "e1n2-2", "e2n1-1", "e3n1-1"]);
        assert!(matches!(reader.describe(PARTITION, lsn(1, 3)).unwrap(), Found::Nothing));
        assert!(matches!(reader.fetch(PARTITION, Epoch(2), Esn(3)).unwrap(), Found::Nothing));
        let unsettled = reader.load(PARTITION).unwrap().unwrap().unsettled;
        assert_eq!(unsettled.iter().map(|held| held.header.first_lsn()).collect::<Vec<_>>(), [lsn(3, 1)]);
    });
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    groups.iter().for_each(|group| engine.append(group).unwrap());
    engine.sync().unwrap();
    engine.upkeep(0).unwrap();
    let kept = engine.reader().quarantined(PARTITION).unwrap();
    assert_eq!(kept, [(lsn(2, 2), lsn(2, 2)), (lsn(2, 3), lsn(2, 3))]);
}

#[test]
fn a_block_is_given_up_with_its_last_record() {
    let groups =
        [vec![entry(1, 1, 1, 1), entry(1, 1, 2, 4), entry(1, 1, 6, 1)], vec![Entry::Partition(meta(&[], lsn(1, 3)))]];
    always(&groups, |engine| {
        assert_eq!(read(&engine.reader(), Lsn::ZERO, Lsn::MAX, 1), ["e1n2-5", "e1n6-6"]);
    });
    let deleted = PartitionMeta { deleted: true, ..PartitionMeta::new(PARTITION) };
    always(&[groups[0].clone(), vec![Entry::Partition(deleted)]], |engine| {
        assert_eq!(read(&engine.reader(), Lsn::ZERO, Lsn::MAX, 1), [""; 0]);
        assert!(engine.reader().load(PARTITION).unwrap().unwrap().meta.deleted);
    });
}

#[test]
fn the_newest_placement_applies_whichever_came_first() {
    let amend = |wave| {
        let (epoch, first_esn) = (Epoch(1), Esn(2));
        Entry::Amend { partition: PARTITION, epoch, first_esn, placement: placement(1, wave, 9) }
    };
    let groups = [vec![entry(1, 1, 1, 1), entry(1, 1, 2, 1), amend(3)], vec![amend(2)], vec![amend(0)]];
    always(&groups, |engine| {
        let reader = engine.reader();
        let Found::Block(stored) = reader.fetch(PARTITION, Epoch(1), Esn(2)).unwrap() else { panic!() };
        assert_eq!(stored.placement.version.wave, 3);
        let Found::Block(held) = reader.describe(PARTITION, lsn(1, 1)).unwrap() else { panic!() };
        assert_eq!(held.placement.version.wave, 1);
        let marks = reader.load(PARTITION).unwrap().unwrap().marks;
        assert_eq!(marks.of_epoch(Epoch(1)), Some(&EpochMarks { epoch: Epoch(1), acked: Esn(8), settled: Esn(6) }));
    });
}

#[test]
fn only_what_is_not_settled_is_loaded() {
    let groups: Vec<_> = (1..=40).map(|esn| vec![entry(1, 1, esn, 1), entry(1, 2, esn, 1)]).collect();
    always(&groups, |engine| {
        let unsettled = engine.reader().load(PARTITION).unwrap().unwrap().unsettled;
        let lsns: Vec<String> = unsettled.iter().map(|held| held.header.first_lsn().to_string()).collect();
        // The newest placement of each epoch says that 37 are settled.
        assert_eq!(lsns, ["e1n38", "e1n39", "e1n40", "e2n38", "e2n39", "e2n40"]);
    });
}

#[test]
fn noted_marks_come_back_after_a_clean_stop() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    engine.append(&[entry(1, 1, 5, 1)]).unwrap();
    let mut marks = Marks { released: lsn(1, 5), ..Marks::default() };
    marks.raise(EpochMarks { epoch: Epoch(1), acked: Esn(5), settled: Esn(5) });
    engine.note_marks(PARTITION, &marks);
    assert_eq!(engine.reader().load(PARTITION).unwrap().unwrap().marks, marks);
    engine.close().unwrap();
    let image = machine.open().0.reader().load(PARTITION).unwrap().unwrap();
    assert_eq!((image.marks, image.unsettled.len()), (marks, 0));
}

#[test]
fn a_time_is_found_by_halving() {
    // The clock of `block` is a million per epoch and one per ESN.
    let mut groups: Vec<Vec<Entry>> = (0..60).map(|n| vec![entry(1, 1, 2 + n * 4, 2), entry(2, 1, n + 1, 1)]).collect();
    groups.push(vec![entry(1, 1, 40, 1), entry(1, 1, 100, 1)]);
    groups.extend((0..10).map(|n| vec![entry(1, 4, 1 + n, 1)]));
    always(&groups, |engine| {
        let reader = engine.reader();
        let found = |from, timestamp| reader.find_time(PARTITION, from, timestamp).unwrap();
        let linear = |from: Lsn, timestamp| {
            let blocks = reader.blocks_above(PARTITION, Lsn(from.0.saturating_sub(1))).unwrap();
            let after = blocks.into_iter().find(|held| held.header.sequencer_timestamp >= timestamp);
            after.map(|held| held.header.first_lsn())
        };
        for from in [Lsn::ZERO, lsn(1, 1), lsn(1, 37), lsn(1, 99), lsn(2, 1), lsn(4, 5)] {
            for timestamp in (1_000_000..1_000_250).chain(4_000_000..4_000_012) {
                assert_eq!(found(from, timestamp), linear(from, timestamp), "from {from} at {timestamp}");
            }
        }
        assert_eq!(found(Lsn::ZERO, 5_000_000), None);
        assert_eq!(found(Lsn::ZERO, 0), Some(lsn(1, 2)));
    });
}

/// A block with one batch of a producer.
fn produced(epoch: u32, first_esn: u32, producer: i64, base_sequence: i32, records: u32) -> Entry {
    let mut batch = BatchBuilder::new(0);
    for _ in 0..records {
        batch.append(&NewRecord { timestamp_ms: 5, key: None, value: Some(b"value"), headers: &[] });
    }
    let stamp = ProducerStamp { id: producer, epoch: 0, base_sequence };
    let batch: Bytes = batch.finish(BatchOptions { producer: Some(stamp), ..BatchOptions::default() }).freeze();
    let mut builder = BlockBuilder::new(PARTITION, Epoch(epoch), Esn(first_esn), 50);
    builder.push(&batch, records, (5, 5));
    Entry::Block { placement: placement(epoch, 1, first_esn), block: builder.finish() }
}

#[test]
fn producers_are_found_up_to_the_ends() {
    let snapshot = BlockBuilder::producer_snapshot(PARTITION, Epoch(1), Esn(3), 5, Bytes::from_static(b"known"));
    let groups = [vec![
        produced(1, 1, 7, 0, 2),
        Entry::Block { placement: placement(1, 1, 3), block: snapshot },
        produced(1, 3, 7, 2, 3),
        produced(1, 6, 8, 0, 1),
        produced(1, 7, 9, 0, 1),
        produced(2, 1, 7, 5, 1),
    ]];
    always(&groups, |engine| {
        let reader = engine.reader();
        let Found::Block(stored) = reader.producer_snapshot(PARTITION).unwrap() else { panic!() };
        assert_eq!((stored.block.body(), stored.block.header().first_lsn()), (Bytes::from_static(b"known"), lsn(1, 3)));
        let mut table = ProducerTable::default();
        let ends = [end(1, 6, true), end(2, 1, true)];
        assert!(reader.fill_producers(PARTITION, lsn(1, 3), &ends, &mut table).unwrap());
        let batch = |producer, first_sequence, last_sequence| ProducerBatch {
            producer,
            epoch: 0,
            first_sequence,
            last_sequence,
        };
        assert!(matches!(table.admit(&batch(7, 2, 4)), Admission::Duplicate(stored) if stored.lsn == lsn(1, 3)));
        assert!(matches!(table.admit(&batch(7, 5, 5)), Admission::Duplicate(stored) if stored.lsn == lsn(2, 1)));
        assert!(matches!(table.admit(&batch(8, 0, 0)), Admission::Duplicate(stored) if stored.timestamp == 50));
        assert!(matches!(table.admit(&batch(9, 1, 1)), Admission::Unknown), "beyond the end");
        assert_eq!(table.len(), 2);
    });
}
