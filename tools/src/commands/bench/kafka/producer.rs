//! Produce: a batch a request, any number of requests on their way, acks=all, idempotent.

use std::sync::Arc;

use dlog_client::AppendOptions;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::{KafkaAck, Outcome};
use super::connection::{Answers, Connection, Requests};
use super::leaders::{Leaders, topic_name};
use super::partition::{Next, Partition};
use crate::commands::bench::driver::Producer;
use crate::commands::bench::workload::Place;
use crate::failure::Failure;

const PRODUCE: i16 = 9;
const INIT_PRODUCER_ID: i16 = 4;
const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 30_000;

/// A partition and the line to the task of its leader's connection.
#[derive(Clone)]
struct Sending {
    partition: Arc<Partition>,
    /// Partitions that somebody should look at.
    ready: mpsc::UnboundedSender<Arc<Partition>>,
}

pub(in crate::commands::bench) struct KafkaProducer {
    /// By number.
    partitions: Vec<Sending>,
    /// Ends with the producer.
    _tasks: JoinSet<()>,
}

/// A request that waits for its answer.
type Sent = (Arc<Partition>, Arc<Outcome>);

impl KafkaProducer {
    pub(super) async fn start(leaders: Leaders, topic: &str, options: &AppendOptions) -> Result<Self, Failure> {
        let (mut partitions, mut tasks, mut id) = (Vec::new(), JoinSet::new(), None);
        for mut leading in leaders.nodes {
            let id = match id {
                Some(id) => id,
                None => *id.insert(producer_id(&mut leading.connection).await?),
            };
            let (ready, looked_at) = mpsc::unbounded_channel();
            let of_node = leading.partitions.iter().map(|(index, _)| Sending {
                partition: Arc::new(Partition::new(*index, options, id)),
                ready: ready.clone(),
            });
            partitions.extend(of_node);
            let (sent, answered) = mpsc::unbounded_channel();
            let Connection { requests, answers } = leading.connection;
            tasks.spawn(send(requests, topic_name(topic), looked_at, ready.clone(), sent));
            tasks.spawn(settle(answers, answered, ready));
        }
        partitions.sort_by_key(|sending| sending.partition.index);
        Ok(Self { partitions, _tasks: tasks })
    }
}

async fn producer_id(connection: &mut Connection) -> Result<i64, Failure> {
    let answer =
        connection.ask(INIT_PRODUCER_ID, &InitProducerIdRequest::default().with_transactional_id(None)).await?;
    match ResponseError::try_from_code(answer.error_code) {
        None => Ok(answer.producer_id.0),
        Some(error) => Err(connection.answers.failed(error)),
    }
}

/// Sends what the partitions of one leader have.
async fn send(
    mut requests: Requests,
    topic: TopicName,
    mut ready: mpsc::UnboundedReceiver<Arc<Partition>>,
    again: mpsc::UnboundedSender<Arc<Partition>>,
    sent: mpsc::UnboundedSender<Sent>,
) {
    while let Some(partition) = ready.recv().await {
        loop {
            match partition.next() {
                Next::Nothing => break,
                Next::Wait(due) => {
                    let (partition, again) = (partition.clone(), again.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep_until(due).await;
                        partition.handle_time();
                        let _ = again.send(partition);
                    });
                }
                Next::Send(records, outcome) => {
                    let mut data = PartitionProduceData::default();
                    (data.index, data.records) = (partition.index as i32, Some(records));
                    let mut of_topic = TopicProduceData::default();
                    (of_topic.name, of_topic.partition_data) = (topic.clone(), vec![data]);
                    let mut request = ProduceRequest::default();
                    (request.acks, request.timeout_ms, request.topic_data) = (ACKS_ALL, TIMEOUT_MS, vec![of_topic]);
                    // Before it goes out: if it does not, whoever waits for its answer hears of it.
                    let _ = sent.send((partition.clone(), outcome));
                    if requests.send(PRODUCE, &request).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Tells the outcomes, in the order of the requests.
async fn settle(
    mut answers: Answers,
    mut sent: mpsc::UnboundedReceiver<Sent>,
    ready: mpsc::UnboundedSender<Arc<Partition>>,
) {
    while let Some((partition, outcome)) = sent.recv().await {
        outcome.set(answers.next(PRODUCE).await.map_err(|failure| failure.to_string()).and_then(|a| offset_of(&a)));
        partition.handle_answer();
        let _ = ready.send(partition);
    }
}

fn offset_of(answer: &ProduceResponse) -> Result<u64, String> {
    let mut told = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    let told = told.next().ok_or("the answer to a Produce says nothing")?;
    match ResponseError::try_from_code(told.error_code) {
        None => u64::try_from(told.base_offset).map_err(|_| "a batch was taken without an offset".to_owned()),
        Some(error) => Err(match &told.error_message {
            Some(message) => format!("{error}: {message}"),
            None => error.to_string(),
        }),
    }
}

impl Producer for KafkaProducer {
    type Ack = KafkaAck;

    async fn append(&self, partition: u32, value: &[u8]) -> Result<KafkaAck, Failure> {
        let sending = self.partitions.get(partition as usize);
        let sending = sending.ok_or_else(|| Failure::new(format!("the topic has no partition {partition}")))?;
        let (ack, look) = sending.partition.push(value);
        if look {
            let _ = sending.ready.send(sending.partition.clone());
        }
        Ok(ack)
    }

    fn place(outcome: Result<u64, String>) -> Result<Place, String> {
        outcome.map(Place::Offset)
    }
}
