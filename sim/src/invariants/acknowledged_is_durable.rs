//! What is acknowledged has the copies that were promised, and so has everything before it in its epoch; and no authoritative
//! end lies before it. Whoever asked for one copy only may lose it with a decision that did not meet that copy's shard.

use dlog_proto::{Epoch, EpochEntry, Esn, Lsn, MemberSet, PartitionUid, Quorum};

use crate::ledger::{Copies, Ledger, is_cached};

pub(super) fn check(
    ledger: &mut Ledger,
    entry: &EpochEntry,
    partition: PartitionUid,
    lsn: Lsn,
    by: Epoch,
    copies: Copies,
) -> Result<(), String> {
    let promised = ledger.promised.entry((partition, lsn.epoch())).or_default();
    match promised.end {
        // Without a lease nothing is acknowledged, wherever the end turned out to be.
        Some((end, _)) if lsn.epoch() == by && !entry.replication.quorum.is_strict() => {
            return Err(format!("{by} acknowledges {lsn}, and its epoch was decided to end at {end}"));
        }
        Some((end, _)) if lsn.esn() <= end => return Ok(()),
        Some((end, true)) if copies == Copies::Quorum || lsn.epoch() != by => {
            return Err(format!("{by} acknowledges {lsn}, beyond the end {end} of its epoch"));
        }
        // The shard that has the copy was away when the end was found: it is not sealed, and so its sequencer cannot know.
        Some((end, true)) => {
            let recoverer = promised.recoverer;
            check_not_met(ledger, partition, Lsn::new(lsn.epoch(), end.next()), recoverer)
                .map_err(|why| format!("{by} acknowledges {lsn} beyond the end of its epoch, and {why}"))?;
        }
        _ if lsn.epoch() != by => return Err(format!("{by} acknowledges {lsn}, whose epoch is not decided")),
        _ => {}
    }
    let promised = ledger.promised.entry((partition, lsn.epoch())).or_default();
    let mark = if copies == Copies::One { &mut promised.once } else { &mut promised.acked };
    let from = Lsn::new(lsn.epoch(), mark.next());
    *mark = lsn.esn().max(*mark);
    let checked = match copies {
        Copies::One => {
            check_all(ledger, entry, partition, (from, lsn), is_cached(entry), |members| !members.is_empty())
        }
        Copies::Quorum => check_prefix(ledger, entry, partition, from, lsn, is_cached(entry)),
    };
    checked.map_err(|why| format!("{by} acknowledges {lsn}, but {why}"))
}

/// Whether nobody on whose answer an end rests had the record behind it.
fn check_not_met(
    ledger: &Ledger,
    partition: PartitionUid,
    behind: Lsn,
    recoverer: Option<Epoch>,
) -> Result<(), String> {
    let answered = recoverer.and_then(|recoverer| ledger.answered.get(&(partition, behind.epoch(), recoverer)));
    let mut held = ledger.blocks(partition, behind.epoch(), behind.esn(), behind.esn());
    match held.find_map(|(_, held)| ledger.heard(held, answered).next()) {
        Some(shard) => Err(format!("{shard:?}, which answered, has {behind}")),
        None => Ok(()),
    }
}

/// Whether every block from `from` to `upto` is there, on a write quorum.
pub(super) fn check_prefix(
    ledger: &Ledger,
    entry: &EpochEntry,
    partition: PartitionUid,
    from: Lsn,
    upto: Lsn,
    cached: bool,
) -> Result<(), String> {
    let quorum = Quorum::new(&entry.nodeset, &entry.replication);
    check_all(ledger, entry, partition, (from, upto), cached, |members| quorum.is_write_quorum(members))
}

fn check_all(
    ledger: &Ledger,
    entry: &EpochEntry,
    partition: PartitionUid,
    (from, upto): (Lsn, Lsn),
    cached: bool,
    is_enough: impl Fn(MemberSet) -> bool,
) -> Result<(), String> {
    let mut next = from.esn();
    for (first, held) in ledger.blocks(partition, from.epoch(), from.esn(), upto.esn()) {
        if first.esn() > next {
            return Err(format!("nobody has {}", Lsn::new(from.epoch(), next)));
        }
        let members = held.members(entry, cached);
        if !is_enough(members) {
            return Err(format!("{first}..{} is on {members:?} only", held.last));
        }
        next = held.last.esn().next();
    }
    if next > upto.esn() || upto.esn() == Esn::ZERO {
        return Ok(());
    }
    Err(format!("nobody has {}", Lsn::new(from.epoch(), next)))
}
