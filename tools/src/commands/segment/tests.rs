//! The commands on a shard that an engine wrote.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, stamp};
use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, PartitionUid, ShardId};
use dlog_storage_node::disk::{Disk, RealDisk};
use dlog_storage_node::entry::Entry;
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::{Engine, EngineConfig, Identity, Start};
use serde_json::{Value, json};

use super::shards::{self, Shard};
use super::{dump, inspect, list, verify};
use crate::args::{OutputArgs, SegmentDumpArgs, ShardDirArgs};

fn record_block(first_esn: u32, values: &[&str]) -> Entry {
    let mut builder = BatchBuilder::new(0);
    for value in values {
        builder.append(&NewRecord {
            timestamp_ms: 1_769_860_800_123,
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        });
    }
    let mut batch = builder.finish(BatchOptions::default());
    stamp(&mut batch, u64::from(first_esn) - 1, 3);
    let mut builder = BlockBuilder::new(PartitionUid(7), Epoch(3), Esn(first_esn), 1_769_860_800_123);
    builder.push(&batch.freeze(), values.len() as u32, (0, 0));
    let placement = Placement {
        version: PlacementVersion { writer_epoch: Epoch(3), wave: 1 },
        copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).unwrap(),
        acked: Esn(0),
        settled: Esn(0),
    };
    Entry::Block { placement, block: builder.finish() }
}

/// A data directory with one shard in it.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard-0");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&path).unwrap());
    let index = RocksStore::new(&path, RocksConfig::default());
    let identity = Identity { cluster: ClusterId(7), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
    let start = Start { boot_id: 1, now_ms: 0, random: 5 };
    let (mut engine, _) = Engine::open(EngineConfig::small(), disk, &index, identity, start).unwrap();
    engine.append(&[record_block(1, &["one", "two"]), record_block(3, &["three"])]).unwrap();
    engine.close().unwrap();
    dir
}

fn dir_args(dir: &Path) -> ShardDirArgs {
    ShardDirArgs { data_dir: dir.to_owned(), shard: None }
}

fn open(dir: &Path) -> Shard {
    shards::open(&dir_args(dir)).unwrap().pop().unwrap()
}

fn dumped(dir: &Path, from: Option<&str>, json: bool) -> (String, u64) {
    let args = SegmentDumpArgs {
        dir: dir_args(dir),
        segment: None,
        partition: Some(7),
        from: from.map(|from| from.parse().unwrap()),
        until: None,
        output: OutputArgs { json },
    };
    let shard = open(dir);
    let mut dump = dump::Dump::new(Vec::new(), &args);
    shard.segments(None).for_each(|file| dump.segment(&shard, file).unwrap());
    (String::from_utf8(dump.out).unwrap(), dump.damaged)
}

#[test]
fn a_shard_is_found_and_what_is_not_there_is_said() {
    let dir = data_dir();
    assert_eq!(open(dir.path()).name(), "n1s0");
    assert_eq!(open(&dir.path().join("shard-0")).name(), "n1s0");
    let error = shards::open(&ShardDirArgs { shard: Some(3), ..dir_args(dir.path()) }).unwrap_err().to_string();
    assert!(error.contains("there is no shard 3 in") && error.contains("hint: --data-dir is what"), "{error}");
    assert!(shards::open(&dir_args(&dir.path().join("nowhere"))).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn segments_are_listed() {
    let dir = data_dir();
    let shard = open(dir.path());
    let object = list::to_json(&shard);
    assert_eq!(
        (&object["shard"], &object["left"], &object["incarnation"]),
        (&json!("n1s0"), &json!("cleanly"), &json!(1))
    );
    let segment = &object["segments"][0];
    assert_eq!(
        (&segment["segment"], &segment["state"], &segment["file_bytes"]),
        (&json!(1), &json!("active"), &json!(65536))
    );
    assert!(segment["needed_bytes"].as_u64().unwrap() > 200, "{segment}");
    let text = list::to_text(&shard);
    assert!(text.contains("shard n1s0 of cluster") && text.contains("stopped cleanly, the log ends at 1:"), "{text}");
}

#[test]
fn what_stands_in_a_segment_is_shown() {
    let dir = data_dir();
    let shard = open(dir.path());
    let (mut text, mut lines) = (Vec::new(), Vec::new());
    inspect::to_text(&mut text, &shard, &shard.files.segments[0]).unwrap();
    inspect::to_json(&mut lines, &shard, &shard.files.segments[0]).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("block      partition 7 e3n1 to e3n2") && text.contains("copies on n1s0 n2s0"), "{text}");
    let objects: Vec<Value> =
        lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["commit", "segments", "commit", "block", "block"]);
    assert_eq!(
        (&objects[3]["first"], &objects[3]["last"], &objects[3]["damage"]),
        (&json!("e3n1"), &json!("e3n2"), &Value::Null)
    );
    assert_eq!(objects[4]["placement"]["copyset"], json!(["n1s0", "n2s0"]));
}

#[test]
fn records_are_dumped() {
    let dir = data_dir();
    let (text, damaged) = dumped(dir.path(), Some("e3n2"), false);
    assert_eq!(text, "7  e3n2  2026-01-31T12:00:00.123Z  -  two\n7  e3n3  2026-01-31T12:00:00.123Z  -  three\n");
    assert_eq!(damaged, 0);
    let (json, _) = dumped(dir.path(), Some("e3n3"), true);
    let object: Value = serde_json::from_str(&json).unwrap();
    let expected = json!({"partition_uid": 7, "lsn": "e3n3", "timestamp_ms": 1_769_860_800_123_u64, "key": null, "value": "three"});
    assert_eq!(object, expected);
}

#[test]
fn only_what_is_whole_is_called_well() {
    let dir = data_dir();
    let verdict = verify::verify(&open(dir.path())).unwrap();
    assert!(verdict.is_well() && verdict.blocks == 2, "{verdict:?}");
    assert!(verify::to_text(&open(dir.path()), &verdict).contains("n1s0: all is well: 2 whole blocks"));

    // A bit of the last block's body.
    let segment = dir.path().join("shard-0").join("00000000000000000001.seg");
    let at = fs::read(&segment).unwrap().windows(5).rposition(|window| window == b"three").unwrap() as u64;
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(b"tHree", at).unwrap();
    let shard = open(dir.path());
    let verdict = verify::verify(&shard).unwrap();
    let object = verify::to_json(&shard, &verdict);
    let expected = json!([{ "partition": 7, "first": "e3n3", "last": "e3n3" }]);
    assert_eq!((verdict.fault_count, &object["faults"][0]["records"]), (1, &expected), "{object:#}");
    assert_eq!(object["faults"][0]["kind"], "block");
    assert_eq!(dumped(dir.path(), None, false).1, 1);
}

#[test]
fn a_shard_in_use_is_not_verified() {
    let dir = data_dir();
    let disk = RealDisk::open(dir.path().join("shard-0")).unwrap();
    let _lock = disk.lock().unwrap();
    let error = verify::verify(&open(dir.path())).unwrap_err().to_string();
    assert!(error.contains("in use by another process") && error.contains("stop it first"), "{error}");
}
