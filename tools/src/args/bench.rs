//! What `dlog bench` is told.

use clap::{Args, Subcommand, ValueEnum, value_parser};
use dlog_proto::record::Compression;

use super::bench_local::{BenchDiskArgs, BenchStorageArgs};
use super::{ConnectArgs, OutputArgs, copies};

#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Append numbered records to a log of its own, read them back, and check that each is there once and in order.
    Append(BenchAppendArgs),
    /// Measure how a disk is best written to, and say what DLog should do on it. Needs no node.
    Disk(BenchDiskArgs),
    /// Measure a shard's storage engine against the disk that it is on. Needs no node.
    Storage(BenchStorageArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  dlog bench append --records 5000000
  dlog bench append --replication 3 --durability write_cache --seconds 30
  dlog bench append --rate 1000                 latency at a low rate
  dlog bench append --protocol kafka            what a Kafka client gets; without it, what the native client gets")]
pub struct BenchAppendArgs {
    /// How many records to append.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// How long to append. [default: 10]
    #[arg(long, value_name = "S", value_parser = value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Records a second, whether or not those before are acknowledged; latency counts from when a record was due.
    /// [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Length of each record, in bytes.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub record_bytes: u32,
    /// How many partitions share the records.
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    pub partitions: u32,
    /// How many copies of each record are kept.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = copies())]
    pub replication: u8,
    /// When a copy counts.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub durability: DurabilityArg,
    /// What to append and read with. The difference between two runs is what a node's Kafka gateway costs: batches, window
    /// and checks are the same.
    #[arg(long, value_enum, default_value_t = ProtocolArg::Native)]
    pub protocol: ProtocolArg,
    /// How many records may wait for their acknowledgement.
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub acks_inflight: u32,
    /// How long a record may wait for others to share a batch with, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=60_000))]
    pub linger: u64,
    /// Length at which a batch is sent, in bytes.
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = value_parser!(u32).range(1..=1_048_576))]
    pub batch_bytes: u32,
    /// How batches are compressed: none, lz4, zstd, snappy or gzip.
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub compression: Compression,
    /// Do not delete the log at the end.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// after it is on disk
    Sync,
    /// in memory; on disk soon after
    #[value(name = "write_cache")]
    WriteCache,
}

impl DurabilityArg {
    /// As the attribute of a log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::WriteCache => "write_cache",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// DLog's own, over QUIC
    Native,
    /// Kafka's, over TCP to the same port: Produce with acks=all, idempotent; Fetch. No node may fail meanwhile
    Kafka,
}

impl ProtocolArg {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Kafka => "kafka",
        }
    }
}
