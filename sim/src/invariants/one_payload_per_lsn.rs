//! Whoever reads an LSN, whenever, gets the same payload at the same offset.

use dlog_proto::{LogOffset, Lsn};

use crate::history::{PartitionHistory, Payload};

pub(super) fn check(
    history: &mut PartitionHistory,
    lsn: Lsn,
    offset: LogOffset,
    payload: Payload,
) -> Result<(), String> {
    let known = *history.read.entry(lsn).or_insert((payload, offset));
    if known != (payload, offset) {
        return Err(format!("{lsn} was read as {known:?} and as {:?}", (payload, offset)));
    }
    if !history.written.contains_key(&payload) {
        return Err(format!("{lsn} was read as {payload:?}, which nobody wrote"));
    }
    Ok(())
}
