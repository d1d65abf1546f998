//! A reader gets LSNs in ascending order, and offsets without a hole.

use dlog_proto::{LogOffset, Lsn};

pub(super) fn check(last: Option<(Lsn, LogOffset)>, lsn: Lsn, offset: LogOffset) -> Result<(), String> {
    let Some((last_lsn, last_offset)) = last else { return Ok(()) };
    if lsn <= last_lsn {
        return Err(format!("a reader got {lsn} after {last_lsn}"));
    }
    if offset.0 != last_offset.0 + 1 {
        return Err(format!("a reader got offset {offset} ({lsn}) after {last_offset} ({last_lsn})"));
    }
    Ok(())
}
