//! What a client's command line says.

mod bench;
mod bench_local;
mod connect;
mod duration;
mod partition;
mod position;
mod segment;
mod tls;

use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::{Args, Subcommand, ValueEnum, value_parser};
use dlog_proto::record::Compression;
use dlog_proto::{LogId, Lsn, ParseError, QuorumConfig};

pub use bench::{BenchAppendArgs, BenchCommand, DurabilityArg, ProtocolArg};
pub use bench_local::{BenchDiskArgs, BenchStorageArgs};
pub use connect::ConnectArgs;
pub use duration::{parse_duration, parse_timeout};
pub use partition::PartitionName;
pub use position::{Position, When};
pub use segment::{
    SegmentCommand, SegmentDumpArgs, SegmentInspectArgs, SegmentListArgs, SegmentVerifyArgs, ShardDirArgs,
};
pub use tls::{TlsCommand, TlsCreateArgs, TlsNode};

/// Positions as all commands understand them, for their help.
macro_rules! positions {
    () => {
        "
  e3n42                 an LSN
  1000                  an offset
  2026-01-31T12:00:00Z  a time (RFC 3339)
  2026-01-31            midnight of that day, in UTC
  -5m, '2h ago'         a time before now
"
    };
}

/// A command for a client.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Create, list, show, change, trim and delete logs.
    #[command(subcommand)]
    Log(LogCommand),
    /// Append standard input to a log, a line a record.
    Append(AppendArgs),
    /// Read a log's records.
    Read(ReadArgs),
    /// Look at the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Look at a partition's epochs: who sequenced, where they end, which shards store them.
    #[command(subcommand)]
    Epoch(EpochCommand),
    /// Look at which shards hold a record.
    #[command(subcommand)]
    Copyset(CopysetCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look at a node's files: list segments, show what stands in them, check them. No node has to run.
    #[command(subcommand)]
    Segment(SegmentCommand),
    /// Make the certificates that nodes on several machines need. No node has to run.
    #[command(subcommand)]
    Tls(TlsCommand),
}

impl Command {
    /// How it finds its cluster; `None` if it needs none.
    pub fn connect(&self) -> Option<&ConnectArgs> {
        Some(match self {
            Self::Segment(_) | Self::Tls(_) => return None,
            Self::Bench(BenchCommand::Disk(_) | BenchCommand::Storage(_)) => return None,
            Self::Log(LogCommand::Create(args)) => &args.connect,
            Self::Log(LogCommand::List(args)) => &args.connect,
            Self::Log(LogCommand::Show(args)) => &args.connect,
            Self::Log(LogCommand::Set(args)) => &args.connect,
            Self::Log(LogCommand::Trim(args)) => &args.connect,
            Self::Log(LogCommand::Delete(args)) => &args.connect,
            Self::Append(args) => &args.connect,
            Self::Read(args) => &args.connect,
            Self::Cluster(ClusterCommand::Status(args)) => &args.connect,
            Self::Epoch(EpochCommand::Show(args)) => &args.connect,
            Self::Copyset(CopysetCommand::Show(args)) => &args.connect,
            Self::Bench(BenchCommand::Append(args)) => &args.connect,
        })
    }
}

#[derive(Debug, Clone, Subcommand)]
pub enum LogCommand {
    /// Create a log.
    Create(LogCreateArgs),
    /// List all logs.
    List(LogListArgs),
    /// Show a log's attributes and partitions.
    Show(LogShowArgs),
    /// Change a log's attributes, or give it more partitions.
    Set(LogSetArgs),
    /// Let go of a log's first records.
    Trim(LogTrimArgs),
    /// Delete a log with all its records.
    Delete(LogDeleteArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  dlog log create demo/first --partitions 1 --replication 1
  dlog log create shop/orders --partitions 16 --replication 3 --write-quorum 2 --attr retention.ms=86400000")]
pub struct LogCreateArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// How many partitions it has; order is kept inside each.
    #[arg(long, short, value_name = "P", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// How many copies of each record are kept, on different nodes. [default: 3, or as many as there are nodes that store]
    #[arg(long, short, value_name = "R", value_parser = copies())]
    pub replication: Option<u8>,
    /// How many copies there must be before an append is acknowledged; up to R. [default: more than half of R]
    #[arg(long, value_name = "W", value_parser = copies())]
    pub write_quorum: Option<u8>,
    /// An attribute such as retention.ms=86400000 or durability=write_cache; may be given several times.
    #[arg(long = "attr", value_name = "KEY=VALUE")]
    pub attributes: Vec<Attribute>,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

fn copies() -> impl TypedValueParser<Value = u8> {
    value_parser!(u8).range(1..=i64::from(QuorumConfig::REPLICATION_MAX))
}

/// `key=value`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub key: String,
    pub value: String,
}

impl FromStr for Attribute {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (key, value) = s.split_once('=').ok_or_else(|| not(s, "an attribute such as retention.ms=86400000"))?;
        Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
    }
}

#[derive(Debug, Clone, Args)]
pub struct LogListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
pub struct LogShowArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What has to do with replication holds for records that are appended from now on: each partition begins a new epoch.
Records that are there keep the copies that they have.

Examples:
  dlog log set shop/orders --attr retention.ms=604800000
  dlog log set shop/orders --replication 3 --write-quorum 2 --attr durability=write_cache
  dlog log set shop/orders --unset retention.ms --partitions 32")]
pub struct LogSetArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// How many copies of each record are kept, on different nodes.
    #[arg(long, short, value_name = "R", value_parser = copies())]
    pub replication: Option<u8>,
    /// How many copies there must be before an append is acknowledged; up to R.
    #[arg(long, value_name = "W", value_parser = copies())]
    pub write_quorum: Option<u8>,
    /// An attribute such as retention.ms=86400000 or durability=write_cache; may be given several times.
    #[arg(long = "attr", value_name = "KEY=VALUE")]
    pub attributes: Vec<Attribute>,
    /// An attribute that is to have its default again; may be given several times.
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,
    /// How many partitions it is to have: more than it has.
    #[arg(long, short, value_name = "P", value_parser = value_parser!(u32).range(1..))]
    pub partitions: Option<u32>,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = concat!("\
Positions:
  newest                all records that are there now", positions!(), "
Examples:
  dlog log trim demo/first --before -7d
  dlog log trim demo/first -p 3 --before e3n42 --yes"))]
pub struct LogTrimArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// The partition. [default: all of them]
    #[arg(long, short, value_name = "N")]
    pub partition: Option<u32>,
    /// The first record that is kept; see Positions.
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub before: Position,
    /// Do not ask whether it is meant.
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
pub struct LogDeleteArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// Do not ask whether it is meant.
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  echo hello | dlog append demo/first
  tail -F app.log | dlog append demo/first --linger 5 --compression lz4
  dlog append demo/first --print-lsn < lines.txt > lsns.txt

A record that is not acknowledged is sent again for 120 s, so that it survives nodes that fail; with --timeout, for so long.")]
pub struct AppendArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// The partition. [default: by the key, or in turns]
    #[arg(long, short, value_name = "N")]
    pub partition: Option<u32>,
    /// The key of all records.
    #[arg(long, value_name = "K")]
    pub key: Option<String>,
    /// Print each record's LSN as it is acknowledged, in order, instead of a summary; with its partition before it if
    /// records go to several.
    #[arg(long)]
    pub print_lsn: bool,
    /// How long a record may wait for others to share a batch with, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=60_000))]
    pub linger: u64,
    /// How many records may wait for their acknowledgement.
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub acks_inflight: u32,
    /// For how many copies an acknowledgement waits; quorum: as many as the log asks for.
    #[arg(long, value_enum, default_value = "quorum")]
    pub acks: Copies,
    /// How batches are compressed: none, lz4, zstd, snappy or gzip.
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub compression: Compression,
    /// Length at which a batch is sent, in bytes.
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = value_parser!(u32).range(1..=1_048_576))]
    pub batch_bytes: u32,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Copies {
    #[value(alias = "1")]
    One,
    #[value(alias = "w")]
    Quorum,
    All,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = concat!("\
Positions:
  oldest, newest        the first record that is kept, the next one to come", positions!(), "
Examples:
  dlog read demo/first --from oldest
  dlog read demo/first --from -5m --follow --format json
  dlog read demo/first -p 3 --from e3n42 --count 10"))]
pub struct ReadArgs {
    /// The log's name: namespace/name; a name alone means default/name.
    #[arg(value_name = "NS/NAME")]
    pub log: LogId,
    /// The partition. [default: all of them]
    #[arg(long, short, value_name = "N")]
    pub partition: Option<u32>,
    /// Where to begin; see Positions.
    #[arg(long, value_name = "POSITION", default_value = "oldest", allow_hyphen_values = true)]
    pub from: Position,
    /// Where to end: this record is not read any more. Without --follow, reading ends with what is there now in any case.
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub until: Option<Position>,
    /// How many records to read at most.
    #[arg(long, short = 'n', value_name = "N")]
    pub count: Option<u64>,
    /// Go on with records as they come.
    #[arg(long, short)]
    pub follow: bool,
    /// How records are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// LSN, time, key and value, for people
    Text,
    /// an object per record
    Json,
    /// the value's bytes and a newline
    Raw,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Show nodes, roles and who leads; fails if the cluster cannot be used.
    Status(ClusterStatusArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ClusterStatusArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum EpochCommand {
    /// Show all epochs of a partition that are still kept.
    Show(EpochShowArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  dlog epoch show demo/first/0")]
pub struct EpochShowArgs {
    /// The partition: namespace/name/number; name/number means default/name/number. The number may be left out where there is but one.
    #[arg(value_name = "NS/NAME[/P]")]
    pub partition: PartitionName,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum CopysetCommand {
    /// Show which shards should hold a record's copies, and which do.
    Show(CopysetShowArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  dlog copyset show demo/first/0 --lsn e1n1")]
pub struct CopysetShowArgs {
    /// The partition: namespace/name/number; name/number means default/name/number. The number may be left out where there is but one.
    #[arg(value_name = "NS/NAME[/P]")]
    pub partition: PartitionName,
    /// The record.
    #[arg(long, value_name = "eXnY")]
    pub lsn: Lsn,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// `input`, as far as it may be repeated, is not `expected`.
fn not(input: &str, expected: &'static str) -> ParseError {
    ParseError { input: input.chars().take(80).collect(), expected }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, String> {
        let words = ["dlog"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_tree_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn a_log_is_created_as_told() {
        let line =
            "log create a/b --partitions 2 --replication 3 --write-quorum 2 --attr x=1 --attr y=a=b --server h:1,h:2";
        let Ok(Command::Log(LogCommand::Create(args))) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!((args.log.to_string().as_str(), args.partitions, args.replication), ("a/b", 2, Some(3)));
        assert_eq!(args.write_quorum, Some(2));
        let attributes: Vec<_> = args.attributes.iter().map(|a| (a.key.as_str(), a.value.as_str())).collect();
        assert_eq!(attributes, [("x", "1"), ("y", "a=b")]);
        let servers: Vec<_> = args.connect.server.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["h:1", "h:2"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, part) in [
            ("log create a/b --replication 1 --partitions 0", "--partitions"),
            ("log create a/b --replication 17", "1..=16"),
            ("log create a/b --replication 0", "1..=16"),
            ("log create a/b/c --replication 1", "is not a log name"),
            ("log create a/b --replication 1 --attr x", "is not an attribute"),
            ("append a/b --acks-inflight 0", "--acks-inflight"),
            ("append a/b --compression rar", "--compression"),
            ("read a/b --from e9n", "is not a position"),
            ("read a/b --format xml", "text, json, raw"),
            ("epoch show 0", "is not a partition"),
            ("epoch show a/b/c", "is not a partition"),
            ("copyset show a/b/0 --lsn 5", "is not an LSN"),
            ("log list --server nowhere", "is not an address"),
            ("log list --timeout 0s", "must be more than 0"),
            ("tls create --out ca", "--nodes"),
            ("tls create --out ca --nodes 1=a,2", "is not a node"),
            ("tls create --out ca --nodes 0=a", "is not a node"),
            ("bench append --records 1 --seconds 1", "cannot be used with"),
            ("bench append --record-bytes 7", "8..=1000000"),
            ("bench append --durability maybe", "sync, write_cache"),
            ("bench append --rate 0", "--rate"),
            ("bench append --protocol amqp", "native, kafka"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_measurement_is_made_as_told() {
        let line = "bench append --rate 100 --seconds 3 --durability write_cache --replication 3 --json --server h:1";
        let Ok(command) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!(command.connect().unwrap().server[0].to_string(), "h:1");
        let Command::Bench(BenchCommand::Append(args)) = command else { panic!("{command:?}") };
        assert_eq!((args.rate, args.seconds, args.records), (Some(100), Some(3), None));
        assert_eq!((args.durability.name(), args.replication, args.record_bytes), ("write_cache", 3, 100));
        assert!(args.output.json && !args.keep);
        assert_eq!(args.protocol.name(), "native");
    }

    #[test]
    fn a_reader_begins_where_it_is_told() {
        let from = |line: &str| match parse(line).unwrap() {
            Command::Read(args) => (args.from, args.until),
            other => panic!("{other:?}"),
        };
        assert_eq!(from("read a/b"), (Position::Oldest, None));
        assert_eq!(from("read a/b --from newest --until e2n5").1, Some("e2n5".parse().unwrap()));
        assert_eq!(from("read a/b --from -5m").0, "5m ago".parse().unwrap());
    }
}
