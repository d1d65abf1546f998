//! A reader is told of a gap only where there is one: below the trim point, or where no copy survives.

use dlog_client::read::core::GapReason;
use dlog_proto::{Esn, Lsn, PartitionUid};

use crate::ledger::Ledger;

pub(super) fn check(
    ledger: &Ledger,
    partition: PartitionUid,
    (from, to): (Lsn, Lsn),
    reason: GapReason,
    trim: Lsn,
) -> Result<(), String> {
    if reason == GapReason::Trimmed {
        return if to <= trim {
            Ok(())
        } else {
            Err(format!("{from} to {to} is called trimmed, which goes to {trim}"))
        };
    }
    for epoch in from.epoch().0..=to.epoch().0 {
        let epoch = dlog_proto::Epoch(epoch);
        let first = if epoch == from.epoch() { from.esn() } else { Esn(1) };
        let last = if epoch == to.epoch() { to.esn() } else { Esn::MAX };
        let mut blocks = ledger.blocks(partition, epoch, first, last);
        if let Some((first, held)) = blocks.find(|(_, held)| ledger.survivors(held).next().is_some()) {
            return Err(format!("{from} to {to} is called lost, but {first}..{} survives: {held:?}", held.last));
        }
    }
    Ok(())
}
