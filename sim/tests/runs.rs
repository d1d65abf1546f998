//! A short run of the simulator for the main tests; the long ones are `make sim`.

use dlog_sim::{Focus, run, run_focused};

const ALL: [Focus; 7] =
    [Focus::Any, Focus::Calm, Focus::Succession, Focus::WriteCache, Focus::DiskLoss, Focus::Lossy, Focus::Scopes];

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=4 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!((first.events, first.digest), (second.events, second.digest), "seed {seed}");
        assert!(first.records > 0 && first.epochs > 0, "seed {seed}: {first:?}");
    }
    assert_ne!(run(1, false).digest, run(2, false).digest);
}

#[test]
fn a_few_seeds_of_every_focus_are_clean() {
    for focus in ALL {
        for seed in 1..=3 {
            let report = run_focused(seed, Some(focus), false);
            assert_eq!(report.violations, [""; 0], "dlog-sim --focus {focus:?} --seed {seed}");
        }
    }
}

/// Seeds that found a fault, each with what it was.
#[test]
fn what_once_failed_stays_mended() {
    let seeds = [
        // A flush was told up to a block although an earlier one of a later wave was still in memory.
        (None, 24),
        // Recovery waited for a disk that was replaced.
        (None, 17),
        (None, 28),
        // A producer whose batches overflowed the window was told nothing and sent the same for ever.
        (None, 20),
        // A passing read error made a reader, and a seal's answer, leave out what was there.
        (None, 2),
        (None, 239),
        (None, 676),
        // Shards that serve old epochs only forgot after a restart how far they are released.
        (Some(Focus::Succession), 17),
        // A block that an earlier process wrote was taken for synced.
        (None, 194),
        (None, 55),
        // A later placement of a flushed block was taken for flushed.
        (None, 716),
        // A snapshot that nobody took was tried again without a pause.
        (None, 178),
        // Ends of epochs that were decided empty were not told to shards that missed them.
        (None, 767),
    ];
    for (focus, seed) in seeds {
        let report = run_focused(seed, focus, false);
        assert_eq!(report.violations, [""; 0], "dlog-sim --seed {seed} (focus {focus:?})");
    }
}
