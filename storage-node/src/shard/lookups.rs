//! What a recovering sequencer asks of a shard's disk without changing anything. It may wait for the disk: not for a core's thread.
//!
//! Answers tell the incarnation that was asked for: whoever asked an earlier disk gets "not here" from this one, and goes on.

use dlog_proto::Incarnation;
use dlog_proto::block::Block;
use dlog_proto::producer::ProducerTable;
use dlog_proto::wire::{FetchBlock, FetchTarget, FetchedBlock, LostBefore, ProducersRead, ReadProducers};

use crate::read::{Found, Reader};

/// Looks for a block on the shard's disk, which is that of `mine`. What cannot be read is not there.
pub fn fetch(reader: &Reader, mine: Incarnation, fetch: &FetchBlock) -> (FetchedBlock, Option<Block>) {
    let FetchBlock { shard, incarnation, partition, target } = *fetch;
    let found = match target {
        _ if incarnation != mine => Ok(Found::Nothing),
        FetchTarget::Records { epoch, first_esn } => reader.fetch(partition, epoch, first_esn),
        FetchTarget::ProducerSnapshot => reader.producer_snapshot(partition),
    };
    let block = match found {
        Ok(Found::Block(stored)) => Some(stored.block),
        _ => None,
    };
    (FetchedBlock { shard, incarnation, partition, target, found: block.is_some() }, block)
}

/// Goes through what producers wrote. There is a table only if all of it could be read. `lost` is the shard's.
pub fn read_producers(
    reader: &Reader,
    mine: Incarnation,
    lost: LostBefore,
    read: &ReadProducers,
) -> (ProducersRead, Option<ProducerTable>) {
    let ReadProducers { shard, incarnation, partition, epoch, after, ends } = read;
    let mut table = ProducerTable::default();
    let is_mine = *incarnation == mine;
    let snapshot = if is_mine { reader.producer_snapshot_at(*partition) } else { Ok(None) };
    let filled = is_mine && matches!(reader.fill_producers(*partition, *after, ends, &mut table), Ok(true));
    let ok = filled && snapshot.is_ok();
    let answer = ProducersRead {
        shard: *shard,
        incarnation: *incarnation,
        partition: *partition,
        epoch: *epoch,
        after: *after,
        lost,
        snapshot: snapshot.unwrap_or_default(),
        ok,
    };
    (answer, ok.then_some(table))
}
