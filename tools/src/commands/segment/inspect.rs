//! `dlog segment inspect`

use std::io::{self, BufWriter, Write};

use dlog_proto::block::{BlockHeader, BlockKind, Placement};
use dlog_proto::{Lsn, ShardId};
use dlog_storage_node::offline::{Content, Frame, Frames, Item, SegmentFile};
use serde_json::{Map, Value, json};

use super::list::state;
use super::shards::{self, Shard};
use crate::args::SegmentInspectArgs;
use crate::failure::{Failure, Outcome};
use crate::output::human::{bytes, counted};
use crate::output::timestamp::timestamp;

pub(super) fn run(args: &SegmentInspectArgs) -> Result<Outcome, Failure> {
    let shards = shards::open(&args.dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut found = false;
    for shard in &shards {
        for file in shard.segments(args.segment) {
            found = true;
            let printed =
                if args.output.json { to_json(&mut out, shard, file) } else { to_text(&mut out, shard, file) };
            printed.map_err(|error| Failure::output(&error))?;
        }
    }
    out.flush().map_err(|error| Failure::output(&error))?;
    match args.segment {
        Some(number) if !found => Err(Failure::new(format!("there is no segment {number}"))),
        _ => Ok(Outcome::Done),
    }
}

pub(super) fn to_text(out: &mut impl Write, shard: &Shard, file: &SegmentFile) -> io::Result<()> {
    let created = file.header.map_or_else(|| "?".to_owned(), |header| timestamp(header.created_ms));
    let (name, len) = (&file.name, bytes(file.file_len));
    writeln!(out, "{} segment {} ({name}): {}, {len}, made {created}", shard.name(), file.id, state(file.state))?;
    let mut frames = match shard.files.frames(file) {
        Ok(frames) => frames,
        Err(error) => return writeln!(out, "  cannot be read: {error}"),
    };
    while let Some(item) = frames.next() {
        match item {
            Item::Gap { begin, end } => {
                writeln!(out, "  {begin:>10}  GAP        {} in which no frame stands", bytes((end - begin).into()))?;
            }
            Item::Frame(frame) => {
                let (kind, what) = describe(&frames, &frame);
                writeln!(out, "  {:>10}  {kind:<9}  {what}", frame.at.offset)?;
            }
        }
    }
    writeln!(out, "  {:>10}  no frame follows", frames.offset())
}

fn lsns(first: Lsn, last: Lsn) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn copies(placement: &Placement) -> String {
    placement.copyset.shards().iter().map(ShardId::to_string).collect::<Vec<_>>().join(" ")
}

fn describe(frames: &Frames, frame: &Frame) -> (&'static str, String) {
    match &frame.content {
        Content::Commit { number, group_len, durable } => {
            ("commit", format!("group {number}, {}, all before {durable} is durable", bytes((*group_len).into())))
        }
        Content::Block { placement, header } => {
            let damage = frames.block(frame).err().map_or_else(String::new, |why| format!("  DAMAGED: {why}"));
            (kind(header), format!("{}{damage}", block_text(header, placement)))
        }
        Content::Amend { partition, epoch, first_esn, placement } => {
            let first = Lsn::new(*epoch, *first_esn);
            let version = placement.version;
            let what = format!(
                "partition {} {first}  copies on {}  by e{} wave {}",
                partition.0,
                copies(placement),
                version.writer_epoch.0,
                version.wave
            );
            ("amend", what)
        }
        Content::Partition(meta) => {
            let ends: Vec<String> = meta.ends.iter().map(|end| Lsn::new(end.epoch, end.last_esn).to_string()).collect();
            let deleted = if meta.deleted { ", deleted" } else { "" };
            let what = format!(
                "partition {} trim {} seal {} ends [{}]{deleted}",
                meta.partition.0,
                meta.trim,
                meta.seal,
                ends.join(" ")
            );
            ("partition", what)
        }
        Content::Shard(meta) => ("shard", format!("incomplete before revision {}", meta.incomplete_before)),
        Content::Segments(segments) => ("segments", counted(segments.len() as u64, "segment")),
        Content::End => ("end", String::new()),
    }
}

fn kind(header: &BlockHeader) -> &'static str {
    match header.kind {
        BlockKind::Records => "block",
        BlockKind::ProducerSnapshot => "producers",
    }
}

fn block_text(header: &BlockHeader, placement: &Placement) -> String {
    let range = match header.kind {
        BlockKind::Records => lsns(header.first_lsn(), header.last_lsn()),
        BlockKind::ProducerSnapshot => format!("below {}", header.first_lsn()),
    };
    let version = placement.version;
    format!(
        "partition {} {range}  {} in {}  crc {:08x}  copies on {}  by e{} wave {}",
        header.partition.0,
        bytes(header.body_len.into()),
        counted(header.batch_count.into(), "batch").replace("batchs", "batches"),
        header.crc,
        copies(placement),
        version.writer_epoch.0,
        version.wave
    )
}

pub(super) fn to_json(out: &mut impl Write, shard: &Shard, file: &SegmentFile) -> io::Result<()> {
    let (name, segment) = (shard.name(), file.id.number());
    let line = |out: &mut _, kind: &str, more: Value| -> io::Result<()> {
        let mut object = Map::new();
        object.extend([
            ("shard".to_owned(), json!(name)),
            ("segment".to_owned(), json!(segment)),
            ("generation".to_owned(), json!(file.id.generation())),
            ("kind".to_owned(), json!(kind)),
        ]);
        if let Value::Object(more) = more {
            object.extend(more);
        }
        json_line(out, &Value::Object(object))
    };
    let mut frames = match shard.files.frames(file) {
        Ok(frames) => frames,
        Err(error) => {
            return line(out, "unreadable", json!({ "error": error.to_string(), "state": state(file.state) }));
        }
    };
    while let Some(item) = frames.next() {
        match item {
            Item::Gap { begin, end } => line(out, "gap", json!({ "offset": begin, "len": end - begin }))?,
            Item::Frame(frame) => {
                let (kind, mut object) = frame_json(&frames, &frame);
                object["offset"] = json!(frame.at.offset);
                object["len"] = json!(frame.len);
                line(out, kind, object)?;
            }
        }
    }
    Ok(())
}

pub(super) fn json_line(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn placement_json(placement: &Placement) -> Value {
    json!({
        "copyset": placement.copyset.shards().iter().map(ShardId::to_string).collect::<Vec<_>>(),
        "writer_epoch": placement.version.writer_epoch.0,
        "wave": placement.version.wave,
        "acked": placement.acked.0,
        "settled": placement.settled.0,
    })
}

fn frame_json(frames: &Frames, frame: &Frame) -> (&'static str, Value) {
    match &frame.content {
        Content::Commit { number, group_len, durable } => {
            ("commit", json!({ "group": number, "group_bytes": group_len, "durable": durable.to_string() }))
        }
        Content::Block { placement, header } => {
            let object = json!({
                "partition": header.partition.0,
                "first": header.first_lsn().to_string(),
                "last": header.last_lsn().to_string(),
                "records": header.span,
                "batches": header.batch_count,
                "bytes": header.body_len,
                "timestamp_ms": header.sequencer_timestamp,
                "crc": format!("{:08x}", header.crc),
                "placement": placement_json(placement),
                "damage": frames.block(frame).err(),
            });
            (kind(header), object)
        }
        Content::Amend { partition, epoch, first_esn, placement } => {
            let first = Lsn::new(*epoch, *first_esn).to_string();
            ("amend", json!({ "partition": partition.0, "first": first, "placement": placement_json(placement) }))
        }
        Content::Partition(meta) => {
            let end = |end: &dlog_proto::wire::EpochEnd| json!({ "last": Lsn::new(end.epoch, end.last_esn).to_string(), "authoritative": end.authoritative });
            let object = json!({
                "partition": meta.partition.0,
                "trim": meta.trim.to_string(),
                "seal": meta.seal.0,
                "ends": meta.ends.iter().map(end).collect::<Vec<_>>(),
                "deleted": meta.deleted,
            });
            ("partition", object)
        }
        Content::Shard(meta) => ("shard", json!({ "incomplete_before": meta.incomplete_before })),
        Content::Segments(segments) => {
            ("segments", json!({ "segments": segments.iter().map(|id| id.0).collect::<Vec<_>>() }))
        }
        Content::End => ("end", json!({})),
    }
}
