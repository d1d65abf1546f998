//! Very many readers of one node, with the native client.

mod support;

use std::time::{Duration, Instant};

use dlog_client::{AppendOptions, Client, Position, ReadItem};
use dlog_metadata::state::LogAttributes;
use dlog_proto::LogId;
use support::Cluster;
use tokio::task::JoinSet;

const READERS: usize = 2_000;
/// Readers share a client's connections; more clients are more connections.
const CLIENTS: usize = 20;
/// What one that waits at the tail may cost the node, in bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

fn log() -> LogId {
    "demo/many".parse().unwrap()
}

async fn next(reader: &mut dlog_client::Reader) -> String {
    match reader.next().await.unwrap() {
        Some(ReadItem::Record(record)) => String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
        other => panic!("not a record: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_readers_of_one_node() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.create_log(&log(), 1, LogAttributes::replicated(1)).await.unwrap();
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    appender.append("first").await.unwrap().await.unwrap();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| cluster.client()).collect();
    for client in &clients {
        client.cluster().await.unwrap();
    }
    let before = cluster.memory(1);
    let mut opening = JoinSet::new();
    for number in 0..READERS {
        let client = clients[number % CLIENTS].clone();
        opening.spawn(async move {
            let mut reader = client.reader(&log(), 0, Position::Oldest, None).await.unwrap();
            assert_eq!(next(&mut reader).await, "first");
            reader
        });
    }
    let mut readers = opening.join_all().await;
    let state_bytes = cluster.memory(1).saturating_sub(before) / READERS as u64;
    println!("{state_bytes} bytes of the node for each reader at the tail");

    let began = Instant::now();
    appender.append("second").await.unwrap().await.unwrap();
    for reader in &mut readers {
        assert_eq!(next(reader).await, "second");
    }
    println!("all have a record {:?} after it was appended", began.elapsed());
    assert!(state_bytes <= STATE_BYTES_MAX, "{state_bytes} bytes for each");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
