//! An epoch ends once, everywhere at the same place, and never before what was acknowledged or released in it and survives. Where a log
//! prefers availability: survives on a shard that the decision rests on.

use std::collections::BTreeSet;

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, ShardRef};

use crate::ledger::Ledger;

/// Whether this is news. `answered`: on whose answers it rests, if it may pass over others.
pub(super) fn check(
    ledger: &mut Ledger,
    partition: PartitionUid,
    epoch: Epoch,
    (last_esn, authoritative): (Esn, bool),
    answered: Option<&BTreeSet<ShardRef>>,
) -> Result<bool, String> {
    let promised = ledger.promised.entry((partition, epoch)).or_default();
    if let Some((known, _)) = promised.end {
        let same = known == last_esn;
        return same.then_some(false).ok_or_else(|| format!("{epoch} ended at {known}, and now at {last_esn}"));
    }
    promised.end = Some((last_esn, authoritative));
    let reached = promised.acked.max(promised.released);
    if reached <= last_esn {
        return Ok(true);
    }
    let reached = Lsn::new(epoch, reached);
    if authoritative {
        return Err(format!("{epoch} ends at {last_esn}, but {reached} was acknowledged or released"));
    }
    let mut beyond = ledger.blocks(partition, epoch, last_esn.next(), reached.esn());
    match beyond.find(|(_, held)| ledger.heard(held, answered).next().is_some()) {
        Some((first, held)) => {
            Err(format!("{epoch} ends at {last_esn}, but {first}..{} survives: {held:?}", held.last))
        }
        None => Ok(true),
    }
}
