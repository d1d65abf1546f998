//! What is acknowledged has the copies that were promised, and so has everything before it in its epoch; and no authoritative
//! end lies before it.

use dlog_proto::{Epoch, EpochEntry, Esn, Lsn, PartitionUid, Quorum};

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
        Some((end, true)) => return Err(format!("{by} acknowledges {lsn}, beyond the end {end} of its epoch")),
        _ if lsn.epoch() != by => return Err(format!("{by} acknowledges {lsn}, whose epoch is not decided")),
        _ => {}
    }
    if copies == Copies::One {
        return Ok(());
    }
    let checked = promised.acked;
    promised.acked = promised.acked.max(lsn.esn());
    check_prefix(ledger, entry, partition, Lsn::new(lsn.epoch(), checked.next()), lsn, is_cached(entry))
        .map_err(|why| format!("{by} acknowledges {lsn}, but {why}"))
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
    let mut next = from.esn();
    for (first, held) in ledger.blocks(partition, from.epoch(), from.esn(), upto.esn()) {
        if first.esn() > next {
            return Err(format!("nobody has {}", Lsn::new(from.epoch(), next)));
        }
        let members = held.members(entry, cached);
        if !quorum.is_write_quorum(members) {
            return Err(format!("{first}..{} is on {members:?} only", held.last));
        }
        next = held.last.esn().next();
    }
    if next > upto.esn() || upto.esn() == Esn::ZERO {
        return Ok(());
    }
    Err(format!("nobody has {}", Lsn::new(from.epoch(), next)))
}
