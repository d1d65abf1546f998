//! A real process on a real disk with a real index: killed at any moment, and with its index damaged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_proto::{Lsn, PartitionUid};
use dlog_storage_node::commit::{CommitConfig, CommitSink, Committer, ShardFailed};
use dlog_storage_node::disk::RealDisk;
use dlog_storage_node::entry::EntrySeq;
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::offline::ShardFiles;
use dlog_storage_node::read::ReadItem;
use dlog_storage_node::{Engine, EngineConfig, Recovered, Start};
use fastrand::Rng;

use crate::faults::entry;
use crate::machine::identity;

const CHILD_DIR: &str = "DLOG_TEST_SHARD_DIR";
const PARTITIONS: u64 = 3;

fn config() -> EngineConfig {
    EngineConfig { zero_ahead_bytes: 16 << 10, ..EngineConfig::small() }
}

fn try_open(dir: &Path) -> (Engine, Recovered) {
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    let index = RocksStore::new(dir, RocksConfig { block_cache_bytes: 1 << 20, ..RocksConfig::default() });
    Engine::open(config(), disk, &index, identity(), Start { boot_id: 1, now_ms: 0, random: 5 }).unwrap()
}

/// How many blocks a partition has from its first one on without a gap, and that there are no others.
fn run_of(engine: &Engine, partition: u64) -> u32 {
    let (mut next_esn, mut next) = (1, Some(Lsn::ZERO));
    while let Some(from) = next {
        let chunk = engine.reader().read(PartitionUid(partition), from, Lsn::MAX, 64 << 10).unwrap();
        for item in &chunk.items {
            let ReadItem::Block(stored) = item else { panic!("{item:?}") };
            assert_eq!(stored.block.header().first_esn.0, next_esn);
            next_esn += 1;
        }
        next = chunk.next;
    }
    next_esn - 1
}

/// Prints how far the shard is durable.
struct Tell;

impl CommitSink for Tell {
    fn written(&mut self, _: EntrySeq) {}
    fn durable(&mut self, upto: EntrySeq) {
        let mut out = std::io::stdout().lock();
        writeln!(out, "durable {upto}").and_then(|()| out.flush()).expect("somebody listens");
    }
    fn failed(&mut self, error: &ShardFailed) {
        panic!("{error}");
    }
}

/// Not a test: what the killed process does.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let (engine, _) = try_open(Path::new(&dir));
    let mut esns: Vec<u32> = (1..=PARTITIONS).map(|partition| run_of(&engine, partition)).collect();
    println!("begin {esns:?}");
    let config = CommitConfig { cache_age_max: Duration::from_millis(3), ..CommitConfig::default() };
    let (committer, _running) = engine.start(Box::new(Tell), config);
    let mut rng = Rng::new();
    // In turns, so that the number of an entry tells which blocks came before it.
    for partition in (1..=PARTITIONS).cycle() {
        let esn = &mut esns[partition as usize - 1];
        *esn += 1;
        let entry = entry(partition, *esn, rng.usize(50..3000));
        reserve(&committer, &entry);
        committer.submit(entry, rng.u8(..) < 40).unwrap();
    }
}

fn reserve(committer: &Committer, entry: &dlog_storage_node::entry::Entry) {
    while committer.reserve(entry).is_err() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Lets a child write for a while and kills it. Gives how many entries it was told are durable.
fn write_and_kill(dir: &Path, time: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["process::child", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut durable, mut begun) = (0, None::<Instant>);
    for line in lines.map_while(Result::ok) {
        if line.contains("begin ") {
            begun = Some(Instant::now());
        }
        if let Some((_, number)) = line.split_once("durable ") {
            durable = number.parse().unwrap();
        }
        if begun.is_some_and(|begun| begun.elapsed() >= time) {
            // It goes on until it is dead, and what it says until then counts.
            let _ = child.kill();
        }
    }
    assert_eq!(child.wait().unwrap().code(), None, "it was killed, and did not end by itself");
    durable
}

#[test]
fn killed_at_any_moment_it_has_what_it_called_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::with_seed(3);
    let mut before = vec![0; PARTITIONS as usize];
    for _ in 0..8 {
        let durable = write_and_kill(dir.path(), Duration::from_millis(rng.u64(0..80)));
        let (engine, recovered) = try_open(dir.path());
        assert!(!recovered.clean && recovered.losses.is_empty() && recovered.index_rebuilt.is_none(), "{recovered:?}");
        let now: Vec<u32> = (1..=PARTITIONS).map(|partition| run_of(&engine, partition)).collect();
        for (at, (now, before)) in now.iter().zip(&before).enumerate() {
            let promised = durable / PARTITIONS + u64::from(durable % PARTITIONS > at as u64);
            assert!(u64::from(*now) >= u64::from(*before) + promised, "{now} {before} {durable}");
        }
        before = now;
        drop(engine);
        let files = ShardFiles::open(Arc::new(RealDisk::existing(dir.path()).unwrap())).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let index = RocksStore::new(dir.path(), RocksConfig::default());
        let scratch = RocksStore::new(scratch.path(), RocksConfig::default());
        let verdict = files.verify(index.open_read_only(), &scratch).unwrap();
        assert!(verdict.is_well(), "{:?}", verdict.faults);
    }
    assert!(before.iter().all(|esn| *esn > 20), "{before:?}");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

struct Quiet;

impl CommitSink for Quiet {
    fn written(&mut self, _: EntrySeq) {}
    fn durable(&mut self, _: EntrySeq) {}
    fn failed(&mut self, _: &ShardFailed) {}
}

/// Runs a shard for a moment and reads everything. Whether its index could be used throughout.
fn read_everything(dir: &Path, blocks: u32) -> bool {
    let (engine, _) = try_open(dir);
    let (committer, running) = engine.start(Box::new(Quiet), CommitConfig::default());
    let mut is_good = true;
    for partition in 1..=PARTITIONS {
        let mut next = Some(Lsn::ZERO);
        let mut esns = Vec::new();
        while let Some(from) = next {
            let Ok(chunk) = committer.reader().read(PartitionUid(partition), from, Lsn::MAX, 1 << 20) else {
                is_good = false;
                break;
            };
            for item in &chunk.items {
                let ReadItem::Block(stored) = item else { panic!("the segments are whole: {item:?}") };
                esns.push(stored.block.header().first_esn.0);
            }
            next = chunk.next;
        }
        if is_good {
            assert_eq!(esns, (1..=blocks).collect::<Vec<_>>());
        }
    }
    // It notices by itself, and tells its next start.
    let begun = Instant::now();
    while !is_good && committer.submit(entry(1, blocks + 1, 10), false).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a shard whose index is damaged stops");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(committer);
    assert_eq!(running.close().is_ok(), is_good);
    is_good
}

#[test]
fn a_damaged_index_is_noticed_and_made_again() {
    const BLOCKS: u32 = 60;
    let whole = tempfile::tempdir().unwrap();
    let (mut engine, _) = try_open(whole.path());
    for esn in 1..=BLOCKS {
        let entries: Vec<_> = (1..=PARTITIONS).map(|partition| entry(partition, esn, 700)).collect();
        engine.append(&entries).unwrap();
    }
    engine.close().unwrap();
    let (mut rebuilt, mut stopped) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        copy_dir(whole.path(), dir.path());
        let mut files: Vec<_> =
            std::fs::read_dir(dir.path().join("index")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let file = rng.choice(&files).unwrap();
        let mut bytes = std::fs::read(file).unwrap();
        match seed % 4 {
            0 => std::fs::remove_file(file).unwrap(),
            1 => std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap(),
            _ if bytes.is_empty() => continue,
            _ => {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
                std::fs::write(file, &bytes).unwrap();
            }
        }
        if !read_everything(dir.path(), BLOCKS) {
            stopped += 1;
            assert!(read_everything(dir.path(), BLOCKS), "seed {seed}: the next start made it again");
        }
        rebuilt += usize::from(dir.path().join("index.set-aside-1").exists());
    }
    assert!(rebuilt > 5, "{rebuilt} {stopped}");
}
