//! What a log that prefers availability may lose, by docs/CONSISTENCY.md: records beyond an end that was decided without authority. They
//! may have been acknowledged and read, and stand nowhere in the end.
//!
//! They are taken out of the history, and everything else is judged as strictly as ever. An appender that lost a record is refused what
//! it had on its way behind it, which is then not stored.

use std::collections::HashSet;

use dlog_proto::{EpochTable, Lsn};

use crate::history::{History, Outcome};

/// Takes them out; `tables` are those of the partitions, in their order. How many acknowledged records were lost.
pub(crate) fn set_aside(history: &mut History, tables: &[EpochTable]) -> usize {
    let is_given_up = |partition: u32, lsn: Lsn| tables.get(partition as usize).is_some_and(|t| gives_up(t, lsn));
    let (mut lost, mut concerned) = (0, HashSet::new());
    for append in &mut history.appends {
        if let Outcome::Acknowledged { at, lsn, .. } = append.outcome
            && is_given_up(append.record.partition, lsn)
        {
            append.outcome = Outcome::Unknown { at, why: format!("acknowledged as {lsn}, and given up") };
            concerned.insert((append.record.partition, append.record.writer));
            lost += 1;
        }
    }
    for append in &mut history.appends {
        if let Outcome::Refused { at, why } = &append.outcome
            && concerned.contains(&(append.record.partition, append.record.writer))
        {
            append.outcome = Outcome::NotSent { at: *at, why: why.clone() };
        }
    }
    for reading in &mut history.readings {
        reading.seen.retain(|seen| !is_given_up(reading.partition, seen.lsn));
    }
    lost
}

/// Epochs that ended empty leave the table, and with them by what authority.
fn gives_up(table: &EpochTable, lsn: Lsn) -> bool {
    match table.epoch(lsn.epoch()) {
        Some(entry) => entry.end.is_some_and(|end| !end.authoritative && lsn.esn() > end.last_esn),
        None => table.newest().is_some_and(|newest| lsn.epoch() < newest.epoch),
    }
}
