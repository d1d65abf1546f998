//! Power is cut at every operation that changes the disk, and what was not synced survives or not, page by page.
//!
//! After each crash the shard must hold exactly what some prefix of the entries written comes to, a prefix no shorter than
//! what was durable: every durable entry byte for byte, under its newest placement, nothing that was never written,
//! nothing that was purged. No crash is a loss. Opening again changes nothing; an index made from nothing is equal.

use dlog_proto::PartitionUid;
use dlog_storage_node::Engine;
use dlog_storage_node::entry::Entry;
use fastrand::Rng;

use crate::machine::Machine;
use crate::model::{Fold, observe};
use crate::workload::{self, Action, Workload};

/// What was asked of a shard until its power was cut.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) written: Vec<Entry>,
    /// Entries of which it was said that they are durable.
    pub(crate) durable: usize,
    operations: u64,
    pub(crate) finished: bool,
}

/// Runs a workload until it is done or the power is cut.
pub(crate) fn run(machine: &Machine, seed: u64, actions: usize, reclaims: bool, cut_power_at: Option<u64>) -> History {
    let mut workload = Workload::new(seed, 3, 3000, reclaims);
    let mut history = History::default();
    if let Some(at) = cut_power_at {
        machine.disk.cut_power_at(at);
    }
    let Ok((engine, _)) = machine.try_open() else { return history };
    let mut engine = Some(engine);
    for _ in 0..actions {
        if step(machine, &mut engine, workload.next(), &mut history).is_none() {
            return history;
        }
    }
    history.finished = true;
    history.operations = machine.disk.changes();
    history
}

pub(crate) fn step(machine: &Machine, slot: &mut Option<Engine>, action: Action, history: &mut History) -> Option<()> {
    let engine = slot.as_mut()?;
    match action {
        Action::Append(entries) => {
            history.written.extend(entries.iter().cloned());
            engine.append(&entries).ok()?;
        }
        Action::Sync => {
            engine.sync().ok()?;
            history.durable = history.written.len();
        }
        Action::Upkeep => engine.upkeep(0).ok()?,
        Action::Checkpoint => engine.checkpoint().ok()?,
        Action::Mark => engine.mark().ok()?,
        Action::Reclaim => drop(engine.reclaim().ok()?),
        Action::Rewrite => drop(engine.rewrite().ok()?),
        Action::Restart => {
            slot.take()?.close().ok()?;
            history.durable = history.written.len();
            *slot = Some(machine.try_open().ok()?.0);
        }
    }
    Some(())
}

/// Opens after a crash and checks everything. Gives how many of the written entries are there.
fn check(machine: &Machine, history: &History, partitions: &[PartitionUid], reclaims: bool) -> usize {
    let (engine, recovered) = machine.open();
    assert_eq!((recovered.losses.len(), recovered.new_losses), (0, 0), "{recovered:?}");
    assert!(recovered.formatted || recovered.clean || recovered.lost_write_cache, "{recovered:?}");
    assert_eq!(recovered.index_rebuilt, None, "a crash costs no index");
    let state = observe(&engine.reader(), partitions.iter().copied());

    let mut fold = Fold::default();
    history.written[..history.durable].iter().for_each(|entry| fold.add(entry));
    let mut survived = history.durable;
    while fold.state() != &state {
        let Some(entry) = history.written.get(survived) else {
            let mut durable = Fold::default();
            history.written[..history.durable].iter().for_each(|entry| durable.add(entry));
            panic!(
                "no prefix from {} to {survived} comes to\n{state:#?}\nthe durable one is\n{:#?}",
                history.durable,
                durable.state()
            );
        };
        fold.add(entry);
        survived += 1;
    }

    // Killed and opened again, nothing changes.
    machine.kill();
    let (mut engine, again) = machine.open();
    assert_eq!((again.torn_bytes, again.losses.len()), (0, 0), "the first start put everything right: {again:?}");
    assert_eq!(observe(&engine.reader(), partitions.iter().copied()), state);
    engine.upkeep(1).expect("the disk is well");
    engine.close().expect("the disk is well");
    let incremental = machine.kv.dump();

    // An index made from nothing is equal.
    machine.kv.lose();
    let (mut engine, _) = machine.open();
    assert_eq!(observe(&engine.reader(), partitions.iter().copied()), state);
    engine.upkeep(1).expect("the disk is well");
    assert_eq!(observe(&engine.reader(), partitions.iter().copied()), state);
    engine.close().expect("the disk is well");
    if !reclaims {
        assert_eq!(machine.kv.dump(), incremental, "an index made from nothing is equal");
    }
    survived
}

/// A shard that was opened after a crash goes on as any other.
fn check_goes_on(machine: &Machine, history: &History, survived: usize, partitions: &[PartitionUid]) {
    let (mut engine, _) = machine.open();
    let mut written = history.written[..survived].to_vec();
    for n in 0..12 {
        let block = workload::block(2, 1_000, n * 3 + 1, 3, 2_000, n as u8);
        let entry = Entry::Block { placement: workload::placement(1_000, 1, 1), block };
        engine.append(std::slice::from_ref(&entry)).expect("there is room");
        written.push(entry);
    }
    engine.sync().expect("the disk is well");
    drop(engine);
    machine.kill();
    let (engine, recovered) = machine.open();
    assert!(recovered.torn_bytes == 0 && recovered.losses.is_empty(), "{recovered:?}");
    let mut fold = Fold::default();
    written.iter().for_each(|entry| fold.add(entry));
    assert_eq!(&observe(&engine.reader(), partitions.iter().copied()), fold.state());
}

/// What a killed process had written and not synced is durable when the next one has opened the shard.
fn check_kill_then_crash(machine: &mut Machine, rng: &mut Rng, partitions: &[PartitionUid]) {
    let (mut engine, _) = machine.open();
    for n in 0..4 {
        let block = workload::block(3, 2_000, n + 1, 1, 2_000, n as u8);
        engine.append(&[Entry::Block { placement: workload::placement(2_000, 1, 1), block }]).expect("there is room");
    }
    drop(engine);
    machine.kill();
    let (engine, _) = machine.open();
    let found = observe(&engine.reader(), partitions.iter().copied());
    drop(engine);
    machine.crash(rng);
    let (engine, recovered) = machine.open();
    assert!(recovered.losses.is_empty(), "{recovered:?}");
    assert_eq!(observe(&engine.reader(), partitions.iter().copied()), found);
}

fn crash_everywhere(seed: u64, actions: usize, reclaims: bool, step: usize) {
    let partitions = Workload::new(seed, 3, 3000, reclaims).partitions();
    let whole = run(&Machine::new(), seed, actions, reclaims, None);
    assert!(whole.finished, "without a crash nothing fails");
    let mut shortened = 0;
    for cut in (0..whole.operations).step_by(step) {
        let machine = Machine::new();
        let history = run(&machine, seed, actions, reclaims, Some(cut));
        for fate in 0..3 {
            let mut crashed = machine.fork();
            let mut rng = Rng::with_seed(seed << 32 ^ cut << 8 ^ fate);
            crashed.crash(&mut rng);
            if fate == 2 {
                // And once more while it recovers.
                crashed.disk.cut_power_at(rng.u64(0..4));
                let _ = crashed.try_open();
                crashed.crash(&mut rng);
            }
            let survived = check(&crashed, &history, &partitions, reclaims);
            shortened += usize::from(survived < history.written.len());
            if fate == 0 {
                check_goes_on(&crashed, &history, survived, &partitions);
                check_kill_then_crash(&mut crashed, &mut rng, &partitions);
            }
        }
    }
    assert!(shortened > 0, "crashes that lose nothing test nothing");
}

#[test]
fn power_cut_at_every_operation() {
    (0..4).for_each(|seed| crash_everywhere(seed, 60, false, 1));
}

#[test]
fn power_cut_while_segments_are_reclaimed() {
    (100..103).for_each(|seed| crash_everywhere(seed, 150, true, 5));
}
