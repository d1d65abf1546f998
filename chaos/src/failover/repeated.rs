//! One partition that is written to at a pace, whose sequencer's process is killed again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dlog_client::{Ack, AppendOptions, Appender, Client, Record};
use dlog_metadata::state::LogAttributes;
use dlog_proto::clock::every;
use dlog_proto::{Epoch, LogId, NodeId, PartitionId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{FAILOVER_PATIENCE, Measured, NODES, SERVE_PATIENCE, Victim};
use crate::cluster::Cluster;
use crate::place::Place;

/// So many that every node always sequences one.
const PARTITIONS: u32 = 24;
/// How long appends go well before a kill.
const BEFORE: Duration = Duration::from_millis(300);
/// How long a node is down.
const DOWN: Duration = Duration::from_millis(300);

pub(super) async fn measure(place: &Place, kills: usize, rate: u32) -> Result<Vec<Measured>, String> {
    let mut cluster = Cluster::start_direct(place.plan(NODES)).await.map_err(|error| error.to_string())?;
    let client = cluster.client().map_err(|error| error.to_string())?;
    cluster.serves(&client, SERVE_PATIENCE).await?;
    let log: LogId = "chaos/failover".parse().expect("a name");
    let created = client.create_log(&log, PARTITIONS, LogAttributes::replicated(3)).await;
    created.map_err(|error| error.to_string())?;
    let appender = client.appender(&log, AppendOptions::default()).await.map_err(|error| error.to_string())?;
    let appender = Arc::new(appender);
    for partition in (0..PARTITIONS).map(PartitionId) {
        let ack = append(&appender, partition).await?;
        ack.await.map_err(|error| format!("partition {partition}: {error}"))?;
    }
    let mut measured = Vec::new();
    for victim in [Victim::Sequencer, Victim::SequencerAndLeader] {
        let mut all = Vec::new();
        for kill in 1..=kills {
            let (partition, node) = choose(&client, &log, victim).await?;
            let took = one(&mut cluster, &appender, partition, usize::from(node.0), rate).await?;
            eprintln!("{kill}/{kills}: {} killed, {node}: {:.0} ms", victim.words(), took.as_secs_f64() * 1e3);
            all.push(took);
            sleep(DOWN).await;
            cluster.start_node(usize::from(node.0)).await.map_err(|error| error.to_string())?;
            cluster.serves(&client, SERVE_PATIENCE).await?;
        }
        measured.push(Measured::of(victim, 1, all));
    }
    Ok(measured)
}

async fn append(appender: &Appender, partition: PartitionId) -> Result<Ack, String> {
    let record = Record { partition: Some(partition), value: Some(b"failover"), ..Record::default() };
    appender.append(record).await.map_err(|error| error.to_string())
}

/// A partition whose sequencer is such a node, and the node.
async fn choose(client: &Client, log: &LogId, victim: Victim) -> Result<(PartitionId, NodeId), String> {
    let deadline = Instant::now() + SERVE_PATIENCE;
    loop {
        let cluster = client.cluster_linearizable().await.map_err(|error| error.to_string())?;
        let info = client.log(log).await.map_err(|error| error.to_string())?;
        let tables = client.tables(&info).await.map_err(|error| error.to_string())?;
        let sequencers = tables.iter().map(|table| table.newest().map(|newest| newest.sequencer));
        let fits = |node: &NodeId| {
            let leads = cluster.leader == Some(*node);
            cluster.leader.is_some() && leads == (victim == Victim::SequencerAndLeader)
        };
        let found = (0..).map(PartitionId).zip(sequencers).filter_map(|(p, node)| Some((p, node.filter(fits)?)));
        if let Some(found) = fastrand::choice(found.collect::<Vec<_>>()) {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err("no partition's sequencer is such a node".to_owned());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Kills a node; how long it took until an append was acknowledged in a later epoch.
async fn one(
    cluster: &mut Cluster,
    appender: &Arc<Appender>,
    partition: PartitionId,
    node: usize,
    rate: u32,
) -> Result<Duration, String> {
    let (stop, stopped) = watch::channel(false);
    let (seen, mut newest) = watch::channel(None);
    let appending = append_at(appender.clone(), partition, rate, stopped, seen);
    sleep(BEFORE).await;
    let before = newest.borrow().map(|(epoch, _)| epoch);
    let before: Epoch = before.ok_or("appends are not acknowledged before the kill")?;
    let killed_at = Instant::now();
    cluster.kill(node, false).await.map_err(|error| error.to_string())?;
    let later = newest.wait_for(|newest| newest.is_some_and(|(epoch, _)| epoch > before));
    let later = timeout(FAILOVER_PATIENCE, later).await;
    let later = later.map_err(|_| format!("nobody took over from n{node} within {FAILOVER_PATIENCE:?}"))?;
    let at = later.map_err(|error| error.to_string())?.ok_or("no acknowledgement")?.1;
    stop.send_replace(true);
    appending.await.map_err(|error| error.to_string())??;
    Ok(at.saturating_duration_since(killed_at))
}

/// Of the newest epoch in which an append was acknowledged, the first acknowledgement.
type First = Option<(Epoch, Instant)>;

/// Appends at a pace until told to stop; everything must be acknowledged.
fn append_at(
    appender: Arc<Appender>,
    partition: PartitionId,
    rate: u32,
    stopped: watch::Receiver<bool>,
    first: watch::Sender<First>,
) -> JoinHandle<Result<(), String>> {
    let (sent, mut acks) = mpsc::unbounded_channel();
    let appending = tokio::spawn(async move {
        let mut pace = every(Duration::from_secs(1) / rate);
        while !*stopped.borrow() {
            pace.tick().await;
            let _ = sent.send(append(&appender, partition).await?);
        }
        Ok::<_, String>(())
    });
    tokio::spawn(async move {
        while let Some(ack) = acks.recv().await {
            let epoch = ack.await.map_err(|error| format!("an append failed: {error}"))?.lsn.epoch();
            let now = Instant::now();
            first.send_if_modified(|first| {
                let is_newer = first.is_none_or(|(before, _)| epoch > before);
                if is_newer {
                    *first = Some((epoch, now));
                }
                is_newer
            });
        }
        appending.await.map_err(|error| error.to_string())?
    })
}
