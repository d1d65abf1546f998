//! How nodes of the metadata tier reach each other. Implemented elsewhere; here is what is needed of it.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::NodeId;
use dlog_proto::wire::RaftRpc;

/// Carries requests to peers and their answers back. The peer hands them to
/// [`Metadata::handle_raft`](crate::Metadata::handle_raft). A request may be lost, or arrive late; it is never altered.
pub trait PeerTransport: Send + Sync + 'static {
    /// Sends `payload` to `node`, which is at `address` as far as is known, and waits for the answer, at most for
    /// `timeout`. Dropping the future gives the request up.
    fn call<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
        rpc: RaftRpc,
        payload: Bytes,
        timeout: Duration,
    ) -> PeerFuture<'a>;
}

pub type PeerFuture<'a> = Pin<Box<dyn Future<Output = Result<Bytes, PeerError>> + Send + 'a>>;

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nobody listens there, or the connection broke.
    #[error("{node} cannot be reached: {reason}")]
    Unreachable { node: NodeId, reason: String },
    #[error("{node} did not answer within {after:?}")]
    Timeout { node: NodeId, after: Duration },
    /// It answered something that is no answer.
    #[error("{node} answered what is no answer: {reason}")]
    Invalid { node: NodeId, reason: String },
    /// It will not.
    #[error("{node} refuses: {reason}")]
    Refused { node: NodeId, reason: String },
}
