//! Appends that nobody waits for the disk of.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlog_storage_node::EngineConfig;
use dlog_storage_node::commit::{CommitConfig, CommitSink, ShardFailed};
use dlog_storage_node::entry::{Entry, EntrySeq};

use super::Outcome;
use super::figures::{Figures, Target};
use super::shard::{Blocks, open, per_second};
use crate::output::tell;

/// With its header a block of 1 KiB.
const BODY_LEN: usize = 1024 - 64;

pub(super) fn measure(root: &Path, figures: &mut Figures) -> Outcome<()> {
    for partitions in [1, 1000] {
        on_one_core(root, partitions, figures)?;
    }
    through_the_commit_thread(root, figures)
}

/// One thread appends; the index is kept up by the same thread, counted on its own.
fn on_one_core(root: &Path, partitions: usize, figures: &mut Figures) -> Outcome<()> {
    const ROUNDS: usize = 100;
    const ROUND: usize = 10_000;
    let dir = root.join("cached");
    let config = EngineConfig { segment_len: 2 << 30, zero_ahead_bytes: 0, ..EngineConfig::default() };
    let (mut engine, _) = open(&dir, config)?;
    let mut blocks = Blocks::new(partitions, BODY_LEN);
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
    let name = format!("write-cache appends of 1 KiB blocks, {partitions} partitions, one core");
    figures.check(name, per_second(count, appending), "/s", Target::AtLeast(1e6));
    figures.add("  with the index on the same core", per_second(count, appending + indexing), "/s");
    engine.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

struct Last(mpsc::Sender<EntrySeq>);

impl CommitSink for Last {
    fn written(&mut self, _: EntrySeq) {}
    fn durable(&mut self, upto: EntrySeq) {
        // Whoever waited may have gone on.
        let _ = self.0.send(upto);
    }
    fn failed(&mut self, error: &ShardFailed) {
        tell(error);
    }
}

fn through_the_commit_thread(root: &Path, figures: &mut Figures) -> Outcome<()> {
    const COUNT: usize = 1_000_000;
    let dir = root.join("committed");
    let (engine, _) = open(&dir, EngineConfig::default())?;
    let (sender, durable) = mpsc::channel();
    let (committer, running) = engine.start(Box::new(Last(sender)), CommitConfig::default());
    let mut entries = Blocks::new(16, BODY_LEN).make(COUNT).into_iter();
    let begun = Instant::now();
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
    figures.add("write-cache appends through the commit thread", per_second(COUNT as f64, submitted), "/s");
    figures.add("  until all is durable", per_second(COUNT as f64, begun.elapsed()), "/s");
    drop(committer);
    running.close()?;
    fs::remove_dir_all(dir)?;
    Ok(())
}
