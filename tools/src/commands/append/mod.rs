//! `dlog append`: a thread reads standard input; here its lines are appended, as many at once as may wait for their
//! acknowledgement, and acknowledgements are taken in the order of the lines.

mod chunks;
mod stall;
mod tally;

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::{Duration, Instant};

use dlog_client::append::partition_of_key;
use dlog_client::{AppendFailure, AppendOptions, Appender, Client, Record};
use dlog_metadata::state::LogInfo;
use dlog_proto::clock::now_ms;
use dlog_proto::wire::{Acks, AppendError};
use dlog_proto::{PartitionId, TimestampMs};
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use self::chunks::{Chunks, Lines};
use self::stall::Stall;
use self::tally::Tally;
use super::in_flight::{InFlight, WINDOW_BYTES};
use crate::args::{AppendArgs, Copies};
use crate::failure::Failure;
use crate::output::human::{count, counted};
use crate::output::{print, progress, tell};

/// Longest batch of a log that does not say `max.message.bytes`; Kafka's default.
const MESSAGE_BYTES_MAX: u32 = 1_048_588;
/// What a batch has besides a record's key and value, at most.
const BATCH_OVERHEAD: usize = 128;
/// Chunks of input that wait for being appended.
const CHUNKS_AHEAD: usize = 4;

pub(crate) async fn run(client: &Client, args: &AppendArgs) -> Result<(), Failure> {
    let info = client.log(&args.log).await?;
    let partitions = Partitions::new(args, &info)?;
    let line_len_max = line_len_max(args, &info)?;
    let appender = client.appender(&args.log, options(args, &info)).await?;
    let mut session = Session {
        appender,
        key: args.key.as_deref().map(str::as_bytes),
        partitions,
        line_len_max,
        number: 0,
        read_at: now_ms(),
        lines: Lines::default(),
        in_flight: InFlight::new(args.acks_inflight),
        tally: Tally::new(info.partitions.len()),
        stall: Stall::new(Instant::now()),
        lsns: args.print_lsn.then(|| BufWriter::with_capacity(64 << 10, io::stdout().lock())),
        progress: progress_of(args),
    };
    let started = Instant::now();
    let done = session.run(read_input(line_len_max)).await;
    session.progress.finish_and_clear();
    let summary = (!args.print_lsn).then(|| session.tally.summary(started.elapsed()));
    done.and_then(|()| summary.map_or(Ok(()), |summary| print(&summary)))
}

fn options(args: &AppendArgs, info: &LogInfo) -> AppendOptions {
    let default = AppendOptions::default();
    AppendOptions {
        compression: args.compression,
        linger: Duration::from_millis(args.linger),
        batch_len_max: args.batch_bytes.min(message_bytes_max(info)) as usize,
        window_bytes_max: WINDOW_BYTES,
        delivery_timeout: args.connect.timeout.unwrap_or(default.delivery_timeout),
        acks: match args.acks {
            Copies::One => Acks::One,
            Copies::Quorum => Acks::Quorum,
            Copies::All => Acks::All,
        },
        ..default
    }
}

fn message_bytes_max(info: &LogInfo) -> u32 {
    info.attributes.max_message_bytes().unwrap_or(MESSAGE_BYTES_MAX)
}

/// The longest line that makes a record which the log takes.
fn line_len_max(args: &AppendArgs, info: &LogInfo) -> Result<usize, Failure> {
    let key_len = args.key.as_deref().map_or(0, str::len);
    let max = message_bytes_max(info) as usize;
    max.checked_sub(BATCH_OVERHEAD + key_len).ok_or_else(|| {
        Failure::new(format!(
            "{} takes at most {} a record; the key alone has {}",
            args.log,
            count(max as u64),
            key_len
        ))
    })
}

fn progress_of(args: &AppendArgs) -> ProgressBar {
    let in_the_way = io::stdin().is_terminal() || (args.print_lsn && io::stdout().is_terminal());
    if in_the_way { ProgressBar::hidden() } else { progress::bar(None, "acknowledged") }
}

/// Reads standard input on a thread of its own, because nothing can interrupt a read.
fn read_input(line_len_max: usize) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (lines, input) = mpsc::channel(CHUNKS_AHEAD);
    let read = move || {
        let mut chunks = Chunks::new(io::stdin().lock(), line_len_max);
        while let Some(chunk) = chunks.next().transpose() {
            let failed = chunk.is_err();
            if lines.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    };
    std::thread::spawn(read);
    input
}

/// Which partition the next line goes to.
#[derive(Debug)]
enum Partitions {
    One(u32),
    InTurns { next: u32, count: u32 },
}

impl Partitions {
    fn new(args: &AppendArgs, info: &LogInfo) -> Result<Self, Failure> {
        let count = info.partitions.len() as u32;
        match (args.partition, &args.key) {
            (Some(partition), _) if partition >= count => {
                let last = count.saturating_sub(1);
                Err(Failure::usage(format!(
                    "{} has no partition {partition}: its partitions are 0 to {last}",
                    args.log
                )))
            }
            (Some(partition), _) => Ok(Self::One(partition)),
            (None, Some(key)) => Ok(Self::One(partition_of_key(key.as_bytes(), count).0)),
            (None, None) if count == 1 => Ok(Self::One(0)),
            (None, None) => Ok(Self::InTurns { next: 0, count }),
        }
    }

    fn next(&mut self) -> u32 {
        match self {
            Self::One(partition) => *partition,
            Self::InTurns { next, count } => {
                let partition = *next;
                *next = (partition + 1) % (*count).max(1);
                partition
            }
        }
    }
}

/// What to do when all acknowledgements that are there were taken.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Append,
    Wait,
    End,
}

impl Next {
    fn after<T>(lines: &Lines, in_flight: &InFlight<T>, input_ended: bool) -> Self {
        match lines.is_empty() {
            // Even if there was no room before: it may be that nothing is in flight now, so that nothing would wake us.
            false if in_flight.has_room() => Self::Append,
            true if input_ended && in_flight.is_empty() => Self::End,
            _ => Self::Wait,
        }
    }
}

struct Session<'a> {
    appender: Appender,
    key: Option<&'a [u8]>,
    partitions: Partitions,
    line_len_max: usize,
    /// Of the last line that was appended, from 1.
    number: u64,
    /// When the lines at hand were read.
    read_at: TimestampMs,
    lines: Lines,
    /// With the partition of each.
    in_flight: InFlight<u32>,
    tally: Tally,
    stall: Stall,
    /// Where LSNs are printed, if they are.
    lsns: Option<BufWriter<StdoutLock<'static>>>,
    progress: ProgressBar,
}

impl Session<'_> {
    /// Appends all input. If it cannot, what was appended before is still waited for.
    async fn run(&mut self, mut input: mpsc::Receiver<io::Result<Vec<u8>>>) -> Result<(), Failure> {
        let mut ended = false;
        let mut failure = None;
        loop {
            if let Some(trouble) = self.append_lines().await? {
                (ended, failure) = (true, Some(trouble));
                self.lines = Lines::default();
            }
            self.settle()?;
            match Next::after(&self.lines, &self.in_flight, ended) {
                Next::Append => continue,
                Next::Wait => self.show()?,
                Next::End => {
                    self.show()?;
                    return failure.map_or(Ok(()), |failure| Err(self.stopped_by(failure)));
                }
            }
            tokio::select! {
                biased;
                () = self.in_flight.next_settled() => {}
                chunk = input.recv(), if !ended && self.lines.is_empty() => match chunk {
                    Some(Ok(chunk)) => (self.lines, self.read_at) = (Lines::new(chunk), now_ms()),
                    Some(Err(error)) => {
                        (ended, failure) = (true, Some(Failure::new(format!("cannot read standard input: {error}"))));
                    }
                    None => ended = true,
                },
                () = self.stall.noticed(), if !self.in_flight.is_empty() => self.tell_stall(),
            }
        }
    }

    /// Appends the lines at hand, as many as may wait. Says why if the next one cannot be.
    async fn append_lines(&mut self) -> Result<Option<Failure>, Failure> {
        while self.in_flight.has_room() {
            let Some(line) = self.lines.next() else { break };
            let (number, len, max) = (self.number + 1, line.len(), self.line_len_max);
            if len > max {
                return Ok(Some(too_long(number, max)));
            }
            let partition = self.partitions.next();
            let record = Record {
                partition: Some(PartitionId(partition)),
                key: self.key,
                value: Some(line),
                headers: &[],
                timestamp_ms: Some(self.read_at),
                acks: None,
            };
            let ack = match self.appender.append(record).await {
                Ok(ack) => ack,
                Err(error) => return Ok(Some(error.into())),
            };
            self.number = number;
            if self.in_flight.is_empty() {
                self.stall = Stall::new(Instant::now());
            }
            self.in_flight.push(ack, len, partition);
            self.settle()?;
        }
        Ok(None)
    }

    /// Takes the acknowledgements that are there.
    fn settle(&mut self) -> Result<(), Failure> {
        let before = self.tally.records;
        while let Some(settled) = self.in_flight.pop_settled() {
            let appended = settled.outcome.map_err(|failure| self.not_acknowledged(&failure))?;
            self.tally.add(settled.about, appended.lsn, settled.len);
            if let Some(out) = &mut self.lsns {
                let printed = match self.partitions {
                    Partitions::One(_) => writeln!(out, "{}", appended.lsn),
                    Partitions::InTurns { .. } => writeln!(out, "{} {}", settled.about, appended.lsn),
                };
                printed.map_err(|error| output_failed(&error, &self.tally))?;
            }
        }
        if self.tally.records > before {
            self.stall = Stall::new(Instant::now());
        }
        Ok(())
    }

    /// Lets others see what was acknowledged.
    fn show(&mut self) -> Result<(), Failure> {
        self.progress.set_position(self.tally.records);
        let flushed = self.lsns.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|error| output_failed(&error, &self.tally))
    }

    /// Says that acknowledgements stay away, and what is known of the reason.
    fn tell_stall(&mut self) {
        let partition = self.in_flight.oldest().copied().map(PartitionId);
        let trouble = partition.and_then(|partition| self.appender.trouble(partition));
        let text = self.stall.tell(trouble.as_deref());
        self.progress.suspend(|| tell(text));
    }

    /// The oldest line that waits was not acknowledged.
    fn not_acknowledged(&mut self, failure: &AppendFailure) -> Failure {
        // What was acknowledged before is shown, even now; the failure at hand is the one to tell.
        let _ = self.show();
        let line = self.tally.records + 1;
        let last = line + self.in_flight.len() as u64;
        // Those of its batch share its fate.
        let refused = if is_refused(failure) { 1 + self.in_flight.failed(is_refused) as u64 } else { 0 };
        let fates = [acknowledged(&self.tally)].into_iter().chain(fates(line, refused, last));
        let fates = fates.collect::<Vec<_>>().join("; ");
        let hint = match failure {
            AppendFailure::Refused(_) if refused > 0 => fates,
            _ => format!("{fates}. `dlog cluster status` shows which nodes are up"),
        };
        Failure::new(format!("line {line} was not acknowledged: {failure}")).hint(hint)
    }

    fn stopped_by(&self, failure: Failure) -> Failure {
        failure.hint(format!("{} before it", acknowledged(&self.tally)))
    }
}

/// Whether a record is surely not stored. A producer's state that is not as expected says nothing about what was stored before.
fn is_refused(failure: &AppendFailure) -> bool {
    match failure {
        AppendFailure::Refused(error) => {
            matches!(error, AppendError::TooLarge { .. } | AppendError::Invalid { .. } | AppendError::UnknownPartition)
        }
        AppendFailure::NotSent { .. } => true,
        AppendFailure::TimedOut { .. } | AppendFailure::Behind => false,
    }
}

/// What became of the lines from `line` to `last`, of which so many were refused.
fn fates(line: u64, refused: u64, last: u64) -> impl Iterator<Item = String> {
    let lines = |first: u64, last: u64| match first {
        first if first == last => format!("line {first}"),
        _ => format!("lines {first} to {last}"),
    };
    let verb = if refused == 1 { "is" } else { "are" };
    let not_stored = (refused > 0).then(|| format!("{} {verb} not stored", lines(line, line + refused - 1)));
    let unsure = line + refused;
    let unsure = (unsure <= last).then(|| format!("{} may or may not be stored", lines(unsure, last)));
    not_stored.into_iter().chain(unsure)
}

fn acknowledged(tally: &Tally) -> String {
    let verb = if tally.records == 1 { "was" } else { "were" };
    format!("{} {verb} acknowledged", counted(tally.records, "record"))
}

fn too_long(number: u64, max: usize) -> Failure {
    let max = count(max as u64);
    Failure::new(format!("line {number} is longer than the {max} bytes that a record may have (max.message.bytes)"))
}

/// Without somebody to tell, appending is not done.
fn output_failed(error: &io::Error, tally: &Tally) -> Failure {
    Failure::new(format!("cannot print LSNs: {error}")).hint(acknowledged(tally))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::log::testing::log;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AppendArgs,
    }

    #[test]
    fn nobody_waits_for_what_cannot_come() {
        let (some, none) = (Lines::new(b"line\n".to_vec()), Lines::default());
        let idle: InFlight<()> = InFlight::new(1);
        assert_eq!(Next::after(&some, &idle, false), Next::Append);
        assert_eq!(Next::after(&some, &idle, true), Next::Append);
        assert_eq!(Next::after(&none, &idle, false), Next::Wait, "for input");
        assert_eq!(Next::after(&none, &idle, true), Next::End);
        let full: InFlight<()> = InFlight::new(0);
        assert_eq!(Next::after(&some, &full, false), Next::Wait, "for an acknowledgement");
    }

    #[test]
    fn what_was_refused_is_not_in_doubt() {
        let told = |line, refused, last| fates(line, refused, last).collect::<Vec<_>>().join("; ");
        assert_eq!(told(5, 0, 5), "line 5 may or may not be stored");
        assert_eq!(told(5, 0, 9), "lines 5 to 9 may or may not be stored");
        assert_eq!(told(5, 1, 5), "line 5 is not stored");
        assert_eq!(told(5, 3, 9), "lines 5 to 7 are not stored; lines 8 to 9 may or may not be stored");
        assert_eq!(told(5, 5, 9), "lines 5 to 9 are not stored");

        let producer = 1;
        for (error, refused) in [
            (AppendError::TooLarge { len: 2, max: 1 }, true),
            (AppendError::Invalid { reason: String::new() }, true),
            (AppendError::UnknownPartition, true),
            (AppendError::OutOfOrder { producer, expected: 1, found: 2 }, false),
            (AppendError::UnknownProducer { producer }, false),
            (AppendError::Fenced { producer, current: 1 }, false),
        ] {
            assert_eq!(is_refused(&error.clone().into()), refused, "{error}");
        }
        let (after, last) = (Duration::from_secs(1), String::new());
        assert!(!is_refused(&AppendFailure::TimedOut { after, last: last.clone() }));
        assert!(is_refused(&AppendFailure::NotSent { after, last }));
        assert!(!is_refused(&AppendFailure::Behind), "it may have been sent all the same");
    }

    #[test]
    fn a_record_has_long_unless_told_otherwise() {
        let delivery_timeout = |line: &str| {
            let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
            options(&args, &log()).delivery_timeout
        };
        assert_eq!(delivery_timeout("append a/b"), Duration::from_secs(120));
        assert_eq!(delivery_timeout("append a/b --timeout 3s"), Duration::from_secs(3));
        assert_eq!(delivery_timeout("append a/b --timeout 10m"), Duration::from_secs(600));
    }

    #[test]
    fn lines_go_in_turns_or_where_they_are_told() {
        let mut turns = Partitions::InTurns { next: 0, count: 3 };
        assert_eq!([turns.next(), turns.next(), turns.next(), turns.next()], [0, 1, 2, 0]);
        let mut one = Partitions::One(7);
        assert_eq!([one.next(), one.next()], [7, 7]);
    }
}
