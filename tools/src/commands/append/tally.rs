//! What was acknowledged.

use std::fmt::Write;
use std::time::Duration;

use dlog_proto::Lsn;

use crate::output::human;

#[derive(Debug)]
pub(super) struct Tally {
    pub(super) records: u64,
    bytes: u64,
    /// First and last LSN of each partition.
    partitions: Vec<Option<(Lsn, Lsn)>>,
}

impl Tally {
    pub(super) fn new(partitions: usize) -> Self {
        Self { records: 0, bytes: 0, partitions: vec![None; partitions] }
    }

    pub(super) fn add(&mut self, partition: u32, lsn: Lsn, len: usize) {
        self.records += 1;
        self.bytes += len as u64;
        if let Some(range) = self.partitions.get_mut(partition as usize) {
            let (first, last) = range.unwrap_or((lsn, lsn));
            *range = Some((first.min(lsn), last.max(lsn)));
        }
    }

    pub(super) fn summary(&self, elapsed: Duration) -> String {
        let records = human::counted(self.records, "record");
        let rate = human::per_second(self.records, elapsed);
        let mut text = format!(
            "appended {records}, {} in {}: {} records/s\n",
            human::bytes(self.bytes),
            human::duration(elapsed),
            human::count(rate as u64),
        );
        for (partition, range) in self.partitions.iter().enumerate() {
            if let Some((first, last)) = range {
                // Writing to a string does not fail.
                let _ = writeln!(text, "partition {partition}: {first} to {last}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_got_something_are_listed() {
        let mut tally = Tally::new(3);
        for (partition, lsn, len) in [(0, "e1n1", 10), (2, "e4n7", 10), (0, "e1n2", 1000), (2, "e4n8", 0)] {
            tally.add(partition, lsn.parse().unwrap(), len);
        }
        let text = tally.summary(Duration::from_secs(2));
        assert_eq!(
            text,
            "appended 4 records, 1.0 kB in 2.00 s: 2 records/s\npartition 0: e1n1 to e1n2\npartition 2: e4n7 to e4n8\n"
        );
        assert_eq!(Tally::new(1).summary(Duration::ZERO), "appended 0 records, 0 B in 0.00 µs: 0 records/s\n");
    }
}
