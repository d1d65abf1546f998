//! Durable groups of 1 MiB against plain `pwrite` and `fdatasync` of as much, into files written before, in turns.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dlog_storage_node::EngineConfig;

use super::Outcome;
use super::figures::{Figures, Target};
use super::shard::{Blocks, MIB, MIB_F, disk_usage, open, per_second};

const GROUPS: usize = 300;
const BODY_LEN: usize = 16 << 10;
/// So many blocks make a group of about 1 MiB.
const BLOCKS: usize = 62;

pub(super) fn measure(root: &Path, figures: &mut Figures) -> Outcome<()> {
    let raw = File::options().create(true).truncate(true).read(true).write(true).open(root.join("raw"))?;
    for at in 0..GROUPS {
        raw.write_all_at(&vec![1; MIB], (at * MIB) as u64)?;
    }
    raw.sync_all()?;
    let dir = root.join("sync");
    let config = EngineConfig { zero_ahead_bytes: (GROUPS as u32 + 20) << 20, ..EngineConfig::default() };
    let (mut engine, _) = open(&dir, config)?;
    engine.upkeep(0)?;
    let mut blocks = Blocks::new(4, BODY_LEN);
    let (mut raw_time, mut time) = (Duration::ZERO, Duration::ZERO);
    let buffer = vec![2; MIB];
    for group in 0..GROUPS {
        let entries = blocks.make(BLOCKS);
        let begun = Instant::now();
        engine.append(&entries)?;
        engine.sync()?;
        time += begun.elapsed();
        let begun = Instant::now();
        raw.write_all_at(&buffer, (group * MIB) as u64)?;
        raw.sync_data()?;
        raw_time += begun.elapsed();
    }
    let payload = (GROUPS * BLOCKS * BODY_LEN) as f64;
    let (rate, raw_rate) = (per_second(payload / MIB_F, time), per_second(GROUPS as f64, raw_time));
    figures.add("raw pwrite and fdatasync of 1 MiB", raw_rate, "MiB/s");
    figures.add("sync appends in groups of 1 MiB", rate, "MiB/s");
    figures.check("  against the raw rate", 100.0 * rate / raw_rate, "%", Target::AtLeast(80.0));
    let counters = engine.counters();
    engine.close()?;
    let written = counters.written_bytes + disk_usage(&dir.join("index"))?;
    let amplification = written as f64 / counters.payload_bytes as f64;
    figures.check("bytes written, log and index, against bytes of blocks", amplification, "", Target::AtMost(1.1));
    fs::remove_dir_all(dir)?;
    fs::remove_file(root.join("raw"))?;
    Ok(())
}
