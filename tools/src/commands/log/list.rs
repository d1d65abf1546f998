//! `dlog log list`

use std::sync::Arc;

use dlog_client::Client;
use dlog_metadata::state::LogInfo;
use serde_json::{Value, json};

use super::log_json;
use crate::args::LogListArgs;
use crate::failure::Failure;
use crate::output::human::count;
use crate::output::table::Columns;
use crate::output::timestamp::timestamp;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &LogListArgs) -> Result<(), Failure> {
    let logs = client.logs().await?;
    if args.output.json {
        return print_json(&to_json(&logs));
    }
    match logs.as_slice() {
        [] => print("there are no logs; make one: dlog log create demo/first --partitions 1 --replication 1\n"),
        logs => print(&to_table(logs)),
    }
}

fn to_table(logs: &[Arc<LogInfo>]) -> String {
    let mut table = Columns::new(["LOG", ">PARTITIONS", ">COPIES", ">ACKS", "DURABILITY", "CREATED"]);
    for info in logs {
        let quorum = info.attributes.replication.quorum;
        table.row([
            info.log.to_string(),
            count(info.partitions.len() as u64),
            quorum.replication_factor.to_string(),
            quorum.write_quorum.to_string(),
            info.attributes.get("durability").unwrap_or_default(),
            timestamp(info.created_ms),
        ]);
    }
    table.into_text()
}

/// `{"logs": […]}`
fn to_json(logs: &[Arc<LogInfo>]) -> Value {
    let logs: Vec<_> = logs.iter().map(|info| log_json(info)).collect();
    json!({ "logs": logs })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_log_is_a_row() {
        let logs = [Arc::new(testing::log())];
        let text = to_table(&logs);
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["demo/lines", "2", "3", "2", "sync", "2026-01-31T12:00:00.000Z"]);
        let json = to_json(&logs);
        assert_eq!(json["logs"][0]["log"], "demo/lines");
        assert_eq!(json["logs"][0]["partitions"], 2);
        assert_eq!(json["logs"][0]["attributes"]["retention.ms"], "1000");
    }
}
