//! A short run of the simulator for the main tests; the long ones are `make sim`.

use dlog_sim::{Focus, run, run_focused};

const ALL: [Focus; 15] = [
    Focus::Any,
    Focus::Calm,
    Focus::Succession,
    Focus::WriteCache,
    Focus::DiskLoss,
    Focus::Lossy,
    Focus::Scopes,
    Focus::Available,
    Focus::Slow,
    Focus::Wide,
    Focus::Readers,
    Focus::Producers,
    Focus::Damage,
    Focus::Unreadable,
    Focus::Late,
];

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=4 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!((first.events, first.digest), (second.events, second.digest), "seed {seed}");
        assert!(first.records > 0 && first.epochs > 0, "seed {seed}: {first:?}");
    }
    assert_ne!(run(1, false).digest, run(2, false).digest);
    for focus in ALL {
        let (first, second) = (run_focused(5, Some(focus), false), run_focused(5, Some(focus), false));
        assert_eq!((first.events, first.digest), (second.events, second.digest), "{focus:?}");
    }
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

/// Seeds that found a fault, each with what it was. Those of no focus in particular name it, so that new focuses do not change what they are.
#[test]
fn what_once_failed_stays_mended() {
    let seeds = [
        // A flush was told up to a block although an earlier one of a later wave was still in memory.
        (Some(Focus::Any), 24),
        // Recovery waited for a disk that was replaced.
        (None, 17),
        (None, 28),
        // A producer whose batches overflowed the window was told nothing and sent the same for ever.
        (None, 20),
        // A passing read error made a reader, and a seal's answer, leave out what was there.
        (None, 2),
        (None, 239),
        (Some(Focus::Any), 676),
        // Shards that serve old epochs only forgot after a restart how far they are released.
        (Some(Focus::Succession), 17),
        // A block that an earlier process wrote was taken for synced.
        (None, 194),
        (None, 55),
        // A later placement of a flushed block was taken for flushed.
        (None, 716),
        // A snapshot that nobody took was tried again without a pause.
        (Some(Focus::Any), 178),
        // Ends of epochs that were decided empty were not told to shards that missed them.
        (None, 767),
        // A process that found its write cache lost was killed before it told the metadata tier, and the next one knew nothing of it.
        (None, 1354),
        (None, 1488),
        (None, 1632),
        (None, 3580),
        // A stream went on behind a trim point that its reader was not told of, so that what was trimmed was called lost.
        (Some(Focus::Any), 4108),
        (None, 6225),
        // Recovery waited for copies of blocks that were trimmed meanwhile.
        (Some(Focus::Any), 1137),
        (None, 7822),
        // A shard that was away for more than sixteen epochs was never told where the first of them ended.
        (None, 2021),
        // Nor where an empty epoch ended that the trim point lay in.
        (None, 6995),
        // Blocks waited for the record of a missing shard, which was back when it came: nobody settled them, and the window stayed full.
        (Some(Focus::Any), 7077),
        // Records were trimmed that alone told of their producer: after a change of epoch it was a stranger.
        (None, 675),
        (None, 4171),
        // Recovery named members in the placement of a block that it then could not read, and left them off the record.
        (Some(Focus::Unreadable), 130),
        // A reader called lost what recovery copied, while it waited, to shards that had said before that they have none.
        (Some(Focus::Available), 1300),
        (Some(Focus::Available), 3058),
        // A recoverer died after it had told the holder of a settled block of copies that never came.
        (Some(Focus::Available), 558),
        // One did not look at what a shard told while blocks were copied: a newer placement than the one it took for whole.
        (Some(Focus::Available), 1657),
        (Some(Focus::Available), 1817),
        // A shard that was sealed again listed a copy of the recoverer's own that was not on its disk yet.
        (Some(Focus::Succession), 9),
        (Some(Focus::Unreadable), 1564),
        // An answer to an attempt that was given up was taken for one to the next, which had no plan yet.
        (None, 2774),
        (None, 4893),
        // A shard that was asked again told of this recoverer's own placements, which were taken for news, and so on for ever.
        (Some(Focus::Damage), 500),
        (Some(Focus::Damage), 1967),
        // Fault of a trouble: reads went on failing when all trouble was to be over, for longer than readers try.
        (Some(Focus::Unreadable), 1712),
        // An activation that was answered when its epoch had left the table.
        (Some(Focus::Any), 986),
        // A shard that lost its index told more of a sealed epoch than before: marks that a snapshot had brought.
        (Some(Focus::Producers), 794),
        // What is missing was put on record in another order than it was asked for.
        (Some(Focus::Available), 3899),
        // Faults of the checks. A shard does not tell of what it knew to be settled, though a recoverer has placed it anew there since.
        (Some(Focus::DiskLoss), 499),
        // An old sequencer that a decision passed over settled what lies beyond the end.
        (Some(Focus::Available), 1335),
        (Some(Focus::Available), 9168),
        // One acknowledged beyond the end from its own shard, which is all that acks=One asks for.
        (Some(Focus::Available), 2667),
        // A shard that came back with the end of all trouble was still to be told of an end.
        (Some(Focus::Available), 3613),
        // A write that failed was taken for done by the ledger.
        (None, 8189),
    ];
    for (focus, seed) in seeds {
        let report = run_focused(seed, focus, false);
        assert_eq!(report.violations, [""; 0], "dlog-sim --seed {seed} (focus {focus:?})");
    }
}
