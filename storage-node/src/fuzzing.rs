//! Doors for fuzz targets: each takes any bytes, must not panic, and checks what can be checked of what it understood.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, Lsn, PartitionUid, ShardId};

use crate::disk::{Disk, SimulatedDisk};
use crate::entry::{Entry, Marks, PartitionMeta};
use crate::index::memory::MemoryKv;
use crate::index::schema::{
    AmendRow, CheckpointRow, LateRow, LossRow, PartitionRow, Row, RunRow, SegmentRow, ShardRow,
};
use crate::marker::Marker;
use crate::offline::ShardFiles;
use crate::read::ReadItem;
use crate::segment::entries::Head;
use crate::segment::frame::FrameKind;
use crate::segment::header::{Identity, SegmentHeader};
use crate::segment::walk::Walk;
use crate::segment::{Binding, SegmentId};
use crate::{Engine, EngineConfig, Start};

/// A marker that is understood says the same when it is written again.
pub fn marker(bytes: &[u8]) {
    if let Ok(marker) = Marker::decode(bytes) {
        assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
    }
}

/// So does a segment's header.
pub fn segment_header(page: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(page) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

/// The head of a frame, its kind in the first byte.
pub fn frame_head(bytes: &[u8]) {
    let Some((kind, head)) = bytes.split_first() else { return };
    if let Some(kind) = FrameKind::of(*kind % 8) {
        let _ = Head::decode(kind, head, 0);
        let _ = Head::decode(kind, head, head.len() as u32);
    }
}

/// A value of the index, its table in the first byte: what is understood is written as it was.
pub fn index_row(bytes: &[u8]) {
    fn check<R: Row>(bytes: &[u8]) {
        if let Ok(row) = R::decode(bytes) {
            let again = row.encode();
            assert_eq!(R::decode(&again).expect("it was just written").encode(), again);
        }
    }
    let Some((table, value)) = bytes.split_first() else { return };
    match table % 9 {
        0 => check::<CheckpointRow>(value),
        1 => check::<ShardRow>(value),
        2 => check::<PartitionRow>(value),
        3 => check::<RunRow>(value),
        4 => check::<LateRow>(value),
        5 => check::<AmendRow>(value),
        6 => check::<SegmentRow>(value),
        7 => check::<LossRow>(value),
        _ => check::<Marks>(value),
    }
}

/// A walk over anything ends, and finds only what lies inside.
pub fn walk(bytes: &[u8]) {
    let len = SegmentHeader::PAGE_LEN as usize + bytes.len();
    let disk = SimulatedDisk::new();
    let Ok(file) = disk.create("a", len as u64) else { return };
    file.write_at(SegmentHeader::PAGE_LEN.into(), &[IoSlice::new(bytes)]).expect("it fits");
    let file = disk.open("a").expect("it was just made");
    let mut walk = Walk::new(file, SegmentId(1), Binding(7), 0, u32::MAX);
    loop {
        while let Some(found) = walk.next() {
            assert!(found.end() as usize <= len && found.body_at <= found.end());
        }
        if !walk.search(u32::MAX) {
            return;
        }
    }
}

fn identity() -> Identity {
    Identity { cluster: ClusterId(7), shard: ShardId::new(1, 0), incarnation: Incarnation(1) }
}

fn open(disk: &SimulatedDisk, index: &MemoryKv) -> Option<Engine> {
    let start = Start { boot_id: 1, now_ms: 0, random: 99 };
    Engine::open(EngineConfig::small(), Arc::new(disk.clone()), index, identity(), start).ok().map(|(engine, _)| engine)
}

fn block(partition: u64, esn: u32) -> Entry {
    let mut builder = BlockBuilder::new(PartitionUid(partition), Epoch(1), Esn(esn), i64::from(esn));
    builder.push(&Bytes::from(vec![esn as u8; 200 + esn as usize * 40]), 1, (0, 0));
    let placement = Placement {
        version: PlacementVersion { writer_epoch: Epoch(1), wave: 1 },
        copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).expect("two shards"),
        acked: Esn(0),
        settled: Esn(0),
    };
    Entry::Block { placement, block: builder.finish() }
}

/// A shard of some segments, and the checksums of its blocks.
fn shard() -> (SimulatedDisk, MemoryKv, BTreeMap<(u64, u32), u32>) {
    let (disk, index, mut truth) = (SimulatedDisk::new(), MemoryKv::new(), BTreeMap::new());
    let mut engine = open(&disk, &index).expect("an empty directory");
    for esn in 1..=40 {
        let entries: Vec<Entry> = (1..=3).map(|partition| block(partition, esn)).collect();
        for entry in &entries {
            let Entry::Block { block, .. } = entry else { continue };
            truth.insert((block.header().partition.0, esn), block.header().crc);
        }
        engine.append(&entries).expect("there is room");
    }
    let meta = PartitionMeta { seal: Epoch(2), ..PartitionMeta::new(PartitionUid(1)) };
    engine.append(&[Entry::Partition(meta)]).expect("there is room");
    engine.close().expect("the disk is well");
    (disk, index, truth)
}

/// A directory in which bytes were changed: it is opened, read, verified, written to, and opened again, and gives no wrong
/// byte. Of the input every five bytes are a change: file, place (3 bytes), value; the first byte says whether there is an
/// index.
pub fn directory(input: &[u8]) {
    let Some((choice, changes)) = input.split_first() else { return };
    static WHOLE: OnceLock<(SimulatedDisk, MemoryKv, BTreeMap<(u64, u32), u32>)> = OnceLock::new();
    let (disk, index, truth) = WHOLE.get_or_init(shard);
    let (disk, index) = (disk.fork(), index.fork());
    let mut names: Vec<String> = disk.list().expect("the disk is well").into_iter().map(|(name, _)| name).collect();
    names.sort();
    for change in changes.chunks_exact(5).take(64) {
        let name = &names[usize::from(change[0]) % names.len()];
        let Some(mut bytes) = disk.bytes(name).filter(|bytes| !bytes.is_empty()) else { continue };
        let at = u32::from_le_bytes([change[1], change[2], change[3], 0]) as usize % bytes.len();
        bytes[at] = change[4];
        disk.put(name, &bytes);
    }
    if choice % 2 == 0 {
        index.lose();
    }
    let files = ShardFiles::open(Arc::new(disk.clone())).expect("the disk is well");
    let _ = files.verify(Ok(None), &MemoryKv::new());
    for round in 0..2 {
        let Some(mut engine) = open(&disk, &index) else { return };
        for partition in 1..=3 {
            let mut next = Some(Lsn::ZERO);
            while let Some(from) = next {
                let chunk =
                    engine.reader().read(PartitionUid(partition), from, Lsn::MAX, 4096).expect("it is in memory");
                for item in &chunk.items {
                    let ReadItem::Block(stored) = item else { continue };
                    let header = stored.block.header();
                    assert_eq!(truth.get(&(partition, header.first_esn.0)), Some(&header.crc), "a wrong block");
                }
                assert!(chunk.next.is_none_or(|next| next > from), "reading goes on");
                next = chunk.next;
            }
        }
        let _ = engine.scrub();
        let _ = engine.rewrite();
        let _ = engine.append(&[block(9, round + 1)]);
        if engine.close().is_err() {
            return;
        }
        disk.kill();
    }
}
