//! What may be read is on the disks of a write quorum, lies within its epoch, and every epoch before it is decided.

use dlog_proto::{EpochEntry, Lsn, PartitionUid};

use super::acknowledged_is_durable::check_prefix;
use crate::ledger::Ledger;

pub(super) fn check(
    ledger: &mut Ledger,
    entry: &EpochEntry,
    earlier_are_decided: bool,
    partition: PartitionUid,
    released: Lsn,
) -> Result<(), String> {
    if !earlier_are_decided {
        return Err(format!("{released} is released before every earlier epoch is decided"));
    }
    let promised = ledger.promised.entry((partition, released.epoch())).or_default();
    // An end without authority may lie before what was released, if nobody knew; where it is known, nothing more is.
    if let Some((end, authoritative)) = promised.end
        && released.esn() > end
        && (authoritative || (!entry.replication.quorum.is_strict() && released.esn() > promised.released))
    {
        return Err(format!("{released} is released, beyond the end {end} of its epoch"));
    }
    let checked = promised.released;
    promised.released = promised.released.max(released.esn());
    check_prefix(ledger, entry, partition, Lsn::new(released.epoch(), checked.next()), released, false)
        .map_err(|why| format!("{released} is released, but {why}"))
}
