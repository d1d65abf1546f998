//! The tail as a register: it covers what was acknowledged before the question, and does not go back.

use std::collections::HashMap;

use dlog_proto::Lsn;

use super::{Findings, Promise};
use crate::history::{At, History, Outcome, Tail};

/// Something that every later answer must cover: the LSN after it, and when it was known.
type Known = (At, Lsn, String);

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut known: HashMap<u32, Vec<Known>> = HashMap::new();
    for append in &history.appends {
        if let Outcome::Acknowledged { at, lsn, .. } = append.outcome {
            let what = format!("the acknowledgement of {lsn}");
            known.entry(append.record.partition).or_default().push((at, lsn.next(), what));
        }
    }
    let mut tails: HashMap<u32, Vec<&Tail>> = HashMap::new();
    for tail in &history.tails {
        let what = format!("the answer that it is at {}", tail.end);
        known.entry(tail.partition).or_default().push((tail.answered, tail.end, what));
        tails.entry(tail.partition).or_default().push(tail);
    }
    for (partition, mut tails) in tails {
        tails.sort_unstable_by_key(|tail| tail.asked);
        let mut known = known.remove(&partition).unwrap_or_default();
        known.sort_unstable();
        check_partition(partition, &tails, known, findings);
    }
}

fn check_partition(partition: u32, tails: &[&Tail], known: Vec<Known>, findings: &mut Findings) {
    let mut known = known.into_iter().peekable();
    let mut highest: Option<(Lsn, At, String)> = None;
    for tail in tails {
        while let Some((at, end, what)) = known.next_if(|(at, ..)| *at < tail.asked) {
            if highest.as_ref().is_none_or(|(highest, ..)| end > *highest) {
                highest = Some((end, at, what));
            }
        }
        if let Some((_, at, what)) = highest.as_ref().filter(|(end, ..)| *end > tail.end) {
            findings.add(Promise::TailLinearizable, || {
                let Tail { asked, answered, end, .. } = tail;
                format!(
                    "the tail of partition {partition}, asked for at {asked}, was said to be {end} at {answered}: before {what} at {at}"
                )
            });
        }
    }
}
