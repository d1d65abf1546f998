//! Reading: this node's view, and how fresh it is.

use std::sync::Arc;

use bytes::Bytes;
use dlog_proto::NodeId;
use dlog_proto::wire::{Freshness, RaftRpc};
use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::MetadataError;
use super::{Inner, Metadata};
use crate::raft::rpc::{ReadIndexAnswer, Refusal};
use crate::raft::types::{node_id, raft_id};
use crate::state::{Changes, Query, QueryAnswer, State, decode, encode};

impl Metadata {
    /// The state as this node knows it. What is held does not change; ask again for what has.
    pub fn view(&self) -> Arc<State> {
        self.inner.replica.view()
    }

    /// Every state as it comes; who is slow sees the last one only.
    pub fn views(&self) -> watch::Receiver<Arc<State>> {
        self.inner.replica.views()
    }

    /// What changed after `revision`; `None` if that is too long ago to tell.
    pub fn changes_after(&self, revision: u64) -> Option<Changes> {
        self.inner.replica.changes_after(revision)
    }

    /// Waits until this node's view has reached `revision`.
    pub async fn wait_applied(&self, revision: u64) -> Result<Arc<State>, MetadataError> {
        self.inner.wait_applied(revision).await
    }

    /// Waits until this node's view holds everything that was applied anywhere before this was called.
    pub async fn linearize(&self) -> Result<Arc<State>, MetadataError> {
        let stopped = || MetadataError::Stopped("it is shutting down".to_owned());
        let revision = self.inner.reads.ask().await.ok_or_else(stopped)??;
        self.inner.wait_applied(revision).await
    }

    /// Answers a question, as of a revision.
    pub async fn query(&self, freshness: Freshness, query: &Query) -> Result<(u64, QueryAnswer), MetadataError> {
        let view = match freshness {
            Freshness::Local => self.view(),
            Freshness::AtLeast(revision) => self.wait_applied(revision).await?,
            Freshness::Linearizable => self.linearize().await?,
        };
        let mut answer = view.answer(query)?;
        match (&mut answer, query) {
            (QueryAnswer::Cluster(cluster), _) => {
                let (voters, _) = self.inner.members();
                cluster.voters = voters.into_iter().map(|(id, address)| (node_id(id), address)).collect();
                let metrics = self.inner.raft.server_metrics();
                let metrics = metrics.borrow();
                cluster.leader = metrics.current_leader.map(node_id);
                cluster.term = metrics.vote.leader_id().term;
                cluster.set_liveness(&self.liveness());
            }
            (QueryAnswer::Changes(changes), Query::Changes { after }) => *changes = self.changes_after(*after),
            _ => {}
        }
        Ok((view.revision(), answer))
    }

    /// [`Self::query`] for a question that came encoded from a client or peer.
    pub async fn handle_query(&self, freshness: Freshness, query: &[u8]) -> Result<(u64, Bytes), MetadataError> {
        let query = decode(query)?;
        let (revision, answer) = self.query(freshness, &query).await?;
        Ok((revision, encode(&answer).into()))
    }
}

/// How a replica stands, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Index of the last entry in the log,
    pub last_index: u64,
    /// of the last one that was applied,
    pub applied: u64,
    /// and of the last one in a snapshot.
    pub snapshot: Option<u64>,
    /// Bytes of entries after the snapshot.
    pub log_bytes: u64,
    /// On the leader: since when a majority was last heard of.
    pub majority_heard_ms: Option<u64>,
    /// On the leader: the last entry that each other member has.
    pub followers: Vec<(NodeId, Option<u64>)>,
}

impl Metadata {
    pub fn status(&self) -> ReplicaStatus {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let snapshot = self.inner.replica.snapshot_index();
        let followers = metrics.replication.unwrap_or_default().into_iter();
        let followers = followers.map(|(id, last)| (node_id(id), last.map(|last| last.index)));
        ReplicaStatus {
            leader: metrics.current_leader.map(node_id),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or_default(),
            applied: self.view().revision(),
            snapshot,
            log_bytes: self.inner.log.bytes_after(snapshot),
            majority_heard_ms: metrics.millis_since_quorum_ack,
            followers: followers.filter(|(node, _)| *node != self.inner.config.node).collect(),
        }
    }
}

impl Inner {
    async fn wait_applied(&self, revision: u64) -> Result<Arc<State>, MetadataError> {
        let mut views = self.replica.views();
        let reached = timeout(self.config.timings.deadline, views.wait_for(|view| view.revision() >= revision)).await;
        match reached {
            Ok(Ok(view)) => Ok(view.clone()),
            _ => {
                let have = self.replica.view().revision();
                let reason = self.failed().map_or_else(
                    || format!("this node's replica is at revision {have} and does not get to {revision}"),
                    |reason| format!("this node's replica has stopped: {reason}"),
                );
                Err(MetadataError::Unavailable(reason))
            }
        }
    }

    /// Asks the leader up to where a read must see everything.
    pub(super) async fn read_index(&self) -> Result<u64, MetadataError> {
        self.at_leader(|leader, address, time| async move {
            if leader == self.config.node {
                return self.handle_read_index().await;
            }
            let asked = self.network.peer(leader, &address).call(RaftRpc::ReadIndex, &(), time).await;
            asked.unwrap_or_else(|error| Err(Refusal::Unavailable(error.to_string())))
        })
        .await
    }

    /// Answers [`RaftRpc::ReadIndex`]: one round of heartbeats for all who ask at the same time.
    pub(super) async fn handle_read_index(&self) -> ReadIndexAnswer {
        let stopped = || Refusal::Stopped("it is shutting down".to_owned());
        self.confirmations.ask().await.ok_or_else(stopped)?
    }

    /// Makes sure that this node leads still, and says up to where.
    pub(super) async fn confirm_leadership(&self) -> ReadIndexAnswer {
        match self.raft.get_read_log_id().await {
            Ok((read, _)) => Ok(read.map_or(0, |read| read.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
                Err(Refusal::NotLeader { leader: self.leader().map(|(node, address)| (raft_id(node), address)) })
            }
            Err(RaftError::APIError(error)) => Err(Refusal::Unavailable(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(Refusal::Stopped(fatal.to_string())),
        }
    }
}
