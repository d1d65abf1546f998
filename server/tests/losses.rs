//! What a disk has lost at rest is found and goes on record.

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_client::{AppendOptions, Client, GapReason, Position, ReadItem};
use dlog_metadata::state::{LogAttributes, MissingRange};
use dlog_proto::{LogId, Lsn, PartitionId, ShardId};
use dlog_storage_node::disk::{RealDisk, boot_id};
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::{Engine, EngineConfig, Loss, Start, identity_of};
use rustix::process::Signal;
use support::Cluster;

const RECORD: usize = 512 << 10;

fn log() -> LogId {
    "demo/losses".parse().unwrap()
}

/// Appends so many records and gives their LSNs.
async fn append(client: &Client, count: usize) -> Vec<Lsn> {
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    let (mut lsns, record) = (Vec::new(), vec![7; RECORD]);
    for _ in 0..count {
        lsns.push(appender.append(&*record).await.unwrap().await.unwrap().lsn);
    }
    lsns
}

/// The first segment of the shard that has gone on in a second one.
fn full_segment(data_dir: &Path) -> PathBuf {
    let shards = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let first = |shard: PathBuf| shard.join("00000000000000000001.seg");
    let is_full = |segment: &PathBuf| {
        // The end of the file is zeros as long as the log has not come there.
        let mut end = vec![0; 8 << 20];
        let read = std::fs::File::open(segment).and_then(|file| file.read_exact_at(&mut end, (128 << 20) - (8 << 20)));
        read.is_ok() && end.iter().any(|byte| *byte != 0)
    };
    shards.map(first).find(is_full).expect("a segment is full")
}

fn flip(segment: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

async fn missing(client: &Client) -> Vec<(ShardId, MissingRange)> {
    let missing = client.under_replicated(&log(), PartitionId(0)).await.unwrap();
    missing.iter().flat_map(|(at, ranges)| ranges.iter().map(|range| (at.shard, *range))).collect()
}

/// A node one of whose records is damaged where nobody has looked yet: the LSNs of all, and the segment.
async fn damaged() -> (Cluster, Client, Vec<Lsn>, PathBuf) {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.create_log(&log(), 1, LogAttributes::replicated(1)).await.unwrap();
    let lsns = append(&client, 280).await;
    cluster.signal(1, Signal::TERM);
    assert!(cluster.wait(1));
    let segment = full_segment(&cluster.data_dir(1));
    flip(&segment, 64 << 20);
    cluster.start_node(1);
    cluster.serves().await;
    // Another epoch begins, and with it the first one's end is decided.
    append(&client, 1).await;
    (cluster, client, lsns, segment)
}

/// Waits until a node's log has a line that was not among the first so many bytes.
async fn says(cluster: &Cluster, from: usize, line: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if cluster.log(1)[from..].contains(line) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const IS_FOUND: &str = "data at rest is damaged";
const IS_ON_RECORD: &str = "on record as under-replicated";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_node_dies_what_its_disk_lost_goes_on_record() {
    let (mut cluster, client, lsns, _) = damaged().await;
    assert!(says(&cluster, 0, IS_FOUND, Duration::from_secs(120)).await, "{}", cluster.log(1));
    // Each start finds it noted and begins again. Killed a little later each time, it comes a little further.
    let (mut kills, mut patience) = (0, Duration::from_millis(2));
    loop {
        cluster.kill(1);
        kills += 1;
        let from = cluster.log(1).len();
        cluster.start_node(1);
        if says(&cluster, from, IS_ON_RECORD, patience).await {
            break;
        }
        patience = patience * 8 / 7 + Duration::from_millis(2);
        assert!(patience < Duration::from_secs(10), "{}", cluster.log(1));
    }
    assert!(kills > 5, "it was to be killed on the way, and not {kills} times");
    cluster.serves().await;
    let after = append(&client, 1).await;
    let missing = missing(&client).await;
    let [(_, MissingRange { from, to: Some(to) })] = &missing[..] else { panic!("one place is damaged: {missing:?}") };

    // All else can be read, and of that it is said that it is lost.
    let mut reader = client.reader(&log(), 0, Position::Oldest, Some(Position::Newest)).await.unwrap();
    let (mut read, mut lost) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next().await.unwrap() {
        match item {
            ReadItem::Record(record) => read.push(record.lsn),
            ReadItem::Gap { from, to, reason } => lost.push((from.esn(), to.esn(), reason)),
        }
    }
    assert_eq!(lost, [(*from, *to, GapReason::DataLoss)]);
    let whole = |lsn: &&Lsn| lsn.epoch() != lsns[0].epoch() || !(*from..=*to).contains(&lsn.esn());
    assert!(lsns.iter().chain(&after).filter(whole).all(|lsn| read.contains(lsn)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_at_rest_is_found_and_on_record_until_nobody_needs_it() {
    let (mut cluster, client, lsns, segment) = damaged().await;
    let deadline = Instant::now() + Duration::from_secs(120);
    let found = loop {
        match &*missing(&client).await {
            [] => assert!(Instant::now() < deadline, "nothing is on record: {}", cluster.log(1)),
            [one] => break *one,
            more => panic!("one place is damaged: {more:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (shard, MissingRange { from, to }) = found;
    let (from, to) = (Lsn::new(lsns[0].epoch(), from), Lsn::new(lsns[0].epoch(), to.unwrap()));
    assert_eq!(shard.node.0, 1);
    assert!(lsns.contains(&from) && lsns.contains(&to) && to.0 - from.0 < 10, "{from} to {to} of {lsns:?}");
    let shown = cluster.run(&["epoch", "show", "demo/losses/0", "--json"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("\"from\": \"{from}\"")), "{shown}");

    // Once it is on record it is not noted here any more.
    assert!(says(&cluster, 0, IS_ON_RECORD, Duration::from_secs(30)).await, "{}", cluster.log(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.signal(1, Signal::TERM);
    assert!(cluster.wait(1));
    assert_eq!(noted(segment.parent().unwrap()), []);
}

/// The losses that a start finds noted.
fn noted(shard: &Path) -> Vec<Loss> {
    let disk = RealDisk::open(shard).unwrap();
    let identity = identity_of(&disk).unwrap().expect("a shard's directory");
    let start = Start { boot_id: boot_id().unwrap(), now_ms: 0, random: 1 };
    let config = EngineConfig { segment_len: 128 << 20, ..EngineConfig::default() };
    let index = RocksStore::new(shard, RocksConfig::default());
    Engine::open(config, Arc::new(disk), &index, identity, start).unwrap().1.losses
}
