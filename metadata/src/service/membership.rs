//! Who votes and who follows.
//!
//! The voters that are configured begin a cluster; from then on what is stored in the log holds, and is changed by
//! command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dlog_proto::NodeId;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use tokio::time::timeout;

use super::error::MetadataError;
use super::{Inner, Metadata};
use crate::raft::types::{node_id, raft_id};

const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

impl Metadata {
    /// Makes `voters` the ones that vote; this node leads, or says who does. New ones must follow already, which every
    /// registered node does; those that vote no more follow on. Configurations should then name the new ones.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), MetadataError> {
        let ids: BTreeSet<u64> = voters.iter().map(|node| raft_id(*node)).collect();
        if ids.is_empty() {
            return Err(MetadataError::Invalid("somebody must vote".to_owned()));
        }
        if !self.is_leader() {
            return Err(MetadataError::NotLeader { leader: self.leader() });
        }
        let change = self.inner.raft.change_membership(ids, true);
        match timeout(self.inner.config.timings.deadline, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(MetadataError::NotLeader { leader: self.leader() })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => Err(match error {
                ChangeMembershipError::LearnerNotFound(missing) => {
                    let node = node_id(missing.node_id);
                    MetadataError::Invalid(format!("{node} cannot vote: it is not registered, or does not follow yet"))
                }
                error => MetadataError::Unavailable(error.to_string()),
            }),
            Ok(Err(RaftError::Fatal(fatal))) => Err(MetadataError::Stopped(fatal.to_string())),
            Err(_) => Err(MetadataError::Unavailable("no majority of old and new voters has agreed yet".to_owned())),
        }
    }
}

impl Inner {
    /// Every node that is registered and does not vote follows: its replica is its view.
    pub(super) async fn add_followers(&self) {
        let (voters, followers) = self.members();
        let (mut new, mut moved) = (BTreeMap::new(), BTreeMap::new());
        for (node, info) in self.replica.view().nodes() {
            let id = raft_id(node);
            match followers.get(&id) {
                None if voters.contains_key(&id) => {}
                None => drop(new.insert(id, BasicNode::new(&info.address))),
                Some(address) if *address != info.address => drop(moved.insert(id, BasicNode::new(&info.address))),
                Some(_) => {}
            }
        }
        for (nodes, change) in
            [(&new, ChangeMembers::AddNodes(new.clone())), (&moved, ChangeMembers::SetNodes(moved.clone()))]
        {
            if nodes.is_empty() {
                continue;
            }
            match timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, true)).await {
                Ok(Ok(_)) => tracing::info!(nodes = ?nodes.keys().collect::<Vec<_>>(), "follow the metadata tier now"),
                Ok(Err(error)) => tracing::warn!(%error, "cannot add followers yet"),
                Err(_) => tracing::warn!("no majority has agreed to new followers yet"),
            }
        }
    }

    /// What is configured says who begins a cluster, what is stored who votes. If they differ, somebody should know.
    pub(super) fn compare_voters(&self) {
        let stored: Vec<u64> = self.members().0.into_keys().collect();
        let configured: Vec<u64> = self.config.voters.keys().map(|node| raft_id(*node)).collect();
        let mismatch = (!stored.is_empty() && stored != configured).then(|| {
            let list = |ids: &[u64]| ids.iter().map(|id| format!("n{id}")).collect::<Vec<_>>().join(", ");
            format!(
                "the configuration names {} as the voters of the metadata tier, but {} vote: what is stored holds. \
                 Correct the configuration, or change who votes by command",
                list(&configured),
                list(&stored)
            )
        });
        self.voters_mismatch.send_if_modified(|known| {
            let changed = *known != mismatch;
            if changed {
                if let Some(mismatch) = &mismatch {
                    tracing::warn!("{mismatch}");
                }
                *known = mismatch;
            }
            changed
        });
    }
}
