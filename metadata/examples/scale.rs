//! How the metadata tier carries many partitions: `cargo run --release -p dlog-metadata --example scale [partitions]
//! [nodes]`.
//!
//! First the state machine alone, then a voter with log and snapshots on the disk under the current directory. Checks
//! what it measures: every partition has its epochs, and the state is the same after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_metadata::state::{
    Activate, Command, CreateLog, Decide, Decision, InitCluster, LogAttributes, RegisterNode, Response, Roles,
    ShardRegistration, State, encode,
};
use dlog_metadata::{Metadata, MetadataConfig, PeerError, PeerFuture, PeerTransport, Snapshots, Timings};
use dlog_proto::wire::RaftRpc;
use dlog_proto::{ClusterId, Epoch, Esn, NodeId, PartitionUid, ProcessId, RequestId};

const BATCH: usize = 1000;
const PARTITIONS_PER_LOG: u64 = 100;

fn registration(node: u16) -> RegisterNode {
    RegisterNode {
        node: NodeId(node),
        address: format!("node{node}.example:9092"),
        http: format!("node{node}.example:9644"),
        roles: Roles::ALL,
        location: format!("region=eu,datacenter=fra1,rack=r{}", node % 5).parse().expect("a location"),
        process: ProcessId(node.into()),
        cores: 8,
        weight: 1,
        shards: (0..4).map(|index| ShardRegistration { index, incarnation: None, unclean: false }).collect(),
    }
}

fn commands(partitions: u64, nodes: u16) -> impl Iterator<Item = (&'static str, Command)> {
    let init = Command::InitCluster(InitCluster { cluster: ClusterId(1), created_ms: 0 });
    let register = (1..=nodes).map(|node| ("register", Command::RegisterNode(registration(node))));
    let create = (0..partitions / PARTITIONS_PER_LOG).map(move |i| {
        let log = format!("tenant{}/log{i}", i % 50).parse().expect("a log name");
        let attributes = LogAttributes::replicated(nodes.min(3) as u8);
        let (partitions, created_ms) = (PARTITIONS_PER_LOG as u32, 0);
        ("create log of 100", Command::CreateLog(CreateLog { log, partitions, attributes, created_ms }))
    });
    let batches = move || {
        let uids: Vec<u64> = (1..=partitions).collect();
        uids.chunks(BATCH).map(|uids| uids.iter().copied().map(PartitionUid).collect()).collect::<Vec<Vec<_>>>()
    };
    let activate = move |node: u16| {
        batches().into_iter().map(move |partitions| {
            let (sequencer, process) = (NodeId(node), ProcessId(node.into()));
            let command = Activate { sequencer, process, partitions, planned: false };
            ("activate 1000", Command::Activate(command))
        })
    };
    let decide = batches().into_iter().map(|uids| {
        let decision = |partition| Decision {
            partition,
            epoch: Epoch(1),
            last_esn: Esn(1000),
            authoritative: true,
            recoverer: Epoch(2),
            under_replicated: vec![],
        };
        ("decide 1000", Command::Decide(Decide { decisions: uids.into_iter().map(decision).collect() }))
    });
    let first = std::iter::once(("init", init)).chain(register).chain(create);
    first.chain(activate(1)).chain(activate(nodes)).chain(decide)
}

/// Times of one kind of step.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn print(mut self, name: &str) {
        self.0.sort_unstable();
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        let sum: Duration = self.0.iter().sum();
        let (count, median, p99, max) = (self.0.len(), at(0.5), at(0.99), at(1.0));
        println!("  {name:20} {count:5} times  median {median:9.1?}  p99 {p99:9.1?}  max {max:9.1?}  sum {sum:9.1?}");
    }
}

/// Times by kind, in the order in which they were first seen.
#[derive(Default)]
struct Report(Vec<(&'static str, Times)>);

impl Report {
    fn add(&mut self, name: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.0.push(time),
            None => self.0.push((name, Times(vec![time]))),
        }
    }

    fn print(self) {
        self.0.into_iter().for_each(|(name, times)| times.print(name));
    }
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1024
}

fn check(name: &str, response: &Response) {
    let ok = match response {
        Response::Activate(Ok(activated)) => {
            activated.results.iter().all(Result::is_ok) && activated.tables.0.len() == BATCH
        }
        Response::Decide(Ok(decided)) => decided.iter().all(Result::is_ok),
        Response::CreateLog(result) => result.is_ok(),
        Response::RegisterNode(result) => result.is_ok(),
        Response::InitCluster(_) => true,
        _ => false,
    };
    assert!(ok, "{name}: {response:?}");
}

fn alone(partitions: u64, nodes: u16) {
    println!("the state machine alone, {partitions} partitions, {nodes} nodes with 4 shards each:");
    let before = memory_mib();
    let (mut state, mut report) = (State::default(), Report::default());
    let mut held = Arc::new(state.clone());
    for (revision, (name, command)) in (1..).zip(commands(partitions, nodes)) {
        let request = RequestId { process: ProcessId(1), counter: revision };
        let started = Instant::now();
        let response = state.apply(revision, Some(request), command);
        state.take_changes();
        report.add(name, started.elapsed());
        check(name, &response);
        let started = Instant::now();
        // As for readers: the state before is held while this one is written on.
        held = Arc::new(state.clone());
        report.add("clone for readers", started.elapsed());
    }
    report.print();
    println!("  memory {} MiB", memory_mib() - before);
    let started = Instant::now();
    let snapshot = held.to_snapshot();
    println!("  snapshot {:.1} MiB in {:.1?}", snapshot.len() as f64 / f64::from(1 << 20), started.elapsed());
    let started = Instant::now();
    let loaded = State::from_snapshot(&snapshot).expect("a snapshot");
    println!("  read and checked in {:.1?}", started.elapsed());
    assert_eq!(loaded.to_snapshot(), snapshot);
}

/// Nobody to talk to.
struct Alone;

impl PeerTransport for Alone {
    fn call<'a>(&'a self, node: NodeId, _: &'a str, _: RaftRpc, _: bytes::Bytes, _: Duration) -> PeerFuture<'a> {
        Box::pin(async move { Err(PeerError::Unreachable { node, reason: "there is one node only".to_owned() }) })
    }
}

async fn on_disk(partitions: u64) {
    println!("one voter on this disk:");
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let config = || MetadataConfig {
        node: NodeId(1),
        process: ProcessId(1),
        voters: [(NodeId(1), "node1:1".to_owned())].into(),
        data_dir: dir.path().to_owned(),
        timings: Timings::default(),
        snapshots: Snapshots::default(),
    };
    let metadata = Metadata::start(config(), Arc::new(Alone)).await.expect("a start");
    let (mut report, mut bytes) = (Report::default(), 0);
    for (counter, (name, command)) in (1..).zip(commands(partitions, 1)) {
        bytes += encode(&command).len();
        let request = RequestId { process: ProcessId(1), counter };
        let started = Instant::now();
        let (_, response) = metadata.propose(request, &command).await.expect("an answer");
        report.add(name, started.elapsed());
        check(name, &response);
    }
    report.print();
    println!("  {:.1} MiB of commands, memory {} MiB", bytes as f64 / f64::from(1 << 20), memory_mib());
    let before = metadata.linearize().await.expect("a read").to_snapshot().len();
    metadata.shutdown().await;
    let started = Instant::now();
    let metadata = Metadata::start(config(), Arc::new(Alone)).await.expect("a start");
    let view = metadata.linearize().await.expect("a read");
    println!("  started again and ready in {:.1?}", started.elapsed());
    let newest =
        view.partitions().all(|(_, partition)| partition.newest().is_some_and(|(epoch, ..)| epoch == Epoch(2)));
    assert!(newest && view.partitions_len() as u64 == partitions && view.to_snapshot().len().abs_diff(before) < 16);
    metadata.shutdown().await;
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let partitions = args.next().unwrap_or(100_000);
    let nodes = args.next().unwrap_or(10) as u16;
    alone(partitions, nodes);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(on_disk(partitions));
}
