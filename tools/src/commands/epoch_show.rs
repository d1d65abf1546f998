//! `dlog epoch show`

use dlog_client::Client;
use dlog_proto::{EpochEntry, EpochTable, Lsn};
use serde_json::{Map, Value, json};

use crate::args::EpochShowArgs;
use crate::failure::Failure;
use crate::output::human::count;
use crate::output::table::Columns;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &EpochShowArgs) -> Result<(), Failure> {
    let table = client.epochs(&args.partition.log, args.partition.partition).await?;
    if args.output.json { print_json(&to_json(&table)) } else { print(&to_text(&table)) }
}

fn end(entry: &EpochEntry) -> Option<Lsn> {
    entry.end.map(|end| Lsn::new(entry.epoch, end.last_esn))
}

fn shards(entry: &EpochEntry) -> Vec<String> {
    entry.nodeset.members().iter().map(|member| member.shard.to_string()).collect()
}

fn to_text(table: &EpochTable) -> String {
    let mut rows = Columns::new(["EPOCH", "SEQUENCER", ">BASE OFFSET", "END", ">COPIES", ">ACKS", "NODESET"]);
    for entry in &table.epochs {
        let quorum = entry.replication.quorum;
        let unsure = if entry.end.is_some_and(|end| !end.authoritative) { " (not authoritative)" } else { "" };
        rows.row([
            entry.epoch.to_string(),
            entry.sequencer.to_string(),
            entry.base_offset.map_or_else(|| "-".to_owned(), |offset| count(offset.0)),
            end(entry).map_or_else(|| "-".to_owned(), |lsn| format!("{lsn}{unsure}")),
            quorum.replication_factor.to_string(),
            quorum.write_quorum.to_string(),
            shards(entry).join(" "),
        ]);
    }
    rows.into_text()
}

fn to_json(table: &EpochTable) -> Value {
    let epochs: Vec<_> = table.epochs.iter().map(epoch_json).collect();
    json!({ "epochs": epochs })
}

fn epoch_json(entry: &EpochEntry) -> Value {
    let quorum = entry.replication.quorum;
    let across: Map<_, _> =
        entry.replication.across.iter().map(|(scope, count)| (scope.to_string(), (*count).into())).collect();
    json!({
        "epoch": entry.epoch.0,
        "sequencer": entry.sequencer.0,
        "base_offset": entry.base_offset.map(|offset| offset.0),
        "end": end(entry).map(|lsn| lsn.to_string()),
        "nodeset": shards(entry),
        "replication": {
            "replication_factor": quorum.replication_factor,
            "write_quorum": quorum.write_quorum,
            "read_quorum": quorum.read_quorum,
            "across": across,
            "durability": entry.replication.durability,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dlog_proto::{
        End, Epoch, Esn, Incarnation, Location, LogOffset, Member, NodeId, Nodeset, PartitionUid, ProcessId,
        QuorumConfig, Replication, ShardId,
    };

    use super::*;

    fn table() -> EpochTable {
        let member = |node| Member {
            shard: ShardId::new(node, 0),
            incarnation: Incarnation(1),
            location: Location::default(),
            weight: 1,
        };
        let entry = |epoch, base: Option<u64>, end: Option<(u32, bool)>| EpochEntry {
            epoch: Epoch(epoch),
            sequencer: NodeId(2),
            process: ProcessId(1),
            nodeset: Arc::new(Nodeset::new(vec![member(1), member(2), member(3)]).unwrap()),
            replication: Arc::new(Replication::new(QuorumConfig::majority(3))),
            base_offset: base.map(LogOffset),
            end: end.map(|(esn, authoritative)| End { last_esn: Esn(esn), authoritative }),
            activated_at: 0,
        };
        let epochs = vec![entry(1, Some(0), Some((1234, false))), entry(2, Some(1234), None), entry(3, None, None)];
        EpochTable { partition: PartitionUid(1), revision: 1, trim: Lsn::ZERO, epochs }
    }

    #[test]
    fn programs_get_exactly_this() {
        let replication = json!({
            "replication_factor": 3, "write_quorum": 2, "read_quorum": 2, "across": {"node": 3}, "durability": "sync"
        });
        let nodeset = json!(["n1s0", "n2s0", "n3s0"]);
        let epoch = |epoch, base_offset: Value, end: Value| {
            json!({
                "epoch": epoch, "sequencer": 2, "base_offset": base_offset, "end": end, "nodeset": nodeset,
                "replication": replication
            })
        };
        let expected = json!({"epochs": [
            epoch(1, json!(0), json!("e1n1234")), epoch(2, json!(1234), Value::Null), epoch(3, Value::Null, Value::Null)
        ]});
        assert_eq!(to_json(&table()), expected);
    }

    #[test]
    fn people_see_what_is_not_certain() {
        let text = to_text(&table());
        let row = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row(1), "e1 n2 0 e1n1234 (not authoritative) 3 2 n1s0 n2s0 n3s0");
        assert_eq!(row(2), "e2 n2 1,234 - 3 2 n1s0 n2s0 n3s0");
        assert_eq!(row(3), "e3 n2 - - 3 2 n1s0 n2s0 n3s0");
    }
}
