//! What clients did and saw, with times of one clock: the evidence that [`checker`](crate::checker) judges.
//!
//! A *key* is a writer in a partition; its records are numbered from 0. A time is when this process noticed: never before the
//! moment itself for answers, never after it for questions. So "answered before asked" holds if the times say so.

#![deny(clippy::disallowed_methods)]

use std::io::{self, Write};

use dlog_proto::Lsn;
use serde::{Serialize, Serializer};

/// Microseconds since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub(crate) struct At(pub(crate) u64);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} s", self.0 as f64 / 1e6)
    }
}

/// A record's name, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct RecordId {
    pub(crate) partition: u32,
    pub(crate) writer: u16,
    pub(crate) number: u32,
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} of writer {} in partition {}", self.number, self.writer, self.partition)
    }
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Nothing was heard yet: it may be there or not.
    Pending,
    Acknowledged {
        at: At,
        #[serde(serialize_with = "shown")]
        lsn: Lsn,
        offset: Option<u64>,
    },
    /// It may be there or not.
    Unknown { at: At, why: String },
    /// It was never sent, by what the client was told, so it is not there.
    NotSent { at: At, why: String },
    /// The cluster did not want it, so it is not there; and it had no reason to.
    Refused { at: At, why: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Append {
    #[serde(flatten)]
    pub(crate) record: RecordId,
    pub(crate) invoked: At,
    pub(crate) outcome: Outcome,
}

/// A record that a reader was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    pub(crate) at: At,
    #[serde(serialize_with = "shown")]
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    /// `None`: nobody wrote this, or not so.
    pub(crate) record: Option<RecordId>,
}

/// One reading from a place on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Reading {
    pub(crate) reader: u32,
    pub(crate) partition: u32,
    #[serde(serialize_with = "shown")]
    pub(crate) from: Lsn,
    /// If it was to end there (excluded), and has.
    #[serde(serialize_with = "shown_if_any")]
    pub(crate) until: Option<Lsn>,
    pub(crate) seen: Vec<Seen>,
    /// What it was told instead of records: gaps, errors. Nothing was trimmed, so none is due.
    pub(crate) complaints: Vec<String>,
}

/// A question for a partition's end, and the answer: the LSN after the last acknowledged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Tail {
    pub(crate) partition: u32,
    pub(crate) asked: At,
    pub(crate) answered: At,
    #[serde(serialize_with = "shown")]
    pub(crate) end: Lsn,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) appends: Vec<Append>,
    pub(crate) readings: Vec<Reading>,
    /// The last word per partition: all of it, read from the beginning when all trouble was over.
    pub(crate) whole: Vec<Reading>,
    pub(crate) tails: Vec<Tail>,
    /// Acknowledgements that came before one that was due earlier.
    pub(crate) early_acks: Vec<(RecordId, RecordId)>,
    /// Records that readers were given, for [`History::events`].
    pub(crate) seen: usize,
}

fn shown_if_any<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
    lsn.map(|lsn| lsn.to_string()).serialize(serializer)
}

fn shown<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// A line of the history's file.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Append(&'a Append),
    Reading { whole: bool, reader: u32, partition: u32, from: String, until: Option<String>, complaints: &'a [String] },
    Seen(&'a Seen),
    Tail(&'a Tail),
    EarlyAck { early: RecordId, late: RecordId },
}

impl History {
    pub(crate) fn count_seen(&mut self, more: usize) {
        self.seen += more;
    }

    /// How much is kept.
    pub(crate) fn events(&self) -> usize {
        self.appends.len() + self.seen + self.tails.len()
    }

    /// One JSON object a line: appends, then readings with what each saw, then questions for the tail.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut put = |line: Line<'_>| {
            serde_json::to_writer(&mut *to, &line)?;
            to.write_all(b"\n")
        };
        self.appends.iter().try_for_each(|append| put(Line::Append(append)))?;
        let readings = self.readings.iter().map(|reading| (false, reading));
        for (whole, reading) in readings.chain(self.whole.iter().map(|reading| (true, reading))) {
            let Reading { reader, partition, from, until, seen, complaints } = reading;
            let (from, until) = (from.to_string(), until.map(|until| until.to_string()));
            put(Line::Reading { whole, reader: *reader, partition: *partition, from, until, complaints })?;
            seen.iter().try_for_each(|seen| put(Line::Seen(seen)))?;
        }
        self.tails.iter().try_for_each(|tail| put(Line::Tail(tail)))?;
        self.early_acks.iter().try_for_each(|(early, late)| put(Line::EarlyAck { early: *early, late: *late }))
    }
}
