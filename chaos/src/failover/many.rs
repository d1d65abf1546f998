//! Thousands of partitions whose sequencers are on one node, which is killed: until each of them is written to again.
//!
//! That node weighs so much that it sequences nearly all. Clients are several: each has a connection to a node's core, which
//! carries a bounded number of lanes, one per partition.

use std::time::{Duration, Instant};

use dlog_client::{AppendOptions, Appended, Appender, Client, Record};
use dlog_metadata::state::LogAttributes;
use dlog_proto::{LogId, NodeId, PartitionId};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{FAILOVER_PATIENCE, Measured, NODES, SERVE_PATIENCE, Victim};
use crate::cluster::{Cluster, Plan};
use crate::place::Place;

const PARTITIONS_PER_CLIENT: usize = 2000;
/// Who is killed.
const HEAVY: usize = 3;
/// All partitions, until they are written to for the first time.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn measure(place: &Place, partitions: usize) -> Result<Measured, String> {
    let weight = |node| vec!["--weight".to_owned(), if node == HEAVY { "10000" } else { "1" }.to_owned()];
    let plan = Plan { flags_of: (1..=NODES).map(weight).collect(), ..place.plan(NODES) };
    let mut cluster = Cluster::start_direct(plan).await.map_err(|error| error.to_string())?;
    let client = cluster.client().map_err(|error| error.to_string())?;
    cluster.serves(&client, SERVE_PATIENCE).await?;
    let_another_lead(&mut cluster, &client).await?;

    let log: LogId = "chaos/many".parse().expect("a name");
    let count = u32::try_from(partitions).map_err(|error| error.to_string())?;
    let created = client.create_log(&log, count, LogAttributes::replicated(3)).await;
    created.map_err(|error| error.to_string())?;
    let mut appenders = Vec::new();
    for _ in 0..partitions.div_ceil(PARTITIONS_PER_CLIENT) {
        let client = cluster.client().map_err(|error| error.to_string())?;
        appenders.push(client.appender(&log, AppendOptions::default()).await.map_err(|error| error.to_string())?);
    }
    let all: Vec<PartitionId> = (0..count).map(PartitionId).collect();
    let began = Instant::now();
    append_to_all(&appenders, &all, began, WARM_UP_PATIENCE).await?;
    eprintln!("{count} partitions were written to within {:.1} s of their creation", began.elapsed().as_secs_f64());

    let lost = sequenced_by_heavy(&client, &log).await?;
    let leader = client.cluster_linearizable().await.map_err(|error| error.to_string())?.leader;
    eprintln!("n{HEAVY} sequences {} of them; {} leads the metadata tier", lost.len(), leader.unwrap_or(NodeId(0)));
    let killed_at = Instant::now();
    cluster.kill(HEAVY, false).await.map_err(|error| error.to_string())?;
    let took = append_to_all(&appenders, &lost, killed_at, FAILOVER_PATIENCE).await?;
    Ok(Measured::of(Victim::SequencerOfMany, lost.len(), took))
}

/// Restarts the heavy node if it leads the metadata tier.
async fn let_another_lead(cluster: &mut Cluster, client: &Client) -> Result<(), String> {
    if leader(client).await? != Some(HEAVY) {
        return Ok(());
    }
    cluster.kill(HEAVY, false).await.map_err(|error| error.to_string())?;
    let deadline = Instant::now() + SERVE_PATIENCE;
    while leader(client).await?.is_none_or(|leader| leader == HEAVY) {
        if Instant::now() > deadline {
            return Err("no other node leads the metadata tier".to_owned());
        }
        sleep(Duration::from_millis(50)).await;
    }
    cluster.start_node(HEAVY).await.map_err(|error| error.to_string())?;
    cluster.serves(client, SERVE_PATIENCE).await
}

async fn leader(client: &Client) -> Result<Option<usize>, String> {
    let cluster = client.cluster_linearizable().await.map_err(|error| error.to_string())?;
    Ok(cluster.leader.map(|leader| usize::from(leader.0)))
}

async fn sequenced_by_heavy(client: &Client, log: &LogId) -> Result<Vec<PartitionId>, String> {
    let info = client.log(log).await.map_err(|error| error.to_string())?;
    let tables = client.tables(&info).await.map_err(|error| error.to_string())?;
    let is_heavy = |node: NodeId| usize::from(node.0) == HEAVY;
    let of_heavy = (0..).map(PartitionId).zip(&tables);
    Ok(of_heavy.filter(|(_, table)| table.newest().is_some_and(|e| is_heavy(e.sequencer))).map(|(p, _)| p).collect())
}

/// A record to each; how long after `began` each was acknowledged.
async fn append_to_all(
    appenders: &[Appender],
    partitions: &[PartitionId],
    began: Instant,
    patience: Duration,
) -> Result<Vec<Duration>, String> {
    let mut acks = JoinSet::new();
    for partition in partitions {
        let appender = &appenders[partition.0 as usize / PARTITIONS_PER_CLIENT];
        let record = Record { partition: Some(*partition), value: Some(b"many"), ..Record::default() };
        let ack = appender.append(record).await.map_err(|error| error.to_string())?;
        acks.spawn(async move { ack.await.map(|Appended { .. }| began.elapsed()) });
    }
    let mut took = Vec::new();
    let all = async {
        while let Some(acked) = acks.join_next().await {
            let acked = acked.map_err(|error| error.to_string())?;
            took.push(acked.map_err(|error| format!("an append failed: {error}"))?);
        }
        Ok::<_, String>(())
    };
    match timeout(patience, all).await {
        Ok(outcome) => outcome.map(|()| took),
        Err(_) => {
            let (count, of) = (took.len(), partitions.len());
            let trouble = partitions.iter().find_map(|p| appenders[p.0 as usize / PARTITIONS_PER_CLIENT].trouble(*p));
            let trouble = trouble.unwrap_or_else(|| "none".to_owned());
            Err(format!("{count} of {of} partitions were written to within {patience:?} (a trouble: {trouble})"))
        }
    }
}
