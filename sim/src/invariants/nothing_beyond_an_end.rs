//! Soon after all is well, whoever holds blocks beyond the end of an epoch knows of that end, and so has purged them.

use std::collections::BTreeMap;

use dlog_proto::{Epoch, PartitionUid, ShardRef};

use crate::ledger::Ledger;

/// `knows`: whether a shard knows the end of an epoch; `None` if the shard is not there.
pub(crate) fn check(
    ledger: &Ledger,
    trims: &BTreeMap<PartitionUid, dlog_proto::Lsn>,
    knows: impl Fn(ShardRef, PartitionUid, Epoch) -> Option<bool>,
) -> Result<(), String> {
    for (partition, first, held) in ledger.all_blocks() {
        let epoch = first.epoch();
        let Some((end, _)) = ledger.promised.get(&(partition, epoch)).and_then(|p| p.end) else { continue };
        if held.last.esn() <= end || trims.get(&partition).is_some_and(|trim| held.last <= *trim) {
            continue;
        }
        if let Some(shard) = ledger.survivors(held).find(|shard| knows(*shard, partition, epoch) == Some(false)) {
            return Err(format!(
                "{partition}: {shard:?} has {first}..{} and does not know that {epoch} ends at {end}",
                held.last
            ));
        }
    }
    Ok(())
}
