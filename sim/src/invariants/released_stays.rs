//! What was released once can be read at the end: released never goes back.

use crate::history::PartitionHistory;

pub(super) fn check(history: &PartitionHistory) -> Result<(), String> {
    let released = history.released;
    let last = history.read.last_key_value().map(|(lsn, _)| *lsn);
    let reached = released.esn().0 == 0
        || released <= history.trim
        || history.may_lose
        || last.is_some_and(|last| last >= released);
    if reached { Ok(()) } else { Err(format!("{released} was released, and the last record is {last:?}")) }
}
