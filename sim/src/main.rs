//! `dlog-sim`: runs seeds, and shows what went wrong.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use dlog_sim::{Focus, Report, run_focused};

/// Runs DLog's production cores on a virtual network, disk and clock, with trouble drawn from a seed.
#[derive(Debug, Parser)]
#[command(
    name = "dlog-sim",
    version,
    after_help = "Examples:\n  dlog-sim --seeds 1000\n  dlog-sim --seed 42 --trace\n  dlog-sim --focus disk-loss --seconds 60\nSee docs/SIMULATION.md."
)]
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
    /// Look at this more closely, instead of what each seed draws.
    #[arg(long)]
    focus: Option<Focus>,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Put each bug in, and see whether it is caught.
    #[cfg(feature = "bugs")]
    #[arg(long)]
    bugs: bool,
    /// Begin with the seed that is known to catch it.
    #[cfg(feature = "bugs")]
    #[arg(long, requires = "bugs")]
    quick: bool,
    /// Put this bug in.
    #[cfg(feature = "bugs")]
    #[arg(long)]
    bug: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "bugs")]
    if args.bugs {
        return dlog_sim::bugs::check_all(args.jobs, args.quick);
    }
    let totals = run_all(&args);
    totals.show();
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Totals {
    started: Instant,
    ran: u64,
    events: u64,
    records: u64,
    epochs: u64,
    failed: Vec<u64>,
}

fn run_all(args: &Args) -> Totals {
    let seeds = match args.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => args.from..args.from.saturating_add(args.seeds),
    };
    let started = Instant::now();
    let totals = Totals { started, ran: 0, events: 0, records: 0, epochs: 0, failed: Vec::new() };
    let (totals, next) = (Mutex::new(totals), AtomicU64::new(seeds.start));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || args.seconds.is_some_and(|limit| started.elapsed().as_secs() >= limit) {
            return;
        }
        let report = run_one(args, seed);
        totals.lock().unwrap_or_else(PoisonError::into_inner).add(seed, report);
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(work);
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: an assertion did not hold.
fn run_one(args: &Args, seed: u64) -> Option<Report> {
    #[cfg(feature = "bugs")]
    if let Some(name) = &args.bug {
        dlog_sim::bugs::inject_by_name(name);
    }
    std::panic::catch_unwind(|| run_focused(seed, args.focus, args.trace)).ok()
}

impl Totals {
    fn add(&mut self, seed: u64, report: Option<Report>) {
        self.ran += 1;
        let violations = match report {
            None => vec!["an assertion did not hold".to_owned()],
            Some(report) => {
                self.events += report.events;
                self.records += report.records;
                self.epochs += report.epochs;
                report.violations
            }
        };
        if !violations.is_empty() {
            println!("seed {seed} FAILED:");
            violations.iter().for_each(|violation| println!("  {violation}"));
            self.failed.push(seed);
        }
    }

    fn show(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let Self { ran, events, records, epochs, failed, .. } = self;
        println!(
            "{ran} seeds in {seconds:.1} s ({:.0} a minute): {records} records, {epochs} epochs, {events} events; {} failed",
            *ran as f64 / seconds * 60.0,
            failed.len()
        );
        if let Some(seed) = failed.first() {
            println!("failed: {failed:?}; look at one with: dlog-sim --seed {seed} --trace");
        }
    }
}
