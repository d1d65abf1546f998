//! What readers saw: each reading by itself, and against the last word.

use std::collections::HashMap;

use super::{Findings, Promise, Stored};
use crate::history::{History, Reading, RecordId, Seen};

pub(super) fn check(history: &History, stored: &Stored<'_>, findings: &mut Findings) {
    for whole in &history.whole {
        check_alone(whole, findings);
        check_duplicates(whole, findings);
        if let Some(first) = whole.seen.first().filter(|first| first.offset != 0) {
            let (partition, offset) = (whole.partition, first.offset);
            findings.add(Promise::DenseAndAscending, || format!("partition {partition} begins with offset {offset}"));
        }
    }
    for reading in &history.readings {
        check_alone(reading, findings);
        match stored.by_partition.get(&reading.partition) {
            Some(whole) => check_against(reading, whole, findings),
            None => check_duplicates(reading, findings),
        }
    }
}

fn place(reading: &Reading) -> String {
    format!("reader {} in partition {}", reading.reader, reading.partition)
}

fn check_alone(reading: &Reading, findings: &mut Findings) {
    for complaint in &reading.complaints {
        findings.add(Promise::NoGap, || format!("{}: {complaint}", place(reading)));
    }
    if let Some(first) = reading.seen.first().filter(|first| first.lsn < reading.from) {
        findings.add(Promise::DenseAndAscending, || {
            format!("{} was to begin at {} and got {}", place(reading), reading.from, first.lsn)
        });
    }
    for pair in reading.seen.windows(2) {
        let [before, after] = [&pair[0], &pair[1]];
        if after.lsn <= before.lsn || after.offset != before.offset + 1 {
            findings.add(Promise::DenseAndAscending, || {
                format!(
                    "{}: {} with offset {} is followed by {} with offset {}",
                    place(reading),
                    before.lsn,
                    before.offset,
                    after.lsn,
                    after.offset
                )
            });
        }
    }
}

fn check_duplicates(reading: &Reading, findings: &mut Findings) {
    let mut places: HashMap<RecordId, &Seen> = HashMap::new();
    for seen in &reading.seen {
        let Some(record) = seen.record else { continue };
        if let Some(first) = places.insert(record, seen) {
            findings.add(Promise::NoDuplicate, || format!("{record} stands at {} and at {}", first.lsn, seen.lsn));
        }
    }
}

/// Offsets being dense, whoever agrees on each of them has skipped nothing but the beginning.
fn check_against(reading: &Reading, whole: &Reading, findings: &mut Findings) {
    let by_offset = |offset: u64| usize::try_from(offset).ok().and_then(|at| whole.seen.get(at));
    for seen in &reading.seen {
        let stands = by_offset(seen.offset);
        if stands.is_none_or(|stands| (stands.lsn, stands.record) != (seen.lsn, seen.record)) {
            findings.add(Promise::OneSequence, || {
                format!("{} saw {} at {}; at the end {}", place(reading), text(seen), seen.at, or_nothing(stands))
            });
        }
    }
    let first = whole.seen.iter().find(|seen| seen.lsn >= reading.from);
    if let (Some(due), Some(seen)) = (first, reading.seen.first())
        && seen.lsn > due.lsn
    {
        findings.add(Promise::OneSequence, || {
            format!("{} began at {} and was given {} first, not {}", place(reading), reading.from, seen.lsn, due.lsn)
        });
    }
    check_end(reading, whole, findings);
}

/// Who has read to an end has read the last record before it.
fn check_end(reading: &Reading, whole: &Reading, findings: &mut Findings) {
    let Some(until) = reading.until else { return };
    let due = whole.seen.iter().rfind(|seen| seen.lsn < until).filter(|due| due.lsn >= reading.from);
    let last = reading.seen.last();
    if due.map(|due| due.lsn) != last.map(|last| last.lsn) {
        findings.add(Promise::OneSequence, || {
            format!(
                "{} read from {} to before {until}, of which the last is {}; it got {}",
                place(reading),
                reading.from,
                or_nothing(due),
                or_nothing(last)
            )
        });
    }
}

fn text(seen: &Seen) -> String {
    let record = seen.record.map_or_else(|| "an unknown record".to_owned(), |record| record.to_string());
    format!("{record} at {}, offset {}", seen.lsn, seen.offset)
}

fn or_nothing(seen: Option<&Seen>) -> String {
    seen.map_or_else(|| "there is nothing".to_owned(), text)
}
