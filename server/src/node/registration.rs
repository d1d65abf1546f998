//! Joining the cluster: what it is called, who this node is, which of its disks count.

use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::state::{InitCluster, RegisterError, RegisterNode, Registered, State};
use dlog_metadata::{Metadata, MetadataError};
use dlog_proto::clock::now_ms;
use dlog_proto::wire::LostBefore;
use dlog_proto::{ClusterId, ProcessId, ShardId};
use tokio::time::sleep;

use super::proposer::Requests;
use super::shards::{ShardDir, ShardError};
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};

/// Pause after the metadata tier did not answer.
const RETRY: Duration = Duration::from_millis(50);

/// Why a node cannot join.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Refused(#[from] RegisterError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// What it takes to join.
#[derive(Clone)]
pub(crate) struct Registrar {
    pub(crate) config: Arc<Config>,
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) process: ProcessId,
    pub(crate) cores: u16,
    pub(crate) metadata: Metadata,
    pub(crate) requests: Arc<Requests>,
    pub(crate) waits_for: Arc<dyn Fn(&str) + Send + Sync>,
}

/// A node that has joined.
pub(crate) struct Joined {
    pub(crate) cluster: ClusterId,
    /// Open shards, and what each may have lost.
    pub(crate) shards: Vec<(ShardDir, LostBefore)>,
}

impl Registrar {
    pub(crate) fn say_waiting(&self, what: &str) {
        (self.waits_for)(what);
    }

    /// Opens what is on the disks, registers, and formats what is new.
    pub(crate) async fn join(&self, dirs: Vec<ShardDir>) -> Result<Joined, RegistrationError> {
        self.say_waiting("the shards to be opened");
        let mut dirs = self.open_known(dirs).await;
        self.say_waiting("a majority of the nodes that vote in the metadata tier");
        let init = InitCluster { cluster: ClusterId::random(), created_ms: now_ms() };
        let (_, cluster) = self.requests.carry_out(&self.metadata, init).await?;
        // Before anything is written that belongs to the cluster.
        self.data_dir.set_cluster(cluster)?;
        let Registered { shards, .. } = self.register(&mut dirs).await?;
        let mut open = Vec::new();
        for given in shards {
            let Some(at) = dirs.iter().position(|dir| dir.shard.shard == given.index) else { continue };
            let dir = dirs.swap_remove(at);
            let (shard, incarnation) = (dir.shard, given.incarnation);
            match self.open(dir, cluster, incarnation).await {
                Ok(dir) => {
                    let lost = LostBefore { cached: given.incomplete_before, durable: given.damaged_before };
                    open.push((dir, lost));
                }
                Err(error) => not_served(shard, &error),
            }
        }
        Ok(Joined { cluster, shards: open })
    }

    /// A registration of an earlier process came late and has taken the place of this one's.
    pub(crate) async fn register_again(&self) {
        let is_this = |view: &State| view.node(self.config.node_id).is_some_and(|info| info.process == self.process);
        if !self.metadata.linearize().await.is_ok_and(|view| !is_this(&view)) {
            return;
        }
        let dirs = ShardDir::all(&self.config, &self.data_dir);
        let registered = self.requests.carry_out(&self.metadata, self.command(&dirs)).await;
        tracing::warn!(?registered, "another process was registered for this node; registered again");
    }

    async fn open_known(&self, dirs: Vec<ShardDir>) -> Vec<ShardDir> {
        let mut usable = Vec::new();
        for dir in dirs {
            let shard = dir.shard;
            match dir.identity {
                None => usable.push(dir),
                Some(identity) => match self.open(dir, identity.cluster, identity.incarnation).await {
                    Ok(dir) => usable.push(dir),
                    Err(error) => not_served(shard, &error),
                },
            }
        }
        usable
    }

    async fn open(
        &self,
        mut dir: ShardDir,
        cluster: ClusterId,
        incarnation: dlog_proto::Incarnation,
    ) -> Result<ShardDir, ShardError> {
        let config = self.config.clone();
        let opened = tokio::task::spawn_blocking(move || dir.open(&config, cluster, incarnation).map(|()| dir)).await;
        opened.expect("opening a shard does not panic")
    }

    /// A disk that the cluster does not take for this shard is left out; the others serve.
    async fn register(&self, dirs: &mut Vec<ShardDir>) -> Result<Registered, RegistrationError> {
        loop {
            let (revision, answer) = self.requests.carry_out(&self.metadata, self.command(dirs)).await?;
            match answer {
                Ok(registered) => {
                    // What this node sees from here on has this process in it.
                    while let Err(error) = self.metadata.wait_applied(revision).await {
                        tracing::info!("waiting for this node's replica of the metadata: {error}");
                        sleep(RETRY).await;
                    }
                    return Ok(registered);
                }
                Err(error @ (RegisterError::OtherDisk { shard, .. } | RegisterError::ForeignDisk { shard, .. }))
                    if dirs.iter().any(|dir| dir.shard == shard) =>
                {
                    not_served(shard, &error);
                    dirs.retain(|dir| dir.shard != shard);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn command(&self, dirs: &[ShardDir]) -> RegisterNode {
        let config = &self.config;
        RegisterNode {
            node: config.node_id,
            address: config.advertise.to_string(),
            http: config.http.to_string(),
            roles: config.roles,
            location: config.location.clone(),
            process: self.process,
            cores: self.cores,
            weight: config.weight,
            shards: dirs.iter().map(ShardDir::registration).collect(),
        }
    }
}

fn not_served(shard: ShardId, error: &dyn std::error::Error) {
    tracing::error!(%shard, "this shard is not served: {error}");
}
