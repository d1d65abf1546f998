//! `dlog log show`

use dlog_client::Client;
use dlog_metadata::state::LogInfo;
use dlog_proto::{EpochTable, PartitionUid};
use serde_json::{Value, json};

use super::log_json;
use crate::args::LogShowArgs;
use crate::failure::Failure;
use crate::output::table::Columns;
use crate::output::timestamp::timestamp;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &LogShowArgs) -> Result<(), Failure> {
    let info = client.log(&args.log).await?;
    let tables = client.tables(&info).await?;
    if args.output.json { print_json(&to_json(&info, &tables)) } else { print(&to_text(&info, &tables)) }
}

fn to_text(info: &LogInfo, tables: &[EpochTable]) -> String {
    let created = timestamp(info.created_ms);
    let about = [("log", info.log.to_string()), ("created", created)].into_iter().chain(info.attributes.entries());
    format!("{}\n{}", Columns::pairs(about), partitions(info, tables))
}

fn partitions(info: &LogInfo, tables: &[EpochTable]) -> String {
    let mut rows = Columns::new([">PARTITION", "UID", "EPOCH", "SEQUENCER", ">TRIMMED TO", "NODESET"]);
    for (index, uid) in info.partitions.iter().enumerate() {
        let table = tables.iter().find(|table| table.partition == *uid);
        let newest = table.and_then(EpochTable::newest);
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.row([
            index.to_string(),
            uid.to_string(),
            shown(newest.map(|entry| entry.epoch.to_string())),
            shown(newest.map(|entry| entry.sequencer.to_string())),
            shown(table.filter(|table| table.trim.0 > 0).map(|table| table.trim.to_string())),
            shown(newest.map(|entry| {
                let shards: Vec<_> = entry.nodeset.members().iter().map(|member| member.shard.to_string()).collect();
                shards.join(" ")
            })),
        ]);
    }
    rows.into_text()
}

/// As an entry of `log list`, with an object per partition.
fn to_json(info: &LogInfo, tables: &[EpochTable]) -> Value {
    let mut json = log_json(info);
    let partition = |(index, uid): (usize, &PartitionUid)| {
        let table = tables.iter().find(|table| table.partition == *uid);
        let newest = table.and_then(EpochTable::newest);
        json!({
            "partition": index,
            "uid": uid.0,
            "epoch": newest.map(|entry| entry.epoch.0),
            "sequencer": newest.map(|entry| entry.sequencer.0),
            "trim": table.map(|table| table.trim.to_string()),
        })
    };
    json["partitions"] = info.partitions.iter().enumerate().map(partition).collect();
    json
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dlog_proto::{
        Epoch, EpochEntry, Incarnation, Location, Lsn, Member, NodeId, Nodeset, PartitionUid, ProcessId, QuorumConfig,
        Replication, ShardId,
    };

    use super::super::testing;
    use super::*;

    fn table() -> EpochTable {
        let member =
            Member { shard: ShardId::new(2, 0), incarnation: Incarnation(1), location: Location::default(), weight: 1 };
        let entry = EpochEntry {
            epoch: Epoch(3),
            sequencer: NodeId(2),
            process: ProcessId(1),
            nodeset: Arc::new(Nodeset::new(vec![member]).unwrap()),
            replication: Arc::new(Replication::new(QuorumConfig::majority(1))),
            base_offset: None,
            end: None,
            activated_at: 0,
        };
        EpochTable {
            partition: PartitionUid(12),
            revision: 1,
            trim: "e2n9".parse::<Lsn>().unwrap(),
            covered: Epoch::ZERO,
            epochs: vec![entry],
        }
    }

    #[test]
    fn partitions_are_shown_with_their_newest_epoch() {
        let text = to_text(&testing::log(), &[table()]);
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["log", "demo/lines"]);
        assert!(words.contains(&vec!["retention.ms", "1000"]));
        assert_eq!(words[words.len() - 2], ["0", "p11", "-", "-", "-", "-"], "no epoch yet");
        assert_eq!(words[words.len() - 1], ["1", "p12", "e3", "n2", "e2n9", "n2s0"]);
    }

    #[test]
    fn programs_get_numbers() {
        let json = to_json(&testing::log(), &[table()]);
        assert_eq!(
            json["partitions"][0],
            json!({"partition": 0, "uid": 11, "epoch": null, "sequencer": null, "trim": null})
        );
        assert_eq!(
            json["partitions"][1],
            json!({"partition": 1, "uid": 12, "epoch": 3, "sequencer": 2, "trim": "e2n9"})
        );
    }
}
