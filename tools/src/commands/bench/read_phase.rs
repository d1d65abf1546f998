//! Reads everything back, and checks it: every record once, in order, as it was written, where its acknowledgement said.

use std::time::{Duration, Instant};

use dlog_client::{Client, ClientError, Position, ReadBatch, ReadStep};
use dlog_proto::{LogId, Lsn};
use tokio::time::timeout;

use super::append_phase::Appended;
use super::workload::{LsnHash, Workload};
use crate::commands::streams::{self, Event, Range};
use crate::failure::Failure;
use crate::output::progress;

/// What came of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) records: u64,
    pub(super) elapsed: Duration,
}

pub(super) async fn run(
    client: &Client,
    log: &LogId,
    workload: &Workload,
    appended: &Appended,
    patience: Duration,
) -> Result<Read, Failure> {
    let mut ranges = Vec::with_capacity(appended.acknowledged.len());
    for partition in 0..workload.partitions() {
        let from = client.find(log, partition, Position::Oldest).await?;
        let until = Some(client.find(log, partition, Position::Newest).await?);
        ranges.push(Range { partition, from, until });
    }
    let total = appended.acknowledged.iter().map(|partition| partition.records).sum();
    let progress = progress::bar(Some(total), "read");
    let mut checker = Checker::new(workload);
    let started = Instant::now();
    let mut events = streams::start(client, log, &ranges);
    loop {
        let event = timeout(patience, events.recv()).await;
        match event.map_err(|_| Failure::new(format!("no records came for {:.1} s", patience.as_secs_f64())))? {
            Some(Event::Step(partition, ReadStep::Batch(batch))) => checker.batch(partition, &batch)?,
            Some(Event::Step(partition, ReadStep::Gap { from, to, reason })) => {
                return Err(wrong(partition, format_args!("{from} to {to} is missing ({reason:?})")));
            }
            Some(Event::Failed(partition, error)) => {
                return Err(Failure::from(error).while_at(format_args!("reading partition {partition}")));
            }
            Some(Event::Ended | Event::Interrupted) => {}
            None => break,
        }
        progress.set_position(checker.records());
    }
    let elapsed = started.elapsed();
    progress.finish_and_clear();
    checker.finish(&appended.acknowledged)?;
    Ok(Read { records: total, elapsed })
}

fn wrong(partition: u32, what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("what was read is not what was appended: partition {partition}: {what}"))
}

/// Compares what is read with what was written.
struct Checker<'a> {
    workload: &'a Workload,
    /// Of each partition.
    read: Vec<LsnHash>,
}

impl<'a> Checker<'a> {
    fn new(workload: &'a Workload) -> Self {
        Self { workload, read: vec![LsnHash::default(); workload.partitions() as usize] }
    }

    fn records(&self) -> u64 {
        self.read.iter().map(|partition| partition.records).sum()
    }

    fn batch(&mut self, partition: u32, batch: &ReadBatch) -> Result<(), Failure> {
        let damaged = |error: dlog_proto::record::BatchError| ClientError::NotUnderstood(error.to_string());
        let records = batch.batch.records().map_err(damaged)?;
        for record in records.refs() {
            let record = record.map_err(damaged)?;
            if record.offset_delta >= batch.skip {
                let lsn = Lsn(batch.lsn.0 + u64::from(record.offset_delta));
                self.record(partition, lsn, record.value.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn record(&mut self, partition: u32, lsn: Lsn, value: &[u8]) -> Result<(), Failure> {
        let read = &mut self.read[partition as usize];
        // Records are dealt out in turns, so each partition has every n-th.
        let expected = read.records * u64::from(self.workload.partitions()) + u64::from(partition);
        match self.workload.check(value) {
            Some(number) if number == expected => {}
            Some(number) => return Err(wrong(partition, format_args!("{lsn} is record {number}, not {expected}"))),
            None => return Err(wrong(partition, format_args!("{lsn} should be record {expected} and is damaged"))),
        }
        read.add(lsn);
        Ok(())
    }

    fn finish(self, acknowledged: &[LsnHash]) -> Result<(), Failure> {
        for (partition, (read, acknowledged)) in self.read.iter().zip(acknowledged).enumerate() {
            let (partition, records) = (partition as u32, acknowledged.records);
            if read.records != records {
                let what = format!("{} records came back of {records} that were acknowledged", read.records);
                return Err(wrong(partition, what));
            }
            if read != acknowledged {
                return Err(wrong(partition, "records have other LSNs than their acknowledgements said"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(esn: u64) -> Lsn {
        Lsn((1 << 32) + esn)
    }

    /// Feeds records by number to partition 1 of 2, the first one at e1n1.
    fn read(numbers: &[u64]) -> (Result<(), Failure>, Vec<LsnHash>) {
        let workload = Workload::new(20, 2);
        let mut checker = Checker::new(&workload);
        let mut value = Vec::new();
        for (number, esn) in numbers.iter().zip(1..) {
            workload.write(*number, &mut value);
            if let Err(failure) = checker.record(1, lsn(esn), &value) {
                return (Err(failure), checker.read);
            }
        }
        (Ok(()), checker.read)
    }

    fn acknowledged(count: u64) -> Vec<LsnHash> {
        let mut of_one = LsnHash::default();
        (1..=count).for_each(|esn| of_one.add(lsn(esn)));
        vec![LsnHash::default(), of_one]
    }

    fn outcome(numbers: &[u64], acknowledged: &[LsnHash]) -> Result<(), String> {
        let (fed, read) = read(numbers);
        let workload = Workload::new(20, 2);
        let checked = fed.and_then(|()| Checker { workload: &workload, read }.finish(acknowledged));
        checked.map_err(|failure| failure.to_string())
    }

    #[test]
    fn everything_once_in_order_is_right() {
        assert_eq!(outcome(&[1, 3, 5], &acknowledged(3)), Ok(()));
    }

    #[test]
    fn whatever_is_not_right_is_seen() {
        for (numbers, part) in [
            (&[1, 5][..], "e1n2 is record 5, not 3"),
            (&[1, 1], "e1n2 is record 1, not 3"),
            (&[3, 1], "e1n1 is record 3, not 1"),
            (&[1, 3], "2 records came back of 3"),
            (&[1, 3, 5, 7], "4 records came back of 3"),
        ] {
            let error = outcome(numbers, &acknowledged(3)).unwrap_err();
            assert!(error.contains(part), "{numbers:?}: {error}");
        }
        let mut elsewhere = acknowledged(2);
        elsewhere[1].add(lsn(4));
        assert!(outcome(&[1, 3, 5], &elsewhere).unwrap_err().contains("other LSNs"));
    }

    #[test]
    fn damage_is_seen() {
        let workload = Workload::new(20, 2);
        let mut checker = Checker::new(&workload);
        let mut value = Vec::new();
        workload.write(1, &mut value);
        value[15] ^= 1;
        let error = checker.record(1, lsn(1), &value).unwrap_err().to_string();
        assert!(error.contains("e1n1 should be record 1 and is damaged"), "{error}");
    }
}
