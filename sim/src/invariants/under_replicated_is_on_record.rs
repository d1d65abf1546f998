//! A settled block has a placement that every shard of its copyset has on disk, so that single-copy delivery ships it; and either
//! these are all the copies that its log asks for, or the metadata tier knows who lacks one. A shard of an earlier wave that is away may
//! hold another placement: it ships the block once more. A settled block that an earlier recoverer began to place anew is whole again when
//! the epoch is decided, if a shard that took part was heard. What lies beyond an end is not of the log, and needs nothing; where the end has
//! authority, nothing is settled there.

use std::collections::BTreeSet;

use dlog_metadata::state::State;
use dlog_proto::{Epoch, EpochEntry, Esn, Lsn, PartitionUid, Quorum, ShardRef};

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
    let is_placed_anew = |(shard, copy): (&ShardRef, &Copy)| {
        let placed = copy.durable.as_ref().filter(|_| !ledger.lost.contains(shard));
        let is_told = told.is_some_and(|told| told.contains(shard));
        is_told && placed.is_some_and(|placed| placed.version.writer_epoch > entry.epoch)
    };
    for (first, held) in ledger.blocks(partition, entry.epoch, Esn::ZERO, end) {
        if first.esn() <= promised.settled && !held.copies.iter().any(is_placed_anew) {
            continue;
        }
        // An end without authority may lie beyond blocks of which no copy survives, or none that was heard of: readers are told of the
        // loss. One with authority covers only what somebody holds.
        let is_lost = !authoritative && ledger.heard(held, answered).next().is_none();
        if held.last > trim && !is_lost {
            check_block(ledger, state, entry, partition, (first, held), answered)
                .map_err(|why| format!("decided: {why}"))?;
        }
    }
    Ok(())
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
    // What is trimmed leaves the record.
    let trim = state.partition(partition).map_or(Lsn::ZERO, |p| p.trim);
    let on_record = on_record(state, partition, entry.epoch, first.max(trim.next()).esn());
    if members.len() + on_record.len() >= entry.replication.factor() {
        return Ok(());
    }
    Err(format!("{name} has the copies {:?} only, and on record are {on_record:?}", newest.copyset))
}

/// Shards that are on record as lacking this record.
fn on_record(state: &State, partition: PartitionUid, epoch: Epoch, esn: Esn) -> BTreeSet<ShardRef> {
    let Some(ranges) = state.under_replicated(partition) else { return BTreeSet::new() };
    let of_epoch = ranges.iter().filter(|(at, _)| at.epoch == epoch);
    let covers = of_epoch.filter(|(_, ranges)| ranges.iter().any(|r| r.from <= esn && r.to.is_none_or(|to| to >= esn)));
    covers.map(|(at, _)| ShardRef { shard: at.shard, incarnation: at.incarnation }).collect()
}
