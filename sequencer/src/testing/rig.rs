//! One partition's sequencer by itself: a test answers what it asks.

use std::sync::Arc;
use std::time::Duration;

use dlog_proto::block::{Block, BlockBuilder, BlockKind, PlacementVersion};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord};
use dlog_proto::wire::{
    Acks, AppendError, AppendOk, BlockSummary, FetchBlock, FetchTarget, FetchedBlock, Kept, LostBefore, SealRefusal,
    SealedEpoch, SealedPartition, SealedState, Store, StoreAnswer,
};
use dlog_proto::{
    Durability, Epoch, EpochTable, Esn, Incarnation, Lsn, PartitionUid, QuorumConfig, Replication, ShardId, ShardRef,
    Time,
};

use crate::output::{Output, Proposal, Token};
use crate::partition::{AppendRequest, PartitionSequencer};
use crate::settings::Settings;
use crate::testing::table;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A sequencer, and what it asked for that nobody has answered yet.
pub(crate) struct Rig {
    pub(crate) sequencer: PartitionSequencer,
    pub(crate) now: Time,
    pub(crate) now_ms: i64,
    /// Stores that are not answered yet.
    pub(crate) stores: Vec<(ShardId, StoreAnswer)>,
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) seals: Vec<ShardId>,
    pub(crate) fetches: Vec<FetchBlock>,
    /// After which LSN what producers wrote was asked for.
    pub(crate) read_after: Vec<Lsn>,
    pub(crate) replies: Vec<(u64, Result<AppendOk, AppendError>)>,
    pub(crate) released: Lsn,
    pub(crate) settled: Esn,
    pub(crate) trim_limit: Lsn,
}

impl Rig {
    pub(crate) fn new(quorum: QuorumConfig, settings: Settings) -> Self {
        Self::of(table(quorum, 1, &[]), settings)
    }

    pub(crate) fn of(table: EpochTable, settings: Settings) -> Self {
        let sequencer = PartitionSequencer::new(table, Arc::new(settings), 1, Time::ZERO, |_| true);
        let (stores, proposals, replies) = (Vec::new(), Vec::new(), Vec::new());
        let (seals, fetches, read_after) = (Vec::new(), Vec::new(), Vec::new());
        let (now, released, settled, trim_limit) = (Time::ZERO, Lsn::ZERO, Esn::ZERO, Lsn::ZERO);
        let mut rig = Self {
            sequencer,
            now,
            now_ms: 0,
            stores,
            proposals,
            seals,
            fetches,
            read_after,
            replies,
            released,
            settled,
            trim_limit,
        };
        rig.pump();
        rig
    }

    pub(crate) fn pump(&mut self) {
        self.sequencer.pump(self.now, self.now_ms);
        while let Some(output) = self.sequencer.poll_output() {
            match output {
                Output::Store { store, block } => {
                    let header = *block.header();
                    let Store { shard, incarnation, placement, .. } = store;
                    let answer = StoreAnswer {
                        shard,
                        incarnation,
                        partition: header.partition,
                        epoch: header.epoch,
                        first_esn: header.first_esn,
                        snapshot: header.kind == BlockKind::ProducerSnapshot,
                        version: placement.version,
                        result: Ok(Kept::Flushed),
                    };
                    self.stores.push((shard, answer));
                }
                Output::Amend(amend) => {
                    let answer = StoreAnswer {
                        shard: amend.shard,
                        incarnation: amend.incarnation,
                        partition: amend.partition,
                        epoch: amend.epoch,
                        first_esn: amend.first_esn,
                        snapshot: false,
                        version: amend.placement.version,
                        result: Ok(Kept::Flushed),
                    };
                    self.stores.push((amend.shard, answer));
                }
                Output::Propose(proposal) => self.proposals.push(proposal),
                Output::Reply { token, outcome } => self.replies.push((token.0, outcome)),
                Output::Release { release, .. } => {
                    (self.released, self.settled) = (release.released, release.settled);
                    self.trim_limit = release.trim_limit;
                }
                Output::Seal { to, .. } => self.seals.push(to.shard),
                Output::Fetch(fetch) => self.fetches.push(fetch),
                Output::ReadProducers(read) => self.read_after.push(read.after),
                _ => {}
            }
        }
    }

    pub(crate) fn append(&mut self, token: u64, acks: Acks) {
        self.append_with(token, acks, BatchOptions::default());
    }

    pub(crate) fn append_with(&mut self, token: u64, acks: Acks, options: BatchOptions) {
        let mut batch = BatchBuilder::new(256);
        batch.append(&NewRecord::of_value(0, b"record"));
        let batch = batch.finish(options).freeze();
        let request = AppendRequest { token: Token(token), acks, with_offset: false, append_time: false, batch };
        self.sequencer.handle_append(self.now, self.now_ms, request);
        self.pump();
    }

    /// Answers what these nodes were asked.
    pub(crate) fn answer(&mut self, nodes: &[u16]) {
        let (now, rest) = std::mem::take(&mut self.stores).into_iter().partition(|(s, _)| nodes.contains(&s.node.0));
        self.stores = rest;
        let answers: Vec<(ShardId, StoreAnswer)> = now;
        answers.iter().for_each(|(_, answer)| self.sequencer.handle_stored(self.now, answer));
        self.pump();
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.now_ms += time.as_millis() as i64;
        self.pump();
    }

    pub(crate) fn link(&mut self, node: u16, up: bool) {
        self.sequencer.handle_link(self.now, ShardId::new(node, 0), up);
        self.pump();
    }

    pub(crate) fn sealed(&mut self, node: u16, by: u32, result: Result<SealedState, SealRefusal>) {
        self.sealed_after_loss(node, by, LostBefore::default(), result);
    }

    pub(crate) fn sealed_after_loss(
        &mut self,
        node: u16,
        by: u32,
        lost: LostBefore,
        result: Result<SealedState, SealRefusal>,
    ) {
        let incarnation = match result {
            Err(SealRefusal::Incarnation(Some(current))) => current,
            _ => Incarnation(1),
        };
        let from = ShardRef { shard: ShardId::new(node, 0), incarnation };
        let answer = SealedPartition { partition: PartitionUid(1), epoch: Epoch(by), result };
        self.sequencer.handle_sealed(from, lost, answer);
        self.pump();
    }

    /// Gives the blocks that were asked for, if they are those of [`stored_block`]. Who was asked, and for which.
    pub(crate) fn fetched(&mut self) -> Vec<(u16, Esn)> {
        let mut asked = Vec::new();
        for FetchBlock { shard, incarnation, partition, target } in std::mem::take(&mut self.fetches) {
            let FetchTarget::Records { first_esn, .. } = target else { continue };
            asked.push((shard.node.0, first_esn));
            let answer = FetchedBlock { shard, incarnation, partition, target, found: true };
            self.sequencer.handle_fetched(self.now, &answer, Some(stored_block(first_esn)));
        }
        self.pump();
        asked
    }

    pub(crate) fn replied(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.replies)
            .into_iter()
            .map(|(token, outcome)| {
                assert!(outcome.is_ok(), "{token}: {outcome:?}");
                token
            })
            .collect()
    }
}

/// This table, of a log that is acknowledged from memory.
pub(crate) fn cached(mut table: EpochTable) -> EpochTable {
    for entry in &mut table.epochs {
        let durability = Durability::WriteCache;
        entry.replication = Arc::new(Replication { durability, ..(*entry.replication).clone() });
    }
    table
}

pub(crate) fn nothing_held(epoch: u32) -> SealedState {
    let (epoch, blocks) = (Epoch(epoch), Vec::new());
    let epochs = vec![SealedEpoch { epoch, acked: Esn::ZERO, settled: Esn::ZERO, known_end: None, blocks }];
    SealedState { trim: Lsn::ZERO, epochs, snapshot: None }
}

/// One block of two records at ESN 1, under the placement of a wave that is to be on all three.
pub(crate) fn first_block_held(trim: u32) -> SealedState {
    block_held(1, &[1, 2, 3], trim)
}

pub(crate) fn block_held(first: u32, copyset: &[u16], trim: u32) -> SealedState {
    let version = PlacementVersion { writer_epoch: Epoch(1), wave: 1 };
    let copyset = copyset.iter().map(|node| ShardId::new(*node, 0).to_u32()).collect();
    let block = BlockSummary { first_esn: Esn(first), span: 2, crc: 1, len: 100, version, copyset };
    let blocks = if trim < 2 { vec![block] } else { Vec::new() };
    let (acked, settled) = (Esn::ZERO, Esn::ZERO);
    let epochs = vec![SealedEpoch { epoch: Epoch(1), acked, settled, known_end: None, blocks }];
    SealedState { trim: Lsn::new(Epoch(1), Esn(trim)), epochs, snapshot: None }
}

/// A block of two records that can be read.
fn stored_block(first_esn: Esn) -> Block {
    let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), first_esn, 0);
    builder.push(&bytes::Bytes::from(vec![0; 61]), 2, (0, 0));
    builder.finish()
}

/// As [`block_held`], of a block that [`Rig::fetched`] gives.
pub(crate) fn stored_held(first: u32, copyset: &[u16]) -> SealedState {
    let mut held = block_held(first, copyset, 0);
    held.epochs[0].blocks[0].crc = stored_block(Esn(first)).header().crc;
    held
}
