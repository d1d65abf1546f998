//! A shard whose log was damaged takes nothing before the metadata tier knows of it, and then nothing of a partition that is not sealed anew.

use dlog_proto::{Epoch, PartitionUid, ShardRef};

use crate::ledger::Ledger;

/// A shard that is sealed by `seal` takes something of a partition.
pub(crate) fn check(ledger: &Ledger, shard: ShardRef, partition: PartitionUid, seal: Epoch) -> Result<(), String> {
    let Some(newest) = ledger.seal_anew.get(&shard) else { return Ok(()) };
    let Some(newest) = newest else {
        return Err(format!("{shard:?} takes something of {partition}, and nobody knows yet that it was damaged"));
    };
    match newest.get(&partition) {
        Some(newest) if seal < *newest => {
            Err(format!("{shard:?} takes something of {partition}, is sealed by {seal}, and is to be by {newest}"))
        }
        _ => Ok(()),
    }
}
