//! Whether what clients saw can be, by what docs/CONSISTENCY.md promises. Pure: a history in, violations out.
//!
//! - **no loss**: every acknowledged record is in the last word, where its acknowledgement said;
//! - **no duplicate**: no record is there twice, also if its appender got no answer;
//! - **nothing invented**: what is there was appended, before it was read, as it was appended, and its appender was not told that
//!   it is not there; no append is refused for good, since all are sound;
//! - **dense and ascending**: LSNs ascend, offsets are 0, 1, 2, … in every reading;
//! - **one sequence**: every reading, whenever it was, saw the same as the last word, and skipped nothing;
//! - **order per key**: a key's acknowledged records stand in the order in which they were appended, and were acknowledged so;
//! - **linearizable**: what is appended after an acknowledgement stands behind it; the tail, asked for after an acknowledgement
//!   or after another answer, is not before it.

#![deny(clippy::disallowed_methods)]

mod appends;
pub(crate) mod given_up;
mod readings;
mod tails;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use crate::history::{History, Reading, RecordId, Seen};

/// The promises, each of which may be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Promise {
    NoLoss,
    NoDuplicate,
    NothingInvented,
    WhereAcknowledged,
    DenseAndAscending,
    OneSequence,
    NoGap,
    NoRefusal,
    OrderPerKey,
    AppendsLinearizable,
    TailLinearizable,
}

impl Promise {
    pub(crate) const ALL: [Self; 11] = [
        Self::NoLoss,
        Self::NoDuplicate,
        Self::NothingInvented,
        Self::WhereAcknowledged,
        Self::DenseAndAscending,
        Self::OneSequence,
        Self::NoGap,
        Self::NoRefusal,
        Self::OrderPerKey,
        Self::AppendsLinearizable,
        Self::TailLinearizable,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoLoss => "no acknowledged record is lost",
            Self::NoDuplicate => "no record is there twice",
            Self::NothingInvented => "what is read was appended",
            Self::WhereAcknowledged => "records stand where their acknowledgements said",
            Self::DenseAndAscending => "LSNs ascend, offsets are dense",
            Self::OneSequence => "all readers see the same sequence",
            Self::NoGap => "readers are told of no loss",
            Self::NoRefusal => "no sound append is refused",
            Self::OrderPerKey => "order per key",
            Self::AppendsLinearizable => "later appends stand behind earlier acknowledgements",
            Self::TailLinearizable => "the tail is linearizable",
        })
    }
}

/// A promise that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

/// What was found; of each promise the first few in words, all counted.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    counts: HashMap<Promise, usize>,
}

/// Violations of one promise that are told in words.
const TOLD_MAX: usize = 10;

impl Findings {
    fn add(&mut self, promise: Promise, what: impl FnOnce() -> String) {
        let count = self.counts.entry(promise).or_insert(0);
        *count += 1;
        if *count <= TOLD_MAX {
            self.violations.push(Violation { promise, what: what() });
        }
    }

    pub(crate) fn count(&self, promise: Promise) -> usize {
        self.counts.get(&promise).copied().unwrap_or(0)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Where each record stands by the last word, and what stands at each offset.
struct Stored<'a> {
    by_record: HashMap<RecordId, &'a Seen>,
    by_partition: HashMap<u32, &'a Reading>,
}

impl<'a> Stored<'a> {
    fn of(history: &'a History) -> Self {
        let records = history.whole.iter().flat_map(|whole| &whole.seen);
        Self {
            by_record: records.filter_map(|seen| Some((seen.record?, seen))).collect(),
            by_partition: history.whole.iter().map(|whole| (whole.partition, whole)).collect(),
        }
    }
}

/// Judges a history. A partition without a last word is judged by the rest.
pub(crate) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let stored = Stored::of(history);
    appends::check(history, &stored, &mut findings);
    readings::check(history, &stored, &mut findings);
    tails::check(history, &mut findings);
    findings
}
