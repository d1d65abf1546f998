//! Telling the cluster what this node's disks have lost.
//!
//! A start or the scrubber finds parts of a shard's log damaged and notes them. Then, in this order:
//!
//! 1. The shard takes nothing and answers no seal any more; it goes on being read. A start with a noted loss begins like this.
//! 2. The metadata tier notes that the shard is damaged: for epochs activated before, its word that it lacks a record proves
//!    nothing, and it does not count towards an f-majority (trap C15).
//! 3. What lay there may have been seals. As of the revision of that note, the newest epoch of every partition is known, and the
//!    shard seals each there, durably, before it takes anything of it: no older epoch's sequencer that still runs finds it open.
//! 4. The records that lay there go on record as lacking this shard's copy; only then are the losses forgotten here.
//!
//! Each step may be done twice. A node that dies on the way finds the losses noted and begins again; that the shard is damaged is then noted
//! as of a later revision, which costs nothing but that more epochs are recovered without its word.
//!
//! Records of an undecided epoch wait until it is decided, and the loss stays noted as long: until then nothing says which of them lack a
//! copy, only that the shard is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_metadata::state::{
    Damaged, Partition, RecordUnderReplicated, UnderReplicatedChange, UnderReplicatedError, UnderReplicatedItem,
};
use dlog_proto::clock::every;
use dlog_proto::{PartitionUid, ShardId, ShardRef};
use dlog_storage_node::Loss;
use dlog_storage_node::commit::Committer;
use dlog_storage_node::read::{LostRange, ReadError};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::control::ShardReaders;
use super::core::{Cores, Input, SealAnew, ShardInput};
use super::proposer::Requests;

/// How often it is looked for losses.
const EVERY: Duration = Duration::from_secs(10);
/// How long those wait that could not be told of yet: to find out what they held, the whole index is gone through.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// How long sealing anew may take before it is begun again.
const SEALING_MAX: Duration = Duration::from_secs(60);
/// Losses for which the index is gone through once.
const LOSSES_AT_ONCE: usize = 64;
/// Ranges that are told of in one command.
const ITEMS_AT_ONCE: usize = 512;

pub(crate) struct LossReporter {
    metadata: Metadata,
    shards: Arc<ShardReaders>,
    cores: Cores,
    requests: Arc<Requests>,
    /// Losses after which the shard was sealed anew by this process.
    sealed_after: BTreeMap<ShardId, Vec<Loss>>,
}

/// Losses that could not be told of, and since when.
type Waiting = BTreeMap<ShardId, (Vec<Loss>, Instant)>;

impl LossReporter {
    pub(crate) fn new(metadata: Metadata, shards: Arc<ShardReaders>, cores: Cores, requests: Arc<Requests>) -> Self {
        Self { metadata, shards, cores, requests, sealed_after: BTreeMap::new() }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        let mut waiting = Waiting::new();
        let mut ticks = every(EVERY);
        loop {
            ticks.tick().await;
            for (shard, committer) in self.shards.committers() {
                self.look_after(shard, &committer, &mut waiting).await;
            }
        }
    }

    async fn look_after(&mut self, shard: ShardRef, committer: &Committer, waiting: &mut Waiting) {
        let Ok(Some(losses)) = look(committer.clone(), |committer| committer.reader().losses()).await else { return };
        let sealed_after = self.sealed_after.entry(shard.shard).or_default();
        sealed_after.retain(|loss| losses.contains(loss));
        if losses.iter().any(|loss| !sealed_after.contains(loss)) {
            if !self.seal_anew(shard).await {
                return;
            }
            self.sealed_after.insert(shard.shard, losses.clone());
        }
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

    /// Steps 1 to 3. Whether they are done.
    async fn seal_anew(&self, damaged: ShardRef) -> bool {
        let ShardRef { shard, incarnation } = damaged;
        let core = self.cores.of_shard(shard);
        core.tell(Input::Shard(shard, ShardInput::Damaged));
        let (revision, damaged_before) = match self
            .requests
            .carry_out(&self.metadata, Damaged { shard, incarnation })
            .await
        {
            Ok((revision, Ok(damaged_before))) => (revision, damaged_before),
            Ok((_, Err(error))) => {
                tracing::error!(%shard, %error, "the shard is damaged and takes nothing any more");
                return false;
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "the shard is damaged and takes nothing until the metadata tier knows");
                return false;
            }
        };
        let Ok(view) = self.metadata.wait_applied(revision).await else { return false };
        let newest = |(uid, partition): (PartitionUid, &Arc<Partition>)| Some((uid, partition.newest()?.0));
        let (done, sealed) = oneshot::channel();
        let newest = view.partitions().filter_map(newest).collect();
        core.tell(Input::Shard(shard, ShardInput::SealAnew(SealAnew { newest, damaged_before, done })));
        let sealed = timeout(SEALING_MAX, sealed).await.is_ok_and(|sealed| sealed.is_ok());
        match sealed {
            true => tracing::warn!(%shard, "the shard is damaged: every partition is sealed anew"),
            false => tracing::error!(%shard, "some partitions of the damaged shard cannot be sealed anew; tried again"),
        }
        sealed
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
