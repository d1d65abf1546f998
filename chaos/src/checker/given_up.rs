//! What a log that prefers availability may cost, by docs/CONSISTENCY.md: records beyond an end that was decided without authority, which may
//! have been acknowledged and read, and stand nowhere in the end; readers that are told of a loss where whoever had the records was away;
//! and appenders that a sequencer does not know any more, which are refused without anybody knowing what is stored.
//!
//! All this is counted and taken out of the history, and everything else is judged as strictly as ever: so is the last word, when everybody
//! is back.

use std::fmt;

use dlog_proto::{EpochTable, Lsn};

use crate::history::{History, Outcome};

/// How much of it there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GivenUp {
    /// Acknowledged records.
    pub(crate) lost: usize,
    /// Records of which appenders were told that the sequencer does not know what they wrote before.
    pub(crate) refused: usize,
    /// Readings that ended with a loss.
    pub(crate) passed_over: usize,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, refused, passed_over } = self;
        write!(
            f,
            "as this log may: {lost} acknowledged records are lost, {refused} were refused because earlier ones were not known, {passed_over} \
             readings were told of losses"
        )
    }
}

/// Takes it out; `tables` are those of the partitions, in their order.
pub(crate) fn set_aside(history: &mut History, tables: &[EpochTable]) -> GivenUp {
    let is_given_up = |partition: u32, lsn: Lsn| tables.get(partition as usize).is_some_and(|t| gives_up(t, lsn));
    let mut found = GivenUp::default();
    for append in &mut history.appends {
        match &append.outcome {
            Outcome::Acknowledged { at, lsn, .. } if is_given_up(append.record.partition, *lsn) => {
                let why = format!("acknowledged as {lsn}, and given up");
                append.outcome = Outcome::Unknown { at: *at, why };
                found.lost += 1;
            }
            Outcome::Refused { at, why } if is_of_memory(why) => {
                append.outcome = Outcome::Unknown { at: *at, why: why.clone() };
                found.refused += 1;
            }
            _ => {}
        }
    }
    for reading in &mut history.readings {
        let told = reading.complaints.len();
        // Who follows stops there; who was to read to an end has a hole.
        reading.complaints.retain(|complaint| !complaint.ends_with("DataLoss"));
        if told > reading.complaints.len() {
            found.passed_over += 1;
            if reading.until.take().is_some() {
                reading.seen.clear();
            }
        }
        reading.seen.retain(|seen| !is_given_up(reading.partition, seen.lsn));
    }
    found
}

/// Whether the sequencer did not know what the appender had written before.
fn is_of_memory(why: &str) -> bool {
    why.contains(" is next for producer ") || why.contains(" is not known here ")
}

/// Epochs that ended empty leave the table, and with them by what authority.
fn gives_up(table: &EpochTable, lsn: Lsn) -> bool {
    match table.epoch(lsn.epoch()) {
        Some(entry) => entry.end.is_some_and(|end| !end.authoritative && lsn.esn() > end.last_esn),
        None => table.newest().is_some_and(|newest| lsn.epoch() < newest.epoch),
    }
}
