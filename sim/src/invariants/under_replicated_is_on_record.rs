//! A settled block has a placement that every shard of its copyset has on disk, so that single-copy delivery ships it; and either
//! these are all the copies that its log asks for, or the metadata tier knows who lacks one. A shard of an earlier wave that is away may
//! hold another placement: it ships the block once more. A settled block that an earlier recoverer began to place anew is whole again when
//! the epoch is decided, if a shard that took part told of it: it was heard, and had not known before it was sealed that the block is settled.
//! If none did, the decision can know nothing of it, and some holders may be under one placement and some under the other: readers get it by asking everybody. What still holds is what a copy is for: as many as were
//! promised are named by another holder, who notices when they are lost. What lies beyond an end is not of the log, and needs nothing;
//! where the end has authority, nothing is settled there.

use std::collections::BTreeSet;

use dlog_metadata::state::State;
use dlog_proto::{EpochEntry, Esn, Lsn, PartitionUid, Quorum, ShardRef};

use crate::ledger::{Copy, Held, Ledger, Placed};

pub(super) fn check_settled(
    ledger: &mut Ledger,
    state: &State,
    entry: &EpochEntry,
    partition: PartitionUid,
    settled: Esn,
) -> Result<(), String> {
    let promised = ledger.promised.entry((partition, entry.epoch)).or_default();
    let settled = match promised.end {
        // Every write quorum meets the shards that it rests on: no more copies come together.
        Some((end, true)) if settled > end => {
            return Err(format!("settled: {} is, beyond the end {end}", Lsn::new(entry.epoch, settled)));
        }
        // An old sequencer that the decision passed over may go on alone: it acknowledges and releases nothing of that, for it holds no
        // lease, and it is not part of the log. So the metadata tier has cut the record at the end.
        Some((end, _)) => settled.min(end),
        None => settled,
    };
    let from = promised.settled.next();
    promised.settled = promised.settled.max(settled);
    let trim = state.partition(partition).map_or(Lsn::ZERO, |p| p.trim);
    for (first, held) in ledger.blocks(partition, entry.epoch, from, settled) {
        if held.last <= trim {
            continue;
        }
        // Where a recoverer is at work already, the old sequencer's word about placements is void.
        if held.newest().is_some_and(|placed| placed.version.writer_epoch > entry.epoch) {
            continue;
        }
        check_block(ledger, state, entry, partition, (first, held), None).map_err(|why| format!("settled: {why}"))?;
    }
    Ok(())
}

/// Checks what recovery leaves behind when it decides.
pub(super) fn check_decided(
    ledger: &Ledger,
    state: &State,
    entry: &EpochEntry,
    partition: PartitionUid,
    (end, authoritative): (Esn, bool),
    answered: Option<&BTreeSet<ShardRef>>,
) -> Result<(), String> {
    let promised = ledger.promised.get(&(partition, entry.epoch)).copied().unwrap_or_default();
    let trim = state.partition(partition).map_or(Lsn::ZERO, |p| p.trim);
    let told = promised.recoverer.and_then(|by| ledger.answered.get(&(partition, entry.epoch, by)));
    let told = |shard: &&ShardRef| told.is_some_and(|told| told.contains(shard));
    // A shard does not tell of what it knows to be settled, wherever recoverers have placed that since.
    let lists = |shard: &ShardRef, first: Lsn| {
        let settled = ledger.told.get(&(*shard, partition, entry.epoch));
        told(&shard) && settled.is_none_or(|settled| first.esn() > *settled)
    };
    let is_placed_anew = |first: Lsn, shard: &ShardRef, copy: &Copy| {
        let placed = copy.durable.as_ref().filter(|_| !ledger.lost.contains(shard));
        lists(shard, first) && placed.is_some_and(|placed| placed.version.writer_epoch > entry.epoch)
    };
    // How far the recoverer knew it to be settled: the sequencer may have told shards with a store, before any release did.
    let of_epoch = ledger.told.iter().filter(|((_, of, epoch), _)| (*of, *epoch) == (partition, entry.epoch));
    let settled =
        of_epoch.filter(|((shard, ..), _)| told(&shard)).map(|(_, settled)| *settled).max().unwrap_or_default();
    for (first, held) in ledger.blocks(partition, entry.epoch, Esn::ZERO, end) {
        // An end without authority may lie beyond blocks of which no copy survives, or none that was heard of: readers are told of the
        // loss. One with authority covers only what somebody holds.
        let is_lost = !authoritative && ledger.heard(held, answered).next().is_none();
        if held.last <= trim || is_lost {
            continue;
        }
        let mut copies = held.copies.iter();
        let is_looked_after = first.esn() > settled || copies.any(|(shard, copy)| is_placed_anew(first, shard, copy));
        let check = if is_looked_after { check_block } else { check_named };
        check(ledger, state, entry, partition, (first, held), answered).map_err(|why| format!("decided: {why}"))?;
    }
    Ok(())
}

/// Checks a settled block that the recoverer has no reason to look at: its placement is whole, or as many copies as were promised are named
/// by others.
fn check_named(
    ledger: &Ledger,
    state: &State,
    entry: &EpochEntry,
    partition: PartitionUid,
    (first, held): (Lsn, &Held),
    _: Option<&BTreeSet<ShardRef>>,
) -> Result<(), String> {
    let Err(why) = check_block(ledger, state, entry, partition, (first, held), None) else { return Ok(()) };
    let placed = || held.copies.iter().filter_map(|(shard, copy)| Some((*shard, copy.durable.as_ref()?)));
    let names = |placed: &Placed, shard: ShardRef| placed.copyset.shards().contains(&shard.shard);
    let is_named = |shard: &ShardRef| placed().any(|(by, placed)| by != *shard && names(placed, *shard));
    let named: BTreeSet<ShardRef> = placed().map(|(shard, _)| shard).filter(is_named).collect();
    let members = named.iter().filter_map(|shard| entry.nodeset.index_of_ref(*shard)).collect();
    let enough = named.len() + missing(state, partition, (entry, first)).len() >= entry.replication.factor();
    if enough && Quorum::new(&entry.nodeset, &entry.replication).is_write_quorum(members) {
        return Ok(());
    }
    Err(format!("{why}; and only {named:?} are named by others"))
}

fn check_block(
    ledger: &Ledger,
    state: &State,
    entry: &EpochEntry,
    partition: PartitionUid,
    (first, held): (Lsn, &Held),
    answered: Option<&BTreeSet<ShardRef>>,
) -> Result<(), String> {
    let name = format!("{first}..{}", held.last);
    let members = |placed: &Placed| entry.nodeset.set_of(placed.copyset.shards().iter().copied());
    // What a disk that is lost has, or had, nobody can say any more.
    let has = |member: usize, placed: &Placed| {
        let shard = entry.nodeset.shard_ref(member);
        ledger.lost.contains(&shard) || held.copies.get(&shard).is_some_and(|c| c.durable.as_ref() == Some(placed))
    };
    // Who was passed over may have another placement, from when its sequencer was alone with it.
    let heard = held.copies.iter().filter(|(shard, _)| answered.is_none_or(|answered| answered.contains(shard)));
    let placements = heard.filter_map(|(_, copy)| copy.durable.as_ref());
    let whole = placements.filter(|placed| members(placed).iter().all(|member| has(member, placed)));
    let Some(newest) = whole.max_by_key(|placed| placed.version) else {
        return Err(format!("no placement of {name} is whole: {:?}", held.copies));
    };
    let members = members(newest);
    if Quorum::new(&entry.nodeset, &entry.replication).is_fully_replicated(members) {
        return Ok(());
    }
    let on_record = missing(state, partition, (entry, first));
    if members.len() + on_record.len() >= entry.replication.factor() {
        return Ok(());
    }
    Err(format!("{name} has the copies {:?} only, and on record are {on_record:?}", newest.copyset))
}

/// Shards that are on record as lacking this block.
fn missing(state: &State, partition: PartitionUid, (entry, first): (&EpochEntry, Lsn)) -> BTreeSet<ShardRef> {
    // What is trimmed leaves the record.
    let trim = state.partition(partition).map_or(Lsn::ZERO, |p| p.trim);
    let (epoch, esn) = (entry.epoch, first.max(trim.next()).esn());
    let Some(ranges) = state.under_replicated(partition) else { return BTreeSet::new() };
    let of_epoch = ranges.iter().filter(|(at, _)| at.epoch == epoch);
    let covers = of_epoch.filter(|(_, ranges)| ranges.iter().any(|r| r.from <= esn && r.to.is_none_or(|to| to >= esn)));
    covers.map(|(at, _)| ShardRef { shard: at.shard, incarnation: at.incarnation }).collect()
}
