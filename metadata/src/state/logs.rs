//! Logs: made, changed, deleted.

use std::sync::Arc;

use dlog_proto::{LogId, PartitionId, PartitionUid, TimestampMs};
use serde::{Deserialize, Serialize};

use super::State;
use super::attributes::LogAttributes;
use super::command::{CreateLog, CreatePartitions, DeleteLog, SetAttributes};
use super::errors::{CreateLogError, CreatePartitionsError, SetAttributesError, UnknownLog};
use super::partition::Partition;
use super::response::LogCreated;
use crate::placement::check_enough;

/// Partitions of one log.
pub const PARTITIONS_PER_LOG_MAX: u32 = 100_000;
/// Partitions of a cluster: every node holds the metadata of all of them in memory.
pub const PARTITIONS_MAX: u64 = 4_000_000;
/// Deleted logs that are remembered; the oldest are forgotten.
const DELETED_MAX: usize = 10_000;

/// A log, cluster-wide. Never reused, not even when a log is deleted and made again under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogUid(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogInfo {
    pub uid: LogUid,
    pub log: LogId,
    pub attributes: LogAttributes,
    /// In the order of their [`PartitionId`]s.
    pub partitions: Vec<PartitionUid>,
    pub created_ms: TimestampMs,
    /// Revision at which attributes or partitions last changed.
    pub config_version: u64,
}

/// A log that was deleted: its records go after a grace period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedLog {
    pub log: LogId,
    pub partitions: Vec<PartitionUid>,
    pub deleted_ms: TimestampMs,
}

impl State {
    pub fn log(&self, log: &LogId) -> Option<&Arc<LogInfo>> {
        self.logs.get(self.names.get(log)?)
    }

    pub fn log_by_uid(&self, log: LogUid) -> Option<&Arc<LogInfo>> {
        self.logs.get(&log)
    }

    /// All logs by name, from `after` on; without it from the start.
    pub fn logs<'a>(&'a self, after: Option<&'a LogId>) -> impl Iterator<Item = &'a Arc<LogInfo>> {
        let first = self.names.first().map(|(name, _)| name);
        let from = after.or(first).into_iter().flat_map(|from| self.names.iter_from(from));
        let later = from.filter(move |(name, _)| after.is_none_or(|after| *name > after));
        later.filter_map(|(_, uid)| self.logs.get(uid))
    }

    /// Recently deleted logs, in the order of their deletion.
    pub fn deleted_logs(&self) -> impl Iterator<Item = (LogUid, &Arc<DeletedLog>)> {
        self.deleted.iter().map(|((_, uid), deleted)| (*uid, deleted))
    }

    /// Whether a log could be created; what [`Self::apply`] would answer.
    pub fn check_create_log(&self, command: &CreateLog) -> Result<(), CreateLogError> {
        let CreateLog { log, partitions, attributes, .. } = command;
        if !(1..=PARTITIONS_PER_LOG_MAX).contains(partitions) {
            return Err(CreateLogError::Partitions(*partitions));
        }
        attributes.validate()?;
        self.check_name(log)?;
        let have = self.partitions.len() as u64;
        if have + u64::from(*partitions) > PARTITIONS_MAX {
            return Err(CreateLogError::ClusterFull { have, asked: *partitions });
        }
        let not_enough = |short| CreateLogError::NotEnough { log: log.clone(), short };
        check_enough(&self.writable_shards(), &attributes.replication).map_err(not_enough)
    }

    pub(super) fn create_log(&mut self, command: CreateLog) -> Result<LogCreated, CreateLogError> {
        self.check_create_log(&command)?;
        let CreateLog { log, partitions, attributes, created_ms } = command;
        self.counters.log += 1;
        let uid = LogUid(self.counters.log);
        let created = self.add_partitions(uid, 0, partitions);
        let config_version = self.revision;
        let partitions = uids(created).collect();
        self.add_name(&log, uid);
        let info = LogInfo { uid, log, attributes, partitions, created_ms, config_version };
        self.logs.insert(uid, Arc::new(info));
        self.touched.logs.insert(uid);
        Ok(created)
    }

    fn add_partitions(&mut self, log: LogUid, first_index: u32, count: u32) -> LogCreated {
        let first = PartitionUid(self.counters.partition + 1);
        let created = LogCreated { log, first_partition: first, partitions: count };
        self.counters.partition += u64::from(count);
        for (uid, index) in uids(created).zip(first_index..) {
            self.partitions.insert(uid, Arc::new(Partition::new(log, PartitionId(index))));
            self.touched.partitions.insert(uid);
        }
        created
    }

    pub(super) fn delete_log(&mut self, command: DeleteLog) -> Result<LogUid, UnknownLog> {
        let DeleteLog { log, deleted_ms } = command;
        let Some(uid) = self.names.get(&log).copied() else {
            return Err(UnknownLog(log));
        };
        self.remove_name(&log);
        let info = self.logs.remove(&uid).expect("every name has its log");
        for partition in &info.partitions {
            self.remove_partition(*partition);
        }
        let partitions = info.partitions.clone();
        let deleted = Arc::make_mut(&mut self.deleted);
        deleted.insert((self.revision, uid), Arc::new(DeletedLog { log, partitions, deleted_ms }));
        while deleted.len() > DELETED_MAX {
            deleted.pop_first();
        }
        self.touched.logs.insert(uid);
        Ok(uid)
    }

    fn remove_partition(&mut self, uid: PartitionUid) {
        let partition = self.partitions.remove(&uid).expect("every log has its partitions");
        for row in &partition.epochs {
            self.release(row);
        }
        self.under_replicated.remove(&uid);
        self.touched.partitions.insert(uid);
    }

    pub(super) fn set_attributes(&mut self, command: &SetAttributes) -> Result<(), SetAttributesError> {
        let SetAttributes { log, changes } = command;
        let info = self.log(log).ok_or_else(|| UnknownLog(log.clone()))?;
        let mut attributes = info.attributes.clone();
        attributes.update(changes)?;
        if attributes == info.attributes {
            return Ok(());
        }
        if attributes.replication != info.attributes.replication {
            let not_enough = |short| SetAttributesError::NotEnough { log: log.clone(), short };
            check_enough(&self.writable_shards(), &attributes.replication).map_err(not_enough)?;
        }
        let uid = info.uid;
        self.change_log(uid, |info| info.attributes = attributes);
        Ok(())
    }

    pub(super) fn create_partitions(
        &mut self,
        command: &CreatePartitions,
    ) -> Result<LogCreated, CreatePartitionsError> {
        let &CreatePartitions { ref log, partitions: asked } = command;
        let info = self.log(log).ok_or_else(|| UnknownLog(log.clone()))?;
        let (uid, have) = (info.uid, info.partitions.len() as u32);
        if asked > PARTITIONS_PER_LOG_MAX {
            return Err(CreatePartitionsError::Partitions(asked));
        }
        if asked <= have {
            return Err(CreatePartitionsError::NotMore { log: log.clone(), have, asked });
        }
        let (more, all) = (asked - have, self.partitions.len() as u64);
        if all + u64::from(more) > PARTITIONS_MAX {
            return Err(CreatePartitionsError::ClusterFull { have: all, asked: more });
        }
        let created = self.add_partitions(uid, have, more);
        self.change_log(uid, |info| info.partitions.extend(uids(created)));
        Ok(created)
    }

    fn change_log(&mut self, uid: LogUid, change: impl FnOnce(&mut LogInfo)) {
        let info = Arc::make_mut(self.logs.get_mut(&uid).expect("a log that is there"));
        change(info);
        info.config_version = self.revision;
        self.touched.logs.insert(uid);
    }
}

fn uids(created: LogCreated) -> impl Iterator<Item = PartitionUid> {
    (created.first_partition.0..).take(created.partitions as usize).map(PartitionUid)
}
