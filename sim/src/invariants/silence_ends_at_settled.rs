//! In single-copy mode a shard says of what is settled only that it has no more: a copy that is still on its way to it is not one
//! that it need not have.

use dlog_proto::{Lsn, PartitionUid};

use crate::ledger::Ledger;

pub(super) fn check(ledger: &Ledger, partition: PartitionUid, upto: Lsn) -> Result<(), String> {
    let promised = ledger.promised.get(&(partition, upto.epoch())).copied().unwrap_or_default();
    let settled = promised.settled.max(promised.settled_in_placements);
    if promised.end.is_some() || upto.esn() <= settled {
        return Ok(());
    }
    Err(format!("a shard claims that there is nothing up to {upto}, and settled is {settled}"))
}
