//! Requests from peers.

use std::sync::PoisonError;

use bytes::Bytes;
use dlog_proto::wire::RaftRpc;
use openraft::LogIdOptionExt;
use serde::Serialize;

use super::error::MetadataError;
use super::{Inner, Metadata};
use crate::raft::rpc::{
    AppendAnswer, AppendAsked, Refusal, SnapshotAnswer, SnapshotPiece, SnapshotProgress, Status, VoteAnswer, VoteAsked,
};
use crate::raft::snapshot_inbox::Taken;
use crate::raft::types::Snapshot;
use crate::state::{decode, encode};

impl Metadata {
    /// Answers a peer's request, as it was handed to its [`PeerTransport`](crate::PeerTransport). An error means that
    /// it makes no sense; everything else, refusals too, is in the answer.
    pub async fn handle_raft(&self, rpc: RaftRpc, payload: Bytes) -> Result<Bytes, MetadataError> {
        fn answer<T: Serialize>(answer: &T) -> Bytes {
            encode(answer).into()
        }
        let inner = &self.inner;
        Ok(match rpc {
            RaftRpc::Vote => answer(&inner.handle_vote(decode(&payload)?).await),
            RaftRpc::Append => answer(&inner.handle_append(decode(&payload)?).await),
            RaftRpc::Snapshot => answer(&inner.handle_snapshot(decode(&payload)?).await),
            RaftRpc::Status => answer(&inner.status()),
            RaftRpc::Propose => answer(&inner.handle_propose(decode(&payload)?).await),
            RaftRpc::ReadIndex => answer(&inner.handle_read_index().await),
        })
    }
}

impl Inner {
    async fn handle_vote(&self, asked: VoteAsked) -> VoteAnswer {
        self.newcomer.check_vote()?;
        self.raft.vote(asked).await.map_err(|error| Refusal::Stopped(error.to_string()))
    }

    async fn handle_append(&self, asked: AppendAsked) -> AppendAnswer {
        // openraft believes that entries follow each other, and a panic in it would stop this replica.
        let follows =
            |(i, entry): (u64, &crate::raft::types::Entry)| entry.log_id.index == asked.prev_log_id.next_index() + i;
        if !(0..).zip(&asked.entries).all(follows) {
            return Err(Refusal::Invalid("the entries do not follow each other".to_owned()));
        }
        self.newcomer.check_append(&asked)?;
        self.last_append.send_replace(self.now());
        self.raft.append_entries(asked).await.map_err(|error| Refusal::Stopped(error.to_string()))
    }

    async fn handle_snapshot(&self, piece: SnapshotPiece) -> SnapshotAnswer {
        let vote = piece.vote;
        self.newcomer.check_term(vote.leader_id().term)?;
        let taken = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take(piece);
        match taken {
            Taken::Have(len) => Ok(SnapshotProgress::Have(len)),
            Taken::Invalid(what) => Err(Refusal::Invalid(format!("the snapshot cannot be used: {what}"))),
            Taken::Whole(meta, bytes) => {
                let snapshot = Snapshot { meta, snapshot: Box::new(bytes) };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                let installed = installed.map_err(|error| Refusal::Stopped(error.to_string()))?;
                Ok(SnapshotProgress::Done(installed.vote))
            }
        }
    }

    fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        // The first membership is entry 0: more than that is history.
        Status { has_history: metrics.last_log_index > Some(0), term: metrics.current_term }
    }
}
