//! `dlog-sim`: runs seeds, and shows what went wrong.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use dlog_sim::run;

/// Runs DLog's production cores on a virtual network, disk and clock, with trouble drawn from a seed.
#[derive(Debug, Parser)]
#[command(name = "dlog-sim", version, after_help = "Examples:\n  dlog-sim --seeds 1000\n  dlog-sim --seed 42 --trace")]
struct Args {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stop after this many seconds, whatever is left.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let started = Instant::now();
    let (mut ran, mut events, mut records, mut epochs, mut failed) = (0u64, 0, 0, 0, Vec::new());
    for seed in seeds {
        if args.seconds.is_some_and(|limit| started.elapsed().as_secs() >= limit) {
            break;
        }
        let Ok(report) = std::panic::catch_unwind(|| run(seed, args.trace)) else {
            println!("seed {seed} FAILED: an assertion did not hold");
            failed.push(seed);
            continue;
        };
        (ran, events) = (ran + 1, events + report.events);
        (records, epochs) = (records + report.records, epochs + report.epochs);
        if !report.violations.is_empty() {
            println!("seed {seed} FAILED:");
            report.violations.iter().for_each(|violation| println!("  {violation}"));
            failed.push(seed);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{ran} seeds in {seconds:.1} s ({:.0} a minute): {records} records, {epochs} epochs, {events} events; {} failed",
        ran as f64 / seconds * 60.0,
        failed.len()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}; look at one with: dlog-sim --seed {} --trace", failed[0]);
    ExitCode::FAILURE
}
