//! What writers were told, against the last word.

use std::collections::HashMap;

use dlog_proto::Lsn;

use super::{Findings, Promise, Stored};
use crate::history::{Append, At, History, Outcome, RecordId};

pub(super) fn check(history: &History, stored: &Stored<'_>, findings: &mut Findings) {
    for append in &history.appends {
        check_outcome(append, stored, findings);
    }
    check_invented(history, stored, findings);
    check_keys(history, findings);
    check_real_time(history, findings);
}

fn check_outcome(append: &Append, stored: &Stored<'_>, findings: &mut Findings) {
    let record = append.record;
    let is_known = stored.by_partition.contains_key(&record.partition);
    let found = stored.by_record.get(&record);
    match (&append.outcome, found) {
        (Outcome::Acknowledged { at, lsn, .. }, None) if is_known => {
            findings.add(Promise::NoLoss, || format!("{record}, acknowledged at {at} as {lsn}, is not there"));
        }
        (Outcome::Acknowledged { lsn, offset, .. }, Some(seen))
            if seen.lsn != *lsn || offset.is_some_and(|offset| offset != seen.offset) =>
        {
            findings.add(Promise::WhereAcknowledged, || {
                let offset = offset.map_or_else(|| "no".to_owned(), |offset| offset.to_string());
                let (is_lsn, is_offset) = (seen.lsn, seen.offset);
                format!("{record} was acknowledged as {lsn} with {offset} offset, and stands at {is_lsn}, offset {is_offset}")
            });
        }
        (Outcome::Refused { at, why } | Outcome::NotSent { at, why }, Some(seen)) => {
            let lsn = seen.lsn;
            findings.add(Promise::NothingInvented, || {
                format!("{record} stands at {lsn}, though its appender was told at {at} that it is not stored: {why}")
            });
        }
        _ => {}
    }
    if let Outcome::Refused { at, why } = &append.outcome {
        findings.add(Promise::NoRefusal, || format!("{record} was refused at {at}: {why}"));
    }
}

fn check_invented(history: &History, stored: &Stored<'_>, findings: &mut Findings) {
    let invoked: HashMap<RecordId, At> = history.appends.iter().map(|a| (a.record, a.invoked)).collect();
    let readings = history.readings.iter().chain(stored.by_partition.values().copied());
    for seen in readings.flat_map(|reading| &reading.seen) {
        let lsn = seen.lsn;
        match seen.record {
            None => findings.add(Promise::NothingInvented, || format!("nobody wrote what was read at {lsn}")),
            Some(record) => match invoked.get(&record) {
                None => findings.add(Promise::NothingInvented, || format!("{record} was read and never appended")),
                Some(at) if *at > seen.at => {
                    findings.add(Promise::NothingInvented, || {
                        format!("{record} was read at {} and appended at {at} only", seen.at)
                    });
                }
                Some(_) => {}
            },
        }
    }
}

/// Acknowledged records of a key stand in the order of their numbers, and were acknowledged in it.
fn check_keys(history: &History, findings: &mut Findings) {
    let mut keys: HashMap<(u32, u16), Vec<(u32, Lsn)>> = HashMap::new();
    for append in &history.appends {
        if let Outcome::Acknowledged { lsn, .. } = append.outcome {
            let RecordId { partition, writer, number } = append.record;
            keys.entry((partition, writer)).or_default().push((number, lsn));
        }
    }
    for ((partition, writer), mut records) in keys {
        records.sort_unstable();
        for pair in records.windows(2) {
            let [(before, at), (after, then)] = [pair[0], pair[1]];
            if at >= then {
                findings.add(Promise::OrderPerKey, || {
                    format!("writer {writer} in partition {partition}: {before} at {at}, {after} before it at {then}")
                });
            }
        }
    }
    for (early, late) in &history.early_acks {
        findings.add(Promise::OrderPerKey, || format!("{early} was acknowledged before {late}"));
    }
}

/// What was invoked after an acknowledgement stands behind it, whoever wrote it.
fn check_real_time(history: &History, findings: &mut Findings) {
    let mut by_partition: HashMap<u32, Vec<(&Append, At, Lsn)>> = HashMap::new();
    for append in &history.appends {
        if let Outcome::Acknowledged { at, lsn, .. } = append.outcome {
            by_partition.entry(append.record.partition).or_default().push((append, at, lsn));
        }
    }
    for mut appends in by_partition.into_values() {
        let mut acks: Vec<(At, Lsn, RecordId)> = appends.iter().map(|(a, at, lsn)| (*at, *lsn, a.record)).collect();
        acks.sort_unstable();
        appends.sort_unstable_by_key(|(append, ..)| append.invoked);
        let mut acks = acks.into_iter().peekable();
        let mut highest: Option<(Lsn, At, RecordId)> = None;
        for (append, _, lsn) in appends {
            while let Some((at, acked, record)) = acks.next_if(|(at, ..)| *at < append.invoked) {
                highest = highest.max(Some((acked, at, record)));
            }
            if let Some((acked, at, earlier)) = highest.filter(|(acked, ..)| *acked >= lsn) {
                let (record, invoked) = (append.record, append.invoked);
                findings.add(Promise::AppendsLinearizable, || {
                    format!(
                        "{record}, appended at {invoked}, stands at {lsn}: before {acked} of {earlier}, acknowledged at {at}"
                    )
                });
            }
        }
    }
}
