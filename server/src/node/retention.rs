//! Letting go: of records that are older or more than their log keeps, and of deleted logs.
//!
//! Retention is looked after by the node of the first live shard that has the partition; it asks the metadata tier for a trim,
//! which all shards follow. Deleted logs are erased when nobody can be reading them any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_metadata::state::{LogInfo, State, Trim, TrimItem};
use dlog_proto::clock::{every, now_ms};
use dlog_proto::wire::Liveness;
use dlog_proto::{Lsn, NodeId, PartitionUid, ShardId, ShardRef};
use dlog_storage_node::read::{Reader, Retention};
use tokio::task::spawn_blocking;

use super::control::ShardReaders;
use super::core::{Cores, Input};
use super::proposer::Requests;

/// How often it is looked for what can go.
const EVERY: Duration = Duration::from_secs(10);
/// A deleted log's records stay on disk for so long.
const GRACE_MS: i64 = 5 * 60 * 1000;
/// Partitions that are trimmed by one command.
const TRIMS_AT_ONCE: usize = 500;

pub(crate) struct Keeper {
    pub(crate) node: NodeId,
    pub(crate) metadata: Metadata,
    pub(crate) shards: Arc<ShardReaders>,
    pub(crate) cores: Cores,
    pub(crate) requests: Arc<Requests>,
}

/// A partition that this node looks after.
struct Kept {
    partition: PartitionUid,
    retention: Retention,
    reader: Reader,
}

impl Keeper {
    /// For ever.
    pub(crate) async fn run(self) {
        let mut erased = HashSet::new();
        let mut ticks = every(EVERY);
        loop {
            ticks.tick().await;
            let (view, liveness) = (self.metadata.view(), self.metadata.liveness());
            self.erase_deleted(&view, &mut erased);
            self.trim(&view, &liveness).await;
        }
    }

    fn erase_deleted(&self, view: &State, erased: &mut HashSet<PartitionUid>) {
        let old_enough = now_ms() - GRACE_MS;
        let over = view.deleted_logs().filter(|(_, log)| log.deleted_ms <= old_enough);
        let partitions: Vec<PartitionUid> =
            over.flat_map(|(_, log)| log.partitions.clone()).filter(|partition| erased.insert(*partition)).collect();
        if !partitions.is_empty() {
            self.cores.tell_all(|| Input::Erase(partitions.clone()));
        }
    }

    async fn trim(&self, view: &State, liveness: &Liveness) {
        let mut kept = Vec::new();
        for info in view.logs(None) {
            let (age_ms_max, bytes_max) = (info.attributes.retention_ms(), info.attributes.retention_bytes());
            if age_ms_max.is_some() || bytes_max.is_some() {
                kept.extend(self.looked_after(view, liveness, info, Retention { age_ms_max, bytes_max }));
            }
        }
        if kept.is_empty() {
            return;
        }
        let Ok(items) = spawn_blocking(move || kept.iter().filter_map(trim_item).collect::<Vec<_>>()).await else {
            return;
        };
        for items in items.chunks(TRIMS_AT_ONCE) {
            let trim = Trim { items: items.to_vec() };
            match self.metadata.run(self.requests.next(), trim).await {
                Ok((_, Ok(results))) => {
                    for error in results.iter().filter_map(|result| result.as_ref().err()) {
                        tracing::debug!(%error, "retention waits");
                    }
                }
                Ok((_, Err(error))) => tracing::warn!(%error, "retention waits"),
                Err(error) => tracing::debug!(%error, "retention waits"),
            }
        }
    }

    /// The partitions of a log whose first live shard is of this node.
    fn looked_after(&self, view: &State, liveness: &Liveness, info: &LogInfo, retention: Retention) -> Vec<Kept> {
        let lives = |node: NodeId| liveness.alive.iter().any(|alive| alive.node == node);
        let mut kept = Vec::new();
        for partition in &info.partitions {
            let Some(table) = view.table(*partition) else { continue };
            let Some(newest) = table.newest() else { continue };
            let mut members = (0..newest.nodeset.len()).map(|member| newest.nodeset.shard_ref(member));
            let first = members.find(|shard: &ShardRef| lives(shard.shard.node)).map(|shard| shard.shard);
            let mine = first.filter(|shard: &ShardId| shard.node == self.node);
            let Some(reader) = mine.and_then(|shard| self.shards.reader(shard)) else { continue };
            // A shard has its share of the partition's copies.
            let copies = u64::from(newest.replication.quorum.replication_factor);
            let share = |bytes: u64| (bytes / newest.nodeset.len() as u64).saturating_mul(copies);
            let retention = Retention { bytes_max: retention.bytes_max.map(share), ..retention };
            kept.push(Kept { partition: *partition, retention, reader });
        }
        kept
    }
}

fn trim_item(kept: &Kept) -> Option<TrimItem> {
    let Kept { partition, retention, reader } = kept;
    let point: Result<Option<Lsn>, _> = reader.retention_point(*partition, retention, now_ms());
    let point = point.inspect_err(|error| tracing::error!(%partition, %error, "cannot tell what can go"));
    point.ok().flatten().map(|upto| TrimItem { partition: *partition, upto })
}
