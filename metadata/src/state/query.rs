//! What can be asked about the state, by those who have no replica of it.

use std::sync::Arc;

use dlog_proto::wire::{ErrorCode, Liveness};
use dlog_proto::{LogId, NodeId, PartitionUid};
use serde::{Deserialize, Serialize};

use super::State;
use super::changes::Changes;
use super::logs::{LogInfo, LogUid};
use super::nodes::NodeInfo;
use super::tables::PackedTables;
use super::under_replicated::UnderReplicated;
use super::{BATCH_LEN_MAX, ClusterInfo};

/// As for [`Command`](super::Command): new variants go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Nodes, voters, the leader, and who lives.
    Cluster,
    /// Logs by name, in pages.
    Logs {
        namespace: Option<String>,
        after: Option<LogId>,
        limit: u32,
    },
    Log {
        log: LogId,
    },
    LogsByUid {
        logs: Vec<LogUid>,
    },
    /// Epoch tables. What is not there is left out.
    Tables {
        partitions: Vec<PartitionUid>,
    },
    /// Of all epochs from the oldest undecided one on.
    UndecidedTables {
        partitions: Vec<PartitionUid>,
    },
    /// What lacks copies, in pages.
    UnderReplicated {
        after: Option<PartitionUid>,
        limit: u32,
    },
    /// What changed after a revision.
    Changes {
        after: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryAnswer {
    Cluster(ClusterAnswer),
    Logs {
        logs: Vec<Arc<LogInfo>>,
        more: bool,
    },
    Log(Option<Arc<LogInfo>>),
    Tables(PackedTables),
    UnderReplicated {
        partitions: Vec<(PartitionUid, Arc<UnderReplicated>)>,
        more: bool,
    },
    /// `None` if that is too long ago to tell: look at everything.
    Changes(Option<Changes>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterAnswer {
    pub cluster: Option<ClusterInfo>,
    pub nodes: Vec<(NodeId, Arc<NodeInfo>)>,
    pub logs: u64,
    pub partitions: u64,
    pub voters: Vec<(NodeId, String)>,
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Nodes that live, with the processes and whether they are stopping, as of the liveness version.
    pub alive: Vec<(NodeId, dlog_proto::ProcessId, bool)>,
    pub liveness_version: (u64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum QueryError {
    #[error("a question is about 1 to {max} things, not {0}: ask several", max = BATCH_LEN_MAX)]
    Limit(u32),
}

impl QueryError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::Invalid
    }
}

fn checked(limit: usize) -> Result<usize, QueryError> {
    if (1..=BATCH_LEN_MAX).contains(&limit) { Ok(limit) } else { Err(QueryError::Limit(limit as u32)) }
}

impl ClusterAnswer {
    pub(crate) fn set_liveness(&mut self, liveness: &Liveness) {
        self.alive = liveness.alive.iter().map(|alive| (alive.node, alive.process, alive.stopping)).collect();
        self.liveness_version = (liveness.term, liveness.version);
    }
}

impl State {
    /// Answers what the state alone can answer; [`Query::Cluster`] and [`Query::Changes`] get more from who holds it.
    pub fn answer(&self, query: &Query) -> Result<QueryAnswer, QueryError> {
        Ok(match query {
            Query::Cluster => QueryAnswer::Cluster(ClusterAnswer {
                cluster: self.cluster,
                nodes: self.nodes().map(|(node, info)| (node, info.clone())).collect(),
                logs: self.logs_len() as u64,
                partitions: self.partitions_len() as u64,
                ..ClusterAnswer::default()
            }),
            Query::Logs { namespace, after, limit } => {
                self.answer_logs(namespace.as_deref(), after.as_ref(), checked(*limit as usize)?)
            }
            Query::Log { log } => QueryAnswer::Log(self.log(log).cloned()),
            Query::LogsByUid { logs } => {
                checked(logs.len())?;
                let logs = logs.iter().filter_map(|uid| self.log_by_uid(*uid).cloned()).collect();
                QueryAnswer::Logs { logs, more: false }
            }
            Query::Tables { partitions } => {
                checked(partitions.len())?;
                QueryAnswer::Tables(PackedTables(partitions.iter().filter_map(|uid| self.table(*uid)).collect()))
            }
            Query::UndecidedTables { partitions } => {
                checked(partitions.len())?;
                let tables = partitions.iter().filter_map(|uid| self.undecided_table(*uid));
                QueryAnswer::Tables(PackedTables(tables.collect()))
            }
            Query::UnderReplicated { after, limit } => {
                let limit = checked(*limit as usize)?;
                let mut later = self.all_under_replicated().filter(|(uid, _)| after.is_none_or(|after| *uid > after));
                let page = later.by_ref().take(limit).map(|(uid, missing)| (uid, missing.clone()));
                QueryAnswer::UnderReplicated { partitions: page.collect(), more: later.next().is_some() }
            }
            Query::Changes { .. } => QueryAnswer::Changes(None),
        })
    }

    fn answer_logs(&self, namespace: Option<&str>, after: Option<&LogId>, limit: usize) -> QueryAnswer {
        let wanted = |info: &&Arc<LogInfo>| namespace.is_none_or(|namespace| info.log.namespace() == namespace);
        let mut logs = self.logs(after).filter(wanted);
        let page = logs.by_ref().take(limit).cloned().collect();
        QueryAnswer::Logs { logs: page, more: logs.next().is_some() }
    }
}
