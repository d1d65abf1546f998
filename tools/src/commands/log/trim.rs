//! `dlog log trim`

use dlog_client::Client;
use dlog_proto::Lsn;
use dlog_proto::clock::now_ms;
use serde_json::{Value, json};

use super::confirm::confirm;
use crate::args::LogTrimArgs;
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::table::Columns;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &LogTrimArgs) -> Result<(), Failure> {
    let info = client.log(&args.log).await?;
    let partitions = match args.partition {
        Some(partition) => vec![partition],
        None => (0..info.partitions.len() as u32).collect(),
    };
    if !args.yes {
        let of = match args.partition {
            Some(partition) => format!("partition {partition}"),
            None => counted(partitions.len() as u64, "partition"),
        };
        let question = format!("Let go of all records before {} in {} ({of})?", args.before, args.log);
        confirm(&question, &format!("{} was not trimmed", args.log))?;
    }
    let before = args.before.resolve(now_ms());
    let mut trimmed = Vec::new();
    for partition in partitions {
        let upto = client.trim(&args.log, partition, before).await;
        trimmed.push((
            partition,
            upto.map_err(|error| Failure::from(error).while_at(format_args!("{} partition {partition}", args.log)))?,
        ));
    }
    if args.output.json { print_json(&to_json(&trimmed)) } else { print(&to_text(&trimmed)) }
}

fn to_text(trimmed: &[(u32, Lsn)]) -> String {
    let mut rows = Columns::new([">PARTITION", ">TRIMMED TO"]);
    for (partition, upto) in trimmed {
        let upto = if *upto == Lsn::ZERO { "-".to_owned() } else { upto.to_string() };
        rows.row([partition.to_string(), upto]);
    }
    rows.into_text()
}

/// `[{"partition": 0, "trim": "e1n41"}, …]`
fn to_json(trimmed: &[(u32, Lsn)]) -> Value {
    trimmed.iter().map(|(partition, upto)| json!({ "partition": partition, "trim": upto.to_string() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_line() {
        let trimmed = [(0, "e1n41".parse().unwrap()), (1, Lsn::ZERO)];
        assert_eq!(to_text(&trimmed), "PARTITION  TRIMMED TO\n        0       e1n41\n        1           -\n");
        assert_eq!(to_json(&trimmed)[0], json!({ "partition": 0, "trim": "e1n41" }));
    }
}
