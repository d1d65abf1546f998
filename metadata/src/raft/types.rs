//! What openraft is told about us: what an entry carries, what applying it yields, what a snapshot is.

use bytes::Bytes;
use dlog_proto::{NodeId, RequestId};
use openraft::BasicNode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state::Response;

openraft::declare_raft_types!(
    /// openraft's view of the metadata tier.
    pub(crate) TypeConfig:
        D = Proposals,
        R = Applied,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Bytes,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIOError = openraft::StorageIOError<u64>;

/// What a Raft entry carries: the commands that waited at the same moment. One entry costs an fsync, however many are
/// in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposals(pub(crate) Vec<Proposal>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) request: Option<RequestId>,
    /// An encoded [`Command`](crate::state::Command).
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub(crate) command: Bytes,
}

impl Proposals {
    /// Bytes of memory and disk that they take, about.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|proposal| proposal.command.len() + 48).sum()
    }
}

/// What came of an entry: an answer per command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied(pub(crate) Vec<Response>);

pub(crate) fn raft_id(node: NodeId) -> u64 {
    node.0.into()
}

/// The node that openraft means. Ids come in through configuration and registration, which have 16 bits.
pub(crate) fn node_id(raft_id: u64) -> NodeId {
    NodeId(u16::try_from(raft_id).unwrap_or_default())
}

pub(super) fn write_bytes<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

pub(super) fn read_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = Bytes;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
        fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(Bytes::from(bytes))
        }
    }
    deserializer.deserialize_bytes(Visitor)
}
