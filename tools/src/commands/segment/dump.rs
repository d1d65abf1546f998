//! `dlog segment dump`

use std::io::{self, BufWriter, Write};

use dlog_proto::block::{Block, BlockKind};
use dlog_proto::record::{BatchError, RecordBatch, RecordRef, batches};
use dlog_proto::{Lsn, PartitionUid};
use dlog_storage_node::offline::{Content, Item, SegmentFile};
use serde_json::{Map, Value, json};

use super::inspect::json_line;
use super::shards::{self, Shard};
use crate::args::SegmentDumpArgs;
use crate::commands::read::{json, text};
use crate::failure::{Failure, Outcome};
use crate::output::tell;
use crate::output::timestamp::TimestampText;

pub(super) fn run(args: &SegmentDumpArgs) -> Result<Outcome, Failure> {
    let shards = shards::open(&args.dir)?;
    let mut dump = Dump::new(BufWriter::new(io::stdout().lock()), args);
    for shard in &shards {
        for file in shard.segments(args.segment) {
            dump.segment(shard, file).map_err(|error| Failure::output(&error))?;
        }
    }
    dump.out.flush().map_err(|error| Failure::output(&error))?;
    Ok(if dump.damaged == 0 { Outcome::Done } else { Outcome::DataLoss })
}

pub(super) struct Dump<'a, W> {
    pub(super) out: W,
    args: &'a SegmentDumpArgs,
    timestamp: TimestampText,
    pub(super) damaged: u64,
}

impl<'a, W: Write> Dump<'a, W> {
    pub(super) fn new(out: W, args: &'a SegmentDumpArgs) -> Self {
        Self { out, args, timestamp: TimestampText::new(), damaged: 0 }
    }

    pub(super) fn segment(&mut self, shard: &Shard, file: &SegmentFile) -> io::Result<()> {
        let mut frames = match shard.files.frames(file) {
            Ok(frames) => frames,
            Err(error) => {
                self.complain(&format!("{} cannot be read: {error}", file.name));
                return Ok(());
            }
        };
        while let Some(item) = frames.next() {
            let Item::Frame(frame) = item else { continue };
            let Content::Block { header, .. } = &frame.content else { continue };
            let wanted = self.args.partition.is_none_or(|partition| partition == header.partition.0)
                && self.args.from.is_none_or(|from| header.last_lsn() >= from)
                && self.args.until.is_none_or(|until| header.first_lsn() <= until)
                && header.kind == BlockKind::Records;
            if !wanted {
                continue;
            }
            let (partition, at) = (header.partition, frame.at);
            match frames.block(&frame) {
                Ok(block) => self.block(&block)?,
                Err(why) => {
                    let (first, last) = (header.first_lsn(), header.last_lsn());
                    self.complain(&format!("partition {} {first} to {last} at {at}: {why}", partition.0));
                }
            }
        }
        Ok(())
    }

    fn complain(&mut self, what: &str) {
        self.damaged += 1;
        tell(format_args!("damaged: {what}"));
    }

    fn block(&mut self, block: &Block) -> io::Result<()> {
        let header = block.header();
        for batch in batches(bytes::Bytes::copy_from_slice(&block.body())) {
            let printed = match batch {
                Ok(batch) => self.batch(header.partition, header.epoch, &batch)?,
                Err(error) => Err(error),
            };
            if let Err(error) = printed {
                let first = header.first_lsn();
                self.complain(&format!("a batch of the block of partition {} at {first}: {error}", header.partition.0));
                return Ok(());
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        partition: PartitionUid,
        epoch: dlog_proto::Epoch,
        batch: &RecordBatch,
    ) -> io::Result<Result<(), BatchError>> {
        // A stored batch has `baseOffset` = ESN - 1.
        let first = (u64::from(epoch.0) << 32) | batch.header().base_offset.wrapping_add(1) & 0xffff_ffff;
        let records = match batch.records() {
            Ok(records) => records,
            Err(error) => return Ok(Err(error)),
        };
        for record in records.refs() {
            match record {
                Ok(record) => self.record(partition, Lsn(first + u64::from(record.offset_delta)), &record)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    fn record(&mut self, partition: PartitionUid, lsn: Lsn, record: &RecordRef<'_>) -> io::Result<()> {
        if self.args.from.is_some_and(|from| lsn < from) || self.args.until.is_some_and(|until| lsn > until) {
            return Ok(());
        }
        if self.args.output.json {
            return json_line(&mut self.out, &object(partition, lsn, record));
        }
        write!(self.out, "{}  ", partition.0)?;
        text::write(&mut self.out, lsn, self.timestamp.show(record.timestamp_ms), record)?;
        self.out.write_all(b"\n")
    }
}

fn object(partition: PartitionUid, lsn: Lsn, record: &RecordRef<'_>) -> Value {
    let mut object = Map::new();
    object.insert("partition_uid".to_owned(), json!(partition.0));
    object.insert("lsn".to_owned(), json!(lsn.to_string()));
    object.insert("timestamp_ms".to_owned(), json!(record.timestamp_ms));
    for (name, bytes) in [("key", record.key), ("value", record.value)] {
        match json::text_or_base64(bytes) {
            (Some(text), _) => object.insert(name.to_owned(), json!(text)),
            (None, base64) => object.insert(format!("{name}_base64"), json!(base64)),
        };
    }
    Value::Object(object)
}
