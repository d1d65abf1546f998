//! Whose time records have: `message.timestamp.type`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dlog_client::{AppendOptions, Position};
use dlog_proto::clock::now_ms;
use dlog_proto::record::{BatchBuilder, BatchOptions, Compression, NewRecord, ProducerStamp, RecordBatch};
use kafka_protocol::ResponseError;

use crate::client::{Kafka, PATIENCE};
use crate::support::Cluster;

const LATEST: i64 = -1;
const MAX_TIMESTAMP: i64 = -3;

/// Two records of the years 1970 and 2286.
fn batch(base_sequence: i32, compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(1024);
    for timestamp_ms in [1000, 9_999_999_999_999] {
        builder.append(&NewRecord::of_value(timestamp_ms, b"value"));
    }
    let producer = Some(ProducerStamp { id: 77_000, epoch: 0, base_sequence });
    builder.finish(BatchOptions { producer, compression, ..BatchOptions::default() }).freeze()
}

/// Produces as a client does, whatever is refused for now; offset and time that it is told.
fn produce(kafka: &mut Kafka, name: &str, batch: &Bytes) -> (i64, i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let done = kafka.send(name, 0, batch.clone());
        if done.error_code == 0 {
            return (done.base_offset, done.log_append_time_ms);
        }
        assert!(Instant::now() < deadline, "{done:?}");
        kafka.follow(name, 0);
    }
}

fn times(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.records().unwrap()).map(|record| record.unwrap().timestamp_ms).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_append_time_is_the_sequencers_for_producers_consumers_and_searches() {
    let mut cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create_with("stamped", 1, 1, &[("message.timestamp.type", "LogAppendTime")]);
    kafka.leaders("stamped");
    let before = now_ms();
    let (first_batch, second_batch) = (batch(0, Compression::None), batch(2, Compression::Gzip));
    let (_, first) = produce(&mut kafka, "stamped", &first_batch);
    std::thread::sleep(Duration::from_millis(20));
    let (_, second) = produce(&mut kafka, "stamped", &second_batch);
    assert!(before <= first && first + 20 <= second && second <= now_ms(), "{before} {first} {second}");

    // A native client's records too.
    let client = cluster.client();
    let log = "default/stamped".parse().unwrap();
    let appender = client.appender(&log, AppendOptions::default()).await.unwrap();
    appender.append("native").await.unwrap().await.unwrap();
    let batches = kafka.fetch_batches("stamped", 0, 5);
    let kept: Vec<_> = batches.iter().map(|batch| batch.header().append_time_ms()).collect();
    let [Some(a), Some(b), Some(native)] = kept[..] else { panic!("{kept:?}") };
    assert!((a, b) == (first, second) && native >= second && native <= now_ms(), "{kept:?}");
    assert_eq!(times(&batches), [first, first, second, second, native]);

    assert_eq!(kafka.list_offset("stamped", first), (0, first));
    assert_eq!(kafka.list_offset("stamped", first + 1), (2, second));
    assert_eq!(kafka.list_offset("stamped", native + 1), (-1, -1), "no record is from the year 2286");
    assert_eq!(kafka.list_offset("stamped", MAX_TIMESTAMP), (4, native));
    assert_eq!(kafka.list_offset("stamped", LATEST).0, 5);
    let found = client.find(&log, 0, Position::Time(second)).await.unwrap();
    assert!(found.esn().0 <= 3, "{found}");

    // Who comes again is told when it was appended, by this sequencer and by the next one.
    let retry = |kafka: &mut Kafka| {
        assert_eq!(produce(kafka, "stamped", &first_batch), (0, first));
        assert_eq!(produce(kafka, "stamped", &second_batch), (2, second));
    };
    retry(&mut kafka);
    cluster.kill(1);
    cluster.start_node(1);
    cluster.serves().await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.leaders("stamped");
    retry(&mut kafka);

    kafka.configure("stamped", "message.timestamp.type", "CreateTime");
    let refused = kafka.send("stamped", 0, batch(4, Compression::None));
    assert_eq!(refused.error_code, ResponseError::InvalidTimestamp.code(), "its clock counts again");
    let (offset, time) = produce(&mut kafka, "stamped", &crate::batch(&["old".to_owned()], None));
    assert_eq!((offset, time), (5, -1));
}

/// Against a search through all records: times that go back and forth, batches that are compressed, times that no record has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_by_time_find_the_first_record_that_is_not_older() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "searched", 1);
    let mut rng = fastrand::Rng::with_seed(7);
    let (now, mut all) = (now_ms(), Vec::new());
    for _ in 0..40 {
        let mut builder = BatchBuilder::new(4096);
        for _ in 0..rng.usize(1..8) {
            // Clocks differ by less than a minute.
            let time = now + 1000 * all.len() as i64 / 10 - rng.i64(0..20_000);
            builder.append(&NewRecord::of_value(time, b"value"));
            all.push(time);
        }
        let compression = rng.choice([Compression::None, Compression::Gzip, Compression::Zstd]).unwrap();
        let batch = builder.finish(BatchOptions { compression, ..BatchOptions::default() }).freeze();
        kafka.produce_patiently("searched", 0, &batch);
    }
    let newest = *all.iter().max().unwrap();
    for _ in 0..100 {
        let time = rng.i64(now - 25_000..newest + 1000);
        let found = all.iter().position(|at| *at >= time);
        let expected = found.map_or((-1, -1), |offset| (offset as i64, all[offset]));
        assert_eq!(kafka.list_offset("searched", time), expected, "{time}");
    }
    let first_newest = all.iter().position(|at| *at == newest).unwrap();
    assert_eq!(kafka.list_offset("searched", MAX_TIMESTAMP), (first_newest as i64, newest));
}
