//! Kafka's protocol, as far as it takes to measure a node's gateway: what is wrong ends the measurement, nothing is sent
//! again.

mod batch;
mod connection;
mod consumer;
mod leaders;
mod partition;
mod producer;

use std::time::Duration;

use dlog_client::AppendOptions;
use dlog_metadata::state::topic_of;
use dlog_proto::LogId;
use dlog_proto::transport::HostPort;

use self::consumer::{KafkaConsumer, Source};
use self::leaders::Leaders;
use self::producer::KafkaProducer;
use super::driver::Driver;
use crate::args::ConnectArgs;
use crate::failure::Failure;

pub(super) struct Kafka {
    servers: Vec<HostPort>,
    patience: Duration,
}

impl Kafka {
    pub(super) fn new(args: &ConnectArgs) -> Self {
        Self { servers: args.server.clone(), patience: args.answer_timeout() }
    }
}

impl Driver for Kafka {
    type Producer = KafkaProducer;
    type Source = Source;
    type Consumer = KafkaConsumer;

    async fn producer(&self, log: &LogId, options: AppendOptions) -> Result<KafkaProducer, Failure> {
        let topic = topic_of(log);
        let leaders = Leaders::find(&self.servers, &topic, self.patience).await?;
        KafkaProducer::start(leaders, &topic, &options).await
    }

    async fn source(&self, log: &LogId, records: &[u64]) -> Result<Source, Failure> {
        let topic = topic_of(log);
        let mut leaders = Leaders::find(&self.servers, &topic, self.patience).await?;
        leaders.wait_for(&topic, records, self.patience).await?;
        Ok(Source { leaders, topic })
    }

    fn consumer(&self, source: Source) -> KafkaConsumer {
        KafkaConsumer::start(source)
    }
}
