//! What `dlog segment` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dlog_proto::Lsn;

use super::OutputArgs;

/// Looks at files: no node has to run, and nothing is changed.
#[derive(Debug, Clone, Subcommand)]
pub enum SegmentCommand {
    /// List the segments of a node's shards.
    List(SegmentListArgs),
    /// Show everything that stands in segments: groups, blocks, seals, trims, damage.
    Inspect(SegmentInspectArgs),
    /// Check everything: exit code 0 only if all is well.
    Verify(SegmentVerifyArgs),
    /// Print the records that stand in segments, whether they still count or not.
    Dump(SegmentDumpArgs),
}

/// Which files.
#[derive(Debug, Clone, Args)]
pub struct ShardDirArgs {
    /// A node's data directory, or a shard's.
    #[arg(long, value_name = "DIR", default_value = "dlog-data")]
    pub data_dir: PathBuf,
    /// This shard only.
    #[arg(long, value_name = "N")]
    pub shard: Option<u16>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  dlog segment list --data-dir data1")]
pub struct SegmentListArgs {
    #[command(flatten)]
    pub dir: ShardDirArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  dlog segment inspect --data-dir data1 --shard 0 --segment 42
  dlog segment inspect --data-dir data1 --json | jq 'select(.kind == \"gap\")'

With --json it prints an object a line.")]
pub struct SegmentInspectArgs {
    #[command(flatten)]
    pub dir: ShardDirArgs,
    /// This segment only.
    #[arg(long, value_name = "N")]
    pub segment: Option<u64>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  dlog segment verify --data-dir data1

It reads every byte, so it takes as long as that takes. The node must not run: a running one checks itself in the background.")]
pub struct SegmentVerifyArgs {
    #[command(flatten)]
    pub dir: ShardDirArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  dlog segment dump --data-dir data1 --partition 7 --from e3n42
  dlog segment dump --data-dir data1 --segment 42 --json

With --json it prints an object a line. Partitions have the cluster's numbers here (`dlog log show` gives them).")]
pub struct SegmentDumpArgs {
    #[command(flatten)]
    pub dir: ShardDirArgs,
    /// This segment only.
    #[arg(long, value_name = "N")]
    pub segment: Option<u64>,
    /// This partition only, by its number in the cluster.
    #[arg(long, short, value_name = "UID")]
    pub partition: Option<u64>,
    /// Records from here on only.
    #[arg(long, value_name = "eXnY")]
    pub from: Option<Lsn>,
    /// Records up to here only.
    #[arg(long, value_name = "eXnY")]
    pub until: Option<Lsn>,
    #[command(flatten)]
    pub output: OutputArgs,
}
