//! From where to where each partition is read.

use dlog_client::{Client, ClientError, Position};
use dlog_proto::clock::now_ms;
use dlog_proto::{LogId, Lsn, TimestampMs};
use tokio::task::JoinSet;

use super::Range;
use crate::args::{self, ReadArgs};
use crate::failure::Failure;

/// Partitions that are asked about at once.
const AT_ONCE: usize = 16;

/// The ranges of all partitions asked for, in their order.
pub(super) async fn ranges(client: &Client, args: &ReadArgs) -> Result<Vec<Range>, Failure> {
    let info = client.log(&args.log).await?;
    let partitions: Vec<u32> = match args.partition {
        Some(partition) => vec![partition],
        None => (0..info.partitions.len() as u32).collect(),
    };
    let wanted = Wanted::new(args, now_ms());
    let mut ranges = Vec::with_capacity(partitions.len());
    for some in partitions.chunks(AT_ONCE) {
        let mut asked = JoinSet::new();
        for partition in some.iter().copied() {
            let (client, log) = (client.clone(), args.log.clone());
            asked.spawn(async move { (partition, wanted.range(&client, &log, partition).await) });
        }
        while let Some(answer) = asked.join_next().await {
            let (partition, range) = answer.map_err(|error| Failure::new(format!("cannot begin to read: {error}")))?;
            ranges.push(range.map_err(|error| at(&args.log, partition, error))?);
        }
    }
    ranges.sort_unstable_by_key(|range| range.partition);
    Ok(ranges)
}

/// Names the partition, unless the error does.
fn at(log: &LogId, partition: u32, error: ClientError) -> Failure {
    match error {
        ClientError::OffsetOutOfRange { .. } | ClientError::UnknownPartition { .. } => error.into(),
        error => Failure::from(error).while_at(format_args!("{log} partition {partition}")),
    }
}

/// What was asked for, the same for all partitions.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    from: Position,
    until: Option<Position>,
    follow: bool,
}

impl Wanted {
    fn new(args: &ReadArgs, now: TimestampMs) -> Self {
        let resolved = |position: args::Position| position.resolve(now);
        Self { from: resolved(args.from), until: args.until.map(resolved), follow: args.follow }
    }

    async fn range(self, client: &Client, log: &LogId, partition: u32) -> Result<Range, ClientError> {
        let from = client.find(log, partition, self.from).await?;
        let until = match (self.until, self.follow) {
            (None, true) => None,
            (Some(until), true) => Some(client.find(log, partition, until).await?),
            (until, false) => {
                let tail = client.find(log, partition, Position::Newest).await?;
                let asked = match until {
                    Some(until) => client.find(log, partition, until).await,
                    None => Ok(tail),
                };
                Some(sooner(asked, tail)?)
            }
        };
        Ok(Range { partition, from, until })
    }
}

/// An end that is not there yet is no reason to wait, nor to complain.
fn sooner(asked: Result<Lsn, ClientError>, tail: Lsn) -> Result<Lsn, ClientError> {
    match asked {
        Err(ClientError::OffsetOutOfRange { offset, end, .. }) if offset > end => Ok(tail),
        asked => Ok(asked?.min(tail)),
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::PartitionId;

    use super::*;

    #[test]
    fn reading_ends_at_the_tail_at_the_latest() {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let tail = lsn("e2n5");
        assert_eq!(sooner(Ok(lsn("e1n9")), tail).unwrap(), lsn("e1n9"));
        assert_eq!(sooner(Ok(lsn("e3n1")), tail).unwrap(), tail);
        let out_of_range = |offset| {
            let log = "a/b".parse().unwrap();
            Err(ClientError::OffsetOutOfRange { log, partition: PartitionId(0), offset, first: 10, end: 20 })
        };
        assert_eq!(sooner(out_of_range(21), tail).unwrap(), tail);
        assert!(sooner(out_of_range(9), tail).is_err(), "no longer there");
    }
}
