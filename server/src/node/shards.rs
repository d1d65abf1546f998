//! Opening this node's shards, and closing what cannot be served.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dlog_metadata::state::ShardRegistration;
use dlog_proto::clock::now_ms;
use dlog_proto::wire::LostBefore;
use dlog_proto::{ClusterId, Incarnation, ShardId};
use dlog_storage_node::commit::CommitConfig;
use dlog_storage_node::disk::{RealDisk, boot_id};
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::shard::ShardCore;
use dlog_storage_node::{Engine, EngineConfig, Identity, OpenError, Recovered, Start, identity_of};

use super::core::{CoreHandle, NewShard, Progress, ProgressSink};
use crate::config::Config;
use crate::data_dir::DataDir;

/// Why a shard is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardError {
    #[error("cannot use {}: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("cannot tell when this machine was started: {0}")]
    BootId(io::Error),
    #[error("shard {shard} in {}: {error}", path.display())]
    Open { shard: ShardId, path: PathBuf, error: OpenError },
}

/// A directory of this node that has or will have a shard.
#[derive(Debug)]
pub(crate) struct ShardDir {
    pub(crate) shard: ShardId,
    path: PathBuf,
    /// What stands on the disk, if anything.
    pub(crate) identity: Option<Identity>,
    opened: Option<(Engine, Recovered)>,
}

impl ShardDir {
    /// Looks at the directory of each shard. One that cannot be used is complained about and left out.
    pub(crate) fn all(config: &Config, data_dir: &DataDir) -> Vec<Self> {
        let look = |(shard, path)| {
            Self::look(shard, path)
                .inspect_err(|error| tracing::error!(%shard, "this shard is not served: {error}"))
                .ok()
        };
        Self::places(config, data_dir).into_iter().filter_map(look).collect()
    }

    /// Where each shard of this node is.
    pub(crate) fn places(config: &Config, data_dir: &DataDir) -> Vec<(ShardId, PathBuf)> {
        let shards = if config.roles.storage { config.shards } else { 0 };
        (0..shards).map(|shard| (ShardId { node: config.node_id, shard }, data_dir.shard_dir(shard))).collect()
    }

    fn look(shard: ShardId, path: PathBuf) -> Result<Self, ShardError> {
        let directory = |error| ShardError::Directory { path: path.clone(), error };
        std::fs::create_dir_all(&path).map_err(directory)?;
        let identity = RealDisk::open(&path).and_then(|disk| identity_of(&disk)).map_err(directory)?;
        Ok(Self { shard, path, identity, opened: None })
    }

    /// Opens the shard; an empty directory is formatted.
    pub(crate) fn open(
        &mut self,
        config: &Config,
        cluster: ClusterId,
        incarnation: Incarnation,
    ) -> Result<(), ShardError> {
        if self.opened.is_some() {
            return Ok(());
        }
        let Self { shard, path, .. } = self;
        let start =
            Start { boot_id: boot_id().map_err(ShardError::BootId)?, now_ms: now_ms(), random: fastrand::u64(..) };
        let disk = RealDisk::open(&*path).map_err(|error| ShardError::Directory { path: path.clone(), error })?;
        let index = RocksStore::new(path, RocksConfig::default());
        let identity = Identity { cluster, shard: *shard, incarnation };
        let segment_len = u32::try_from(config.segment_bytes.0).unwrap_or(u32::MAX);
        let engine = EngineConfig { segment_len, ..EngineConfig::default() };
        let opened = Engine::open(engine, Arc::new(disk), &index, identity, start)
            .map_err(|error| ShardError::Open { shard: *shard, path: path.clone(), error })?;
        report(*shard, &opened.1);
        self.identity = Some(identity);
        self.opened = Some(opened);
        Ok(())
    }

    pub(crate) fn registration(&self) -> ShardRegistration {
        ShardRegistration {
            index: self.shard.shard,
            incarnation: self.identity.map(|identity| identity.incarnation),
            unclean: self.opened.as_ref().is_some_and(|(_, recovered)| recovered.lost_write_cache),
        }
    }

    /// Starts the shard's threads, for this core.
    pub(crate) fn start(self, config: &Config, mut lost: LostBefore, core: &CoreHandle) -> Option<NewShard> {
        let (mut engine, recovered) = self.opened?;
        let shard = self.shard;
        // The registration has told of it. If that cannot be written down, the next start tells once more.
        if recovered.lost_write_cache
            && let Err(error) = engine.forget_lost_write_cache()
        {
            tracing::warn!(%shard, "cannot note in the marker that the lost write cache is on record: {error}");
        }
        let incarnation = self.identity?.incarnation;
        let progress = Arc::new(Progress::default());
        let sink = ProgressSink { progress: progress.clone(), shard, core: core.clone() };
        let commit = CommitConfig {
            cache_age_max: config.write_cache.flush_ms.duration(),
            cache_bytes_max: config.write_cache.flush_bytes.0,
            ..CommitConfig::default()
        };
        let (committer, running) = engine.start(Box::new(sink), commit);
        let mut admission = ShardCore::new(shard, incarnation);
        // It may have lost seals: see [`super::losses`]. Until the metadata tier knows, what it lacks proves nothing at all.
        if !recovered.losses.is_empty() {
            admission.handle_damaged();
            lost.durable = u64::MAX;
        }
        Some(NewShard { core: admission, committer, running, progress, lost })
    }
}

fn report(shard: ShardId, recovered: &Recovered) {
    let Recovered { formatted, clean, lost_write_cache, torn_bytes, new_losses, index_rebuilt, replayed_bytes, .. } =
        recovered;
    if *formatted {
        return tracing::info!(%shard, "formatted");
    }
    if let Some(why) = index_rebuilt {
        tracing::warn!(%shard, "the index was made again from the segments: {why}");
    }
    if *lost_write_cache {
        tracing::warn!(%shard, "the machine was started again without a clean stop: what was only cached here is lost, and is \
            taken from other copies");
    }
    if *new_losses > 0 {
        tracing::error!(%shard, new_losses, "parts of the log are damaged; what they held is not served as absent");
    }
    if !*clean {
        tracing::info!(%shard, replayed_bytes, torn_bytes, "recovered after a stop that was not clean");
    }
}
