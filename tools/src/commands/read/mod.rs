//! `dlog read`

pub(super) mod json;
mod plan;
mod printer;
pub(super) mod text;

use std::io::{self, BufWriter};
use std::time::Duration;

use dlog_client::{Client, ClientError, GapReason, ReadBatch, ReadStep};
use dlog_proto::Lsn;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;

use self::printer::Printer;
use super::streams::{self, Event, Range};
use crate::args::ReadArgs;
use crate::failure::{Failure, Outcome};
use crate::output::human::counted;
use crate::output::tell;

/// What is collected before it is written.
const OUTPUT_LEN: usize = 256 << 10;

pub(crate) async fn run(client: &Client, args: &ReadArgs) -> Result<Outcome, Failure> {
    if args.count == Some(0) {
        return Ok(Outcome::Done);
    }
    let ranges = plan::ranges(client, args).await?;
    let several = ranges.len() > 1;
    let events = if args.follow {
        streams::follow(client, &args.log, &ranges)
    } else {
        streams::start(client, &args.log, &ranges)
    };
    let out = BufWriter::with_capacity(OUTPUT_LEN, io::stdout().lock());
    let mut session = Session {
        args,
        printer: Printer::new(out, args.format, several),
        left: args.count.unwrap_or(u64::MAX),
        running: ranges.len(),
        ranges,
        outcome: Outcome::Done,
    };
    session.run(events).await
}

struct Session<'a, W: io::Write> {
    args: &'a ReadArgs,
    printer: Printer<W>,
    /// Records to print at most.
    left: u64,
    /// In the order of their partitions.
    ranges: Vec<Range>,
    /// Partitions that are not read to their ends.
    running: usize,
    outcome: Outcome,
}

impl<W: io::Write> Session<'_, W> {
    async fn run(&mut self, mut events: mpsc::Receiver<Event>) -> Result<Outcome, Failure> {
        while self.running > 0 && self.left > 0 {
            match self.next(&mut events).await? {
                Event::Step(partition, ReadStep::Batch(batch)) => self.print(partition, &batch)?,
                Event::Step(partition, ReadStep::Gap { from, to, reason }) => self.gap(partition, from, to, reason)?,
                Event::Ended => self.running -= 1,
                Event::Failed(partition, error) => return Err(self.failed(partition, error)),
                Event::Interrupted => break,
            }
        }
        self.flush()?;
        Ok(self.outcome)
    }

    /// What comes next. While nothing is there, all that was read is shown.
    async fn next(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<Event, Failure> {
        match events.try_recv() {
            Ok(event) => return Ok(event),
            Err(TryRecvError::Empty) => self.flush()?,
            Err(TryRecvError::Disconnected) => return Ok(Event::Interrupted),
        }
        let patience = if self.args.follow { Duration::MAX } else { self.args.connect.answer_timeout() };
        match timeout(patience, events.recv()).await {
            Ok(event) => Ok(event.unwrap_or(Event::Interrupted)),
            Err(_) => Err(self.stuck(patience)),
        }
    }

    /// The first LSN of a partition that is not read any more.
    fn until(&self, partition: u32) -> Option<Lsn> {
        let at = self.ranges.binary_search_by_key(&partition, |range| range.partition).ok()?;
        self.ranges[at].until
    }

    /// Batches come whole: what stands in one before or after what was asked for is left out.
    fn print(&mut self, partition: u32, batch: &ReadBatch) -> Result<(), Failure> {
        let until = self.until(partition);
        let damaged = |error: dlog_proto::record::BatchError| ClientError::NotUnderstood(error.to_string());
        let records = batch.batch.records().map_err(damaged)?;
        for record in records.refs() {
            let record = record.map_err(damaged)?;
            if record.offset_delta < batch.skip {
                continue;
            }
            if until.is_some_and(|until| batch.lsn.0 + u64::from(record.offset_delta) >= until.0) {
                break;
            }
            self.printer.record(partition, batch, &record).map_err(|error| Failure::output(&error))?;
            self.left -= 1;
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }

    fn gap(&mut self, partition: u32, from: Lsn, to: Lsn, reason: GapReason) -> Result<(), Failure> {
        let log = &self.args.log;
        let range = span(from, to);
        match reason {
            GapReason::DataLoss => {
                self.flush()?;
                tell(format_args!(
                    "data loss: {log} partition {partition}: {range} cannot be found on any shard that keeps it"
                ));
                self.outcome = Outcome::DataLoss;
            }
            // Where reading began it is what was asked for; later on, reading was too slow.
            GapReason::Trimmed if self.ranges.iter().any(|r| r.partition == partition && r.from < from) => {
                self.flush()?;
                tell(format_args!("note: {log} partition {partition}: {range} was trimmed before it could be read"));
            }
            GapReason::Trimmed => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.printer.flush().map_err(|error| Failure::output(&error))
    }

    fn failed(&mut self, partition: u32, error: ClientError) -> Failure {
        // What was read before is shown, even now; the failure at hand is the one to tell.
        let _ = self.printer.flush();
        Failure::from(error).while_at(format_args!("{} partition {partition}", self.args.log))
    }

    fn stuck(&self, patience: Duration) -> Failure {
        let (log, seconds) = (&self.args.log, patience.as_secs_f64());
        Failure::new(format!("{log} has more records, but no shard sent any for {seconds:.1} s"))
            .hint("`dlog cluster status` shows which nodes are up; --timeout sets how long to wait")
    }
}

/// `e1n5 to e1n9 (5 records)`
fn span(from: Lsn, to: Lsn) -> String {
    match to.0.checked_sub(from.0) {
        Some(more) if from.epoch() == to.epoch() => format!("{from} to {to} ({})", counted(more + 1, "record")),
        _ => format!("{from} to {to}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use dlog_proto::LogOffset;
    use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, RecordBatch};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ReadArgs,
    }

    /// The values e1n1 to e1n20 in one batch.
    fn batch(skip: u32) -> ReadBatch {
        let mut builder = BatchBuilder::new(0);
        for value in 1..=20 {
            let value = value.to_string();
            builder.append(&NewRecord { timestamp_ms: 0, key: None, value: Some(value.as_bytes()), headers: &[] });
        }
        let batch = RecordBatch::parse(builder.finish(BatchOptions::default()).freeze()).unwrap();
        ReadBatch { lsn: "e1n1".parse().unwrap(), offset: LogOffset(0), skip, batch }
    }

    async fn read(until: Option<&str>, skip: u32, count: u64) -> String {
        let args = Line::try_parse_from(["read", "a/b", "--format", "raw"]).unwrap().args;
        let range = |partition, until: Option<&str>| Range {
            partition,
            from: "e1n1".parse().unwrap(),
            until: until.map(|until| until.parse().unwrap()),
        };
        let mut out = Vec::new();
        let mut session = Session {
            args: &args,
            printer: Printer::new(&mut out, args.format, true),
            left: count,
            ranges: vec![range(1, Some("e1n2")), range(4, until)],
            running: 1,
            outcome: Outcome::Done,
        };
        let (events, read) = mpsc::channel(2);
        events.send(Event::Step(4, ReadStep::Batch(batch(skip)))).await.unwrap();
        events.send(Event::Ended).await.unwrap();
        assert_eq!(session.run(read).await, Ok(Outcome::Done));
        String::from_utf8(out).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn reading_ends_inside_of_a_batch_too() {
        assert_eq!(read(Some("e1n3"), 0, 100).await, "1 2");
        assert_eq!(read(Some("e1n7"), 4, 100).await, "5 6");
        assert_eq!(read(Some("e1n5"), 4, 100).await, "", "nothing is between a place and itself");
        assert_eq!(read(Some("e1n3"), 0, 1).await, "1");
        assert_eq!(read(Some("e2n1"), 18, 100).await, "19 20");
        assert_eq!(read(None, 17, 100).await, "18 19 20");
    }

    #[test]
    fn spans_count_inside_an_epoch_only() {
        let lsn = |text: &str| text.parse().unwrap();
        assert_eq!(span(lsn("e1n5"), lsn("e1n9")), "e1n5 to e1n9 (5 records)");
        assert_eq!(span(lsn("e1n5"), lsn("e1n5")), "e1n5 to e1n5 (1 record)");
        assert_eq!(span(lsn("e1n5"), lsn("e2n1")), "e1n5 to e2n1");
    }
}
