//! What the benchmarks are told that need no node.

use std::path::PathBuf;

use clap::{Args, value_parser};

use super::OutputArgs;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  dlog bench disk --dir /var/lib/dlog

It writes into files of its own in that directory and removes them. Run it when the disk has nothing else to do.")]
pub struct BenchDiskArgs {
    /// A directory on the disk to be measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// How long to measure, in seconds; making the files comes on top.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Length of the files, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = value_parser!(u64).range(16..=65_536))]
    pub file_mib: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  dlog bench storage --dir /var/lib/dlog
  dlog bench storage --dir /var/lib/dlog --gib 10 --only restart

It makes shards of its own in that directory and removes them. Run it when the machine has nothing else to do.")]
pub struct BenchStorageArgs {
    /// A directory on the disk to be measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// How much is written for the restart and the backlog, in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 2, value_parser = value_parser!(u64).range(1..=1024))]
    pub gib: u64,
    /// One part only: sync, cache, restart or million.
    #[arg(long, value_name = "PART", value_parser = ["sync", "cache", "restart", "million"])]
    pub only: Option<String>,
    /// Writes into a shard until it is killed; for this benchmark's own use.
    #[arg(long, hide = true, value_name = "PARTITIONS")]
    pub write_until_killed: Option<usize>,
    #[command(flatten)]
    pub output: OutputArgs,
}
