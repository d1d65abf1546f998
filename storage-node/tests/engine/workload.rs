//! A random but lawful life of a shard: what the admission core could ask for.

use std::collections::BTreeMap;

use bytes::Bytes;
use dlog_proto::block::{Block, BlockBuilder, Copyset, Placement, PlacementVersion};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, ShardId};
use dlog_storage_node::entry::{Entry, PartitionMeta, ShardMeta};
use fastrand::Rng;

/// What the shard is told next.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Append(Vec<Entry>),
    Sync,
    Upkeep,
    Checkpoint,
    Mark,
    Reclaim,
    /// Rewrite a segment.
    Rewrite,
    /// Close and open again.
    Restart,
}

/// What was asked for so far of a partition.
#[derive(Debug, Clone)]
struct Asked {
    meta: PartitionMeta,
    epoch: u32,
    next_esn: u32,
    /// Blocks left out, to come late.
    skipped: Vec<(u32, u32)>,
    /// First ESN by epoch, with the wave of the newest placement.
    blocks: BTreeMap<(u32, u32), u32>,
}

pub(crate) struct Workload {
    rng: Rng,
    partitions: BTreeMap<u64, Asked>,
    block_len_max: usize,
    reclaims: bool,
}

impl Workload {
    pub(crate) fn new(seed: u64, partitions: u64, block_len_max: usize, reclaims: bool) -> Self {
        let asked = |partition| Asked {
            meta: PartitionMeta::new(PartitionUid(partition)),
            epoch: 1,
            next_esn: 1,
            skipped: Vec::new(),
            blocks: BTreeMap::new(),
        };
        let partitions = (1..=partitions).map(|partition| (partition, asked(partition))).collect();
        Self { rng: Rng::with_seed(seed), partitions, block_len_max, reclaims }
    }

    pub(crate) fn partitions(&self) -> Vec<PartitionUid> {
        self.partitions.keys().map(|partition| PartitionUid(*partition)).collect()
    }

    pub(crate) fn next(&mut self) -> Action {
        match self.rng.u8(0..100) {
            0..62 => {
                let count = self.rng.usize(1..8);
                Action::Append((0..count).map(|_| self.entry()).collect())
            }
            62..80 => Action::Sync,
            80..91 => Action::Upkeep,
            91..92 => Action::Checkpoint,
            92..94 if self.reclaims => Action::Rewrite,
            92..94 => Action::Checkpoint,
            94..95 => Action::Mark,
            95..96 if self.reclaims => Action::Rewrite,
            96..98 if self.reclaims => Action::Reclaim,
            _ => Action::Restart,
        }
    }

    fn entry(&mut self) -> Entry {
        let partition = self.rng.u64(1..=self.partitions.len() as u64);
        match self.rng.u8(0..100) {
            0..70 => self.block(partition),
            70..80 => self.late_block(partition),
            80..88 => self.amend(partition),
            88..91 => self.snapshot(partition),
            91..94 => self.trim(partition),
            94..99 => self.next_epoch(partition),
            _ => Entry::Shard(ShardMeta { incomplete_before: self.rng.u64(..) }),
        }
    }

    fn asked(&mut self, partition: u64) -> &mut Asked {
        self.partitions.get_mut(&partition).expect("one of them")
    }

    fn block(&mut self, partition: u64) -> Entry {
        let span = self.rng.u32(1..4);
        let leave_out = self.rng.u8(0..8) == 0;
        let asked = self.asked(partition);
        if leave_out {
            asked.skipped.push((asked.next_esn, 2));
            asked.next_esn += 2;
        }
        let (epoch, first_esn) = (asked.epoch, asked.next_esn);
        asked.next_esn += span;
        asked.blocks.insert((epoch, first_esn), 1);
        self.make(partition, epoch, first_esn, span)
    }

    fn late_block(&mut self, partition: u64) -> Entry {
        let asked = self.asked(partition);
        let Some((first_esn, span)) = asked.skipped.pop() else { return self.block(partition) };
        let epoch = asked.epoch;
        asked.blocks.insert((epoch, first_esn), 1);
        self.make(partition, epoch, first_esn, span)
    }

    fn make(&mut self, partition: u64, epoch: u32, first_esn: u32, span: u32) -> Entry {
        let len = self.rng.usize(20..self.block_len_max);
        let block = block(partition, epoch, first_esn, span, len, self.rng.u8(..));
        Entry::Block { placement: placement(epoch, 1, first_esn), block }
    }

    fn amend(&mut self, partition: u64) -> Entry {
        let (choice, older) = (self.rng.u32(..), self.rng.u8(0..4) == 0);
        let asked = self.asked(partition);
        let count = asked.blocks.len();
        let Some((at, wave)) = asked.blocks.iter_mut().nth(choice as usize % count.max(1)) else {
            return self.block(partition);
        };
        let ((epoch, first_esn), named) = (*at, if older { *wave } else { *wave + 1 });
        *wave = named;
        let placement = placement(epoch, named, first_esn);
        Entry::Amend { partition: PartitionUid(partition), epoch: Epoch(epoch), first_esn: Esn(first_esn), placement }
    }

    fn snapshot(&mut self, partition: u64) -> Entry {
        let asked = self.asked(partition);
        let (epoch, next_esn) = (Epoch(asked.epoch), Esn(asked.next_esn));
        let bytes = Bytes::from(format!("producers of {partition} at {epoch}n{next_esn}"));
        let block = BlockBuilder::producer_snapshot(PartitionUid(partition), epoch, next_esn, 5, bytes);
        Entry::Block { placement: placement(epoch.0, 1, next_esn.0), block }
    }

    fn trim(&mut self, partition: u64) -> Entry {
        let back = self.rng.u32(0..6);
        let asked = self.asked(partition);
        let trim = Lsn::new(Epoch(asked.epoch), Esn(asked.next_esn.saturating_sub(back)));
        asked.meta.trim = asked.meta.trim.max(trim);
        let trim = asked.meta.trim;
        asked.blocks.retain(|(epoch, esn), _| Lsn::new(Epoch(*epoch), Esn(*esn)) > trim);
        asked.skipped.retain(|(esn, _)| Lsn::new(Epoch(asked.epoch), Esn(*esn)) > trim);
        Entry::Partition(asked.meta.clone())
    }

    /// The epoch ends, a few records before its last one, and the next begins.
    fn next_epoch(&mut self, partition: u64) -> Entry {
        let (back, authoritative) = (self.rng.u32(0..5), self.rng.u8(0..3) > 0);
        let asked = self.asked(partition);
        let epoch = asked.epoch;
        // An end never parts a block.
        let floor = if asked.meta.trim.epoch().0 == epoch { asked.meta.trim.esn().0 } else { 0 };
        let wanted = asked.next_esn.saturating_sub(1 + back).max(floor);
        let beyond = asked.blocks.range((epoch, wanted + 1)..=(epoch, u32::MAX)).next();
        let last_esn = beyond.map_or(asked.next_esn - 1, |((_, esn), _)| esn - 1).max(floor);
        asked.blocks.retain(|(e, esn), _| *e != epoch || *esn <= last_esn);
        asked.meta.ends.push(EpochEnd { epoch: Epoch(epoch), last_esn: Esn(last_esn), authoritative });
        asked.meta.seal = Epoch(epoch + 1);
        (asked.epoch, asked.next_esn) = (epoch + 1, 1);
        asked.skipped.clear();
        Entry::Partition(asked.meta.clone())
    }
}

pub(crate) fn block(partition: u64, epoch: u32, first_esn: u32, span: u32, len: usize, fill: u8) -> Block {
    let timestamp = i64::from(epoch) * 1_000_000 + i64::from(first_esn);
    let mut builder = BlockBuilder::new(PartitionUid(partition), Epoch(epoch), Esn(first_esn), timestamp);
    builder.push(&Bytes::from(vec![fill; len.max(17)]), span, (timestamp, timestamp));
    builder.finish()
}

pub(crate) fn placement(writer_epoch: u32, wave: u32, first_esn: u32) -> Placement {
    Placement {
        version: PlacementVersion { writer_epoch: Epoch(writer_epoch), wave },
        copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).expect("two shards"),
        acked: Esn(first_esn.saturating_sub(1)),
        settled: Esn(first_esn.saturating_sub(3)),
    }
}
