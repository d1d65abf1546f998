//! DLog's own protocol.

use dlog_client::{Ack, AppendFailure, AppendOptions, Appended, Appender, Client, Position, ReadStep, Record};
use dlog_proto::{LogId, PartitionId};
use tokio::sync::mpsc;

use super::driver::{Consumer, Driver, Producer, ReadBack};
use super::read_phase::wrong;
use super::workload::Place;
use crate::commands::streams::{self, Event, Range};
use crate::failure::Failure;

pub(super) struct Native<'a> {
    client: &'a Client,
}

impl<'a> Native<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client }
    }
}

impl Driver for Native<'_> {
    type Producer = Appender;
    type Source = (LogId, Vec<Range>);
    type Consumer = mpsc::Receiver<Event>;

    async fn producer(&self, log: &LogId, options: AppendOptions) -> Result<Appender, Failure> {
        Ok(self.client.appender(log, options).await?)
    }

    async fn source(&self, log: &LogId, records: &[u64]) -> Result<Self::Source, Failure> {
        let mut ranges = Vec::with_capacity(records.len());
        for partition in 0..records.len() as u32 {
            let from = self.client.find(log, partition, Position::Oldest).await?;
            let until = Some(self.client.find(log, partition, Position::Newest).await?);
            ranges.push(Range { partition, from, until });
        }
        Ok((log.clone(), ranges))
    }

    fn consumer(&self, (log, ranges): Self::Source) -> Self::Consumer {
        streams::start(self.client, &log, &ranges)
    }
}

impl Producer for Appender {
    type Ack = Ack;

    async fn append(&self, partition: u32, value: &[u8]) -> Result<Ack, Failure> {
        let record = Record { partition: Some(PartitionId(partition)), value: Some(value), ..Record::default() };
        Ok(Self::append(self, record).await?)
    }

    fn place(outcome: Result<Appended, AppendFailure>) -> Result<Place, String> {
        outcome.map(|appended| Place::Lsn(appended.lsn)).map_err(|failure| failure.to_string())
    }
}

impl Consumer for mpsc::Receiver<Event> {
    async fn next(&mut self) -> Result<Option<ReadBack>, Failure> {
        loop {
            match self.recv().await {
                Some(Event::Step(partition, ReadStep::Batch(read))) => {
                    let (first, skip, batch) = (Place::Lsn(read.lsn), read.skip, read.batch);
                    return Ok(Some(ReadBack { partition, first, skip, batch }));
                }
                Some(Event::Step(partition, ReadStep::Gap { from, to, reason })) => {
                    return Err(wrong(partition, format_args!("{from} to {to} is missing ({reason:?})")));
                }
                Some(Event::Failed(partition, error)) => {
                    return Err(Failure::from(error).while_at(format_args!("reading partition {partition}")));
                }
                Some(Event::Ended | Event::Interrupted) => {}
                None => return Ok(None),
            }
        }
    }
}
