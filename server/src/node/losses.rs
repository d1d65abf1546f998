//! Telling the cluster what this node's disks have lost.
//!
//! A start or the scrubber finds parts of a shard's log damaged and notes them. The records that lay there go on record in
//! the metadata tier as lacking this shard's copy; only then are the losses forgotten here. A node that dies on the way finds
//! them noted and tells again, which changes nothing there.
//!
//! Records of an undecided epoch wait until it is decided. Until then the loss stays noted, and a start with a noted loss
//! makes the shard incomplete for such epochs (see [`ShardDir::registration`](super::shards::ShardDir::registration)): its word
//! that it lacks a record proves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_metadata::state::{RecordUnderReplicated, UnderReplicatedChange, UnderReplicatedError, UnderReplicatedItem};
use dlog_proto::clock::every;
use dlog_proto::{ShardId, ShardRef};
use dlog_storage_node::Loss;
use dlog_storage_node::commit::Committer;
use dlog_storage_node::read::{LostRange, ReadError};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::control::ShardReaders;
use super::proposer::Requests;

/// How often it is looked for losses.
const EVERY: Duration = Duration::from_secs(10);
/// How long those wait that could not be told of yet: to find out what they held, the whole index is gone through.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// Losses for which the index is gone through once.
const LOSSES_AT_ONCE: usize = 64;
/// Ranges that are told of in one command.
const ITEMS_AT_ONCE: usize = 512;

pub(crate) struct LossReporter {
    pub(crate) metadata: Metadata,
    pub(crate) shards: Arc<ShardReaders>,
    pub(crate) requests: Arc<Requests>,
}

/// Losses that could not be told of, and since when.
type Waiting = BTreeMap<ShardId, (Vec<Loss>, Instant)>;

impl LossReporter {
    /// For ever.
    pub(crate) async fn run(self) {
        let mut waiting = Waiting::new();
        let mut ticks = every(EVERY);
        loop {
            ticks.tick().await;
            for (shard, committer) in self.shards.committers() {
                self.look_after(shard, &committer, &mut waiting).await;
            }
        }
    }

    async fn look_after(&self, shard: ShardRef, committer: &Committer, waiting: &mut Waiting) {
        let Ok(Some(losses)) = look(committer.clone(), |committer| committer.reader().losses()).await else { return };
        let (known, since) = waiting.remove(&shard.shard).unwrap_or_else(|| (Vec::new(), Instant::now()));
        let mut later = known;
        if since.elapsed() >= AGAIN {
            later.clear();
        }
        later.retain(|loss| losses.contains(loss));
        let new: Vec<Loss> = losses.into_iter().filter(|loss| !later.contains(loss)).collect();
        let since = if new.is_empty() { since } else { Instant::now() };
        let mut on_record = Vec::new();
        for losses in new.chunks(LOSSES_AT_ONCE) {
            let told = self.report(shard, committer, losses.to_vec()).await;
            for (at, loss) in losses.iter().enumerate() {
                if told.get(at) == Some(&true) { on_record.push(*loss) } else { later.push(*loss) }
            }
        }
        if !on_record.is_empty() {
            tracing::warn!(shard = %shard.shard, losses = on_record.len(), "what the disk lost is on record as under-replicated");
            committer.forget_losses(on_record);
        }
        if !later.is_empty() {
            waiting.insert(shard.shard, (later, since));
        }
    }

    /// Whether all that was lost is on record now, for each of them. Nothing if the shard cannot be read.
    async fn report(&self, shard: ShardRef, committer: &Committer, losses: Vec<Loss>) -> Vec<bool> {
        let ranges = look(committer.clone(), move |committer| committer.reader().lost_ranges(&losses)).await;
        let mut told = Vec::new();
        for ranges in ranges.ok().flatten().unwrap_or_default() {
            told.push(self.record_all(shard, &ranges).await);
        }
        told
    }

    async fn record_all(&self, shard: ShardRef, ranges: &[LostRange]) -> bool {
        for ranges in ranges.chunks(ITEMS_AT_ONCE) {
            if !self.record(ranges.iter().map(|range| item(shard, range)).collect()).await {
                return false;
            }
        }
        true
    }

    async fn record(&self, items: Vec<UnderReplicatedItem>) -> bool {
        match self.requests.carry_out(&self.metadata, RecordUnderReplicated { items }).await {
            Ok((_, Ok(results))) => results.iter().filter_map(|result| result.as_ref().err()).all(is_settled),
            Ok((_, Err(error))) => {
                tracing::error!(%error, "losses cannot be put on record");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "losses are not on record yet");
                false
            }
        }
    }
}

fn item(shard: ShardRef, range: &LostRange) -> UnderReplicatedItem {
    let change = UnderReplicatedChange::Lost { from: range.first.esn(), to: range.last.esn() };
    UnderReplicatedItem::new(range.partition, range.first.epoch(), shard, change)
}

/// Whether there is nothing to put on record: nobody misses records of a deleted log, nor copies on a shard that should not
/// have had any.
fn is_settled(error: &UnderReplicatedError) -> bool {
    match error {
        UnderReplicatedError::Partition(_) | UnderReplicatedError::NotMember { .. } => true,
        UnderReplicatedError::NotDecided { .. } => {
            tracing::info!("{error}");
            false
        }
        UnderReplicatedError::NotOpen { .. } | UnderReplicatedError::BadRange { .. } => {
            tracing::error!("{error}");
            false
        }
    }
}

/// Looks into a shard, on a thread that may wait for the disk. `None` if the shard cannot be read.
async fn look<T: Send + 'static>(
    committer: Committer,
    look: impl FnOnce(&Committer) -> Result<T, ReadError> + Send + 'static,
) -> Result<Option<T>, tokio::task::JoinError> {
    spawn_blocking(move || {
        look(&committer).inspect_err(|error| tracing::error!(%error, "cannot tell what the disk has lost")).ok()
    })
    .await
}
