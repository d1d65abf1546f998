//! Fetch: a connection to each leader, all its partitions in one request, with the limits of Kafka's own consumers. The next
//! request is on its way while the records of the last one are looked at.

use std::collections::VecDeque;

use bytes::Bytes;
use dlog_proto::record;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::leaders::{Leaders, Leading, topic_name};
use crate::commands::bench::driver::{Consumer, ReadBack};
use crate::commands::bench::workload::Place;
use crate::failure::Failure;

const FETCH: i16 = 12;
const MAX_WAIT_MS: i32 = 500;
/// `fetch.max.bytes` and `max.partition.fetch.bytes`
const FETCH_BYTES_MAX: i32 = 50 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// Batches that were read and wait for being looked at.
const BATCHES_AHEAD: usize = 16;

pub(in crate::commands::bench) struct Source {
    pub(super) leaders: Leaders,
    pub(super) topic: String,
}

pub(in crate::commands::bench) struct KafkaConsumer {
    read: mpsc::Receiver<Result<ReadBack, Failure>>,
    /// Ends with the consumer.
    _tasks: JoinSet<()>,
}

impl KafkaConsumer {
    pub(super) fn start(source: Source) -> Self {
        let (sender, read) = mpsc::channel(BATCHES_AHEAD);
        let mut tasks = JoinSet::new();
        for Leading { connection, partitions } in source.leaders.nodes {
            let left = partitions.into_iter().filter(|(_, until)| *until > 0);
            let left = left.map(|(partition, until)| Left { partition, next: 0, until }).collect();
            let mut reading = Reading { connection, topic: topic_name(&source.topic), left };
            let sender = sender.clone();
            tasks.spawn(async move {
                if let Err(failure) = reading.run(&sender).await {
                    let _ = sender.send(Err(failure)).await;
                }
            });
        }
        Self { read, _tasks: tasks }
    }
}

impl Consumer for KafkaConsumer {
    async fn next(&mut self) -> Result<Option<ReadBack>, Failure> {
        self.read.recv().await.transpose()
    }
}

/// What is still to be read of a partition.
struct Left {
    partition: u32,
    next: u64,
    until: u64,
}

/// Reads what one node leads.
struct Reading {
    connection: Connection,
    topic: TopicName,
    left: VecDeque<Left>,
}

impl Reading {
    async fn run(&mut self, read: &mpsc::Sender<Result<ReadBack, Failure>>) -> Result<(), Failure> {
        if self.left.is_empty() {
            return Ok(());
        }
        self.ask().await?;
        loop {
            let answer = self.connection.answers.next(FETCH).await?;
            let batches = self.take(answer)?;
            let goes_on = !self.left.is_empty();
            if goes_on {
                self.ask().await?;
            }
            for batch in batches {
                if read.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        let mut of_topic = FetchTopic::default();
        of_topic.topic = self.topic.clone();
        for left in &self.left {
            let mut partition = FetchPartition::default();
            (partition.partition, partition.fetch_offset) = (left.partition as i32, left.next as i64);
            partition.partition_max_bytes = PARTITION_BYTES_MAX;
            of_topic.partitions.push(partition);
        }
        let mut request = FetchRequest::default();
        (request.replica_id, request.topics, request.session_epoch) = (BrokerId(-1), vec![of_topic], -1);
        (request.max_wait_ms, request.min_bytes, request.max_bytes) = (MAX_WAIT_MS, 1, FETCH_BYTES_MAX);
        self.connection.requests.send(FETCH, &request).await
    }

    /// Takes an answer apart. What gave nothing comes first the next time.
    fn take(&mut self, answer: FetchResponse) -> Result<Vec<ReadBack>, Failure> {
        let mut batches = Vec::new();
        let told = answer.responses.into_iter().flat_map(|topic| topic.partitions);
        for (error, index, records) in told.map(|told| (told.error_code, told.partition_index, told.records)) {
            if let Some(error) = ResponseError::try_from_code(error) {
                return Err(self.connection.answers.failed(format!("reading partition {index}: {error}")));
            }
            let Some(at) = self.left.iter().position(|left| left.partition as i32 == index) else {
                return Err(self.connection.answers.failed(format!("partition {index} was not asked for")));
            };
            let Some(records) = records.filter(|records| !records.is_empty()) else { continue };
            let Some(mut left) = self.left.remove(at) else { continue };
            left.take(records, &mut batches).map_err(|error| self.connection.answers.failed(error))?;
            if left.next < left.until {
                self.left.push_back(left);
            }
        }
        Ok(batches)
    }
}

impl Left {
    fn take(&mut self, records: Bytes, batches: &mut Vec<ReadBack>) -> Result<(), record::BatchError> {
        for batch in record::batches(records) {
            let batch = batch?;
            let header = batch.header();
            let (first, span) = (header.base_offset, u64::from(header.span()));
            let skip = self.next.saturating_sub(first).min(span) as u32;
            self.next = self.next.max(first + span);
            batches.push(ReadBack { partition: self.partition, first: Place::Offset(first), skip, batch });
        }
        Ok(())
    }
}
