//! How fast lanes are: `cargo run --release -p dlog-proto --example lane_throughput`.
//!
//! Client and server run on a thread and a runtime each, over this machine's loopback. Every frame is checked to arrive in order
//! and with its length while it is counted. Numbers are of one run: on a busy machine they mean little.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dlog_proto::transport::{
    ClusterCa, Connection, ConnectionClass, ConnectorConfig, Hello, Lane, LaneKind, ListenerConfig, MTU_MAX,
    PeerIdentity, QuicConnector, QuicListener, Refused, Trust, Welcome, memory,
};
use dlog_proto::wire::{Frame, Payload};
use dlog_proto::{ClusterId, NodeId, ProcessId};

const RUN_TIME: Duration = Duration::from_secs(2);
const ROUND_TRIPS: usize = 5000;
/// Marks the last frame of a run, which the server answers.
const LAST: u8 = 2;

fn main() {
    for mtu_max in [1200, 1452, 4096, MTU_MAX] {
        let (ready, address) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || block_on(serve(mtu_max, ready)));
        let address = address.recv().expect("the server starts");
        block_on(async {
            let connection = connect(address, mtu_max).await;
            println!("QUIC, packets of {} bytes", connection.current_mtu().expect("QUIC has packets"));
            measure(&connection).await;
        });
        server.join().expect("the server does not panic");
    }
    println!("inside the process, two threads (payloads are handed over, not copied)");
    let (client, server) = memory::pair();
    let server = std::thread::spawn(move || block_on(answer_all(server)));
    block_on(async {
        measure(&client).await;
        client.close(0, "");
    });
    server.join().expect("the server does not panic");
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
}

async fn serve(mtu_max: u16, ready: std::sync::mpsc::Sender<SocketAddr>) {
    let cert = ClusterCa::create().and_then(|ca| ca.issue_node(NodeId(1), &[])).expect("a certificate");
    let config = ListenerConfig { mtu_max, ..ListenerConfig::default() };
    let listener = QuicListener::bind(([127, 0, 0, 1], 0).into(), &cert, config).expect("a free port");
    ready.send(listener.local_address().expect("a bound socket")).expect("the client waits");
    let connection = listener.accept().await.expect("open").establish(&admit).await.expect("a good client");
    answer_all(connection).await;
}

fn admit(hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused> {
    let me = Welcome {
        protocol: 1,
        cluster: Some(ClusterId(1)),
        node: NodeId(1),
        process: ProcessId(1),
        cores: 1,
        software: "lane_throughput".to_owned(),
    };
    me.answer(hello, peer)
}

async fn connect(address: SocketAddr, mtu_max: u16) -> Connection {
    let config = ConnectorConfig { mtu_max, ..ConnectorConfig::default() };
    let connector = QuicConnector::new(Trust::LoopbackOnly, None, config).expect("a client needs no files");
    let hello = Hello::client("lane_throughput");
    connector.connect(&address.into(), ConnectionClass::Data { core: 0 }, &hello).await.expect("the server listens")
}

/// Answers the last frame of each run, checking order and lengths, until the client goes.
async fn answer_all(connection: Connection) {
    while let Ok((_, mut lane)) = connection.accept_lane().await {
        let (mut frames, mut next) = (Vec::new(), 0);
        while lane.rx.recv_many(&mut frames).await.is_ok() {
            for frame in frames.drain(..) {
                assert_eq!(frame.corr, next, "out of order");
                assert_eq!(frame.payload.len().to_le_bytes(), frame.body[..], "cut");
                next += 1;
                if frame.kind == LAST {
                    lane.tx.send(frame).expect("the client waits for it");
                }
            }
        }
    }
}

async fn measure(connection: &Connection) {
    bulk(connection).await;
    small(connection, "100 B, as fast as possible", usize::MAX).await;
    small(connection, "100 B, a pause after each 16", 16).await;
    small(connection, "100 B, a pause after each", 1).await;
    round_trips(connection).await;
}

async fn open(connection: &Connection) -> Lane {
    connection.open_lane(LaneKind::Append).await.expect("the server accepts")
}

async fn bulk(connection: &Connection) {
    let mut lane = open(connection).await;
    let (payload, length) = payload(1 << 20);
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < RUN_TIME {
        lane.tx.ready().await.expect("the server reads");
        lane.tx.send(frame(1, count, &payload, &length)).expect("the server reads");
        count += 1;
    }
    finish(&mut lane, count).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("  1 MiB frames                    {:8.2} GB/s", (count << 20) as f64 / seconds / 1e9);
}

async fn small(connection: &Connection, what: &str, pause_every: usize) {
    let mut lane = open(connection).await;
    let (payload, length) = payload(100);
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < RUN_TIME {
        lane.tx.ready().await.expect("the server reads");
        for place in 0..64 {
            lane.tx.send(frame(1, count, &payload, &length)).expect("the server reads");
            count += 1;
            if place % pause_every == pause_every - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
    finish(&mut lane, count).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("  {what:<30}  {:8.2} M frames/s", count as f64 / seconds / 1e6);
}

/// A payload, and what says how long it is.
fn payload(len: usize) -> (Bytes, Bytes) {
    (vec![7; len].into(), Bytes::copy_from_slice(&len.to_le_bytes()))
}

fn frame(kind: u8, corr: u64, payload: &Bytes, length: &Bytes) -> Frame {
    Frame { kind, body_version: 1, corr, body: length.clone(), payload: Payload::from(payload.clone()) }
}

async fn finish(lane: &mut Lane, corr: u64) {
    let (payload, length) = payload(0);
    lane.tx.send(frame(LAST, corr, &payload, &length)).expect("the server reads");
    lane.rx.recv().await.expect("the server answers");
}

async fn round_trips(connection: &Connection) {
    let mut lane = open(connection).await;
    let mut times: Vec<Duration> = Vec::with_capacity(ROUND_TRIPS);
    for corr in 0..ROUND_TRIPS as u64 {
        let start = Instant::now();
        finish(&mut lane, corr).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "  round trip                      {:?} median, {:?} p99",
        times[ROUND_TRIPS / 2],
        times[ROUND_TRIPS * 99 / 100]
    );
}
