//! `dlog bench append`: numbered records into a log of its own, and back, each checked.

mod append_phase;
mod driver;
mod kafka;
mod native;
mod pacer;
mod read_phase;
mod report;
mod workload;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dlog_client::{AppendOptions, Client};
use dlog_metadata::state::LogAttributes;
use dlog_proto::LogId;

use self::append_phase::AppendPhase;
use self::driver::Driver;
use self::kafka::Kafka;
use self::native::Native;
use self::report::Report;
use self::workload::Workload;
use super::in_flight::WINDOW_BYTES;
use crate::args::{BenchAppendArgs, ProtocolArg};
use crate::failure::Failure;
use crate::output::{print, print_json, tell};

pub(crate) async fn run(client: &Client, args: &BenchAppendArgs) -> Result<(), Failure> {
    let log = create_log(client, args).await?;
    let measured = match args.protocol {
        ProtocolArg::Native => measure(&Native::new(client), args, &log).await,
        ProtocolArg::Kafka => measure(&Kafka::new(&args.connect), args, &log).await,
    };
    if args.keep {
        tell(format_args!("note: the log {log} is kept; `dlog log delete {log} --yes` deletes it"));
    }
    // What did not come back right is worth a look.
    let report = measured.map_err(|failure| failure.hint(format!("the log {log} is kept, to look into it")))?;
    if !args.keep {
        client.delete_log(&log).await?;
    }
    if args.output.json { print_json(&report.to_json()) } else { print(&report.to_text()) }
}

async fn create_log(client: &Client, args: &BenchAppendArgs) -> Result<LogId, Failure> {
    let name = format!("append-{:08x}", fastrand::u32(..));
    let log = LogId::new("bench", &name).map_err(|error| Failure::new(error.to_string()))?;
    let mut attributes = LogAttributes::replicated(args.replication);
    let durability = BTreeMap::from([("durability".to_owned(), Some(args.durability.name().to_owned()))]);
    attributes.update(&durability).map_err(|error| Failure::new(error.to_string()))?;
    client.create_log(&log, args.partitions, attributes).await?;
    Ok(log)
}

async fn measure(driver: &impl Driver, args: &BenchAppendArgs, log: &LogId) -> Result<Report, Failure> {
    let workload = Workload::new(args.record_bytes as usize, args.partitions);
    let options = AppendOptions {
        compression: args.compression,
        linger: Duration::from_millis(args.linger),
        batch_len_max: args.batch_bytes as usize,
        window_bytes_max: WINDOW_BYTES,
        ..AppendOptions::default()
    };
    let producer = driver.producer(log, options).await?;
    let appended = AppendPhase::new(args, &workload, producer).run().await?;
    let records: Vec<u64> = appended.acknowledged.iter().map(|partition| partition.records).collect();
    let source = driver.source(log, &records).await?;
    let started = Instant::now();
    let consumer = driver.consumer(source);
    let read = read_phase::run(consumer, started, &workload, &appended, args.connect.answer_timeout()).await?;
    Ok(Report { args: args.clone(), log: log.clone(), appended, read })
}
