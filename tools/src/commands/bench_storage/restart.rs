//! Starts after a kill, after a clean stop and without an index; and reading a backlog before and after it is sorted.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use dlog_proto::{Lsn, PartitionUid};
use dlog_storage_node::read::ReadItem;
use dlog_storage_node::{Engine, EngineConfig};

use super::Outcome;
use super::figures::{Figures, Target};
use super::shard::{Blocks, MIB, MIB_F, drop_caches, open, per_second};

const PARTITIONS: usize = 16;
const BODY_LEN: usize = 4096;
/// Blocks in a group.
const BLOCKS: usize = 256;
/// What tells that enough is written.
const WRITTEN: &str = "written";

fn config() -> EngineConfig {
    EngineConfig { zero_ahead_bytes: 0, ..EngineConfig::default() }
}

/// Writes, and never stops: to be killed. Says when so much is written.
pub(super) fn write_until_killed(dir: &Path, gib: u64, partitions: usize) -> Outcome<()> {
    let (mut engine, _) = open(dir, config())?;
    let mut blocks = Blocks::new(partitions, BODY_LEN);
    for round in 0.. {
        engine.append(&blocks.make(BLOCKS))?;
        engine.sync()?;
        engine.upkeep(0)?;
        if round == (gib << 30) / (BLOCKS * BODY_LEN) as u64 {
            writeln!(io::stdout(), "{WRITTEN}")?;
        }
    }
    Ok(())
}

pub(super) fn measure(root: &Path, gib: u64, figures: &mut Figures) -> Outcome<()> {
    let dir = root.join("restart");
    write_and_kill(&dir, gib)?;
    start(&dir, gib, "after a kill", Some(2.0), figures)?.close()?;
    start(&dir, gib, "after a clean stop", Some(2.0), figures)?.close()?;
    fs::remove_dir_all(dir.join("index"))?;
    let mut engine = start(&dir, gib, "without an index", None, figures)?;

    fill_segment(&mut engine)?;
    let is_cold = drop_caches();
    let note = if is_cold { "" } else { " (from memory: caches cannot be dropped)" };
    let unsorted = backlog(&engine)?;
    figures.add(format!("backlog of one of {PARTITIONS} partitions, as written{note}"), unsorted, "MiB/s");
    let begun = Instant::now();
    while engine.rewrite()? {}
    let sorted = engine.counters().rewritten_bytes as f64 / MIB_F;
    figures.add("sorting segments", per_second(sorted, begun.elapsed()), "MiB/s");
    // The raw rate before and after: a disk is not the same from one minute to the next.
    let before = sequential(&dir, 0)?;
    let backlog = backlog(&engine)?;
    let raw = (before + sequential(&dir, 1)?) / 2.0;
    figures.add(format!("raw sequential read{note}"), raw, "MiB/s");
    figures.add(format!("backlog of one of {PARTITIONS} partitions, sorted{note}"), backlog, "MiB/s");
    figures.check("  against the raw sequential rate", 100.0 * backlog / raw, "%", Target::AtLeast(70.0));
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// Writes in another process and kills it.
fn write_and_kill(dir: &Path, gib: u64) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "storage", "--write-until-killed", &PARTITIONS.to_string(), "--gib", &gib.to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let heard = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
    child.kill()?;
    child.wait()?;
    heard.ok_or("no output")??;
    if said.trim() == WRITTEN { Ok(()) } else { Err("the writing process failed".into()) }
}

fn start(dir: &Path, gib: u64, how: &str, seconds_max: Option<f64>, figures: &mut Figures) -> Outcome<Engine> {
    let begun = Instant::now();
    let (engine, recovered) = open(dir, config())?;
    let seconds = begun.elapsed().as_secs_f64();
    let replayed = recovered.replayed_bytes / MIB as u64;
    let name = format!("start with {gib} GiB {how} ({replayed} MiB of the log read)");
    match seconds_max {
        Some(most) => figures.check(name, seconds, "s", Target::AtMost(most)),
        None => figures.add(name, seconds, "s"),
    }
    Ok(engine)
}

/// Fills the segment that is written to with blocks of another partition: only full ones are sorted.
fn fill_segment(engine: &mut Engine) -> Outcome<()> {
    let mut blocks = Blocks::new(PARTITIONS + 1, BODY_LEN);
    for _ in 0..=config().segment_len as usize / (BLOCKS * BODY_LEN) {
        let group: Vec<_> = (0..BLOCKS).map(|_| blocks.make_one(PARTITIONS)).collect();
        engine.append(&group)?;
        engine.upkeep(0)?;
    }
    Ok(engine.sync()?)
}

/// MiB/s of all blocks of one partition.
fn backlog(engine: &Engine) -> Outcome<f64> {
    drop_caches();
    let (begun, mut bytes, mut next) = (Instant::now(), 0, Some(Lsn::ZERO));
    while let Some(from) = next {
        let chunk = engine.reader().read(PartitionUid(1), from, Lsn::MAX, 4 << 20)?;
        for item in &chunk.items {
            let ReadItem::Block(stored) = item else { return Err(format!("{item:?}").into()) };
            bytes += stored.block.bytes().len();
        }
        next = chunk.next;
    }
    Ok(per_second(bytes as f64 / MIB_F, begun.elapsed()))
}

/// MiB/s of reading segments from front to back: every eighth, from this one on. Old ones and new ones, as the backlog lies in all, and
/// other ones each time: what was read not long ago may come from a cache below this system.
fn sequential(dir: &Path, first: usize) -> Outcome<f64> {
    drop_caches();
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let (begun, mut read, mut buffer) = (Instant::now(), 0, vec![0; MIB]);
    for path in segments.iter().skip(first).step_by(8) {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                len => read += len,
            }
        }
    }
    Ok(per_second(read as f64 / MIB_F, begun.elapsed()))
}
