//! A shard that has answered a seal takes nothing of earlier writers any more, nothing at all beyond an end that it knows, and what it
//! said of the sealed epochs stays true.

use dlog_proto::wire::SealedPartition;
use dlog_proto::{Epoch, Lsn, PartitionUid, ShardRef};

use crate::ledger::Ledger;

/// A shard takes a block, or a placement of one, from `writer`.
pub(crate) fn check_taken(
    ledger: &Ledger,
    shard: ShardRef,
    partition: PartitionUid,
    (first, last): (Lsn, Lsn),
    writer: Epoch,
) -> Result<(), String> {
    if let Some(seal) = ledger.seals.get(&(shard, partition)).filter(|seal| **seal > writer) {
        return Err(format!("{shard:?} takes {first} from {writer}, and is sealed by {seal}"));
    }
    match ledger.known_ends.get(&(shard, partition, first.epoch())) {
        Some(end) if last.esn() > *end => {
            Err(format!("{shard:?} takes {first}..{last}, and knows that it ends at {end}"))
        }
        _ => Ok(()),
    }
}

/// A shard answers a seal.
pub(crate) fn check_sealed(ledger: &mut Ledger, shard: ShardRef, answer: &SealedPartition) -> Result<(), String> {
    let Ok(state) = &answer.result else { return Ok(()) };
    let seal = ledger.seals.entry((shard, answer.partition)).or_default();
    *seal = answer.epoch.max(*seal);
    for sealed in state.epochs.iter().filter(|sealed| sealed.known_end.is_none()) {
        let told = *ledger.told.entry((shard, answer.partition, sealed.epoch)).or_insert(sealed.settled);
        if sealed.settled > told {
            let (epoch, now) = (sealed.epoch, sealed.settled);
            return Err(format!("{shard:?} told that {epoch} is settled to {told}, sealed it, and now says {now}"));
        }
    }
    Ok(())
}
