//! Measures one shard's engine against the disk that it is on, in one run. Run it when the machine is quiet:
//!
//! `cargo run --release -p dlog-storage-node --example engine_bench -- DIR [GiB for the restart] [sync|cached|commit|restart|million]`

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dlog_proto::block::{Block, BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::{ClusterId, Epoch, Esn, Incarnation, Lsn, PartitionUid, ShardId};
use dlog_storage_node::commit::{CommitConfig, CommitSink, ShardFailed};
use dlog_storage_node::disk::{RealDisk, boot_id};
use dlog_storage_node::entry::{Entry, EntrySeq};
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::read::ReadItem;
use dlog_storage_node::{Engine, EngineConfig, Identity, Recovered, Start};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;

struct Blocks {
    next_esn: Vec<u32>,
    body: Bytes,
}

impl Blocks {
    fn new(partitions: usize, body_len: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(1);
        let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(body_len).collect();
        Self { next_esn: vec![1; partitions], body: body.into() }
    }

    /// `count` blocks, dealt out to all partitions in turn.
    fn make(&mut self, count: usize) -> Vec<Entry> {
        (0..count).map(|n| self.make_one(n % self.next_esn.len())).collect()
    }

    fn make_one(&mut self, partition: usize) -> Entry {
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

fn open(dir: &Path, config: EngineConfig) -> Outcome<(Engine, Recovered)> {
    let identity = Identity { cluster: ClusterId(1), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };
    let start = Start { boot_id: boot_id()?, now_ms: 0, random: fastrand::u64(..) };
    let index = RocksStore::new(dir, RocksConfig::default());
    Ok(Engine::open(config, Arc::new(RealDisk::open(dir)?), &index, identity, start)?)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [write, dir, gib, partitions] = &args[..]
        && write == "--write"
    {
        return write_for_ever(Path::new(dir), gib.parse()?, partitions.parse()?);
    }
    let mut args = args.into_iter();
    let root = PathBuf::from(args.next().ok_or("usage: engine_bench DIR [GiB]")?).join("engine-bench");
    let gib: usize = args.next().map_or(Ok(4), |arg| arg.parse())?;
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let only = args.next();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if wanted("sync") {
        sync_groups(&root)?;
    }
    if wanted("cached") {
        cached_appends(&root, 1)?;
        cached_appends(&root, 1000)?;
    }
    if wanted("commit") {
        committed_appends(&root)?;
    }
    if wanted("restart") {
        restart_and_backlog(&root, gib, 1)?;
        restart_and_backlog(&root, gib, 16)?;
    }
    if wanted("million") {
        million_partitions(&root)?;
    }
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn per_second(what: f64, time: Duration) -> f64 {
    what / time.as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Durable groups of 1 MiB against plain `pwrite` and `fdatasync` of as much, into files written before, in turns.
fn sync_groups(root: &Path) -> Outcome<()> {
    const GROUPS: usize = 300;
    let raw = File::options().create(true).truncate(true).read(true).write(true).open(root.join("raw"))?;
    for at in 0..GROUPS {
        raw.write_all_at(&vec![1; MIB], (at * MIB) as u64)?;
    }
    raw.sync_all()?;
    let dir = root.join("sync");
    let config = EngineConfig { zero_ahead_bytes: (GROUPS as u32 + 20) << 20, ..EngineConfig::default() };
    let (mut engine, _) = open(&dir, config)?;
    engine.upkeep(0)?;
    let mut blocks = Blocks::new(4, 16 << 10);
    let (mut raw_times, mut times, mut payload) = (Vec::new(), Vec::new(), 0);
    let buffer = vec![2; MIB];
    for group in 0..GROUPS {
        let entries = blocks.make(62);
        payload += entries.len() * (16 << 10);
        let begun = Instant::now();
        engine.append(&entries)?;
        engine.sync()?;
        times.push(begun.elapsed());
        let begun = Instant::now();
        raw.write_all_at(&buffer, (group * MIB) as u64)?;
        raw.sync_data()?;
        raw_times.push(begun.elapsed());
    }
    let (engine_rate, raw_rate) = (
        per_second(payload as f64 / MIB as f64, times.iter().sum()),
        per_second(GROUPS as f64, raw_times.iter().sum()),
    );
    println!("sync, groups of 1 MiB: {engine_rate:.0} MiB/s of blocks (median {:?})", median(times));
    println!(
        "  raw pwrite+fdatasync: {raw_rate:.0} MiB/s (median {:?}); {:.0} %",
        median(raw_times),
        100.0 * engine_rate / raw_rate
    );
    let counters = engine.counters();
    println!(
        "  bytes to the log over bytes of blocks: {:.4}",
        counters.written_bytes as f64 / counters.payload_bytes as f64
    );
    engine.close()?;
    fs::remove_dir_all(dir)?;
    fs::remove_file(root.join("raw"))?;
    Ok(())
}

/// Appends of 1 KiB blocks by one thread, without syncs; the index is kept up by the same thread, not counted and counted.
fn cached_appends(root: &Path, partitions: usize) -> Outcome<()> {
    const ROUNDS: usize = 100;
    const ROUND: usize = 10_000;
    let dir = root.join("cached");
    let (mut engine, _) =
        open(&dir, EngineConfig { segment_len: 2 << 30, zero_ahead_bytes: 0, ..EngineConfig::default() })?;
    let mut blocks = Blocks::new(partitions, 1024 - 64);
    let (mut appending, mut indexing) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let entries = blocks.make(ROUND);
        let begun = Instant::now();
        for group in entries.chunks(1000) {
            engine.append(group)?;
        }
        appending += begun.elapsed();
        engine.sync()?;
        let begun = Instant::now();
        engine.upkeep(0)?;
        indexing += begun.elapsed();
    }
    let count = (ROUNDS * ROUND) as f64;
    println!(
        "write cache, blocks of 1 KiB, {partitions} partitions: {:.0}/s appended, {:.0}/s with the index on the same core",
        per_second(count, appending),
        per_second(count, appending + indexing),
    );
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

struct Last(std::sync::mpsc::Sender<EntrySeq>);

impl CommitSink for Last {
    fn written(&mut self, _: EntrySeq) {}
    fn durable(&mut self, upto: EntrySeq) {
        let _ = self.0.send(upto);
    }
    fn failed(&mut self, error: &ShardFailed) {
        panic!("{error}");
    }
}

/// The same through the commit thread, until everything is durable.
fn committed_appends(root: &Path) -> Outcome<()> {
    const COUNT: usize = 1_000_000;
    let dir = root.join("committed");
    let (engine, _) = open(&dir, EngineConfig::default())?;
    let (sender, durable) = std::sync::mpsc::channel();
    let (committer, running) = engine.start(Box::new(Last(sender)), CommitConfig::default());
    let mut blocks = Blocks::new(16, 1024 - 64);
    let entries = blocks.make(COUNT);
    let begun = Instant::now();
    let mut entries = entries.into_iter();
    loop {
        let group: Vec<Entry> = entries.by_ref().take(64).collect();
        if group.is_empty() {
            break;
        }
        for entry in &group {
            while committer.reserve(entry).is_err() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        committer.submit_all(group, false)?;
    }
    let submitted = begun.elapsed();
    while durable.recv()? < EntrySeq(COUNT as u64) {}
    println!(
        "write cache through the commit thread: {:.0}/s submitted, {:.0}/s until all is durable",
        per_second(COUNT as f64, submitted),
        per_second(COUNT as f64, begun.elapsed()),
    );
    println!("  {:?}", committer.counters());
    running.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// Writes, and never stops: to be killed. Says when the first round is done.
fn write_for_ever(dir: &Path, gib: usize, partitions: usize) -> Outcome<()> {
    let (mut engine, _) = open(dir, restart_config())?;
    let mut blocks = Blocks::new(partitions, 4096);
    for round in 0.. {
        engine.append(&blocks.make(256))?;
        engine.sync()?;
        engine.upkeep(0)?;
        if round == (gib << 30) / (256 * 4200) {
            println!("written");
        }
    }
    Ok(())
}

fn restart_config() -> EngineConfig {
    EngineConfig { zero_ahead_bytes: 0, ..EngineConfig::default() }
}

/// Writes in another process and kills it.
fn write_and_kill(dir: &Path, gib: usize, partitions: usize) -> Outcome<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--write", &dir.display().to_string(), &gib.to_string(), &partitions.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut written = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut written)?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn restart_and_backlog(root: &Path, gib: usize, partitions: usize) -> Outcome<()> {
    let dir = root.join("restart");
    write_and_kill(&dir, gib, partitions)?;
    let time = |what: &str| -> Outcome<Engine> {
        let begun = Instant::now();
        let (engine, recovered) = open(&dir, restart_config())?;
        let replayed = recovered.replayed_bytes >> 20;
        println!("open {gib} GiB, {partitions} partitions, {what}: {:?}, {replayed} MiB replayed", begun.elapsed());
        Ok(engine)
    };
    time("after a kill")?.close()?;
    time("after a clean stop")?.close()?;
    fs::remove_dir_all(dir.join("index"))?;
    let engine = time("without an index")?;

    drop_caches();
    let begun = Instant::now();
    let mut bytes = 0;
    for partition in 1..=partitions.div_ceil(4) as u64 {
        let mut next = Some(Lsn::ZERO);
        while let Some(from) = next {
            let chunk = engine.reader().read(PartitionUid(partition), from, Lsn::MAX, 4 << 20)?;
            for item in &chunk.items {
                let ReadItem::Block(stored) = item else { return Err(format!("{item:?}").into()) };
                bytes += stored.block.bytes().len();
            }
            next = chunk.next;
        }
    }
    let rate = per_second((bytes / MIB) as f64, begun.elapsed());
    println!("backlog of {} of {partitions} partitions, cold: {rate:.0} MiB/s of blocks", partitions.div_ceil(4));
    drop_caches();
    let begun = Instant::now();
    let mut raw = 0;
    let mut buffer = vec![0; MIB];
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".seg") && raw < 2 << 30 {
            let mut file = File::open(entry.path())?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    len => raw += len,
                }
            }
        }
    }
    println!("  raw sequential read, cold: {:.0} MiB/s", per_second((raw / MIB) as f64, begun.elapsed()));
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// One block into each of a million partitions, then how much an idle shard takes.
fn million_partitions(root: &Path) -> Outcome<()> {
    const PARTITIONS: usize = 1_000_000;
    let dir = root.join("million");
    let config = EngineConfig { zero_ahead_bytes: 0, ..EngineConfig::default() };
    let (mut engine, _) = open(&dir, config)?;
    println!("memory of an idle shard: {} MiB", resident_mib());
    let mut blocks = Blocks::new(PARTITIONS, 100);
    let begun = Instant::now();
    for group in 0..PARTITIONS / 1000 {
        let entries: Vec<Entry> = (0..1000).map(|n| blocks.make_one(group * 1000 + n)).collect();
        engine.append(&entries)?;
        engine.sync()?;
        engine.upkeep(0)?;
    }
    println!("a block into each of a million partitions: {:?}", begun.elapsed());
    engine.close()?;
    drop(blocks);
    let begun = Instant::now();
    let (engine, _) = open(&dir, config)?;
    println!("open a million partitions: {:?}, memory then: {} MiB", begun.elapsed(), resident_mib());
    for partition in [1, PARTITIONS as u64] {
        let begun = Instant::now();
        let found = engine.reader().load(PartitionUid(partition))?;
        println!(
            "load partition {partition}: {:?}, {} blocks",
            begun.elapsed(),
            found.map_or(0, |image| image.unsettled.len())
        );
    }
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

fn drop_caches() {
    let dropped =
        File::open("/").and_then(|dir| dir.sync_all()).and_then(|()| fs::write("/proc/sys/vm/drop_caches", "3"));
    if dropped.is_err() {
        println!("(caches could not be dropped: reads are from memory)");
    }
}

fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}
