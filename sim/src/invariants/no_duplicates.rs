//! What an idempotent writer appends stands in the log once at most, and in the order in which it was appended. In runs that may lose by
//! right, a record of which no copy survives does not stand in the log any more, whoever has read it: with it the memory of its
//! producer's sequence may be lost, and the retry is taken for new.

use std::collections::{BTreeMap, BTreeSet};

use dlog_proto::{Lsn, PartitionUid};

use crate::history::PartitionHistory;
use crate::ledger::Ledger;

pub(super) fn check(ledger: &Ledger, partition: PartitionUid, history: &PartitionHistory) -> Result<(), String> {
    if !history.idempotent {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u16, u64> = BTreeMap::new();
    for (lsn, (payload, _)) in &history.read {
        if history.may_lose && is_lost(ledger, partition, *lsn) {
            continue;
        }
        if !seen.insert(payload) {
            return Err(format!("{payload:?} stands in the log twice, the second time at {lsn}"));
        }
        if last.insert(payload.writer, payload.number).is_some_and(|last| last >= payload.number) {
            return Err(format!("{payload:?} at {lsn} stands behind a later one of its writer"));
        }
    }
    Ok(())
}

fn is_lost(ledger: &Ledger, partition: PartitionUid, lsn: Lsn) -> bool {
    let mut blocks = ledger.blocks(partition, lsn.epoch(), lsn.esn(), lsn.esn());
    !blocks.any(|(_, held)| ledger.survivors(held).next().is_some())
}
