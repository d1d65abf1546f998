//! What the engine itself costs, without waiting for a disk: `cargo bench -p dlog-storage-node`. Against a disk:
//! `dlog bench storage`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dlog_proto::block::{BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, Lsn, PartitionUid, ShardId};
use dlog_storage_node::disk::RealDisk;
use dlog_storage_node::entry::{Entry, PartitionMeta};
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::{Engine, EngineConfig, Identity, Start};

const GROUP: usize = 1000;

fn open(dir: &std::path::Path) -> Engine {
    let identity = Identity { cluster: ClusterId(1), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
    let config = EngineConfig { zero_ahead_bytes: 0, keep_free_bytes: 0, ..EngineConfig::default() };
    let start = Start { boot_id: 1, now_ms: 0, random: 1 };
    let disk = Arc::new(RealDisk::open(dir).expect("a directory"));
    Engine::open(config, disk, &MemoryKv::new(), identity, start).expect("an empty directory").0
}

/// Blocks of 1 KiB, dealt out to partitions in turn.
struct Blocks {
    /// Per partition, from the first.
    next_esn: Vec<u32>,
    next: usize,
    body: Bytes,
}

impl Blocks {
    fn new(partitions: usize) -> Self {
        Self { next_esn: vec![1; partitions], next: 0, body: vec![7; 1024 - 64].into() }
    }

    fn group(&mut self, len: usize) -> Vec<Entry> {
        (0..len).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Entry {
        let partition = self.next;
        self.next = (partition + 1) % self.next_esn.len();
        let esn = self.next_esn[partition];
        self.next_esn[partition] += 1;
        let mut builder = BlockBuilder::new(PartitionUid(partition as u64 + 1), Epoch(1), Esn(esn), i64::from(esn));
        builder.push(&self.body, 1, (0, 0));
        let placement = Placement {
            version: PlacementVersion { writer_epoch: Epoch(1), wave: 1 },
            copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).expect("two shards"),
            acked: Esn(0),
            settled: Esn(0),
        };
        Entry::Block { placement, block: builder.finish() }
    }

    /// Entries that give up all that was made so far.
    fn trims(&self) -> Vec<Entry> {
        let trim = |(at, next): (usize, &u32)| {
            let trim = Lsn::new(Epoch(1), Esn(next - 1));
            Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(at as u64 + 1)) })
        };
        self.next_esn.iter().enumerate().map(trim).collect()
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(GROUP as u64)).sample_size(20).measurement_time(Duration::from_secs(5));
    for partitions in [1, 1000] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut engine = open(dir.path());
        let mut blocks = Blocks::new(partitions);
        group.bench_function(format!("1000 blocks of 1 KiB, {partitions} partitions, not synced"), |bencher| {
            bencher.iter_custom(|count| {
                let mut time = Duration::ZERO;
                for n in 1..=count {
                    let entries = blocks.group(GROUP);
                    let begun = Instant::now();
                    engine.append(&entries).expect("there is room");
                    time += begun.elapsed();
                    if n % 64 == 0 || n == count {
                        start_over(&mut engine, &blocks);
                    }
                }
                time
            });
        });
    }
}

/// Gives up what was written: its space is used again, and nothing waits to be indexed.
fn start_over(engine: &mut Engine, blocks: &Blocks) {
    engine.append(&blocks.trims()).expect("there is room");
    engine.sync().expect("the disk is well");
    engine.upkeep(0).expect("the disk is well");
    engine.reclaim().expect("the disk is well");
}

fn read(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = open(dir.path());
    let mut blocks = Blocks::new(1);
    for _ in 0..512 {
        engine.append(&blocks.group(64)).expect("there is room");
    }
    engine.sync().expect("the disk is well");
    engine.upkeep(0).expect("the disk is well");
    let reader = engine.reader();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(1 << 20)).sample_size(20).measurement_time(Duration::from_secs(5));
    group.bench_function("1 MiB of blocks of 1 KiB, from the page cache", |bencher| {
        bencher
            .iter(|| black_box(reader.read(PartitionUid(1), Lsn::ZERO, Lsn::MAX, 1 << 20).expect("the index is good")));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("one block", |bencher| {
        bencher.iter(|| black_box(reader.fetch(PartitionUid(1), Epoch(1), Esn(5000)).expect("the index is good")));
    });
}

criterion_group!(benches, append, read);
criterion_main!(benches);
