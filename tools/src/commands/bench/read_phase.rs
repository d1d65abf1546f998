//! Reads everything back, and checks it: every record once, in order, as it was written, where its acknowledgement said.

use std::time::{Duration, Instant};

use dlog_client::ClientError;
use tokio::time::timeout;

use super::append_phase::Appended;
use super::driver::{Consumer, ReadBack};
use super::workload::{Place, PlaceHash, Workload};
use crate::failure::Failure;
use crate::output::progress;

/// What came of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) records: u64,
    pub(super) elapsed: Duration,
}

/// Takes what `consumer` reads, which was told to read everything. `started` is when it was.
pub(super) async fn run(
    mut consumer: impl Consumer,
    started: Instant,
    workload: &Workload,
    appended: &Appended,
    patience: Duration,
) -> Result<Read, Failure> {
    let total = appended.acknowledged.iter().map(|partition| partition.records).sum();
    let progress = progress::bar(Some(total), "read");
    let mut checker = Checker::new(workload);
    loop {
        let read = timeout(patience, consumer.next()).await;
        let nothing = |_| Failure::new(format!("no records came for {:.1} s", patience.as_secs_f64()));
        let Some(read) = read.map_err(nothing)?? else { break };
        checker.batch(&read)?;
        progress.set_position(checker.records());
    }
    let elapsed = started.elapsed();
    progress.finish_and_clear();
    checker.finish(&appended.acknowledged)?;
    Ok(Read { records: total, elapsed })
}

pub(super) fn wrong(partition: u32, what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("what was read is not what was appended: partition {partition}: {what}"))
}

/// Compares what is read with what was written.
struct Checker<'a> {
    workload: &'a Workload,
    /// Of each partition.
    read: Vec<PlaceHash>,
}

impl<'a> Checker<'a> {
    fn new(workload: &'a Workload) -> Self {
        Self { workload, read: vec![PlaceHash::default(); workload.partitions() as usize] }
    }

    fn records(&self) -> u64 {
        self.read.iter().map(|partition| partition.records).sum()
    }

    fn batch(&mut self, read: &ReadBack) -> Result<(), Failure> {
        let damaged = |error: dlog_proto::record::BatchError| ClientError::NotUnderstood(error.to_string());
        let records = read.batch.records().map_err(damaged)?;
        for record in records.refs() {
            let record = record.map_err(damaged)?;
            if record.offset_delta >= read.skip {
                let place = read.first.plus(record.offset_delta);
                self.record(read.partition, place, record.value.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn record(&mut self, partition: u32, place: Place, value: &[u8]) -> Result<(), Failure> {
        let read = &mut self.read[partition as usize];
        // Records are dealt out in turns, so each partition has every n-th.
        let expected = read.records * u64::from(self.workload.partitions()) + u64::from(partition);
        match self.workload.check(value) {
            Some(number) if number == expected => {}
            Some(number) => return Err(wrong(partition, format_args!("{place} is record {number}, not {expected}"))),
            None => return Err(wrong(partition, format_args!("{place} should be record {expected} and is damaged"))),
        }
        read.add(place);
        Ok(())
    }

    fn finish(self, acknowledged: &[PlaceHash]) -> Result<(), Failure> {
        for (partition, (read, acknowledged)) in self.read.iter().zip(acknowledged).enumerate() {
            let (partition, records) = (partition as u32, acknowledged.records);
            if read.records != records {
                let what = format!("{} records came back of {records} that were acknowledged", read.records);
                return Err(wrong(partition, what));
            }
            if read != acknowledged {
                return Err(wrong(partition, "records stand elsewhere than their acknowledgements said"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::Lsn;

    use super::*;

    fn lsn(esn: u64) -> Place {
        Place::Lsn(Lsn((1 << 32) + esn))
    }

    /// Feeds records by number to partition 1 of 2, the first one at e1n1.
    fn read(numbers: &[u64]) -> (Result<(), Failure>, Vec<PlaceHash>) {
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

    fn acknowledged(count: u64) -> Vec<PlaceHash> {
        let mut of_one = PlaceHash::default();
        (1..=count).for_each(|esn| of_one.add(lsn(esn)));
        vec![PlaceHash::default(), of_one]
    }

    fn outcome(numbers: &[u64], acknowledged: &[PlaceHash]) -> Result<(), String> {
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
        assert!(outcome(&[1, 3, 5], &elsewhere).unwrap_err().contains("stand elsewhere"));
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
