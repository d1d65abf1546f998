//! `dlog segment list`

use std::collections::BTreeMap;

use dlog_storage_node::offline::{Left, SegmentFile, SegmentState, live_bytes};
use dlog_storage_node::segment::SegmentId;
use serde_json::{Value, json};

use super::shards::{self, Shard};
use crate::args::SegmentListArgs;
use crate::failure::{Failure, Outcome};
use crate::output::human::{bytes, count};
use crate::output::table::Columns;
use crate::output::timestamp::timestamp;
use crate::output::{print, print_json};

pub(super) fn run(args: &SegmentListArgs) -> Result<Outcome, Failure> {
    let shards = shards::open(&args.dir)?;
    if args.output.json {
        let shards: Vec<Value> = shards.iter().map(to_json).collect();
        print_json(&json!({ "shards": shards }))?;
    } else {
        let texts: Vec<String> = shards.iter().map(to_text).collect();
        print(&texts.join("\n"))?;
    }
    Ok(Outcome::Done)
}

pub(super) fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Sealed => "sealed",
        SegmentState::Active => "active",
        SegmentState::Ready => "ready",
        SegmentState::Renamed => "renamed",
        SegmentState::Foreign => "foreign",
        SegmentState::Damaged => "damaged",
        SegmentState::Newer => "newer version",
    }
}

/// How much of each segment the index calls needed; `None` if it cannot be read.
fn live(shard: &Shard) -> Option<BTreeMap<SegmentId, u64>> {
    let index = shard.index().open_read_only().ok()??;
    live_bytes(&*index).ok()
}

fn left(shard: &Shard) -> String {
    match shard.files.left() {
        Left::Cleanly(end) => format!("stopped cleanly, the log ends at {end}"),
        Left::Uncleanly => "in use, or not stopped cleanly".to_owned(),
        Left::Unknown(why) => why,
    }
}

pub(super) fn to_text(shard: &Shard) -> String {
    let files = &shard.files;
    let whose = files.identity().map_or_else(
        || "nothing says whose it is".to_owned(),
        |id| format!("shard {} of cluster {}, incarnation {}", id.shard, id.cluster, id.incarnation.0),
    );
    let live = live(shard);
    let mut rows = Columns::new(["SEGMENT", "STATE", ">LENGTH", ">USED", ">NEEDED", ">FIRST GROUP", "MADE"]);
    for file in &files.segments {
        let needed = live.as_ref().map(|live| live.get(&file.id).copied().unwrap_or(0));
        rows.row([
            file.id.to_string(),
            state(file.state).to_owned(),
            bytes(file.file_len),
            file.used.map_or_else(|| "-".to_owned(), |used| bytes(used.into())),
            needed.map_or_else(|| "-".to_owned(), bytes),
            file.first_commit.map_or_else(|| "-".to_owned(), count),
            file.header.map_or_else(|| "-".to_owned(), |header| timestamp(header.created_ms)),
        ]);
    }
    let (spare, others) = (spare_bytes(shard), &files.others);
    let mut text = format!("{}: {whose}; {}\n{}", shard.path.display(), left(shard), rows.into_text());
    if !files.spare.is_empty() {
        text += &format!("{} for segments to come ({})\n", counted_files(files.spare.len()), bytes(spare));
    }
    if !others.is_empty() {
        text += &format!("other files: {}\n", others.join(" "));
    }
    text
}

fn counted_files(number: usize) -> String {
    crate::output::human::counted(number as u64, "file")
}

fn spare_bytes(shard: &Shard) -> u64 {
    shard.files.spare.iter().map(|(_, len)| len).sum()
}

pub(super) fn to_json(shard: &Shard) -> Value {
    let files = &shard.files;
    let identity = files.identity();
    let live = live(shard);
    let segments: Vec<Value> = files.segments.iter().map(|file| segment_json(file, live.as_ref())).collect();
    let (left, end) = match files.left() {
        Left::Cleanly(end) => ("cleanly", Some(end.to_string())),
        Left::Uncleanly => ("uncleanly", None),
        Left::Unknown(_) => ("unknown", None),
    };
    json!({
        "directory": shard.path.display().to_string(),
        "shard": identity.map(|id| id.shard.to_string()),
        "cluster": identity.map(|id| id.cluster.to_string()),
        "incarnation": identity.map(|id| id.incarnation.0),
        "left": left,
        "end": end,
        "segments": segments,
        "spare_files": files.spare.len(),
        "spare_bytes": spare_bytes(shard),
        "others": files.others,
    })
}

fn segment_json(file: &SegmentFile, live: Option<&BTreeMap<SegmentId, u64>>) -> Value {
    json!({
        "segment": file.id.number(),
        "generation": file.id.generation(),
        "file": file.name,
        "state": state(file.state),
        "file_bytes": file.file_len,
        "used_bytes": file.used,
        "needed_bytes": live.map(|live| live.get(&file.id).copied().unwrap_or(0)),
        "first_group": file.first_commit,
        "created_ms": file.header.map(|header| header.created_ms),
    })
}
