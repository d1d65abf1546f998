//! Several nodes that are all well: proposals and reads from anywhere, followers, fresh reads, liveness.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_metadata::state::{Query, QueryAnswer};
use dlog_metadata::{Metadata, MetadataError};
use dlog_proto::wire::{Freshness, Heartbeat};
use dlog_proto::{NodeId, ProcessId};

use crate::fixture::{Cluster, eventually, log_id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_proposes_reads_and_sees_the_same() {
    let mut cluster = Cluster::started(3).await;
    let started = Instant::now();
    cluster.leader().await;
    assert!(started.elapsed() < Duration::from_secs(3), "a leader and three voters after {:?}", started.elapsed());
    // Two more nodes do not vote: they register, and follow.
    for node in [4, 5] {
        cluster.start(node).await;
    }
    for node in 1..=5 {
        cluster.register(node, node, node.into()).await;
    }
    let mut last = 0;
    for node in 1..=5 {
        last = last.max(cluster.create(node, &format!("demo/by{node}")).await.unwrap());
    }
    let views = cluster.all_reach(last).await;
    assert!(views.iter().all(|view| view.logs_len() == 5 && view.cluster() == views[0].cluster()));
    let (_, answer) = cluster.node(4).query(Freshness::Linearizable, &Query::Cluster).await.unwrap();
    let QueryAnswer::Cluster(answer) = answer else { panic!() };
    assert_eq!((answer.nodes.len(), answer.voters.len(), answer.logs), (5, 3, 5));
    assert_eq!(answer.leader, cluster.node(1).leader().map(|(leader, _)| leader));
    let mut mismatch = cluster.node(4).voters_mismatch();
    assert_eq!(*mismatch.borrow_and_update(), None);
    let leader = cluster.leader().await;
    eventually("everybody has everything", || {
        let status = cluster.node(leader).status();
        let whole = |(_, last): &(NodeId, Option<u64>)| *last == Some(status.last_index);
        (status.followers.len() == 4 && status.followers.iter().all(whole)).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

/// A node that the new leader has not reached yet asks the voters who leads, and goes by what they say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_heard_of_the_new_leader_finds_it() {
    let mut cluster = Cluster::started(3).await;
    let first = cluster.leader().await;
    cluster.register(first, first, 1).await;
    cluster.start(4).await;
    cluster.register(4, 4, 4).await;
    let revision = cluster.create(4, "demo/before").await.unwrap();
    cluster.all_reach(revision).await;
    cluster.net.deafen(NodeId(4));
    cluster.kill(first).await;
    let begun = Instant::now();
    cluster.create(4, "demo/after").await.unwrap();
    println!("found after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4), "found after {:?}", begun.elapsed());
    let known = cluster.node(4).leader().map(|(leader, _)| leader);
    assert_eq!(known, Some(NodeId(first)), "nobody has told it");
    cluster.net.heal();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_what_was_written_before_it_wherever_it_is_asked() {
    let cluster = Cluster::started(3).await;
    cluster.register(1, 1, 1).await;
    cluster.net.set_delay(3);
    for i in 0..12u16 {
        let (writer, reader) = (i % 3 + 1, (i + 1) % 3 + 1);
        let log = format!("demo/{i}");
        cluster.create(writer, &log).await.unwrap();
        assert!(cluster.node(reader).linearize().await.unwrap().log(&log_id(&log)).is_some(), "{log} from n{reader}");
    }
    let revision = cluster.create(1, "demo/last").await.unwrap();
    let query = Query::Log { log: log_id("demo/last") };
    let (at, answer) = cluster.node(2).query(Freshness::AtLeast(revision), &query).await.unwrap();
    assert!(at >= revision && matches!(answer, QueryAnswer::Log(Some(_))));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_at_once_share_entries() {
    let cluster = Cluster::started(3).await;
    cluster.register(1, 1, 1).await;
    let before = cluster.node(1).linearize().await.unwrap().revision();
    let mut ids = BTreeSet::new();
    let mut running = tokio::task::JoinSet::new();
    let cluster = Arc::new(cluster);
    for i in 0..300u16 {
        let cluster = cluster.clone();
        running.spawn(async move { cluster.producer_ids(i % 3 + 1).await.unwrap() });
    }
    while let Some(id) = running.join_next().await {
        assert!(ids.insert(id.unwrap()), "an id was given twice");
    }
    let entries = cluster.node(1).linearize().await.unwrap().revision() - before;
    assert_eq!(ids.len(), 300);
    assert!(entries < 250, "{entries} entries for 300 commands");
    Arc::into_inner(cluster).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_to_those_who_follow() {
    let cluster = Cluster::started(1).await;
    cluster.register(1, 1, 1).await;
    let node = cluster.node(1);
    let mut views = node.views();
    let seen = views.borrow_and_update().revision();
    cluster.create(1, "demo/a").await.unwrap();
    views.wait_for(|view| view.log(&log_id("demo/a")).is_some()).await.unwrap();
    let changes = node.changes_after(seen).unwrap();
    assert_eq!((changes.logs.len(), changes.partitions.len(), changes.nodes.len()), (1, 1, 0));
    let now = node.view().revision();
    assert!(node.changes_after(now).unwrap().is_empty());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_is_replaced() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.start(4).await;
    cluster.register(4, 4, 4).await;
    let goes = leader % 3 + 1;
    let voters: BTreeSet<_> = (1..=4).filter(|node| *node != goes).map(NodeId).collect();
    let elsewhere = cluster.node(goes).change_voters(&voters).await;
    assert!(matches!(elsewhere, Err(MetadataError::NotLeader { .. })), "{elsewhere:?}");
    // The new one follows as soon as the leader has seen that it is registered.
    while let Err(error) = cluster.node(leader).change_voters(&voters).await {
        assert!(matches!(error, MetadataError::Invalid(_) | MetadataError::Unavailable(_)), "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut mismatch = cluster.node(goes).voters_mismatch();
    mismatch.wait_for(Option::is_some).await.unwrap();
    cluster.kill(goes).await;
    let third = 6 - leader - goes;
    cluster.kill(third).await;
    // The leader and the new voter are a majority of the three.
    cluster.create(leader, "demo/after").await.unwrap();
    cluster.shutdown().await;
}

fn beat(node: &Metadata, to: &Metadata, stopping: bool) -> Result<(), MetadataError> {
    let config = node.config();
    let heartbeat = Heartbeat { node: config.node, process: ProcessId(config.node.0.into()), stopping };
    to.handle_heartbeat(&heartbeat).map(|liveness| node.handle_liveness(liveness))
}

fn alive(node: &Metadata) -> Vec<u16> {
    node.liveness().alive.iter().map(|alive| alive.node.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_knows_who_lives() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    for node in 1..=3 {
        cluster.register(leader, node, node.into()).await;
    }
    let follower = if leader == 1 { 2 } else { 1 };
    let silent = 6 - leader - follower;
    let not_leader = beat(cluster.node(leader), cluster.node(follower), false).unwrap_err();
    let expected = Some(NodeId(leader));
    assert!(matches!(not_leader, MetadataError::NotLeader { leader } if leader.as_ref().map(|(n, _)| *n) == expected));
    // A full lease, in which the silent one is not declared dead; then it is.
    let started = Instant::now();
    let mut died = None;
    while started.elapsed() < Duration::from_millis(700) {
        for node in [leader, follower] {
            beat(cluster.node(node), cluster.node(leader), false).unwrap();
        }
        if alive(cluster.node(follower)).len() == 2 {
            died.get_or_insert_with(|| started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let died = died.expect("the silent one died");
    assert!(died > Duration::from_millis(300), "declared dead after {died:?}");
    assert_eq!(alive(cluster.node(leader)).len(), 2);
    beat(cluster.node(silent), cluster.node(leader), false).unwrap();
    assert_eq!(alive(cluster.node(silent)), [1, 2, 3]);
    // A dead connection is a hint that shortens the lease.
    let suspected = Instant::now();
    cluster.node(leader).handle_suspect(NodeId(silent), ProcessId(silent.into()));
    eventually("death", || {
        beat(cluster.node(leader), cluster.node(leader), false).unwrap();
        (!alive(cluster.node(leader)).contains(&silent)).then_some(())
    })
    .await;
    assert!(suspected.elapsed() < Duration::from_millis(380), "dead after {:?}", suspected.elapsed());
    cluster.shutdown().await;
}
