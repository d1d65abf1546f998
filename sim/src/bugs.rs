//! The bugs that are put in on purpose: with what focus each is looked for, and within how many seeds it must be found.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dlog_proto::bugs::{Bug, inject};

use crate::run::run_focused;
use crate::scenario::Focus;

/// Where a bug shows, and the number of seeds, from 1, within which it must.
fn hunt(bug: Bug) -> (Focus, u64) {
    match bug {
        Bug::ReleaseFromMemory | Bug::SettleFromMemory | Bug::IncompleteCounts => (Focus::WriteCache, 100),
        Bug::LostCacheNotKept => (Focus::WriteCache, 500),
        Bug::TrimForgetsProducers => (Focus::Calm, 1000),
        Bug::TrimmedEpochsLeave | Bug::SnapshotOfSealedOnly => (Focus::Producers, 1000),
        Bug::DamageCounts => (Focus::Damage, 1000),
        Bug::LostDiskIsEmpty | Bug::IncarnationIgnored | Bug::GapFromOneShard => (Focus::DiskLoss, 100),
        Bug::NonAuthoritativeCutsOff => (Focus::Lossy, 200),
        Bug::FMajorityWithR => (Focus::Scopes, 200),
        Bug::WindowIgnored => (Focus::Readers, 200),
        Bug::LeaseFromAnswer | Bug::LeaseBeforeView | Bug::AvailableCutsOff => (Focus::Available, 1000),
        Bug::SlowNotPassedOver | Bug::NoProbation | Bug::NoLaterWaves => (Focus::Slow, 100),
        Bug::AcksWithoutLease | Bug::ReleasesWithoutLease | Bug::RecoveryIgnoresLease | Bug::DecisionNotFlagged => {
            (Focus::Available, 500)
        }
        Bug::EndSparesStores => (Focus::Succession, 1000),
        Bug::SettleBeforeRecord
        | Bug::SnapshotOfUnacknowledged
        | Bug::RunIgnoresAcked
        | Bug::RecoveryNeedsAllCopies
        | Bug::OldEndsNotTold
        | Bug::ReadsUndecided => (Focus::Succession, 500),
        _ => (Focus::Succession, 100),
    }
}

/// What caught a bug.
struct Caught {
    seed: u64,
    by: String,
}

fn look_for(bug: Bug) -> Option<Caught> {
    let (focus, seeds) = hunt(bug);
    (1..=seeds).find_map(|seed| {
        inject(Some(bug));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run_focused(seed, Some(focus), false)));
        inject(None);
        let by = match outcome {
            Ok(report) => report.violations.into_iter().next()?,
            Err(panic) => panic_message(&*panic),
        };
        // What fails without the bug was not caught.
        run_focused(seed, Some(focus), false).violations.is_empty().then_some(Caught { seed, by })
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("assertion: {}", text.unwrap_or_default())
}

/// Puts this bug in, in this thread; for a closer look.
///
/// # Panics
/// If there is no bug of that name.
pub fn inject_by_name(name: &str) {
    let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name);
    inject(Some(*bug.unwrap_or_else(|| panic!("no bug {name}; there are {:?}", Bug::ALL))));
}

/// Looks for every bug, several at a time, and tells what caught it. Fails if nothing did.
pub fn check_all(jobs: usize) -> ExitCode {
    if missed(jobs).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Bugs that no seed catches; what catches the others is printed.
pub fn missed(jobs: usize) -> Vec<Bug> {
    std::panic::set_hook(Box::new(|_| {}));
    let (next, missed, started) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !is_caught(*bug) {
                        missed.lock().unwrap_or_else(PoisonError::into_inner).push(*bug);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (all, seconds) = (Bug::ALL.len(), started.elapsed().as_secs_f64());
    println!("{} of {all} bugs caught in {seconds:.0} s", all - missed.len());
    missed
}

fn is_caught(bug: Bug) -> bool {
    let ((focus, seeds), since) = (hunt(bug), Instant::now());
    let caught = look_for(bug);
    let took = since.elapsed().as_secs_f64();
    match &caught {
        Some(Caught { seed, by }) => {
            let by: String = by.lines().next().unwrap_or_default().chars().take(160).collect();
            println!("{bug:?}: caught by seed {seed} of {seeds} ({focus:?}, {took:.1} s): {by}");
        }
        None => println!("{bug:?}: NOT CAUGHT by {seeds} seeds ({focus:?}, {took:.1} s)"),
    }
    caught.is_some()
}
