//! What peers of the metadata tier say to each other, besides openraft's own messages. Encoded as commands are.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::types::{SnapshotMeta, TypeConfig, Vote};
use crate::state::Response;

pub(crate) type VoteAsked = VoteRequest<u64>;
pub(crate) type VoteAnswer = Result<VoteResponse<u64>, Refusal>;
pub(crate) type AppendAsked = AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendAnswer = Result<AppendEntriesResponse<u64>, Refusal>;
pub(crate) type SnapshotAnswer = Result<SnapshotProgress, Refusal>;
pub(crate) type ProposeAnswer = Result<Proposed, Refusal>;
pub(crate) type ReadIndexAnswer = Result<u64, Refusal>;

/// Why a peer does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this node does not lead the metadata tier")]
    NotLeader { leader: Option<(u64, String)> },
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Invalid(String),
    #[error("this replica has stopped: {0}")]
    Stopped(String),
}

/// A piece of a snapshot. Pieces come in order; the answer says how much is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotPiece {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// Length and CRC-32 of the whole.
    pub(crate) len: u64,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
    #[serde(serialize_with = "super::types::write_bytes", deserialize_with = "super::types::read_bytes")]
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotProgress {
    /// So many bytes are there: go on from here.
    Have(u64),
    /// All is there and took effect, or was not newer than what was.
    Done(Vote),
}

/// How far a replica's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether it ever held more than the first membership: then the cluster has been alive.
    pub(crate) has_history: bool,
    /// The highest term that it knows of.
    pub(crate) term: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposed {
    pub(crate) revision: u64,
    pub(crate) response: Response,
}

#[cfg(test)]
mod tests {
    use dlog_proto::ClusterId;
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::types::{Entry, LogId, Membership, Proposal, Proposals};
    use crate::state::encode;

    /// Pinned, because nodes of different versions talk to each other during an upgrade.
    #[test]
    fn golden() {
        fn check<T: Serialize>(value: &T, expected: &str) {
            let hex: String = encode(value).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected);
        }
        let log_id = LogId::new(CommittedLeaderId::new(3, 2), 300);
        let vote = Vote::new(3, 2);
        check(&VoteAsked::new(vote, Some(log_id)), GOLDEN[0]);
        check(&VoteAnswer::Ok(VoteResponse::new(vote, Some(log_id), true)), GOLDEN[1]);
        let proposal = Proposal { request: None, command: Bytes::from_static(b"abc") };
        let entry = Entry { log_id, payload: EntryPayload::Normal(Proposals(vec![proposal.clone()])) };
        let append = AppendAsked { vote, prev_log_id: Some(log_id), entries: vec![entry], leader_commit: None };
        check(&append, GOLDEN[2]);
        check(&AppendAnswer::Ok(AppendEntriesResponse::PartialSuccess(Some(log_id))), GOLDEN[3]);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id),
            last_membership: Membership::default(),
            snapshot_id: "s".to_owned(),
        };
        let piece = SnapshotPiece { vote, meta, len: 9, crc: 1, offset: 4, bytes: Bytes::from_static(b"abc") };
        check(&piece, GOLDEN[4]);
        check(&SnapshotAnswer::Ok(SnapshotProgress::Have(7)), GOLDEN[5]);
        check(&SnapshotAnswer::Ok(SnapshotProgress::Done(vote)), GOLDEN[6]);
        check(&Status { has_history: true, term: 3 }, GOLDEN[7]);
        check(&proposal, GOLDEN[8]);
        check(&ProposeAnswer::Ok(Proposed { revision: 9, response: Response::InitCluster(ClusterId(1)) }), GOLDEN[9]);
        check(&ProposeAnswer::Err(Refusal::NotLeader { leader: Some((2, "b:2".to_owned())) }), GOLDEN[10]);
        check(&ReadIndexAnswer::Err(Refusal::Stopped("x".to_owned())), GOLDEN[11]);
    }

    const GOLDEN: [&str; 12] = [
        "02030200010302ac02",
        "020003020001010302ac02",
        "02030200010302ac02010302ac020101000361626300",
        "020001010302ac02",
        "02030200010302ac02000000017309010403616263",
        "02000007",
        "020001030200",
        "020103",
        "020003616263",
        "0200090101",
        "020100010203623a32",
        "0201030178",
    ];
}
