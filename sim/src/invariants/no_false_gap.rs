//! A reader is told of a gap only where there is one: below the trim point, or where no copy survives. In logs that prefer availability:
//! or where as many shards as they are content with have none.

use dlog_client::read::core::GapReason;
use dlog_proto::{EpochEntry, Esn, Lsn, MemberSet, PartitionUid, Quorum};

use crate::ledger::{Held, Ledger};

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
        let entry = ledger.known_entry(partition, epoch);
        let mut blocks = ledger.blocks(partition, epoch, first, last);
        if let Some((first, held)) = blocks.find(|(_, held)| !may_be_missed(ledger, entry, held)) {
            return Err(format!("{from} to {to} is called lost, but {first}..{} survives: {held:?}", held.last));
        }
    }
    Ok(())
}

/// Whether nobody has it; or, if the log is content with too few answers, whether those who do not are enough.
fn may_be_missed(ledger: &Ledger, entry: Option<&EpochEntry>, held: &Held) -> bool {
    if ledger.survivors(held).next().is_none() {
        return true;
    }
    let Some(entry) = entry.filter(|entry| !entry.replication.quorum.is_strict()) else { return false };
    let holders: MemberSet = ledger.survivors(held).filter_map(|shard| entry.nodeset.index_of_ref(shard)).collect();
    Quorum::new(&entry.nodeset, &entry.replication).is_f_majority(entry.nodeset.all().without(holders))
}
