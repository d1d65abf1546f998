//! rdkafka against a server: `compat HOST:PORT`. Prints a line for each check.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

type Outcome = Result<(), Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(30);
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Fails a check with what was expected.
fn expect(holds: bool, what: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

struct Server(String);

impl Server {
    fn client<C: FromClientConfig>(&self, options: &[(&str, &str)]) -> Result<C, KafkaError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.0);
        options.iter().for_each(|(key, value)| _ = config.set(*key, *value));
        config.create()
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.client(&[])
    }

    async fn topic(&self, partitions: i32, configs: &[(&str, &str)]) -> Result<String, Box<dyn Error>> {
        let name = unique("rust");
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        for made in self.admin()?.create_topics([&topic], &AdminOptions::new()).await? {
            made.map_err(|(topic, code)| format!("{topic} was not made: {code}"))?;
        }
        Ok(name)
    }

    fn consumer(&self, group: &str, topic: &str) -> Result<BaseConsumer, KafkaError> {
        let options = [("group.id", group), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
        let consumer: BaseConsumer = self.client(&options)?;
        consumer.subscribe(&[topic])?;
        Ok(consumer)
    }

    /// Sends values in order, and says where they are.
    async fn produce(&self, topic: &str, count: usize, options: &[(&str, &str)]) -> Result<Vec<(i32, i64)>, Box<dyn Error>> {
        let producer: FutureProducer = self.client(options)?;
        let mut sent = Vec::new();
        for i in 0..count {
            let (key, value) = (format!("k{i}"), format!("v{i}"));
            let header = Header { key: "n", value: Some(&value) };
            let record = FutureRecord::to(topic).key(&key).payload(&value);
            let record = record.headers(OwnedHeaders::new().insert(header)).timestamp(1_600_000_000_000 + 1000 * i as i64);
            sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
        }
        let mut places = Vec::new();
        for delivery in sent {
            let delivered = delivery.await?.map_err(|(error, _)| error)?;
            places.push((delivered.partition, delivered.offset));
        }
        Ok(places)
    }
}

fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{name}-{}", now.as_nanos())
}

fn take(consumer: &BaseConsumer, count: usize) -> Result<Vec<OwnedMessage>, Box<dyn Error>> {
    let (mut records, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while records.len() < count && Instant::now() < deadline {
        if let Some(record) = consumer.poll(Duration::from_millis(200)) {
            records.push(record?.detach());
        }
    }
    expect(records.len() == count, format!("{} of {count} records", records.len()))?;
    Ok(records)
}

fn value(record: &OwnedMessage) -> &str {
    record.payload().map_or("", |value| std::str::from_utf8(value).unwrap_or(""))
}

async fn codecs(server: &Server) -> Outcome {
    for codec in CODECS {
        let topic = server.topic(1, &[]).await?;
        let places = server.produce(&topic, 500, &[("compression.type", codec), ("linger.ms", "5")]).await?;
        expect(places.iter().map(|(_, offset)| *offset).eq(0..500), format!("{codec}: offsets are dense"))?;
        for (i, record) in take(&server.consumer(&unique("g"), &topic)?, 500)?.iter().enumerate() {
            let header = record.headers().and_then(|headers| headers.get_as::<str>(0).ok()).and_then(|h| h.value);
            let seen = (record.offset(), value(record), header, record.timestamp().to_millis());
            let wanted = format!("v{i}");
            let time = Some(1_600_000_000_000 + 1000 * i as i64);
            expect(seen == (i as i64, wanted.as_str(), Some(wanted.as_str()), time), format!("{codec}: {seen:?}"))?;
        }
    }
    Ok(())
}

async fn idempotent(server: &Server) -> Outcome {
    let topic = server.topic(3, &[]).await?;
    server.produce(&topic, 3000, &[("enable.idempotence", "true")]).await?;
    let records = take(&server.consumer(&unique("g"), &topic)?, 3000)?;
    let values: HashSet<_> = records.iter().map(value).collect();
    expect(values.len() == 3000, format!("{} different values of 3000", values.len()))
}

async fn group(server: &Server) -> Outcome {
    let (topic, group) = (server.topic(4, &[]).await?, unique("g"));
    server.produce(&topic, 200, &[]).await?;
    let members = [server.consumer(&group, &topic)?, server.consumer(&group, &topic)?];
    let (mut seen, deadline) = (BTreeMap::new(), Instant::now() + PATIENCE);
    let mut shares = [0; 2];
    while (seen.len() < 200 || shares != [2, 2]) && Instant::now() < deadline {
        for (member, share) in members.iter().zip(&mut shares) {
            if let Some(record) = member.poll(Duration::from_millis(10)) {
                let record = record?.detach();
                seen.insert((record.partition(), record.offset()), value(&record).to_owned());
            }
            *share = member.assignment()?.count();
        }
    }
    expect(seen.len() == 200 && shares == [2, 2], format!("{} of 200 records; shares {shares:?}", seen.len()))?;
    members.iter().try_for_each(|member| member.commit_consumer_state(CommitMode::Sync))?;
    drop(members);
    server.produce(&topic, 10, &[]).await?;
    let late = take(&server.consumer(&group, &topic)?, 10)?;
    expect(late.iter().all(|record| record.offset() > 0), "it goes on where the group stopped")
}

async fn times(server: &Server) -> Outcome {
    let topic = server.topic(1, &[]).await?;
    server.produce(&topic, 100, &[]).await?;
    let consumer = server.consumer(&unique("g"), &topic)?;
    for (time, wanted) in [(1_600_000_010_500, Offset::Offset(11)), (0, Offset::Offset(0)), (1_700_000_000_000, Offset::End)] {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(&topic, 0, Offset::Offset(time))?;
        let found = consumer.offsets_for_times(asked, PATIENCE)?.elements()[0].offset();
        expect(found == wanted, format!("{time} is at {found:?}, not {wanted:?}"))?;
    }
    expect(consumer.fetch_watermarks(&topic, 0, PATIENCE)? == (0, 100), "watermarks")
}

async fn append_time(server: &Server) -> Outcome {
    let topic = server.topic(1, &[("message.timestamp.type", "LogAppendTime")]).await?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    server.produce(&topic, 10, &[("compression.type", "lz4")]).await?;
    for record in take(&server.consumer(&unique("g"), &topic)?, 10)? {
        let rdkafka::Timestamp::LogAppendTime(time) = record.timestamp() else {
            return Err(format!("{:?}", record.timestamp()).into());
        };
        expect((started - 1000..started + 60_000).contains(&time), format!("{time} is not now"))?;
    }
    Ok(())
}

async fn admin(server: &Server) -> Outcome {
    let (topic, admin, options) = (server.topic(2, &[]).await?, server.admin()?, AdminOptions::new());
    let resource = ResourceSpecifier::Topic(&topic);
    let change = AlterConfig::new(resource).set("retention.ms", "12345");
    admin.alter_configs([&change], &options).await?.remove(0).map_err(|(_, code)| code)?;
    let described = admin.describe_configs([&resource], &options).await?.remove(0)?;
    let kept = described.get("retention.ms").and_then(|entry| entry.value.clone());
    expect(kept.as_deref() == Some("12345"), format!("retention.ms is {kept:?}"))?;
    let compacted = NewTopic::new("rust-compacted", 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let refused = admin.create_topics([&compacted], &options).await?.remove(0);
    expect(matches!(refused, Err((_, RDKafkaErrorCode::InvalidConfig))), format!("{refused:?}"))?;
    admin.delete_topics(&[&topic], &options).await?.remove(0).map_err(|(_, code)| code)?;
    Ok(())
}

async fn transactions(server: &Server) -> Outcome {
    let (producer, started): (FutureProducer, _) = (server.client(&[("transactional.id", "t")])?, Instant::now());
    let refused = producer.init_transactions(Timeout::After(PATIENCE));
    let is_right = matches!(&refused, Err(KafkaError::Transaction(error))
        if error.code() == RDKafkaErrorCode::TransactionalIdAuthorizationFailed);
    expect(is_right && started.elapsed() < PATIENCE / 2, format!("{refused:?} after {:?}", started.elapsed()))
}

#[tokio::main]
async fn main() {
    let server = Server(std::env::args().nth(1).expect("usage: compat HOST:PORT"));
    let (mut failed, version) = (false, rdkafka::util::get_rdkafka_version().1);
    macro_rules! check {
        ($name:literal, $check:ident) => {
            let started = Instant::now();
            match $check(&server).await {
                Ok(()) => println!("ok rdkafka {version} | {} | {:.1} s", $name, started.elapsed().as_secs_f64()),
                Err(error) => {
                    failed = true;
                    println!("FAIL rdkafka {version} | {} | {error}", $name);
                }
            }
        };
    }
    check!("produce and consume with all codecs", codecs);
    check!("idempotent producer", idempotent);
    check!("a group of two shares the partitions and goes on", group);
    check!("offsets by time, watermarks", times);
    check!("LogAppendTime", append_time);
    check!("topics and configs", admin);
    check!("transactions are refused at once", transactions);
    std::process::exit(i32::from(failed));
}
