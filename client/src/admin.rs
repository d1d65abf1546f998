//! Looking after logs and the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use dlog_metadata::state::{
    ClusterAnswer, Command, CreateLog, CreatePartitions, DeleteLog, LogAttributes, LogCreated, LogInfo, Query,
    QueryAnswer, Response, SetAttributes, Trim, TrimItem, UnderReplicated,
};
use dlog_proto::block::Placement;
use dlog_proto::clock::now_ms;
use dlog_proto::wire::{BlockDescribed, DescribeBlock, ErrorCode, Failed, Freshness, Payload};
use dlog_proto::{EpochTable, LogId, Lsn, PartitionId, PartitionUid, ShardId};

use crate::Client;
use crate::directory::unexpected;
use crate::error::ClientError;
use crate::read::Position;

/// Logs, or tables, that are asked for at a time.
const PAGE: u32 = 500;

/// Where the copies of a block are.
#[derive(Debug, Clone)]
pub struct Copies {
    /// The block's first and last LSN.
    pub first: Lsn,
    pub last: Lsn,
    /// The newest placement that any holder has.
    pub placement: Placement,
    pub holders: Vec<CopyHolder>,
    /// Shards of the nodeset that could not be asked.
    pub silent: Vec<ShardId>,
}

/// A shard that has a block.
#[derive(Debug, Clone)]
pub struct CopyHolder {
    pub shard: ShardId,
    pub placement: Placement,
}

impl Client {
    /// The cluster as some server sees it.
    pub async fn cluster(&self) -> Result<ClusterAnswer, ClientError> {
        self.directory.cluster().await
    }

    /// The cluster as it is now: the metadata tier must be able to say.
    pub async fn cluster_linearizable(&self) -> Result<ClusterAnswer, ClientError> {
        self.directory.cluster_at(Freshness::Linearizable).await
    }

    pub async fn create_log(
        &self,
        log: &LogId,
        partitions: u32,
        attributes: LogAttributes,
    ) -> Result<LogCreated, ClientError> {
        let create = CreateLog { log: log.clone(), partitions, attributes, created_ms: now_ms() };
        let attempt = || async {
            match self.directory.propose(&Command::CreateLog(create.clone())).await?.1 {
                Response::CreateLog(Ok(created)) => Ok(created),
                Response::CreateLog(Err(error)) => Err(Failed::new(error.code(), error.to_string()).into()),
                _ => Err(unexpected()),
            }
        };
        let is_short =
            |error: &ClientError| matches!(error, ClientError::Failed(f) if f.code == ErrorCode::NotEnoughNodes);
        match attempt().await {
            // A cluster that is just starting may have more nodes in a moment.
            Err(error) if is_short(&error) && self.expects_more_nodes().await => {
                self.directory.patiently("the log's creation", || async { attempt().await.map_err(soften) }).await
            }
            outcome => outcome,
        }
    }

    /// Whether nodes that the cluster counts on have not registered yet.
    async fn expects_more_nodes(&self) -> bool {
        let registered = |cluster: &ClusterAnswer, node| cluster.nodes.iter().any(|(id, _)| *id == node);
        let cluster = self.directory.cluster().await;
        cluster.is_ok_and(|cluster| cluster.voters.iter().any(|(node, _)| !registered(&cluster, *node)))
    }

    pub async fn delete_log(&self, log: &LogId) -> Result<(), ClientError> {
        let delete = DeleteLog { log: log.clone(), deleted_ms: now_ms() };
        match self.directory.propose(&Command::DeleteLog(delete)).await?.1 {
            Response::DeleteLog(Ok(_)) => Ok(()),
            Response::DeleteLog(Err(_)) => Err(ClientError::UnknownLog(log.clone())),
            _ => Err(unexpected()),
        }
    }

    /// Changes a log's attributes; `None` takes one back to its default. What has to do with replication holds from each partition's
    /// next epoch on, which its sequencer begins by itself; nobody sees an error for it.
    pub async fn set_attributes(
        &self,
        log: &LogId,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<(), ClientError> {
        let set = SetAttributes { log: log.clone(), changes };
        match self.directory.propose(&Command::SetAttributes(set)).await?.1 {
            Response::SetAttributes(Ok(())) => Ok(()),
            Response::SetAttributes(Err(error)) => Err(Failed::new(error.code(), error.to_string()).into()),
            _ => Err(unexpected()),
        }
    }

    /// Makes a log have `partitions` of them: more than it has.
    pub async fn create_partitions(&self, log: &LogId, partitions: u32) -> Result<LogCreated, ClientError> {
        let create = CreatePartitions { log: log.clone(), partitions };
        match self.directory.propose(&Command::CreatePartitions(create)).await?.1 {
            Response::CreatePartitions(Ok(created)) => Ok(created),
            Response::CreatePartitions(Err(error)) => Err(Failed::new(error.code(), error.to_string()).into()),
            _ => Err(unexpected()),
        }
    }

    /// Lets go of a partition's records before a place, for ever; at most of all that there are. The answer is the last LSN that may
    /// no longer be read: that of an earlier trim, if it went further.
    pub async fn trim(&self, log: &LogId, partition: u32, before: Position) -> Result<Lsn, ClientError> {
        let partition = self.partition(log, PartitionId(partition)).await?;
        let table = self.directory.table(partition.uid, Freshness::Local).await?;
        let end = partition.locate(&self.directory, &table, Position::Newest).await?;
        let before = match before {
            Position::Newest => end,
            before => partition.locate(&self.directory, &table, before).await?.min(end),
        };
        let upto = Lsn(before.0.saturating_sub(1));
        let command = Command::Trim(Trim { items: vec![TrimItem { partition: partition.uid, upto }] });
        match self.directory.propose(&command).await?.1 {
            Response::Trim(Ok(results)) => match results.into_iter().next() {
                Some(Ok(trimmed)) => Ok(trimmed),
                Some(Err(error)) => Err(Failed::new(error.code(), error.to_string()).into()),
                None => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    pub async fn log(&self, log: &LogId) -> Result<Arc<LogInfo>, ClientError> {
        self.directory.log(log).await
    }

    /// All logs, by name.
    pub async fn logs(&self) -> Result<Vec<Arc<LogInfo>>, ClientError> {
        let mut all: Vec<Arc<LogInfo>> = Vec::new();
        loop {
            let after = all.last().map(|info| info.log.clone());
            let query = Query::Logs { namespace: None, after, limit: PAGE };
            match self.directory.query(&query, Freshness::Linearizable).await?.1 {
                QueryAnswer::Logs { logs, more } => {
                    all.extend(logs);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// A partition's epochs.
    pub async fn epochs(&self, log: &LogId, partition: PartitionId) -> Result<EpochTable, ClientError> {
        let partition = self.partition(log, partition).await?;
        self.directory.table(partition.uid, Freshness::Linearizable).await
    }

    /// What of a partition lacks copies, as far as is on record.
    pub async fn under_replicated(&self, log: &LogId, partition: PartitionId) -> Result<UnderReplicated, ClientError> {
        let PartitionUid(uid) = self.partition(log, partition).await?.uid;
        let query = Query::UnderReplicated { after: uid.checked_sub(1).map(PartitionUid), limit: 1 };
        match self.directory.query(&query, Freshness::Linearizable).await?.1 {
            QueryAnswer::UnderReplicated { partitions, .. } => {
                let mut found = partitions.into_iter().filter(|(found, _)| found.0 == uid);
                Ok(found.next().map(|(_, missing)| (*missing).clone()).unwrap_or_default())
            }
            _ => Err(unexpected()),
        }
    }

    /// The epochs of all partitions of a log, in the order of the partitions.
    pub async fn tables(&self, log: &LogInfo) -> Result<Vec<EpochTable>, ClientError> {
        let mut all = Vec::with_capacity(log.partitions.len());
        for partitions in log.partitions.chunks(PAGE as usize) {
            let query = Query::Tables { partitions: partitions.to_vec() };
            match self.directory.query(&query, Freshness::Linearizable).await?.1 {
                QueryAnswer::Tables(tables) => all.extend(tables.0),
                _ => return Err(unexpected()),
            }
        }
        Ok(all)
    }

    /// Where the copies of the block with this LSN are; `None` if no shard that could be asked has one.
    pub async fn copies(&self, log: &LogId, partition: PartitionId, lsn: Lsn) -> Result<Option<Copies>, ClientError> {
        let partition = self.partition(log, partition).await?;
        let table = self.directory.table(partition.uid, Freshness::Linearizable).await?;
        let Some(entry) = table.epoch(lsn.epoch()) else { return Ok(None) };
        let cluster = self.directory.cluster().await?;
        let describe = DescribeBlock { partition: partition.uid, lsn };
        let (mut holders, mut silent, mut range) = (Vec::new(), Vec::new(), None);
        for member in entry.nodeset.members() {
            let answer = self.describe_on(&cluster, member.shard, &describe).await;
            let Ok(described) = answer else {
                silent.push(member.shard);
                continue;
            };
            for copy in described.copies.into_iter().filter(|copy| copy.shard == member.shard) {
                let Some(placement) = copy.placement.to_placement() else { continue };
                range = Some((copy.first, Lsn(copy.first.0 + u64::from(copy.span) - 1)));
                holders.push(CopyHolder { shard: copy.shard, placement });
            }
        }
        let newest = holders.iter().map(|holder| &holder.placement).max_by_key(|p| p.version).cloned();
        let (Some(placement), Some((first, last))) = (newest, range) else { return Ok(None) };
        Ok(Some(Copies { first, last, placement, holders, silent }))
    }

    async fn describe_on(
        &self,
        cluster: &ClusterAnswer,
        shard: ShardId,
        describe: &DescribeBlock,
    ) -> Result<BlockDescribed, ClientError> {
        let node = crate::directory::node_address(cluster, shard.node);
        let node = node.ok_or_else(|| ClientError::Lost(format!("{} is down", shard.node)))?;
        let control = self.directory.control_of(&node).await?;
        Ok(control.ask(describe, Payload::empty()).await?.0)
    }
}

/// Lets a lack of nodes count as transient.
fn soften(error: ClientError) -> ClientError {
    match error {
        ClientError::Failed(failed) if failed.code == ErrorCode::NotEnoughNodes => {
            ClientError::Failed(Failed { code: ErrorCode::Unavailable, ..failed })
        }
        other => other,
    }
}
