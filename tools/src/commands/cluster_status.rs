//! `dlog cluster status`

use dlog_client::Client;
use dlog_metadata::state::{ClusterAnswer, NodeInfo, ShardInfo, ShardState};
use dlog_proto::{NodeId, ShardId};
use serde_json::{Value, json};

use crate::args::ClusterStatusArgs;
use crate::failure::Failure;
use crate::output::human::count;
use crate::output::table::Columns;
use crate::output::{print, print_json};

/// Done only if the cluster can take work.
pub(crate) async fn run(client: &Client, args: &ClusterStatusArgs) -> Result<(), Failure> {
    let (cluster, problem) = match client.cluster_linearizable().await {
        Ok(cluster) => {
            let problem = missing(&cluster).map(Failure::new);
            (cluster, problem)
        }
        // Somebody may still know who should be there.
        Err(error) => match client.cluster().await {
            Ok(cluster) => (cluster, Some(Failure::from(error))),
            Err(_) => return Err(error.into()),
        },
    };
    if args.output.json {
        print_json(&to_json(&cluster, problem.is_none()))?;
    } else {
        print(&to_text(&cluster))?;
    }
    match problem {
        None => Ok(()),
        Some(problem) => Err(problem.while_at("the cluster cannot be used")),
    }
}

/// How a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    Stopping,
    Down,
}

impl Life {
    fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stopping => "stopping",
            Self::Down => "down",
        }
    }
}

fn life(cluster: &ClusterAnswer, node: NodeId, info: &NodeInfo) -> Life {
    let alive = cluster.alive.iter().find(|(id, process, _)| *id == node && *process == info.process);
    match alive {
        Some((_, _, true)) => Life::Stopping,
        Some(_) => Life::Alive,
        None => Life::Down,
    }
}

/// What stands in the way of an append.
fn missing(cluster: &ClusterAnswer) -> Option<&'static str> {
    let has_joined = |voter: NodeId| cluster.nodes.iter().any(|(node, _)| *node == voter);
    let mut live = cluster.nodes.iter().filter(|(node, info)| life(cluster, *node, info) == Life::Alive);
    let is_writable = |shard: &ShardInfo| shard.served && shard.state == ShardState::Enabled;
    if cluster.leader.is_none() {
        Some("the metadata tier has no leader")
    } else if !live.clone().any(|(_, info)| info.roles.sequencer) {
        Some("no node that sequences is alive")
    } else if !live.any(|(_, info)| info.roles.storage && info.shards.values().any(is_writable)) {
        Some("no node that stores is alive")
    } else if !cluster.voters.iter().all(|(voter, _)| has_joined(*voter)) {
        Some("it is being founded: not all of its first nodes have joined")
    } else {
        None
    }
}

fn state_name(shard: &ShardInfo) -> &'static str {
    match shard.state {
        _ if !shard.served => "gone",
        ShardState::Enabled => "enabled",
        ShardState::Disabled => "disabled",
        ShardState::Draining => "draining",
    }
}

fn to_text(cluster: &ClusterAnswer) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let voters: Vec<_> = cluster.voters.iter().map(|(node, _)| node.to_string()).collect();
    let about = Columns::pairs([
        ("cluster", or_none(cluster.cluster.map(|cluster| cluster.id.to_string()))),
        ("leader", or_none(cluster.leader.map(|node| format!("{node} (term {})", cluster.term)))),
        ("voters", voters.join(" ")),
        ("logs", count(cluster.logs)),
        ("partitions", count(cluster.partitions)),
    ]);
    let mut nodes =
        Columns::new(["NODE", "ADDRESS", "STATE", "ROLES", ">CORES", "LOCATION", "SHARDS (INDEX:INCARNATION)"]);
    for (node, info) in &cluster.nodes {
        nodes.row([
            node.to_string(),
            info.address.clone(),
            life(cluster, *node, info).name().to_owned(),
            info.roles.to_string(),
            info.cores.to_string(),
            Some(info.location.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned()),
            shards_text(info),
        ]);
    }
    format!("{about}\n{}", nodes.into_text())
}

/// `0:1 1:4 (draining)`: index, incarnation, and what is out of the ordinary.
fn shards_text(info: &NodeInfo) -> String {
    let shard = |(index, shard): (&u16, &ShardInfo)| {
        let note = Some(state_name(shard)).filter(|state| *state != "enabled");
        format!("{index}:{}{}", shard.incarnation.0, note.map(|note| format!(" ({note})")).unwrap_or_default())
    };
    let shards: Vec<_> = info.shards.iter().map(shard).collect();
    if shards.is_empty() { "-".to_owned() } else { shards.join(" ") }
}

fn to_json(cluster: &ClusterAnswer, usable: bool) -> Value {
    let voters: Vec<_> =
        cluster.voters.iter().map(|(node, address)| json!({ "node": node.0, "address": address })).collect();
    let nodes: Vec<_> = cluster.nodes.iter().map(|(node, info)| node_json(cluster, *node, info)).collect();
    json!({
        "usable": usable,
        "cluster": cluster.cluster.map(|cluster| cluster.id.to_string()),
        "leader": cluster.leader.map(|node| node.0),
        "term": cluster.term,
        "voters": voters,
        "logs": cluster.logs,
        "partitions": cluster.partitions,
        "nodes": nodes,
    })
}

fn node_json(cluster: &ClusterAnswer, node: NodeId, info: &NodeInfo) -> Value {
    let roles =
        [("metadata", info.roles.metadata), ("sequencer", info.roles.sequencer), ("storage", info.roles.storage)];
    let roles: Vec<_> = roles.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let shard = |(index, shard): (&u16, &ShardInfo)| {
        json!({
            "shard": ShardId { node, shard: *index }.to_string(),
            "incarnation": shard.incarnation.0,
            "state": state_name(shard),
            "weight": shard.weight,
        })
    };
    json!({
        "node": node.0,
        "address": info.address,
        "http": info.http,
        "state": life(cluster, node, info).name(),
        "alive": life(cluster, node, info) != Life::Down,
        "roles": roles,
        "cores": info.cores,
        "weight": info.weight,
        "location": info.location.to_string(),
        "process": info.process.to_string(),
        "shards": info.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use dlog_metadata::state::Roles;
    use dlog_proto::{Incarnation, ProcessId};

    use super::*;

    fn cluster() -> ClusterAnswer {
        let shard = ShardInfo {
            incarnation: Incarnation(4),
            weight: 1,
            state: ShardState::Enabled,
            served: true,
            incomplete_before: 0,
            damaged_before: 0,
            lost: vec![],
        };
        let node = |port: u16| NodeInfo {
            address: format!("localhost:{port}"),
            http: String::new(),
            roles: Roles::ALL,
            location: "rack=r1".parse().unwrap(),
            process: ProcessId(u128::from(port)),
            cores: 2,
            weight: 1,
            registered_at: 1,
            shards: BTreeMap::from([(0, shard.clone())]),
        };
        ClusterAnswer {
            nodes: vec![(NodeId(1), Arc::new(node(1))), (NodeId(2), Arc::new(node(2)))],
            voters: vec![(NodeId(1), "localhost:1".to_owned())],
            leader: Some(NodeId(1)),
            // Node 2 was started again since somebody heard of it.
            alive: vec![(NodeId(1), ProcessId(1), false), (NodeId(2), ProcessId(7), false)],
            ..ClusterAnswer::default()
        }
    }

    #[test]
    fn nodes_are_shown_as_they_are() {
        let text = to_text(&cluster());
        let words = |n: usize| text.lines().rev().nth(n).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1), ["n1", "localhost:1", "alive", "metadata,sequencer,storage", "2", "rack=r1", "0:4"]);
        assert_eq!(words(0)[2], "down", "an earlier process of it was alive");
        let json = to_json(&cluster(), true);
        assert_eq!(json["nodes"][0]["shards"][0]["shard"], "n1s0");
        assert_eq!((&json["nodes"][0]["alive"], &json["nodes"][1]["alive"]), (&json!(true), &json!(false)));
        assert_eq!(json["usable"], true);
    }

    #[test]
    fn a_cluster_is_usable_if_somebody_leads_sequences_and_stores() {
        assert_eq!(missing(&cluster()), None);
        assert!(missing(&ClusterAnswer { leader: None, ..cluster() }).unwrap().contains("no leader"));
        assert!(missing(&ClusterAnswer { alive: vec![], ..cluster() }).unwrap().contains("sequences"));
        let mut without_shards = cluster();
        for (_, info) in &mut without_shards.nodes {
            Arc::make_mut(info).shards.values_mut().for_each(|shard| shard.state = ShardState::Disabled);
        }
        assert!(missing(&without_shards).unwrap().contains("stores"));
    }
}
