//! The bugs that are put in on purpose: with what focus each is looked for, within how many seeds it must be found, and which seed is
//! known to find it.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dlog_proto::bugs::{Bug, inject};

use crate::run::run_focused;
use crate::scenario::Focus;

/// Where a bug shows: the number of seeds, from 1, within which it must, and the one that is known to show it.
struct Hunt {
    focus: Focus,
    seeds: u64,
    known: u64,
}

fn hunt(bug: Bug) -> Hunt {
    let (focus, seeds, known) = match bug {
        Bug::AckBelowQuorum => (Focus::Succession, 100, 2),
        Bug::AckOutOfOrder => (Focus::Succession, 100, 1),
        Bug::ReleaseBeforeRecovery => (Focus::Succession, 100, 1),
        Bug::ReleaseFromMemory => (Focus::WriteCache, 100, 1),
        Bug::SettleFromMemory => (Focus::WriteCache, 100, 1),
        Bug::SettleBeforeRecord => (Focus::Succession, 500, 87),
        Bug::AmendLost => (Focus::Succession, 100, 2),
        Bug::OldWaveCounts => (Focus::Succession, 200, 101),
        Bug::BaseOffByOne => (Focus::Succession, 100, 1),
        Bug::DuplicateAnsweredEarly => (Focus::Succession, 100, 11),
        Bug::DedupWindowNotRebuilt => (Focus::Succession, 100, 1),
        Bug::DedupPreviousEpochOnly => (Focus::Succession, 100, 1),
        Bug::DedupDoesNotWait => (Focus::Succession, 100, 2),
        Bug::SnapshotOfUnacknowledged => (Focus::Succession, 100, 1),
        Bug::TrimForgetsProducers => (Focus::Calm, 1000, 161),
        Bug::TrimBeforeCover => (Focus::Producers, 200, 1),
        Bug::SnapshotOfSealedOnly => (Focus::Producers, 1000, 142),
        Bug::AcksWithoutLease => (Focus::Available, 500, 158),
        Bug::ReleasesWithoutLease => (Focus::Available, 500, 42),
        Bug::LeaseBeforeView => (Focus::Available, 1000, 69),
        Bug::LeaseFromAnswer => (Focus::Available, 1000, 151),
        Bug::SlowNotPassedOver => (Focus::Slow, 100, 2),
        Bug::NoProbation => (Focus::Slow, 100, 2),
        Bug::NoLaterWaves => (Focus::Slow, 100, 2),
        Bug::RecoveryIgnoresLease => (Focus::Available, 500, 4),
        Bug::DecisionNotFlagged => (Focus::Available, 500, 2),
        Bug::AvailableCutsOff => (Focus::Available, 1000, 723),
        Bug::RecoveryIgnoresAnAnswer => (Focus::Succession, 100, 23),
        Bug::SealsOneTooFew => (Focus::Succession, 100, 4),
        Bug::FMajorityWithR => (Focus::Scopes, 200, 37),
        Bug::RunIgnoresAcked => (Focus::Succession, 500, 106),
        Bug::NonAuthoritativeCutsOff => (Focus::Lossy, 200, 111),
        Bug::RecoveryNeedsAllCopies => (Focus::Succession, 500, 99),
        Bug::DecideBeforeRepair => (Focus::Succession, 100, 1),
        Bug::RecoveryStoresCached => (Focus::Succession, 100, 1),
        Bug::RecoveryKeepsVersion => (Focus::Succession, 100, 1),
        Bug::IncompleteCounts => (Focus::WriteCache, 100, 10),
        Bug::LostDiskIsEmpty => (Focus::DiskLoss, 100, 4),
        Bug::DamageCounts => (Focus::Damage, 1000, 33),
        Bug::MissingNotRecorded => (Focus::Succession, 100, 4),
        Bug::SettledNotRepaired => (Focus::Available, 500, 17),
        Bug::AmendsBeforeStores => (Focus::Succession, 100, 1),
        Bug::LateAnswerIgnored => (Focus::Available, 200, 4),
        Bug::UnreadableIsAbsent => (Focus::Unreadable, 2000, 1058),
        Bug::UnreadableForgotten => (Focus::Unreadable, 1000, 555),
        Bug::OldEndsNotTold => (Focus::Succession, 500, 33),
        Bug::AnswerBeforeSync => (Focus::Succession, 100, 1),
        Bug::SealNotPersisted => (Focus::Succession, 100, 9),
        Bug::SealAnsweredEarly => (Focus::Succession, 100, 2),
        Bug::SealSparesStores => (Focus::Succession, 100, 2),
        Bug::SealSparesAmends => (Focus::Succession, 100, 12),
        Bug::SealSparesRecoverers => (Focus::Succession, 100, 26),
        Bug::LostCacheNotKept => (Focus::WriteCache, 500, 220),
        Bug::PurgeForgotten => (Focus::Succession, 100, 6),
        Bug::EndSparesStores => (Focus::Late, 1000, 250),
        Bug::IncarnationIgnored => (Focus::DiskLoss, 100, 4),
        Bug::DamagedServes => (Focus::Damage, 200, 19),
        Bug::NotSealedAnew => (Focus::Damage, 200, 15),
        Bug::MarksMoveUnderSeal => (Focus::Succession, 100, 23),
        Bug::TrimPassesReleased => (Focus::Succession, 100, 2),
        Bug::SilenceBeyondSettled => (Focus::Succession, 100, 1),
        Bug::ReadsUndecided => (Focus::Succession, 500, 205),
        Bug::WindowIgnored => (Focus::Readers, 200, 1),
        Bug::GapFromOneShard => (Focus::DiskLoss, 100, 2),
        Bug::GapFromSingleCopies => (Focus::Succession, 100, 2),
        Bug::GapFromOldAnswers => (Focus::Available, 2000, 244),
        Bug::AppendNotResent => (Focus::Succession, 100, 1),
        Bug::StaleRecovererDecides => (Focus::Succession, 100, 16),
        Bug::TrimmedEpochsLeave => (Focus::Producers, 1000, 4),
        Bug::RequestIdsRepeat => (Focus::Succession, 100, 1),
    };
    Hunt { focus, seeds, known }
}

/// What caught a bug.
struct Caught {
    seed: u64,
    by: String,
}

fn look_for(bug: Bug, quick: bool) -> Option<Caught> {
    let Hunt { focus, seeds, known } = hunt(bug);
    let first = if quick { known } else { 1 };
    (first..first + seeds).find_map(|seed| {
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

/// Looks for every bug, several at a time, and tells what caught it. Fails if nothing did. `quick`: from the seed on that is known to.
pub fn check_all(jobs: usize, quick: bool) -> ExitCode {
    if missed(jobs, quick).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Bugs that no seed catches; what catches the others is printed.
pub fn missed(jobs: usize, quick: bool) -> Vec<Bug> {
    std::panic::set_hook(Box::new(|_| {}));
    let (next, missed, started) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !is_caught(*bug, quick) {
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

fn is_caught(bug: Bug, quick: bool) -> bool {
    let (Hunt { focus, seeds, .. }, since) = (hunt(bug), Instant::now());
    let caught = look_for(bug, quick);
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
