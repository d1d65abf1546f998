//! What must hold, one property per file, each named after what it protects.

mod acknowledged_is_readable;
mod no_duplicates;
mod one_payload_per_lsn;
mod order_and_completeness;
mod released_stays;

use dlog_proto::{LogOffset, Lsn};

use crate::history::{History, PartitionHistory, Payload};

/// Checks a record at the moment when a reader gets it.
pub(crate) fn check_read(
    history: &mut PartitionHistory,
    last: Option<(Lsn, LogOffset)>,
    lsn: Lsn,
    offset: LogOffset,
    payload: Payload,
) -> Result<(), String> {
    order_and_completeness::check(last, lsn, offset)?;
    one_payload_per_lsn::check(history, lsn, offset, payload)
}

/// Says what is wrong with a partition, if anything is.
type Check = fn(&PartitionHistory) -> Result<(), String>;

/// Checks a run when everything was written, recovered and read.
pub(crate) fn check_end(history: &History) -> Result<(), String> {
    for (partition, history) in &history.partitions {
        let checks: [Check; 3] = [acknowledged_is_readable::check, no_duplicates::check, released_stays::check];
        for check in checks {
            check(history).map_err(|why| format!("{partition}: {why}"))?;
        }
    }
    Ok(())
}
