//! `dlog epoch show`

use dlog_client::Client;
use dlog_metadata::state::{MissingAt, UnderReplicated};
use dlog_proto::{EpochEntry, EpochTable, Lsn, ShardId};
use serde_json::{Map, Value, json};

use super::number_of;
use crate::args::EpochShowArgs;
use crate::failure::Failure;
use crate::output::human::count;
use crate::output::table::Columns;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &EpochShowArgs) -> Result<(), Failure> {
    let (log, number) = (&args.partition.log, number_of(client, &args.partition).await?);
    let table = client.epochs(log, number).await?;
    let missing = client.under_replicated(log, number).await?;
    let missing = Missing::all(&missing);
    if args.output.json { print_json(&to_json(&table, &missing)) } else { print(&to_text(&table, &missing)) }
}

/// Records that a shard should have and has not.
#[derive(Debug)]
struct Missing {
    shard: ShardId,
    from: Lsn,
    /// `None`: and all that come.
    to: Option<Lsn>,
}

impl Missing {
    fn all(missing: &UnderReplicated) -> Vec<Self> {
        let mut all = Vec::new();
        for (&MissingAt { epoch, shard, .. }, ranges) in missing.iter() {
            let lsn = |esn| Lsn::new(epoch, esn);
            all.extend(ranges.iter().map(|range| Self { shard, from: lsn(range.from), to: range.to.map(lsn) }));
        }
        all
    }
}

fn end(entry: &EpochEntry) -> Option<Lsn> {
    entry.end.map(|end| Lsn::new(entry.epoch, end.last_esn))
}

/// Whether nothing of it can be read any more: it is there for recovery only.
fn is_trimmed(table: &EpochTable, entry: &EpochEntry) -> bool {
    entry.epoch < table.oldest().epoch()
}

fn shards(entry: &EpochEntry) -> Vec<String> {
    entry.nodeset.members().iter().map(|member| member.shard.to_string()).collect()
}

fn to_text(table: &EpochTable, missing: &[Missing]) -> String {
    let mut rows = Columns::new(["EPOCH", "SEQUENCER", ">BASE OFFSET", "END", ">COPIES", ">ACKS", "NODESET"]);
    for entry in &table.epochs {
        let quorum = entry.replication.quorum;
        let trimmed = if is_trimmed(table, entry) { " (trimmed)" } else { "" };
        let unsure = if entry.end.is_some_and(|end| !end.authoritative) { " (not authoritative)" } else { "" };
        rows.row([
            entry.epoch.to_string(),
            entry.sequencer.to_string(),
            entry.base_offset.map_or_else(|| "-".to_owned(), |offset| count(offset.0)),
            end(entry).map_or_else(|| "-".to_owned(), |lsn| format!("{lsn}{unsure}{trimmed}")),
            quorum.replication_factor.to_string(),
            quorum.write_quorum.to_string(),
            shards(entry).join(" "),
        ]);
    }
    let mut text = rows.into_text();
    if !missing.is_empty() {
        let mut rows = Columns::new(["LACKS COPIES", "FROM", "TO"]);
        for Missing { shard, from, to } in missing {
            let to = to.map_or_else(|| "now on".to_owned(), |to| to.to_string());
            rows.row([shard.to_string(), from.to_string(), to]);
        }
        text.push('\n');
        text.push_str(&rows.into_text());
    }
    text
}

fn to_json(table: &EpochTable, missing: &[Missing]) -> Value {
    let epochs: Vec<_> = table.epochs.iter().map(|entry| epoch_json(table, entry)).collect();
    let missing = missing.iter().map(|Missing { shard, from, to }| {
        json!({ "shard": shard.to_string(), "from": from.to_string(), "to": to.map(|to| to.to_string()) })
    });
    json!({ "epochs": epochs, "under_replicated": missing.collect::<Vec<_>>() })
}

fn epoch_json(table: &EpochTable, entry: &EpochEntry) -> Value {
    let quorum = entry.replication.quorum;
    let across: Map<_, _> =
        entry.replication.across.iter().map(|(scope, count)| (scope.to_string(), (*count).into())).collect();
    json!({
        "epoch": entry.epoch.0,
        "sequencer": entry.sequencer.0,
        "base_offset": entry.base_offset.map(|offset| offset.0),
        "end": end(entry).map(|lsn| lsn.to_string()),
        "trimmed": is_trimmed(table, entry),
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
        QuorumConfig, Replication,
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
        EpochTable { partition: PartitionUid(1), revision: 1, trim: Lsn::ZERO, covered: Epoch::ZERO, epochs }
    }

    fn missing() -> [Missing; 2] {
        let (shard, lsn) = (ShardId::new(3, 0), |epoch, esn| Lsn::new(Epoch(epoch), Esn(esn)));
        [Missing { shard, from: lsn(1, 7), to: Some(lsn(1, 9)) }, Missing { shard, from: lsn(2, 4), to: None }]
    }

    #[test]
    fn programs_get_exactly_this() {
        let replication = json!({
            "replication_factor": 3, "write_quorum": 2, "read_quorum": 2, "across": {"node": 3}, "durability": "sync"
        });
        let nodeset = json!(["n1s0", "n2s0", "n3s0"]);
        let epoch = |epoch, base_offset: Value, end: Value| {
            json!({
                "epoch": epoch, "sequencer": 2, "base_offset": base_offset, "end": end, "trimmed": false,
                "nodeset": nodeset,
                "replication": replication
            })
        };
        let epochs = [
            epoch(1, json!(0), json!("e1n1234")),
            epoch(2, json!(1234), Value::Null),
            epoch(3, Value::Null, Value::Null),
        ];
        let under_replicated = [
            json!({"shard": "n3s0", "from": "e1n7", "to": "e1n9"}),
            json!({"shard": "n3s0", "from": "e2n4", "to": null}),
        ];
        let expected = json!({"epochs": epochs, "under_replicated": under_replicated});
        assert_eq!(to_json(&table(), &missing()), expected);
    }

    #[test]
    fn people_see_what_is_not_certain() {
        let text = to_text(&table(), &missing());
        let row = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row(1), "e1 n2 0 e1n1234 (not authoritative) 3 2 n1s0 n2s0 n3s0");
        assert_eq!(row(2), "e2 n2 1,234 - 3 2 n1s0 n2s0 n3s0");
        assert_eq!(row(3), "e3 n2 - - 3 2 n1s0 n2s0 n3s0");
        assert_eq!((row(6), row(7)), ("n3s0 e1n7 e1n9".to_owned(), "n3s0 e2n4 now on".to_owned()));
        assert!(!to_text(&table(), &[]).contains("LACKS"));
        let trimmed = to_text(&EpochTable { trim: "e1n1234".parse().unwrap(), ..table() }, &[]);
        let ends: Vec<_> = trimmed.lines().filter(|line| line.contains("(trimmed)")).collect();
        assert!(ends.len() == 1 && ends[0].starts_with("e1"), "{trimmed}");
    }
}
