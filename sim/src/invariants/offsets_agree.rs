//! The offset that an acknowledgement named is the one at which the record is read.

use crate::history::PartitionHistory;

pub(super) fn check(history: &PartitionHistory) -> Result<(), String> {
    for (lsn, offset) in &history.acked_offsets {
        if let Some((payload, read)) = history.read.get(lsn)
            && read != offset
        {
            return Err(format!("{payload:?} at {lsn} was acknowledged with offset {offset}, and read at {read}"));
        }
    }
    Ok(())
}
