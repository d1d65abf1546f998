//! Whole nodes, killed and started again, with the native client.

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::pin::pin;
use std::time::Duration;

use dlog_client::{AppendOptions, Client, Position, ReadItem, Record};
use dlog_metadata::state::LogAttributes;
use dlog_proto::wire::Acks;
use dlog_proto::{LogId, Lsn, PartitionId, QuorumConfig, Replication};
use rustix::process::Signal;
use support::{Cluster, free_address};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn log() -> LogId {
    "demo/test".parse().unwrap()
}

async fn create(client: &Client, copies: u8) {
    client.create_log(&log(), 1, LogAttributes::replicated(copies)).await.unwrap();
}

/// Everything up to the end as it is now: values and LSNs, and no gap that means a loss.
async fn read_all(client: &Client) -> Vec<(Lsn, String)> {
    let mut reader = client.reader(&log(), 0, Position::Oldest, Some(Position::Newest)).await.unwrap();
    let mut records = Vec::new();
    while let Some(item) = reader.next().await.unwrap() {
        match item {
            ReadItem::Record(record) => {
                records.push((record.lsn, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
            ReadItem::Gap { from, to, reason } => panic!("nothing was lost or trimmed, but {from} to {to}: {reason:?}"),
        }
    }
    records
}

/// Returns when there is something that was not there.
async fn grows(client: &Client) {
    let end = client.find(&log(), 0, Position::Newest).await.unwrap();
    while client.find(&log(), 0, Position::Newest).await.unwrap() == end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Appends numbers until it is stopped.
struct Appending {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<(Lsn, String)>>,
}

impl Appending {
    fn start(client: &Client) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(append_numbers(client.clone(), stopped)) }
    }

    /// What was acknowledged, which is all.
    async fn stop(self) -> Vec<(Lsn, String)> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}

/// Appends numbered records until told to stop; gives what was acknowledged, in order.
async fn append_numbers(client: Client, mut stop: oneshot::Receiver<()>) -> Vec<(Lsn, String)> {
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    let mut acks = Vec::new();
    for number in 0.. {
        if stop.try_recv().is_ok() {
            break;
        }
        let value = number.to_string();
        acks.push((appender.append(value.as_str()).await.unwrap(), value));
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let mut acknowledged = Vec::new();
    for (ack, value) in acks {
        acknowledged.push((ack.await.unwrap().lsn, value));
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_nodes_die() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 3).await;
    let appending = Appending::start(&client);
    for _ in 0..2 {
        for node in 1..=3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.kill(node);
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.start_node(node);
            cluster.serves().await;
        }
    }
    let acknowledged = appending.stop().await;
    assert!(acknowledged.len() > 500, "it was appended all the time: {}", acknowledged.len());
    let read = read_all(&client).await;
    assert!(read.is_sorted_by_key(|(lsn, _)| *lsn));
    assert_eq!(read, acknowledged, "each record once, in order, where its acknowledgement said");
    let epochs: BTreeSet<_> = read.iter().map(|(lsn, _)| lsn.epoch()).collect();
    assert!(epochs.len() > 1, "the sequencer was killed at least once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequencer_that_was_stuck_does_no_harm_when_it_comes_back() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 3).await;
    let appending = Appending::start(&client);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let partition = PartitionId(0);
    let before = client.epochs(&log(), partition).await.unwrap();
    let stuck = usize::from(before.newest().unwrap().sequencer.0);
    cluster.signal(stuck, Signal::STOP);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.signal(stuck, Signal::CONT);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acknowledged = appending.stop().await;
    assert_eq!(read_all(&client).await, acknowledged);
    let after = client.epochs(&log(), partition).await.unwrap();
    assert!(after.newest().unwrap().epoch > before.newest().unwrap().epoch, "somebody else took over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_can_be_killed_and_go_on() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 2).await;
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    let first = appender.append("first").await.unwrap().await.unwrap();
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.serves().await;
    let second = appender.append("second").await.unwrap().await.unwrap();
    assert!(second.lsn.epoch() > first.lsn.epoch(), "nobody goes on with an old epoch");
    assert_eq!(read_all(&client).await, [(first.lsn, "first".to_owned()), (second.lsn, "second".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_hands_over_and_keeps_everything() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 3).await;
    let appending = Appending::start(&client);
    for node in 1..=3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.signal(node, Signal::TERM);
        assert!(cluster.wait(node), "{}", cluster.log(node));
        cluster.start_node(node);
        cluster.serves().await;
    }
    assert_eq!(appending.stop().await, read_all(&client).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_gets_more_copies_while_it_is_appended_to() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 1).await;
    let appending = Appending::start(&client);
    grows(&client).await;
    let changes = [("replication_factor", "3"), ("write_quorum", "2"), ("read_quorum", "2")];
    let changes = changes.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    client.set_attributes(&log(), changes.into()).await.unwrap();
    let copies = async || {
        let epochs = client.epochs(&log(), PartitionId(0)).await.unwrap().epochs;
        epochs.iter().map(|entry| entry.replication.quorum.replication_factor).collect::<Vec<_>>()
    };
    while copies().await != [1, 3] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    grows(&client).await;
    let acknowledged = appending.stop().await;
    assert_eq!(read_all(&client).await, acknowledged, "nobody saw an error");
    assert_eq!(copies().await, [1, 3], "once is enough");

    let second_epoch = acknowledged.iter().position(|(lsn, _)| lsn.epoch().0 == 2).unwrap();
    let kept = &acknowledged[second_epoch..];
    let trimmed = client.trim(&log(), 0, Position::Lsn(kept[0].0)).await.unwrap();
    assert!(trimmed < kept[0].0);
    let home = client.epochs(&log(), PartitionId(0)).await.unwrap().newest().unwrap().sequencer;
    cluster.kill(usize::from(home.0));
    assert_eq!(read_all(&client).await, kept, "two copies are left of all that was not trimmed");
    assert_eq!(client.trim(&log(), 0, Position::Oldest).await.unwrap(), trimmed, "it never goes back");
    client.trim(&log(), 0, Position::Newest).await.unwrap();
    assert_eq!(read_all(&client).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_for_as_many_copies_as_it_asks_for() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    create(&client, 3).await;
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    appender.append("all is well").await.unwrap().await.unwrap();
    let home = client.epochs(&log(), PartitionId(0)).await.unwrap().newest().unwrap().sequencer;
    let others: Vec<usize> = (1..=3).filter(|node| *node != usize::from(home.0)).collect();
    others.iter().for_each(|node| cluster.signal(*node, Signal::STOP));
    let mut acks = Vec::new();
    for acks_wanted in [Acks::One, Acks::Quorum, Acks::All] {
        let record = Record { acks: Some(acks_wanted), ..Record::from("as many as asked for") };
        acks.push(appender.append(record).await.unwrap());
    }
    let [one, quorum, all] = acks.try_into().unwrap();
    timeout(PATIENCE, one).await.expect("its sequencer's own shard").unwrap();
    let (mut quorum, mut all) = (pin!(quorum), pin!(all));
    let soon = Duration::from_millis(300);
    assert!(timeout(soon, &mut quorum).await.is_err(), "one of two");
    cluster.signal(others[0], Signal::CONT);
    timeout(PATIENCE, quorum).await.expect("two of two").unwrap();
    assert!(timeout(soon, &mut all).await.is_err(), "two of three");
    cluster.signal(others[1], Signal::CONT);
    timeout(PATIENCE, all).await.expect("three of three").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_full_gives_way_and_nobody_notices() {
    let cluster = Cluster::start_with(1, &["--limits-epoch-records-max", "1000"]).await;
    let client = cluster.client();
    create(&client, 1).await;
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    let (mut acks, mut acknowledged) = (Vec::new(), Vec::new());
    for number in 0..5_500 {
        // As long as that a batch has some 250 of them.
        let value = format!("{number:01024}");
        acks.push((appender.append(value.as_str()).await.unwrap(), value));
    }
    for (ack, value) in acks {
        acknowledged.push((ack.await.unwrap().lsn, value));
    }
    assert_eq!(read_all(&client).await, acknowledged);
    let (last, _) = acknowledged.last().unwrap();
    assert!(acknowledged.iter().all(|(lsn, _)| lsn.esn().0 <= 1000) && last.epoch().0 >= 6, "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_prefers_availability_goes_on_where_a_strict_one_would_wait() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    let attributes = LogAttributes {
        replication: Replication { quorum: QuorumConfig::available(3), ..LogAttributes::replicated(3).replication },
        ..LogAttributes::replicated(3)
    };
    client.create_log(&log(), 1, attributes).await.unwrap();
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    let first = appender.append("under a lease").await.unwrap().await.unwrap();
    let epochs = async || client.epochs(&log(), PartitionId(0)).await.unwrap().epochs;
    cluster.kill(usize::from(epochs().await[0].sequencer.0));
    let second = appender.append("with a shard less than recovery needs by the strict rule").await.unwrap();
    let second = second.await.unwrap();
    assert!(second.lsn.epoch() > first.lsn.epoch());
    let end = epochs().await[0].end.unwrap();
    assert!(!end.authoritative, "it is told that nothing is proven: {end:?}");
    assert_eq!(read_all(&client).await.last().unwrap().0, second.lsn);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_on_the_port_is_no_trouble() {
    let cluster = Cluster::start(1).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..500 {
        let mut junk = vec![0; rng.usize(0..1500)];
        rng.fill(&mut junk);
        socket.send_to(&junk, cluster.address(1)).unwrap();
    }
    socket.send_to(b"GET / HTTP/1.1\r\n\r\n", cluster.address(1)).unwrap();
    let client = cluster.client();
    create(&client, 1).await;
    let appender = client.appender(&log(), AppendOptions::default()).await.unwrap();
    appender.append("still there").await.unwrap().await.unwrap();
    assert!(cluster.log(1).lines().count() < 20, "{}", cluster.log(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_occupied_port_is_refused() {
    let cluster = Cluster::start(1).await;
    let dir = TempDir::new().unwrap();
    let data_dir = dir.path().join("new");
    let second = cluster.command(1, &data_dir).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && error.contains("in use"), "{error}");
    assert!(!data_dir.exists(), "a start that comes to nothing leaves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_cluster_is_refused() {
    let dir = TempDir::new().unwrap();
    let (address, data_dir) = (free_address(), dir.path().join("data"));
    let start = |members: &str| {
        let mut node = support::dlog();
        node.args(["--node-id", "4", "--cluster-nodes", members, "--segment-bytes", "128MiB"]);
        node.args(["--http", &free_address(), "--data-dir", data_dir.to_str().unwrap()]);
        node.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let alone = format!("4={address}");
    let mut first = start(&alone);
    while support::dlog().args(["cluster", "status", "--server", &address]).output().unwrap().status.code() != Some(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.kill().unwrap();
    first.wait().unwrap();

    let others = Cluster::start(3).await;
    let members: String = (1..=3).map(|node| format!("{node}={},", others.address(node))).collect();
    let refused = start(&format!("{members}{alone}")).wait_with_output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("belongs to another cluster"), "{error}");
}
