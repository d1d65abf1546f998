//! What an idempotent writer appends stands in the log once at most, and in the order in which it was appended.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::PartitionHistory;

pub(super) fn check(history: &PartitionHistory) -> Result<(), String> {
    if !history.idempotent {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u16, u64> = BTreeMap::new();
    for (lsn, (payload, _)) in &history.read {
        if !seen.insert(payload) {
            return Err(format!("{payload:?} stands in the log twice, the second time at {lsn}"));
        }
        if last.insert(payload.writer, payload.number).is_some_and(|last| last >= payload.number) {
            return Err(format!("{payload:?} at {lsn} stands behind a later one of its writer"));
        }
    }
    Ok(())
}
