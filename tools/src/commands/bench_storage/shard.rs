//! A shard to be measured, and blocks for it.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, PartitionUid, ShardId};
use dlog_storage_node::disk::{RealDisk, boot_id};
use dlog_storage_node::entry::Entry;
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::{Engine, EngineConfig, Identity, Recovered, Start};

use super::Outcome;

pub(super) const MIB: usize = 1 << 20;
pub(super) const MIB_F: f64 = MIB as f64;

pub(super) fn open(dir: &Path, config: EngineConfig) -> Outcome<(Engine, Recovered)> {
    let identity = Identity { cluster: ClusterId(1), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
    let start = Start { boot_id: boot_id()?, now_ms: 0, random: fastrand::u64(..) };
    let index = RocksStore::new(dir, RocksConfig::default());
    Ok(Engine::open(config, Arc::new(RealDisk::open(dir)?), &index, identity, start)?)
}

/// Makes blocks of equal bodies, dealt out to partitions in turn.
pub(super) struct Blocks {
    next_esn: Vec<u32>,
    body: Bytes,
}

impl Blocks {
    pub(super) fn new(partitions: usize, body_len: usize) -> Self {
        let mut body = vec![0; body_len];
        fastrand::Rng::with_seed(1).fill(&mut body);
        Self { next_esn: vec![1; partitions], body: body.into() }
    }

    /// `count` blocks, dealt out to all partitions in turn.
    pub(super) fn make(&mut self, count: usize) -> Vec<Entry> {
        (0..count).map(|n| self.make_one(n % self.next_esn.len())).collect()
    }

    pub(super) fn make_one(&mut self, partition: usize) -> Entry {
        let esn = self.next_esn[partition];
        self.next_esn[partition] += 1;
        Entry::Block { placement: placement(), block: block(partition, esn, &self.body) }
    }
}

fn block(partition: usize, esn: u32, body: &Bytes) -> Block {
    let mut builder = BlockBuilder::new(PartitionUid(partition as u64 + 1), Epoch(1), Esn(esn), i64::from(esn));
    builder.push(body, 1, (0, 0));
    builder.finish()
}

fn placement() -> Placement {
    Placement {
        version: PlacementVersion { writer_epoch: Epoch(1), wave: 1 },
        copyset: Copyset::new((1..4).map(|node| ShardId::new(node, 0))).expect("three shards"),
        acked: Esn(0),
        settled: Esn(0),
    }
}

/// What fits into so much time, in a second.
pub(super) fn per_second(what: f64, time: Duration) -> f64 {
    what / time.as_secs_f64()
}

/// Has the next reads come from the disk. `false` if this process may not.
pub(super) fn drop_caches() -> bool {
    let dropped =
        File::open("/").and_then(|dir| dir.sync_all()).and_then(|()| fs::write("/proc/sys/vm/drop_caches", "3"));
    dropped.is_ok()
}

/// Bytes of all files in a directory and those below it.
pub(super) fn disk_usage(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { disk_usage(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
