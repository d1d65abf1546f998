//! Nodes that are killed, cut off, emptied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dlog_metadata::state::{AllocateProducerIds, State, encode};
use dlog_metadata::{Metadata, MetadataError};
use dlog_proto::wire::RaftRpc;
use dlog_proto::{NodeId, ProcessId, RequestId};
use tokio::time::sleep;

use crate::fixture::{Cluster, eventually, log_id};
use crate::net::Wire;

fn other_than(node: u16) -> u16 {
    node % 3 + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_succeeded_within_a_second() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.register(leader, 1, 1).await;
    let revision = cluster.create(leader, "demo/before").await.unwrap();
    cluster.all_reach(revision).await;
    let killed = Instant::now();
    cluster.kill(leader).await;
    cluster.create(other_than(leader), "demo/after").await.unwrap();
    let took = killed.elapsed();
    println!("without a hint: {took:?}");
    assert!(took < Duration::from_millis(1500), "succeeded after {took:?}");
    // The killed one comes back and learns what it missed; then the next leader goes.
    cluster.start(leader).await;
    let second = cluster.leader().await;
    let view = cluster.node(leader).linearize().await.unwrap();
    assert!(view.log(&log_id("demo/before")).is_some() && view.log(&log_id("demo/after")).is_some());
    let killed = Instant::now();
    cluster.kill(second).await;
    // This time, connections are seen to die.
    for node in cluster.running() {
        node.handle_suspect(NodeId(second), ProcessId(0));
    }
    cluster.create(other_than(second), "demo/hinted").await.unwrap();
    println!("with a hint: {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_millis(1500));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_voters_lose_two_but_not_three() {
    let mut cluster = Cluster::new(5);
    cluster.timings.deadline = Duration::from_millis(1500);
    for node in 1..=5 {
        cluster.start(node).await;
    }
    let leader = cluster.leader().await;
    cluster.register(leader, 1, 1).await;
    let mut nodes: Vec<u16> = (1..=5).filter(|node| *node != leader).collect();
    nodes.push(leader);
    cluster.kill(nodes[4]).await;
    cluster.kill(nodes[3]).await;
    let revision = cluster.create(nodes[0], "demo/two-down").await.unwrap();
    cluster.all_reach(revision).await;
    cluster.kill(nodes[2]).await;
    let error = cluster.create(nodes[0], "demo/three-down").await.unwrap_err();
    assert!(matches!(error, MetadataError::Unavailable(_)) && error.to_string().contains("tried for 1.5s"), "{error}");
    assert!(cluster.node(nodes[1]).linearize().await.is_err(), "no majority, no fresh read");
    assert!(cluster.node(nodes[1]).view().log(&log_id("demo/two-down")).is_some(), "but a local one");
    cluster.start(nodes[2]).await;
    cluster.create(nodes[2], "demo/three-up").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_neither_writes_nor_reads() {
    let mut cluster = Cluster::new(3);
    cluster.timings.deadline = Duration::from_millis(1200);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let old = cluster.leader().await;
    cluster.register(old, 1, 1).await;
    let revision = cluster.create(old, "demo/before").await.unwrap();
    cluster.all_reach(revision).await;
    cluster.net.isolate(NodeId(old));
    let rest = other_than(old);
    let (cut_off, others) = tokio::join!(cluster.create(old, "demo/lost"), async {
        cluster.create(rest, "demo/majority").await.unwrap();
        cluster.node(old).linearize().await
    });
    assert!(matches!(cut_off, Err(MetadataError::Unavailable(_))), "{cut_off:?}");
    if let Ok(view) = others {
        panic!("a fresh read at revision {} from a leader that is none", view.revision());
    }
    assert!(cluster.node(old).view().log(&log_id("demo/majority")).is_none());
    cluster.net.heal();
    cluster.leader().await;
    let view = cluster.node(old).linearize().await.unwrap();
    assert!(view.log(&log_id("demo/majority")).is_some());
    // What was not confirmed either happened everywhere or nowhere.
    let revision = view.revision();
    let views = cluster.all_reach(revision).await;
    let lost = views.iter().map(|view| view.log(&log_id("demo/lost")).is_some()).collect::<BTreeSet<_>>();
    assert_eq!(lost.len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_sent_again_to_another_leader_is_done_once() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.register(leader, 1, 1).await;
    let request = cluster.request();
    let take = AllocateProducerIds { count: 10 };
    let (_, first) = cluster.node(leader).run(request, take.clone()).await.unwrap();
    cluster.kill(leader).await;
    let second = other_than(leader);
    let (_, again) = cluster.node(second).run(request, take.clone()).await.unwrap();
    assert_eq!(first, again);
    let (_, next) = cluster.node(second).run(cluster.request(), take).await.unwrap();
    assert_eq!(next.unwrap().start, first.unwrap().end);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_voter_catches_up_by_snapshot_before_it_votes() {
    let mut cluster = Cluster::new(3);
    (cluster.snapshots.entries, cluster.snapshots.kept_entries) = (20, 2);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let leader = cluster.leader().await;
    cluster.register(leader, 1, 1).await;
    let emptied = other_than(leader);
    cluster.kill(emptied).await;
    cluster.wipe(emptied);
    for i in 0..60 {
        cluster.create(leader, &format!("demo/{i}")).await.unwrap();
    }
    cluster.start(emptied).await;
    let vote = cluster.node(emptied).handle_raft(RaftRpc::Vote, vote_request()).await.unwrap();
    assert!(
        String::from_utf8_lossy(&vote).contains("does not vote")
            || String::from_utf8_lossy(&vote).contains("finding out")
    );
    let revision = cluster.node(leader).view().revision();
    let view = cluster.node(emptied).wait_applied(revision).await.unwrap();
    assert_eq!(view.logs_len(), 60);
    let marker = cluster.dir(emptied).join("newcomer");
    eventually("a full voter", || (!marker.exists()).then_some(())).await;
    // Now it counts: with the third voter gone, its word is needed.
    let third = 6 - leader - emptied;
    cluster.kill(third).await;
    cluster.create(leader, "demo/with-the-newcomer").await.unwrap();
    cluster.kill(leader).await;
    cluster.start(third).await;
    cluster.create(emptied, "demo/newcomer-votes").await.unwrap();
    cluster.shutdown().await;
}

/// A vote request of term 0, which nobody grants; what matters is who refuses and why.
fn vote_request() -> bytes::Bytes {
    encode(&((0u64, 0u64, false), Option::<()>::None)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_stopped_and_started_again() {
    let mut cluster = Cluster::started(3).await;
    cluster.leader().await;
    cluster.register(1, 1, 1).await;
    let before = cluster.create(2, "demo/kept").await.unwrap();
    for node in 1..=3 {
        cluster.kill(node).await;
    }
    for node in [3, 1] {
        cluster.start(node).await;
    }
    let view = cluster.node(3).linearize().await.unwrap();
    assert!(view.revision() > before, "a new leader began its term");
    assert!(view.log(&log_id("demo/kept")).is_some());
    cluster.start(2).await;
    cluster.leader().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_are_configured_differently_are_told() {
    let mut cluster = Cluster::started(1).await;
    cluster.register(1, 1, 1).await;
    cluster.kill(1).await;
    let mut config = cluster.config(1);
    config.voters.insert(NodeId(2), "voter2:1".to_owned());
    let wire = Wire { net: cluster.net.clone(), from: NodeId(1) };
    let node = Metadata::start(config, Arc::new(wire)).await.unwrap();
    let mut mismatch = node.voters_mismatch();
    let told = mismatch.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.contains("names n1, n2 as the voters") && told.contains("but n1 vote"), "{told}");
    // What is stored holds: it leads alone.
    node.linearize().await.unwrap();
    node.shutdown().await;
}

/// Commands without end from everywhere, while leaders are killed and cut off: nothing is done twice, nothing confirmed
/// is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_in_a_storm() {
    let mut cluster = Cluster::new(3);
    (cluster.snapshots.entries, cluster.snapshots.kept_entries) = (50, 10);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.leader().await;
    cluster.register(1, 1, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4u16 {
        let (net, stop) = (cluster.net.clone(), stop.clone());
        clients.spawn(async move {
            let (mut ids, mut seen) = (Vec::new(), 0);
            let mut counter = 0;
            while !stop.load(Ordering::Relaxed) {
                counter += 1;
                let request = RequestId { process: ProcessId(100 + u128::from(client)), counter };
                // Whatever fails is tried again through another node, with the same request, until it is answered.
                let mut through = client;
                let taken = loop {
                    through = through % 3 + 1;
                    let Some(node) = net.node(NodeId(through)) else { continue };
                    match node.run(request, AllocateProducerIds { count: 1 }).await {
                        Ok((revision, ids)) => break (revision, ids.unwrap().start),
                        Err(MetadataError::Invalid(problem)) => panic!("{problem}"),
                        Err(_) => sleep(Duration::from_millis(5)).await,
                    }
                };
                ids.push(taken.1);
                if let Some(node) = net.node(NodeId(through))
                    && let Ok(view) = node.linearize().await
                {
                    assert!(view.revision() >= taken.0 && view.revision() >= seen, "a fresh read is stale");
                    seen = view.revision();
                }
            }
            ids
        });
    }
    for round in 0..3 {
        sleep(Duration::from_millis(150)).await;
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            cluster.kill(leader).await;
            sleep(Duration::from_millis(700)).await;
            cluster.start(leader).await;
        } else {
            cluster.net.isolate(NodeId(leader));
            sleep(Duration::from_millis(800)).await;
            cluster.net.heal();
        }
    }
    cluster.leader().await;
    stop.store(true, Ordering::Relaxed);
    let mut all = BTreeSet::new();
    let mut count = 0;
    while let Some(ids) = clients.join_next().await {
        let ids = ids.unwrap();
        count += ids.len();
        all.extend(ids);
    }
    assert_eq!(all.len(), count, "an id was given twice");
    println!("{count} commands through the storm");
    assert_eq!(all.iter().next_back().copied(), Some(count as i64 - 1), "a command was done twice, or lost");
    let revision = cluster.node(1).linearize().await.unwrap().revision();
    let views = cluster.all_reach(revision).await;
    let same = views.iter().filter(|view| view.revision() == views[0].revision());
    assert!(same.map(|view| State::to_snapshot(view)).collect::<BTreeSet<_>>().len() == 1, "replicas differ");
    cluster.shutdown().await;
}
