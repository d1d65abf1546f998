//! `dlog segment verify`

use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::offline::{Fault, Verdict};
use serde_json::{Value, json};

use super::shards::{self, Shard};
use crate::args::SegmentVerifyArgs;
use crate::failure::{Failure, Outcome};
use crate::output::human::{bytes, counted};
use crate::output::{print, print_json};

pub(super) fn run(args: &SegmentVerifyArgs) -> Result<Outcome, Failure> {
    let shards = shards::open(&args.dir)?;
    let mut verdicts = Vec::with_capacity(shards.len());
    for shard in &shards {
        let verdict = verify(shard)?;
        if !args.output.json {
            print(&to_text(shard, &verdict))?;
        }
        verdicts.push(verdict);
    }
    if args.output.json {
        let shards: Vec<Value> = shards.iter().zip(&verdicts).map(|(shard, verdict)| to_json(shard, verdict)).collect();
        let is_well = verdicts.iter().all(Verdict::is_well);
        print_json(&json!({ "well": is_well, "shards": shards }))?;
    }
    let faults: u64 = verdicts.iter().map(|verdict| verdict.fault_count).sum();
    match faults {
        0 => Ok(Outcome::Done),
        faults => {
            let hint = "what is lost here is on other nodes if the logs have more than one copy: start the node, and it says \
                        what it misses";
            Err(Failure::new(format!("{} found", counted(faults, "fault"))).hint(hint))
        }
    }
}

pub(super) fn verify(shard: &Shard) -> Result<Verdict, Failure> {
    let at = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", shard.path.display()));
    let _nobody_uses_it = shard.disk.keep_out().map_err(|error| at(&error))?;
    let scratch = tempfile::tempdir().map_err(|error| at(&error))?;
    let scratch = RocksStore::new(scratch.path(), RocksConfig::default());
    shard.files.verify(shard.index().open_read_only(), &scratch).map_err(|error| at(&error))
}

pub(super) fn to_text(shard: &Shard, verdict: &Verdict) -> String {
    let mut text = String::new();
    for fault in &verdict.faults {
        text += &format!("{} {fault}\n", shard.name());
    }
    let unnamed = verdict.fault_count - verdict.faults.len() as u64;
    if unnamed > 0 {
        text += &format!("{} and {} more\n", shard.name(), counted(unnamed, "fault"));
    }
    let outcome = match verdict.fault_count {
        0 => "all is well".to_owned(),
        faults => counted(faults, "fault"),
    };
    let (blocks, read) = (counted(verdict.blocks, "whole block"), bytes(verdict.bytes));
    let torn = match verdict.torn_bytes {
        0 => String::new(),
        torn => format!("; the next start drops {} behind the end of the log, as after any crash", bytes(torn)),
    };
    text + &format!("{}: {outcome}: {blocks} in {read}{torn}\n", shard.name())
}

pub(super) fn to_json(shard: &Shard, verdict: &Verdict) -> Value {
    json!({
        "shard": shard.name(),
        "directory": shard.path.display().to_string(),
        "well": verdict.is_well(),
        "fault_count": verdict.fault_count,
        "faults": verdict.faults.iter().map(fault_json).collect::<Vec<_>>(),
        "blocks": verdict.blocks,
        "bytes": verdict.bytes,
        "torn_bytes": verdict.torn_bytes,
    })
}

fn fault_json(fault: &Fault) -> Value {
    let records = fault.records.iter().map(|(partition, first, last)| {
        json!({ "partition": partition.0, "first": first.to_string(), "last": last.to_string() })
    });
    json!({
        "kind": fault.kind.name(),
        "what": fault.what,
        "file": fault.file,
        "begin": fault.bytes.map(|(begin, _)| begin),
        "end": fault.bytes.map(|(_, end)| end),
        "records": records.collect::<Vec<_>>(),
    })
}
