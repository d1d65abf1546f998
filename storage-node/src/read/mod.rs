//! Reading what the shard keeps.
//!
//! A reader works beside the writer. It looks into the overlay, then into the index, then at the bytes; it verifies every
//! block before it hands it out, and what it cannot verify it reports as damaged, never as absent.

mod cursor;
mod frames;
mod lost;
mod producers;
pub(crate) mod recent;
mod retention;
mod time;
mod view;

use std::sync::Arc;

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};

use self::cursor::{Copies, Cursor, Step};
use self::frames::Lying;
pub use self::lost::LostRange;
pub use self::retention::Retention;
use self::view::{Amends, View};
use crate::entry::{HeldBlock, Marks, PartitionImage, StoredBlock};
use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{RunRow, Table, first_lsn, partition_of};
use crate::index::transaction::scan;
use crate::recovery::{Loss, losses};
use crate::shared::Shared;

/// Reads beside the writer. Cheap to clone; may be used on any thread; holds no lock while it waits for the disk.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Part of a partition.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// In ascending order. What lies between them the shard does not have.
    pub items: Vec<ReadItem>,
    /// Where to go on; `None` if there is nothing more up to where was asked.
    pub next: Option<Lsn>,
}

#[derive(Debug, Clone)]
pub enum ReadItem {
    Block(StoredBlock),
    /// Something in this range was here and is damaged: that no block of it is given proves nothing.
    Damaged {
        first: Lsn,
        last: Lsn,
    },
}

/// Why nothing could be read. The shard's answer to whoever asked is then that it is out of service.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Index(#[from] KvError),
    /// What a seal must tell of cannot be read, and silence about it would say that it was never written.
    #[error("{first} to {last}, of an epoch whose end is not decided, cannot be read")]
    Unsettled { first: Lsn, last: Lsn },
}

/// What becomes of blocks that cannot be read when blocks are listed.
#[derive(Debug, Clone, Copy)]
enum Damage<'r> {
    /// It is an error, except for what is noted as lost: the cluster knows that this shard may lack it.
    Told(&'r [Loss]),
    Skipped,
}

impl Damage<'_> {
    fn is_expected(self, step: &Step) -> bool {
        match (self, step) {
            (Self::Skipped, _) => true,
            (Self::Told(losses), Step::Block(copies)) => copies.iter().all(|copy| copy.is_lost(losses)),
            (Self::Told(losses), Step::Damaged { .. }) => !losses.is_empty(),
        }
    }
}

/// Outcome of looking for one block.
#[derive(Debug, Clone)]
pub enum Found<T> {
    Block(T),
    /// It was here and is damaged.
    Damaged,
    Nothing,
}

/// How much a partition takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionSize {
    /// Bytes of the frames of its blocks that are not given up, as far as they are indexed; whole runs at a time.
    pub bytes: u64,
    pub blocks: u64,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// `None` if the shard knows nothing of the partition.
    pub fn load(&self, partition: PartitionUid) -> Result<Option<PartitionImage>, ReadError> {
        self.shared.steady(|| self.load_once(partition))
    }

    fn load_once(&self, partition: PartitionUid) -> Result<Option<PartitionImage>, ReadError> {
        let view = View::new(&self.shared, partition, Lsn::ZERO, Lsn::MAX, usize::MAX)?;
        if !view.is_known {
            return Ok(None);
        }
        let snapshot = view.snapshot().map(|at| at.lsn);
        let unsettled = self.unsettled(&view)?;
        Ok(Some(PartitionImage { meta: view.meta, marks: view.marks, snapshot, unsettled }))
    }

    fn unsettled(&self, view: &View) -> Result<Vec<HeldBlock>, ReadError> {
        let settled = |epoch| view.marks.of_epoch(epoch).map_or(Esn::ZERO, |marks| marks.settled);
        let mut from = view.floor.max(Lsn(view.meta.trim.0.saturating_add(1)));
        let known = losses(&self.shared.kv)?;
        let mut unsettled = Vec::new();
        // One epoch at a time: what is settled or decided is skipped, not read.
        while let Some(epoch) = self.next_epoch(view, from)? {
            let last = Lsn::new(epoch, Esn::MAX);
            if view.meta.end_of(epoch).is_none() {
                let from = from.max(Lsn::new(epoch, settled(epoch).next()));
                unsettled.extend(self.held(view, from, last, Damage::Told(&known))?);
            }
            from = Lsn(last.0.saturating_add(1));
        }
        Ok(unsettled)
    }

    /// The epoch of the first block at or after `from`.
    fn next_epoch(&self, view: &View, from: Lsn) -> Result<Option<Epoch>, ReadError> {
        let indexed = |table: Table| -> Result<Option<Lsn>, ReadError> {
            let range = table.blocks(view.partition, from, Lsn::MAX);
            let mut found = None;
            self.shared.kv.scan(&range.start..&range.end, Direction::Ascending, &mut |key, _| {
                found = first_lsn(key);
                std::ops::ControlFlow::Break(())
            })?;
            // A run that begins before may reach here.
            let before = table.blocks(view.partition, Lsn::new(from.epoch(), Esn::ZERO), from);
            let reaches = |row: &RunRow| Lsn::new(from.epoch(), row.last_esn) >= from;
            if table == Table::Run
                && scan::<RunRow>(&self.shared.kv, &before, Direction::Descending, 1)?
                    .first()
                    .is_some_and(|(_, row)| reaches(row))
            {
                found = Some(from);
            }
            Ok(found)
        };
        let runs = view.overlay.runs.iter().chain(&view.overlay.late);
        let overlay = runs.filter(|run| run.last_lsn() >= from).map(|run| run.first_lsn().max(from));
        let indexed = [indexed(Table::Run)?, indexed(Table::Late)?];
        Ok(overlay.chain(indexed.into_iter().flatten()).min().map(Lsn::epoch))
    }

    /// Data blocks above an LSN, ascending: those whose last LSN is above it.
    pub fn blocks_above(&self, partition: PartitionUid, above: Lsn) -> Result<Vec<HeldBlock>, ReadError> {
        let from = Lsn(above.0.saturating_add(1));
        self.shared.steady(|| {
            let view = View::new(&self.shared, partition, from, Lsn::MAX, usize::MAX)?;
            self.held(&view, from, Lsn::MAX, Damage::Skipped)
        })
    }

    fn held(&self, view: &View, from: Lsn, upto: Lsn, damage: Damage<'_>) -> Result<Vec<HeldBlock>, ReadError> {
        let mut cursor = Cursor::new(&self.shared, view, from, upto)?;
        let amends = view.amends(&self.shared, Lsn::new(from.epoch(), Esn::ZERO), upto)?;
        let mut held = Vec::new();
        while let Some(step) = cursor.next()? {
            let (first, last, lying) = match &step {
                Step::Block(copies) => {
                    let lying = copies.iter().find_map(|copy| copy.lying(&self.shared));
                    (copies[0].first, copies[0].last, lying)
                }
                Step::Damaged { first, last } => (*first, *last, None),
            };
            match lying {
                Some(lying) => held.push(self.describe_lying(lying, &amends)),
                None if !damage.is_expected(&step) => return Err(ReadError::Unsettled { first, last }),
                None => {}
            }
        }
        Ok(held)
    }

    fn describe_lying(&self, lying: Lying, amends: &Amends) -> HeldBlock {
        HeldBlock { placement: amends.newest(lying.first(), lying.placement), header: lying.header }
    }

    /// Data blocks with an LSN in `from..=upto`, until `bytes_max` is reached; at least one if there is one.
    pub fn read(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.shared.steady(|| self.read_once(partition, from, upto, bytes_max))
    }

    fn read_once(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> Result<Chunk, ReadError> {
        let view = View::new(&self.shared, partition, from, upto, bytes_max)?;
        // Beyond what the view has of the overlay, the index alone would leave things out.
        let rest = view.overlay.rest;
        let upto = rest.map_or(upto, |rest| upto.min(Lsn(rest.0 - 1)));
        let mut cursor = Cursor::new(&self.shared, &view, from, upto)?;
        let (mut chunk, mut bytes) = (Chunk::default(), 0);
        while let Some(step) = cursor.next()? {
            let (first, last) = match &step {
                Step::Block(copies) => (copies[0].first, copies[0].last),
                Step::Damaged { first, last } => (*first, *last),
            };
            let block = match step {
                Step::Block(copies) => self.read_copies(&copies),
                Step::Damaged { .. } => None,
            };
            match block {
                Some(stored) => {
                    bytes += stored.block.bytes().len();
                    chunk.items.push(ReadItem::Block(stored));
                }
                None => {
                    self.shared.counters.damaged_block();
                    chunk.items.push(ReadItem::Damaged { first: first.max(from), last: last.min(upto) });
                }
            }
            if bytes >= bytes_max {
                let behind = Lsn(last.0.saturating_add(1));
                chunk.next = cursor.peek().map(|next| next.max(behind)).filter(|next| *next <= upto);
                cursor.read_ahead(bytes_max);
                break;
            }
        }
        chunk.next = chunk.next.or(rest);
        self.amend(&view, &mut chunk)?;
        Ok(chunk)
    }

    /// The first good copy of a block, with the placement that is in its frame.
    fn read_copies(&self, copies: &Copies) -> Option<StoredBlock> {
        for copy in copies {
            if let Some((placement, block)) = self.shared.recent().get(copy.at) {
                return Some(StoredBlock { placement, block });
            }
            let Some(lying) = copy.lying(&self.shared) else {
                tracing::warn!(at = %copy.at, first = %copy.first, "a block's frame is damaged");
                continue;
            };
            match lying.block() {
                Ok(block) => return Some(StoredBlock { placement: lying.placement, block }),
                Err(error) => tracing::warn!(at = %copy.at, first = %copy.first, %error, "a block is damaged"),
            }
        }
        None
    }

    /// Gives blocks their newest placements.
    fn amend(&self, view: &View, chunk: &mut Chunk) -> Result<(), ReadError> {
        let mut blocks: Vec<&mut StoredBlock> = (chunk.items.iter_mut())
            .filter_map(|item| match item {
                ReadItem::Block(stored) => Some(stored),
                ReadItem::Damaged { .. } => None,
            })
            .collect();
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let range = (first.block.header().first_lsn(), last.block.header().first_lsn());
        let amends = view.amends(&self.shared, range.0, range.1)?;
        for stored in &mut blocks {
            let first = stored.block.header().first_lsn();
            stored.placement = amends.newest(first, stored.placement.clone());
        }
        Ok(())
    }

    /// The data block that begins exactly here.
    pub fn fetch(
        &self,
        partition: PartitionUid,
        epoch: Epoch,
        first_esn: Esn,
    ) -> Result<Found<StoredBlock>, ReadError> {
        let first = Lsn::new(epoch, first_esn);
        let mut chunk = self.read(partition, first, first, 1)?;
        Ok(match chunk.items.pop() {
            Some(ReadItem::Block(stored)) if stored.block.header().first_lsn() == first => Found::Block(stored),
            Some(ReadItem::Damaged { .. }) => Found::Damaged,
            _ => Found::Nothing,
        })
    }

    /// The data block that has this LSN.
    pub fn describe(&self, partition: PartitionUid, lsn: Lsn) -> Result<Found<HeldBlock>, ReadError> {
        self.shared.steady(|| self.describe_once(partition, lsn))
    }

    fn describe_once(&self, partition: PartitionUid, lsn: Lsn) -> Result<Found<HeldBlock>, ReadError> {
        let view = View::new(&self.shared, partition, lsn, lsn, usize::MAX)?;
        let mut cursor = Cursor::new(&self.shared, &view, lsn, lsn)?;
        let Some(step) = cursor.next()? else { return Ok(Found::Nothing) };
        let Step::Block(copies) = step else { return Ok(Found::Damaged) };
        let Some(lying) = copies.iter().find_map(|copy| copy.lying(&self.shared)) else { return Ok(Found::Damaged) };
        let amends = view.amends(&self.shared, lying.first(), lying.first())?;
        Ok(Found::Block(self.describe_lying(lying, &amends)))
    }

    /// The newest producer snapshot.
    pub fn producer_snapshot(&self, partition: PartitionUid) -> Result<Found<StoredBlock>, ReadError> {
        self.shared.steady(|| self.producer_snapshot_once(partition))
    }

    fn producer_snapshot_once(&self, partition: PartitionUid) -> Result<Found<StoredBlock>, ReadError> {
        let view = View::new(&self.shared, partition, Lsn::MAX, Lsn::MAX, 0)?;
        let Some(at) = view.snapshot() else { return Ok(Found::Nothing) };
        if let Some((placement, block)) = self.shared.recent().get(at.position) {
            return Ok(Found::Block(StoredBlock { placement, block }));
        }
        let segment = self.shared.segments.get(at.position.segment);
        let lying = segment.and_then(|segment| frames::at(&segment, at.position, at.len));
        let found = lying.filter(|lying| lying.first() == at.lsn && lying.header.partition == partition);
        let stored =
            found.and_then(|lying| Some(StoredBlock { block: lying.block().ok()?, placement: lying.placement }));
        Ok(stored.map_or(Found::Damaged, Found::Block))
    }

    /// Position of the newest producer snapshot: everything below it is in it.
    pub fn producer_snapshot_at(&self, partition: PartitionUid) -> Result<Option<Lsn>, ReadError> {
        self.shared.steady(|| {
            let view = View::new(&self.shared, partition, Lsn::MAX, Lsn::MAX, 0)?;
            Ok(view.snapshot().map(|at| at.lsn))
        })
    }

    /// How much the partition takes.
    pub fn size(&self, partition: PartitionUid) -> Result<PartitionSize, ReadError> {
        let row = crate::upkeep::partition_row(&self.shared.kv, partition)?;
        Ok(row.map_or_else(PartitionSize::default, |row| PartitionSize { bytes: row.bytes, blocks: row.blocks }))
    }

    /// LSN ranges that are kept aside: they lie beyond ends that were decided without authority.
    pub fn quarantined(&self, partition: PartitionUid) -> Result<Vec<(Lsn, Lsn)>, ReadError> {
        let range = Table::Quarantine.blocks(partition, Lsn::ZERO, Lsn::MAX);
        let rows = scan::<RunRow>(&self.shared.kv, &range, Direction::Ascending, usize::MAX)?;
        let lsns = |key: &[u8], row: RunRow| first_lsn(key).map(|first| (first, Lsn::new(first.epoch(), row.last_esn)));
        Ok(rows.into_iter().filter_map(|(key, row)| lsns(&key, row)).collect())
    }

    /// All partitions of which the index knows something.
    pub fn partitions(&self) -> Result<Vec<PartitionUid>, ReadError> {
        let mut partitions = Vec::new();
        let all = Table::Partition.all();
        self.shared.kv.scan(&all.start..&all.end, Direction::Ascending, &mut |key, _| {
            partitions.extend(partition_of(key));
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(partitions)
    }

    /// Marks as they are known, the noted ones included.
    pub fn marks(&self, partition: PartitionUid) -> Result<Marks, ReadError> {
        Ok(View::new(&self.shared, partition, Lsn::MAX, Lsn::MAX, 0)?.marks)
    }
}
