//! A run: set up, trouble (safety), calm (liveness), everything off and on again (durability).

use std::time::Duration;

use dlog_proto::{LogOffset, Lsn, Time};

use crate::history::Payload;
use crate::invariants;
use crate::network::Address;
use crate::scenario::{Focus, Scenario};
use crate::seed::Streams;
use crate::trace::Trace;
use crate::world::{Event, World, show};
use crate::writer::Writer;

/// How much virtual time each part may take when nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a part's end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How long a shard that is well may be passed over: no refusal and no silence is held against it for longer.
const PASSED_OVER_MAX: Duration = Duration::from_secs(61);

/// How long after all is well a shard may have records beyond an end that it was not told of.
const TOLD_MAX: Duration = Duration::from_secs(10);

/// Events of a run, at most: a run of this many goes round in circles.
const EVENTS_MAX: u64 = 500_000;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub violations: Vec<String>,
    pub events: u64,
    /// Of everything that happened: equal for equal seeds.
    pub digest: u64,
    pub records: u64,
    pub epochs: u64,
    pub virtual_time: Duration,
}

/// Runs a seed.
pub fn run(seed: u64, print: bool) -> Report {
    run_focused(seed, None, print)
}

/// Runs a seed, with a focus of its own choice or this one.
pub fn run_focused(seed: u64, focus: Option<Focus>, print: bool) -> Report {
    let mut rng = Streams::new(seed);
    let scenario = Scenario::draw(&mut rng, focus);
    if print {
        println!("{scenario:#?}");
    }
    let mut world = World::new(rng, scenario, Trace::new(print));
    let outcome = set_up(&mut world)
        .and_then(|()| safety(&mut world))
        .and_then(|()| liveness(&mut world))
        .and_then(|()| healed(&mut world))
        .and_then(|()| calm(&world))
        .and_then(|()| durability(&mut world));
    let mut violations = std::mem::take(&mut world.violations);
    if let Err(why) = outcome {
        violations.push(why);
    }
    let (events, digest) = world.trace.digest();
    let records = world.history.partitions.values().map(|h| h.written.len() as u64).sum();
    let newest = world.metadata.state.partitions().filter_map(|(_, partition)| partition.newest());
    let epochs = newest.map(|(epoch, ..)| u64::from(epoch.0)).sum();
    let virtual_time = world.now.since(Time::ZERO);
    Report { seed, violations, events, digest, records, epochs, virtual_time }
}

/// Runs until `done` or for `patience`; a violation ends it.
fn run_until(world: &mut World, patience: Duration, what: &str, done: impl Fn(&World) -> bool) -> Result<(), String> {
    let end = world.now + patience;
    let mut look_at = world.now;
    loop {
        if !world.violations.is_empty() {
            return Err(format!("stopped at {}", show(world.now)));
        }
        if world.now >= look_at {
            if done(world) {
                return Ok(());
            }
            look_at = world.now + LOOK;
            if !world.troubled {
                world.tell_everybody();
            }
            if world.trace.digest().0 > EVENTS_MAX {
                return Err(format!("livelock: {what} (at {}){}", show(world.now), explain(world)));
            }
            check_queues(world)?;
        }
        if !world.step(end.min(look_at)) {
            if world.now >= end || look_at >= end {
                return Err(format!("no progress: {what} (at {}){}", show(world.now), explain(world)));
            }
            world.now = look_at;
        }
    }
}

fn check_queues(world: &World) -> Result<(), String> {
    let processes = world.servers.values().filter_map(|server| server.process.as_ref());
    invariants::check_queues(processes.flat_map(|process| process.host.sequencers()), &world.settings)
}

fn set_up(world: &mut World) -> Result<(), String> {
    let servers: Vec<u16> = world.servers.keys().copied().collect();
    servers.iter().for_each(|server| world.schedule(Duration::ZERO, Event::Start(*server)));
    world.schedule(Duration::from_millis(1), Event::Wake(Address::Metadata));
    world.connect_all();
    let nodes = servers.len();
    run_until(world, PATIENCE, "nodes register", |world| world.metadata.state.nodes().count() == nodes)?;
    let mut writer = 0;
    for (i, plan) in world.scenario.logs.clone().into_iter().enumerate() {
        let (may_lose, patience) = (world.scenario.may_lose(&plan), world.scenario.patience(&plan));
        let partitions = world.metadata.create_log(&format!("log{i}"), plan.partitions, plan.attributes());
        for partition in &partitions {
            let history = world.history.of(*partition);
            // Who is away may have what tells a retry from a new record.
            history.idempotent = plan.idempotent && !plan.prefers_availability();
            history.may_lose = may_lose;
            history.patience = patience;
            for _ in 0..plan.writers {
                world.writers.insert(writer, Writer::new(writer, *partition, &plan));
                world.connect_client(Address::Writer(writer));
                world.schedule(Duration::from_millis(5), Event::Wake(Address::Writer(writer)));
                writer += 1;
            }
            world.add_reader(*partition, Lsn::FIRST);
        }
        world.partitions.push(partitions);
    }
    world.tell_everybody();
    Ok(())
}

/// Trouble: nothing that was promised may break.
fn safety(world: &mut World) -> Result<(), String> {
    world.begin_trouble();
    let end = world.now + world.scenario.duration;
    while world.step(end) {
        if !world.violations.is_empty() {
            return Err(format!("stopped at {}", show(world.now)));
        }
        if world.trace.digest().0 > EVENTS_MAX {
            return Err(format!("livelock (at {})", show(world.now)));
        }
    }
    world.now = end;
    Ok(())
}

/// Calm: everything must be written, recovered and read.
fn liveness(world: &mut World) -> Result<(), String> {
    world.end_trouble();
    run_until(world, PATIENCE, "everything is written and read", is_caught_up)?;
    invariants::check_end(&world.history)?;
    // Who was away until now is still on its way back.
    run_until(world, TOLD_MAX, "everybody knows the ends", |world| nothing_beyond_an_end(world).is_ok())
        .map_err(|why| nothing_beyond_an_end(world).err().unwrap_or(why))
}

fn nothing_beyond_an_end(world: &World) -> Result<(), String> {
    let trims = world.history.partitions.iter().map(|(partition, history)| (*partition, history.trim)).collect();
    invariants::nothing_beyond_an_end::check(&world.history.ledger, &trims, |shard, partition, epoch| {
        let (_, node, _) = world.metadata.state.partition(partition)?.newest()?;
        let sequencer = world.servers[&node.0].process.as_ref()?.host.sequencer(partition)?;
        // What was decided empty has left the table: who is in no other nodeset is told of nothing any more.
        if sequencer.table().epoch(epoch).is_none() {
            sequencer.shards().find(|told| *told == shard)?;
        }
        let process = world.servers.get(&shard.shard.node.0)?.process.as_ref()?;
        let core = &process.shards.get(&shard.shard.shard)?.core;
        let state = core.partition(partition).filter(|_| core.incarnation() == shard.incarnation)?;
        Some(state.meta().end_of(epoch).is_some())
    })
}

/// Whoever is well is written to again.
fn healed(world: &mut World) -> Result<(), String> {
    if world.scenario.focus != Focus::Slow {
        return Ok(());
    }
    let end = world.now + PASSED_OVER_MAX;
    run_until(world, PASSED_OVER_MAX * 2, "shards that are well are written to", |world| world.now >= end)?;
    let processes = world.servers.values().filter_map(|server| server.process.as_ref());
    let passed_over = processes.flat_map(|process| process.host.sequencers()).find_map(|sequencer| {
        let usable = sequencer.usable_members(world.now);
        let members = sequencer.table().newest()?.nodeset.members().iter().map(|member| member.shard_ref());
        let shards: Vec<_> = members.filter(|shard| !usable.contains(shard)).collect();
        (!shards.is_empty()).then(|| format!("{} {} passes over {shards:?}", sequencer.partition(), sequencer.epoch()))
    });
    passed_over.map_or(Ok(()), |who| Err(format!("{PASSED_OVER_MAX:?} after all were well again, {who}")))
}

/// What must hold where nothing was done to anybody.
fn calm(world: &World) -> Result<(), String> {
    if world.scenario.focus != Focus::Calm {
        return Ok(());
    }
    invariants::check_calm(
        &world.history.ledger,
        world.readers.values().map(|reader| (reader.partition, reader.rewinds())),
    )
}

fn is_caught_up(world: &World) -> bool {
    world.writers.values().all(Writer::is_done)
        && tails(world).is_some_and(|tails| {
            world.readers.values().all(|reader| tails.get(&reader.partition).is_some_and(|tail| reader.has_read(*tail)))
        })
}

/// What a run that does not come to its end waits for.
fn explain(world: &World) -> String {
    let mut lines = Vec::new();
    for (number, writer) in &world.writers {
        if !writer.is_done() {
            lines.push(format!(
                "writer {number} of {}: {} records left, {:?}",
                writer.partition,
                writer.left,
                writer.sequencer()
            ));
        }
    }
    for partition in world.partitions.iter().flatten() {
        let newest = world.metadata.state.partition(*partition).and_then(|p| p.newest());
        let sequencer =
            newest.and_then(|(_, node, _)| world.servers[&node.0].process.as_ref()?.host.sequencer(*partition));
        let state = sequencer.map(|s| (s.epoch(), s.is_ready(), s.released(), s.next_lsn()));
        let table = world.metadata.state.table(*partition);
        let ends: Vec<_> =
            table.iter().flat_map(|t| &t.epochs).map(|e| (e.epoch.0, e.end.map(|end| end.last_esn.0))).collect();
        lines.push(format!("{partition}: newest {newest:?}, sequencer {state:?}, epochs {ends:?}"));
    }
    for (number, reader) in &world.readers {
        lines.push(format!("reader {number} of {}: at {}", reader.partition, reader.cursor()));
    }
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

/// The last released LSN of each partition, if every one has a sequencer for which everything is known and released.
fn tails(world: &World) -> Option<std::collections::BTreeMap<dlog_proto::PartitionUid, Lsn>> {
    let mut tails = std::collections::BTreeMap::new();
    for partition in world.partitions.iter().flatten() {
        let (epoch, node, _) = world.metadata.state.partition(*partition)?.newest()?;
        let sequencer = world.servers[&node.0].process.as_ref()?.host.sequencer(*partition)?;
        let released = sequencer.released()?;
        let whole = sequencer.is_ready() && sequencer.epoch() == epoch && sequencer.next_lsn() == released.next();
        tails.insert(*partition, whole.then_some(released)?);
    }
    Some(tails)
}

/// Everything off and on again: what was acknowledged is read once more, by readers that begin at the beginning.
fn durability(world: &mut World) -> Result<(), String> {
    let servers: Vec<u16> = world.servers.keys().copied().collect();
    for server in servers {
        world.kill(server, true);
        world.schedule(Duration::from_millis(200), Event::Start(server));
    }
    world.readers.clear();
    let mut before = std::collections::BTreeMap::new();
    for partition in world.partitions.clone().into_iter().flatten() {
        before.insert(partition, std::mem::take(&mut world.history.of(partition).read));
        world.add_reader(partition, Lsn::FIRST);
    }
    run_until(world, PATIENCE, "everything is read again after a loss of power", is_caught_up)?;
    for (partition, before) in before {
        let after = &world.history.partitions[&partition].read;
        let is_other = |(lsn, read): &(&Lsn, &(Payload, LogOffset))| {
            after.get(lsn) != Some(*read) && !invariants::is_told(&world.history, partition, **lsn)
        };
        if let Some((lsn, read)) = before.iter().find(is_other) {
            return Err(format!("{partition}: {lsn} was {read:?}, and is {:?} after a loss of power", after.get(lsn)));
        }
    }
    invariants::check_end(&world.history)
}
