//! Recovery tells a holder of a new placement only when everybody whom it names has the block on disk: so whenever a recoverer dies, and
//! whoever is heard of then, nobody relies on a copy that never came, and no promised copy is one that nobody else knows of.

use dlog_proto::{Lsn, PartitionUid, ShardRef};

use crate::ledger::{Held, Ledger, Placed};

/// A shard takes an amend.
pub(crate) fn check(
    ledger: &Ledger,
    shard: ShardRef,
    partition: PartitionUid,
    first: Lsn,
    placed: &Placed,
) -> Result<(), String> {
    if placed.version.writer_epoch == first.epoch() {
        return Ok(());
    }
    let is_on_disk = |held: &Held, named| {
        let copies = held.copies.iter().filter(|(shard, _)| shard.shard == named);
        copies.into_iter().any(|(_, copy)| copy.durable.is_some())
    };
    for (_, held) in ledger.blocks(partition, first.epoch(), first.esn(), first.esn()) {
        if let Some(named) = placed.copyset.shards().iter().find(|named| !is_on_disk(held, **named)) {
            return Err(format!(
                "{shard:?} is told that {first} is on {:?}, and {named} does not have it",
                placed.copyset
            ));
        }
    }
    Ok(())
}
