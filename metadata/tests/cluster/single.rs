//! One voter, alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_metadata::{Metadata, StartError};
use dlog_proto::NodeId;
use dlog_proto::wire::{Freshness, RaftRpc};

use crate::fixture::{Cluster, eventually, log_id};
use crate::net::Wire;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_ready_at_once_and_keeps_everything() {
    let started = Instant::now();
    let mut cluster = Cluster::started(1).await;
    cluster.register(1, 1, 1).await;
    let ready = started.elapsed();
    assert!(ready < Duration::from_secs(1), "ready after {ready:?}");
    for i in 0..20 {
        cluster.create(1, &format!("demo/{i}")).await.unwrap();
    }
    let (before, leader) = (cluster.node(1).linearize().await.unwrap(), cluster.node(1).leader());
    assert_eq!(leader, Some((NodeId(1), "voter1:1".to_owned())));
    cluster.kill(1).await;
    let restarted = Instant::now();
    let node = cluster.start(1).await;
    let after = node.linearize().await.unwrap();
    assert!(restarted.elapsed() < Duration::from_secs(1), "again after {:?}", restarted.elapsed());
    assert_eq!((after.logs_len(), after.cluster()), (20, before.cluster()));
    assert!(after.log(&log_id("demo/19")).is_some());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_from_its_snapshot_and_what_came_after() {
    let mut cluster = Cluster::new(1);
    (cluster.snapshots.entries, cluster.snapshots.kept_entries) = (20, 2);
    cluster.start(1).await;
    cluster.register(1, 1, 1).await;
    for i in 0..50 {
        cluster.create(1, &format!("demo/{i}")).await.unwrap();
    }
    let snapshots = cluster.dir(1).join("snapshots");
    let files = || std::fs::read_dir(&snapshots).unwrap().count();
    eventually("a snapshot", || (files() > 0).then_some(())).await;
    cluster.create(1, "demo/after-the-snapshot").await.unwrap();
    cluster.kill(1).await;
    let node = cluster.start(1).await;
    assert_eq!(node.linearize().await.unwrap().logs_len(), 51);
    cluster.kill(1).await;
    // Without its log, its votes are forgotten.
    let (log, aside) = (cluster.dir(1).join("log"), cluster.dir(1).join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    let config = cluster.config(1);
    let wire = || Arc::new(Wire { net: cluster.net.clone(), from: NodeId(1) });
    let Err(error) = Metadata::start(config, wire()).await else { panic!("started") };
    assert!(matches!(error, StartError::LogMissing { .. }), "{error}");
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    // Without its snapshots, the log is only the end of the story: that is said, not made up.
    for file in std::fs::read_dir(&snapshots).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let config = cluster.config(1);
    let wire = Wire { net: cluster.net.clone(), from: NodeId(1) };
    let Err(error) = Metadata::start(config, Arc::new(wire)).await else { panic!("started") };
    assert!(matches!(error, StartError::SnapshotMissing { .. }), "{error}");
    assert!(error.to_string().contains("no snapshot holds what was before"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_snapshot_and_the_log_stand_in_for_a_damaged_one() {
    let mut cluster = Cluster::new(1);
    (cluster.snapshots.entries, cluster.snapshots.kept_entries) = (20, 1000);
    let node = cluster.start(1).await;
    cluster.register(1, 1, 1).await;
    for i in 0..25 {
        cluster.create(1, &format!("demo/{i}")).await.unwrap();
    }
    eventually("a snapshot", || node.status().snapshot).await;
    let before = node.linearize().await.unwrap();
    cluster.kill(1).await;
    let snapshots = || std::fs::read_dir(cluster.dir(1).join("snapshots")).unwrap().map(|file| file.unwrap().path());
    for path in snapshots() {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[50] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let after = cluster.start(1).await.linearize().await.unwrap();
    assert_eq!((after.logs_len(), after.cluster()), (25, before.cluster()));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_by_name() {
    let mut cluster = Cluster::started(1).await;
    cluster.register(1, 1, 1).await;
    cluster.kill(1).await;
    let path = cluster.dir(1).join("log/segment-0000000000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let config = cluster.config(1);
    let wire = Wire { net: cluster.net.clone(), from: NodeId(1) };
    let Err(error) = Metadata::start(config, Arc::new(wire)).await else { panic!("started") };
    assert!(error.to_string().contains("segment-0000000000000001.wal is damaged at byte"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_configurations_and_requests_are_refused() {
    let mut cluster = Cluster::new(1);
    let wire = || Arc::new(Wire { net: Arc::default(), from: NodeId(1) });
    let mut config = cluster.config(1);
    config.voters.clear();
    let error = Metadata::start(config, wire()).await.err().unwrap();
    assert!(error.to_string().contains("1 to 9 nodes vote"), "{error}");
    let mut config = cluster.config(1);
    config.timings.heartbeat = Duration::from_secs(1);
    let error = Metadata::start(config, wire()).await.err().unwrap();
    assert!(error.to_string().contains("does not go with heartbeats of 1s"), "{error}");

    let node = cluster.start(1).await;
    let error = node.handle_propose(cluster.request(), vec![2, 99].into()).await.unwrap_err();
    assert!(error.to_string().contains("does not hold together"), "{error}");
    let error = node.handle_propose(cluster.request(), vec![0; 5 << 20].into()).await.unwrap_err();
    assert!(error.to_string().contains("at most 4194304 bytes, not 5242880"), "{error}");
    let error = node.handle_query(Freshness::Local, &[9]).await.unwrap_err();
    assert!(error.to_string().contains("encoded in version 9"), "{error}");
    for rpc in [RaftRpc::Vote, RaftRpc::Append, RaftRpc::Snapshot, RaftRpc::Propose] {
        assert!(node.handle_raft(rpc, vec![2, 0xff].into()).await.is_err());
    }
    assert_eq!(node.failed(), None);
    cluster.shutdown().await;
}
