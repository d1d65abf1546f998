//! Whether everything in a shard's directory is as it should be.
//!
//! What a start would find is found by the code that starts a shard, on a disk that it cannot change. Then every frame of
//! every segment is read and every block's checksum computed, what the index should know of it is looked for, and in the end
//! everything that the index knows is read as a reader would. So nothing can be missing on either side.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use dlog_proto::block::{BlockHeader, BlockKind};
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};

use super::counts;
use super::frames::{Content, Frame, Item};
use super::{Left, SegmentFile, SegmentState, ShardFiles};
use crate::config::EngineConfig;
use crate::disk::boot_id;
use crate::engine::unmarked;
use crate::entry::Fate;
use crate::index::kv::{Direction, Kv, KvError, KvStore};
use crate::index::layered::Layered;
use crate::index::schema::{AmendRow, LateRow, PartitionRow, Row, RunRow, Table, first_lsn};
use crate::index::transaction::scan;
use crate::read::{Found, ReadError, ReadItem, Reader};
use crate::recovery::inventory::Inventory;
use crate::recovery::{Loss, OpenError, losses, replay, shard_row, unusable};
use crate::segment::Position;
use crate::segment::encode::END_FRAME_LEN;
use crate::segment::file::Segment;
use crate::segment::header::Identity;
use crate::shared::Shared;
use crate::upkeep::partition_row;

/// Faults that are told one by one; of more only how many there are.
const FAULTS_MAX: usize = 10_000;
/// Read at a time, in bytes.
const CHUNK_LEN: usize = 4 << 20;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The marker is missing or damaged.
    Marker,
    /// A file is not the segment that it should be, or is cut short.
    File,
    /// A part of the log is damaged or gone where it was durable.
    Loss,
    /// A block's checksum does not hold, or it cannot be read.
    Block,
    /// The index is missing, damaged, or does not say what the segments say. It can be made again.
    Index,
}

impl FaultKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marker => "marker",
            Self::File => "file",
            Self::Loss => "loss",
            Self::Block => "block",
            Self::Index => "index",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub what: String,
    /// The file, if it is about one.
    pub file: Option<String>,
    /// Bytes of the file.
    pub bytes: Option<(u32, u32)>,
    /// Records that are concerned, as far as that is known: partition, first and last LSN.
    pub records: Vec<(PartitionUid, Lsn, Lsn)>,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), file: None, bytes: None, records: Vec::new() }
    }

    fn file(self, name: &str) -> Self {
        Self { file: Some(name.to_owned()), ..self }
    }

    fn bytes(self, begin: u32, end: u32) -> Self {
        Self { bytes: Some((begin, end)), ..self }
    }

    fn records(mut self, partition: PartitionUid, first: Lsn, last: Lsn) -> Self {
        self.records.push((partition, first, last));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(file) = &self.file {
            write!(f, "{file}")?;
            if let Some((begin, end)) = self.bytes {
                write!(f, " at {begin}..{end}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        for (partition, first, last) in self.records.iter().take(3) {
            write!(f, " [partition {} {first} to {last}]", partition.0)?;
        }
        if self.records.len() > 3 {
            write!(f, " and {} more", self.records.len() - 3)?;
        }
        Ok(())
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The first of them, in the order in which they were found.
    pub faults: Vec<Fault>,
    pub fault_count: u64,
    /// Whole blocks.
    pub blocks: u64,
    /// Bytes of segments that were read and should hold frames.
    pub bytes: u64,
    /// Bytes behind the end of the log that a start would drop: nobody was told that they are safe.
    pub torn_bytes: u64,
}

impl Verdict {
    pub fn is_well(&self) -> bool {
        self.fault_count == 0
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Whether some of these records are known to be damaged.
    fn concerns(&self, partition: PartitionUid, first: Lsn, last: Lsn) -> bool {
        let hit = |(p, a, b): &(PartitionUid, Lsn, Lsn)| *p == partition && *a <= last && first <= *b;
        self.faults.iter().any(|fault| fault.records.iter().any(hit))
    }
}

/// Why it cannot be said whether all is well.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("disk: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Index(#[from] KvError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ShardFiles {
    /// Reads everything. `index` is the one that was found, read-only; `scratch` takes one that is made in its place if it is
    /// of no use.
    pub fn verify(
        &self,
        index: Result<Option<Arc<dyn Kv>>, KvError>,
        scratch: &dyn KvStore,
    ) -> Result<Verdict, VerifyError> {
        let mut verdict = Verdict::default();
        if let Left::Unknown(why) = self.left() {
            verdict.add(Fault::new(FaultKind::Marker, why));
        }
        for file in &self.segments {
            if let Some(what) = file.fault() {
                verdict.add(Fault::new(FaultKind::File, what).file(&file.name));
            }
        }
        let cannot_open = |file: &SegmentFile| matches!(file.state, SegmentState::Foreign | SegmentState::Newer);
        let Some(identity) = self.identity().filter(|_| !self.segments.iter().any(cannot_open)) else {
            return Ok(verdict);
        };
        let mut inventory = Inventory::take(&self.disk, &identity)?;
        let (kv, end) = self.start(&identity, &mut inventory, index, scratch, &mut verdict)?;
        let shared = Arc::new(Shared::new(EngineConfig::default(), identity, Arc::clone(&self.disk), kv));
        for segment in inventory.segments.values().filter(|segment| segment.id <= end.segment) {
            shared.segments.insert(Arc::clone(segment));
        }
        let reader = Reader::new(Arc::clone(&shared));
        for loss in losses(&shared.kv)? {
            verdict.add(describe(&loss, &reader)?);
        }
        for segment in inventory.segments.values().filter(|segment| segment.id <= end.segment) {
            Check { shared: &shared, segment, end, row: None, verdict: &mut verdict }.run()?;
        }
        read_all(&reader, &mut verdict)?;
        counts::check(&shared.kv, &mut verdict)?;
        Ok(verdict)
    }

    /// Does what a start would do. Gives the index up to the end of the log, and that end.
    fn start(
        &self,
        identity: &Identity,
        inventory: &mut Inventory,
        index: Result<Option<Arc<dyn Kv>>, KvError>,
        scratch: &dyn KvStore,
        verdict: &mut Verdict,
    ) -> Result<(Arc<dyn Kv>, Position), VerifyError> {
        let marker = match &self.marker {
            Some(Ok(marker)) => *marker,
            _ => unmarked(identity, 0),
        };
        let search_len = EngineConfig::default().search_len();
        // Looked at on another machine, it is as if this one had gone down.
        let machine = boot_id().unwrap_or(u128::MAX);
        let mut start = |kv: &Arc<dyn Kv>, inventory: &mut Inventory| -> Result<Position, OpenError> {
            inventory.choose(&*self.disk, &**kv)?;
            let replayed = replay(&**kv, identity, inventory, &marker, machine, search_len)?;
            verdict.torn_bytes = replayed.torn_bytes;
            Ok(replayed.end)
        };
        let of_no_use = match index {
            Ok(None) if inventory.is_empty() => None,
            Ok(None) => Some("there is none: the next start makes it".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok(Some(found)) => {
                let kv: Arc<dyn Kv> = Arc::new(Layered::new(found));
                let why = match unusable(&*kv, identity, inventory) {
                    Ok(None) if marker.rebuild_index => Some("it was found damaged before".to_owned()),
                    Ok(None) => match start(&kv, inventory) {
                        Ok(end) => return Ok((kv, end)),
                        Err(OpenError::Index(error)) => Some(error.to_string()),
                        Err(error) => return Err(error.into()),
                    },
                    Ok(why) => why,
                    Err(error) => Some(error.to_string()),
                };
                why.map(|why| format!("{why}; the next start makes it again"))
            }
        };
        let kv = scratch.open()?;
        let end = start(&kv, inventory)?;
        if let Some(why) = of_no_use {
            verdict.add(Fault::new(FaultKind::Index, why));
        }
        Ok((kv, end))
    }
}

impl SegmentFile {
    /// What is wrong with the file, if anything is.
    fn fault(&self) -> Option<String> {
        match (self.state, &self.header) {
            (SegmentState::Damaged, _) => {
                Some("neither copy of its header can be read, and so nothing in it".to_owned())
            }
            (SegmentState::Newer, _) => Some("it was written by a newer version: look at it with that".to_owned()),
            (SegmentState::Foreign, Some(header)) => {
                Some(format!("it belongs to shard {} of cluster {}", header.identity.shard, header.identity.cluster))
            }
            (SegmentState::Renamed, Some(header)) => Some(format!("it holds segment {}", header.id)),
            (_, Some(header)) if self.file_len < u64::from(header.len) => {
                Some(format!("it was cut short: {} of {} bytes", self.file_len, header.len))
            }
            _ if self.header_copies < 2 => Some("one of the two copies of its header is damaged".to_owned()),
            _ => None,
        }
    }
}

fn describe(loss: &Loss, reader: &Reader) -> Result<Fault, VerifyError> {
    let lost = reader.lost_ranges(std::slice::from_ref(loss))?;
    let records = lost.iter().flatten().map(|range| (range.partition, range.first, range.last)).collect();
    let is_whole = loss.begin.offset == 0;
    let what = if is_whole { "the segment is gone" } else { "data that was durable is damaged or gone" };
    let fault = Fault::new(FaultKind::Loss, what).file(&loss.begin.segment.file_name());
    let fault = if is_whole { fault } else { fault.bytes(loss.begin.offset, loss.end) };
    Ok(Fault { records, ..fault })
}

/// Reads everything that the index knows.
fn read_all(reader: &Reader, verdict: &mut Verdict) -> Result<(), VerifyError> {
    for partition in reader.partitions()? {
        let mut next = Some(Lsn::ZERO);
        while let Some(from) = next {
            let chunk = reader.read(partition, from, Lsn::MAX, CHUNK_LEN)?;
            for item in &chunk.items {
                if let ReadItem::Damaged { first, last } = item
                    && !verdict.concerns(partition, *first, *last)
                {
                    let what = "the index knows of blocks that the segments do not have";
                    verdict.add(Fault::new(FaultKind::Loss, what).records(partition, *first, *last));
                }
            }
            next = chunk.next;
        }
        if matches!(reader.producer_snapshot(partition)?, Found::Damaged)
            && !verdict.concerns(partition, Lsn::ZERO, Lsn::MAX)
        {
            let what = format!("the producer snapshot of partition {} is damaged or gone", partition.0);
            verdict.add(Fault::new(FaultKind::Loss, what));
        }
    }
    Ok(())
}

/// Checks one segment against the index.
struct Check<'c> {
    shared: &'c Arc<Shared>,
    segment: &'c Arc<Segment>,
    /// Of the log.
    end: Position,
    /// The last partition that was looked up.
    row: Option<(PartitionUid, PartitionRow)>,
    verdict: &'c mut Verdict,
}

impl Check<'_> {
    fn run(mut self) -> Result<(), VerifyError> {
        let name = self.segment.id.file_name();
        let is_last = self.end.segment == self.segment.id;
        let limit = if is_last { self.end.offset } else { u32::MAX };
        let known: BTreeMap<u32, u32> = losses(&self.shared.kv)?
            .into_iter()
            .filter(|loss| loss.begin.segment == self.segment.id)
            .map(|loss| (loss.begin.offset, loss.end))
            .collect();
        let mut frames = super::Frames::new(Arc::clone(self.segment))?;
        let mut ended = false;
        while let Some(item) = frames.next() {
            match item {
                Item::Gap { begin, .. } if begin >= limit => break,
                Item::Gap { begin, end } => {
                    let is_known = known.range(..=begin).next_back().is_some_and(|(_, behind)| *behind >= end);
                    if !is_known {
                        let fault = Fault::new(FaultKind::Loss, "no frame stands here").file(&name);
                        self.verdict.add(fault.bytes(begin, end.min(limit)));
                    }
                }
                Item::Frame(frame) if frame.at.offset >= limit => break,
                Item::Frame(frame) => {
                    ended = matches!(frame.content, Content::End);
                    self.frame(&frames, &frame, &name)?;
                }
            }
        }
        self.verdict.bytes += u64::from(frames.offset().min(limit));
        if !ended && !is_last && known.is_empty() {
            let (at, fault) = (frames.offset(), Fault::new(FaultKind::Loss, "the frame that ends it is not there"));
            self.verdict.add(fault.file(&name).bytes(at, at + END_FRAME_LEN as u32));
        }
        Ok(())
    }

    fn frame(&mut self, frames: &super::Frames, frame: &Frame, name: &str) -> Result<(), VerifyError> {
        let kv = &self.shared.kv;
        let is_known = match &frame.content {
            Content::Block { header, .. } => {
                if let Err(why) = frames.block(frame) {
                    let fault = Fault::new(FaultKind::Block, why).file(name);
                    let fault = fault.bytes(frame.at.offset, frame.at.offset + frame.len);
                    self.verdict.add(fault.records(header.partition, header.first_lsn(), header.last_lsn()));
                } else {
                    self.verdict.blocks += 1;
                }
                self.knows_block(frame, header)?
            }
            Content::Amend { partition, epoch, first_esn, placement } => {
                let first = Lsn::new(*epoch, *first_esn);
                self.partition(*partition)?.meta.fate(first, first) != Fate::Data || {
                    let stored = kv.get(&Table::Amend.block(*partition, first))?;
                    let row = stored.as_deref().map(AmendRow::decode).transpose()?;
                    row.is_some_and(|row| row.placement.version >= placement.version)
                }
            }
            Content::Partition(meta) => {
                let row = self.partition(meta.partition)?;
                row.meta_at > Some(frame.at) || (row.meta_at == Some(frame.at) && row.meta == *meta)
            }
            Content::Shard(_) => shard_row(kv)?.at >= frame.at,
            Content::Commit { .. } | Content::Segments(_) | Content::End => true,
        };
        if !is_known {
            let fault = Fault::new(FaultKind::Index, "the index does not know what stands here").file(name);
            let fault = fault.bytes(frame.at.offset, frame.at.offset + frame.len);
            self.verdict.add(match &frame.content {
                Content::Block { header, .. } => fault.records(header.partition, header.first_lsn(), header.last_lsn()),
                _ => fault,
            });
        }
        Ok(())
    }

    fn partition(&mut self, partition: PartitionUid) -> Result<&PartitionRow, KvError> {
        if self.row.as_ref().is_none_or(|(known, _)| *known != partition) {
            let row = partition_row(&self.shared.kv, partition)?.unwrap_or_else(|| PartitionRow::new(partition));
            self.row = Some((partition, row));
        }
        Ok(&self.row.as_ref().expect("just put there").1)
    }

    /// Whether the index leads to a block that counts, here or at a newer copy of it.
    fn knows_block(&mut self, frame: &Frame, header: &BlockHeader) -> Result<bool, KvError> {
        let (partition, first, at) = (header.partition, header.first_lsn(), frame.at);
        if partition_row(&self.shared.kv, partition)?.is_none() {
            return Ok(false);
        }
        if header.kind == BlockKind::ProducerSnapshot {
            // It may have given way to one that was then found to lie beyond an end.
            return Ok(true);
        }
        let row = self.partition(partition)?;
        let table = match row.meta.fate(first, header.last_lsn()) {
            Fate::Data => Table::Run,
            Fate::Quarantined => Table::Quarantine,
            Fate::Trimmed | Fate::Purged => return Ok(true),
        };
        let kv = &self.shared.kv;
        if kv.get(&Table::Late.block(partition, first))?.as_deref().map(LateRow::decode).transpose()?.is_some() {
            return Ok(true);
        }
        let before = table.blocks(partition, Lsn::new(first.epoch(), Esn::ZERO), first);
        let run = scan::<RunRow>(kv, &before, Direction::Descending, 1)?.pop();
        let holds = |(_, run): &(_, RunRow)| run.segment == at.segment && (run.begin..run.end).contains(&at.offset);
        Ok(run.is_some_and(|run| holds(&run)) || self.has_another_copy(partition, first)?)
    }

    /// Whether a reader finds the block at another place: it was stored again.
    fn has_another_copy(&self, partition: PartitionUid, first: Lsn) -> Result<bool, KvError> {
        let before = Table::Run.blocks(partition, Lsn::new(Epoch(first.epoch().0), Esn::ZERO), first);
        let run = scan::<RunRow>(&self.shared.kv, &before, Direction::Descending, 1)?.pop();
        let reaches = run.and_then(|(key, run)| Some(first_lsn(&key)? <= first && run.last_esn >= first.esn()));
        Ok(reaches == Some(true))
    }
}
