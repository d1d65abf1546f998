//! openraft's network, on a [`PeerTransport`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::NodeId;
use dlog_proto::wire::RaftRpc;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{AppendEntriesResponse, SnapshotResponse, VoteResponse};
use openraft::{BasicNode, OptionalSend, RaftNetwork, RaftNetworkFactory};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::rpc::{AppendAsked, Refusal, SnapshotPiece, SnapshotProgress, VoteAsked};
use super::transport::{PeerError, PeerTransport};
use super::types::{Snapshot, TypeConfig, Vote, node_id};
use crate::state::{decode, encode};

/// Bytes of a snapshot in one message.
const SNAPSHOT_PIECE_LEN: usize = 1 << 20;
/// Pauses before a peer that cannot be reached is tried again: soon at first, for it may just be starting.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

/// Reaches all peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn PeerTransport>,
    /// Of the configured voters: what the operator says goes before what was stored.
    pub(crate) voters: Arc<BTreeMap<NodeId, String>>,
}

impl Network {
    pub(crate) fn peer(&self, node: NodeId, stored_address: &str) -> Peer {
        let address = self.voters.get(&node).map_or(stored_address, String::as_str).to_owned();
        Peer { transport: self.transport.clone(), node, address }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(node_id(target), &node.addr)
    }
}

/// Reaches one peer.
pub(crate) struct Peer {
    transport: Arc<dyn PeerTransport>,
    node: NodeId,
    address: String,
}

impl Peer {
    pub(crate) async fn call<A: Serialize, T: DeserializeOwned>(
        &self,
        rpc: RaftRpc,
        asked: &A,
        timeout: Duration,
    ) -> Result<T, PeerError> {
        let payload = Bytes::from(encode(asked));
        let answer = self.transport.call(self.node, &self.address, rpc, payload, timeout).await?;
        decode(&answer).map_err(|error| PeerError::Invalid { node: self.node, reason: error.to_string() })
    }

    /// As [`Self::call`], for what a peer may refuse.
    async fn ask<A: Serialize, T: DeserializeOwned>(
        &self,
        rpc: RaftRpc,
        asked: &A,
        timeout: Duration,
    ) -> Result<T, PeerError> {
        let answer: Result<T, Refusal> = self.call(rpc, asked, timeout).await?;
        answer.map_err(|refusal| PeerError::Refused { node: self.node, reason: refusal.to_string() })
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot, timeout: Duration) -> Result<Vote, PeerError> {
        let Snapshot { meta, snapshot: whole } = snapshot;
        let (len, crc) = (whole.len(), crc32fast::hash(&whole));
        let mut offset = 0;
        // A peer that was restarted has nothing and says so; one that never gets on is given up.
        let mut setbacks = 0;
        loop {
            let bytes = whole.slice(offset..len.min(offset + SNAPSHOT_PIECE_LEN));
            let piece = SnapshotPiece { vote, meta: meta.clone(), len: len as u64, crc, offset: offset as u64, bytes };
            match self.ask(RaftRpc::Snapshot, &piece, timeout).await? {
                SnapshotProgress::Done(vote) => return Ok(vote),
                SnapshotProgress::Have(have) => {
                    let have = usize::try_from(have).unwrap_or(usize::MAX).min(len);
                    setbacks += u32::from(have <= offset);
                    if setbacks > 3 {
                        let reason = "it does not get on with a snapshot".to_owned();
                        return Err(PeerError::Invalid { node: self.node, reason });
                    }
                    offset = have;
                }
            }
        }
    }
}

fn rpc_error(error: &PeerError) -> RPCError<u64, BasicNode, RaftError<u64>> {
    match error {
        PeerError::Timeout { .. } => NetworkError::new(error).into(),
        PeerError::Unreachable { .. } | PeerError::Invalid { .. } | PeerError::Refused { .. } => {
            Unreachable::new(error).into()
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendAsked,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        self.ask(RaftRpc::Append, &rpc, option.hard_ttl()).await.map_err(|error| rpc_error(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteAsked,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        self.ask(RaftRpc::Vote, &rpc, option.hard_ttl()).await.map_err(|error| rpc_error(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot, option.hard_ttl()) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(Unreachable::new(&error).into()),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        let last = BACKOFF[BACKOFF.len() - 1];
        Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last)))
    }
}
