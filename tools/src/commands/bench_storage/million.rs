//! A million partitions on one shard: what each costs when it is idle, and whether the last works like the first.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dlog_proto::{Lsn, PartitionUid};
use dlog_storage_node::entry::Entry;
use dlog_storage_node::{Engine, EngineConfig};

use super::Outcome;
use super::figures::Figures;
use super::shard::{Blocks, disk_usage, open, per_second};

const PARTITIONS: usize = 1_000_000;
/// The first and the last are measured in turns, so often.
const ROUNDS: usize = 5;
/// Appends and reads of one partition at a time.
const REPEATS: usize = 500;

pub(super) fn measure(root: &Path, figures: &mut Figures) -> Outcome<()> {
    let dir = root.join("million");
    let config = EngineConfig { zero_ahead_bytes: 0, recent_bytes_max: 0, ..EngineConfig::default() };
    let (engine, _) = open(&root.join("empty"), config)?;
    let idle = resident();
    engine.close()?;
    let (mut engine, _) = open(&dir, config)?;
    let mut blocks = Blocks::new(PARTITIONS, 100);
    let begun = Instant::now();
    for group in 0..PARTITIONS / 1000 {
        let entries: Vec<Entry> = (0..1000).map(|n| blocks.make_one(group * 1000 + n)).collect();
        engine.append(&entries)?;
        engine.sync()?;
        engine.upkeep(0)?;
    }
    figures.add("a block into each of a million partitions", per_second(PARTITIONS as f64, begun.elapsed()), "/s");
    engine.close()?;
    let begun = Instant::now();
    let (mut engine, _) = open(&dir, config)?;
    figures.add("start with a million partitions", begun.elapsed().as_secs_f64(), "s");
    let memory = resident().saturating_sub(idle) as f64 / PARTITIONS as f64;
    figures.add("memory per idle partition", memory, "bytes");
    let index = disk_usage(&dir.join("index"))? as f64 / PARTITIONS as f64;
    figures.add("index on the disk per partition", index, "bytes");
    let mut of_two = [Times::default(), Times::default()];
    for _ in 0..ROUNDS {
        for (partition, times) in [1, PARTITIONS].into_iter().zip(&mut of_two) {
            times.one_of_them(&mut engine, &mut blocks, partition)?;
        }
    }
    for (partition, times) in [1, PARTITIONS].into_iter().zip(of_two) {
        let per_second = |time: Duration| per_second((ROUNDS * REPEATS) as f64, time);
        figures.add(format!("load partition {partition}"), times.load.as_secs_f64() / ROUNDS as f64 * 1e6, "µs");
        figures.add(format!("append to partition {partition}"), per_second(times.append), "/s");
        figures.add(format!("read from partition {partition}"), per_second(times.read), "/s");
    }
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// What was spent on one of them.
#[derive(Debug, Default)]
struct Times {
    load: Duration,
    append: Duration,
    read: Duration,
}

impl Times {
    fn one_of_them(&mut self, engine: &mut Engine, blocks: &mut Blocks, partition: usize) -> Outcome<()> {
        let uid = PartitionUid(partition as u64);
        let begun = Instant::now();
        engine.reader().load(uid)?;
        self.load += begun.elapsed();
        let entries: Vec<Entry> = (0..REPEATS).map(|_| blocks.make_one(partition - 1)).collect();
        let begun = Instant::now();
        entries.chunks(1).try_for_each(|entry| engine.append(entry))?;
        self.append += begun.elapsed();
        engine.sync()?;
        engine.upkeep(0)?;
        let begun = Instant::now();
        let mut found = 0;
        for _ in 0..REPEATS {
            found += engine.reader().read(uid, Lsn::ZERO, Lsn::MAX, 1)?.items.len();
        }
        self.read += begun.elapsed();
        if found == REPEATS { Ok(()) } else { Err(format!("{found} of {REPEATS} reads found a block").into()) }
    }
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}
