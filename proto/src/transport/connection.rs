//! Connections: what lanes are opened on, and who is at the other end.

use std::net::SocketAddr;
use std::sync::Arc;

use super::lane::{Lane, LaneKind};
use super::memory::MemoryConnection;
use super::quic::QuicConnection;
use crate::{ClusterId, NodeId, ProcessId};

/// What is proven about the peer, as opposed to what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// Nothing but that it can reach us.
    Anonymous,
    /// Nothing but that it runs on this machine.
    Loopback,
    /// It holds the key of a certificate that the cluster's CA issued to this node.
    Node(NodeId),
    /// It is part of this process.
    SameProcess,
}

/// Who is at the other end, from the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    pub identity: PeerIdentity,
    /// The version of the protocol that both sides speak.
    pub protocol: u16,
    pub cluster: Option<ClusterId>,
    /// None: a client, not a node.
    pub node: Option<NodeId>,
    pub process: Option<ProcessId>,
    /// How many data connections the peer can make use of; 0 if it did not say (only an accepting side does).
    pub cores: u16,
    pub software: String,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("closed on this side")]
    Local,
    #[error("closed by the peer (code {code}){}{message}", if message.is_empty() { "" } else { ": " })]
    Peer { code: u32, message: String },
    #[error("nothing was heard from the peer for too long")]
    TimedOut,
    #[error("the peer does not know this connection any more: it was restarted")]
    Restarted,
    #[error("{0}")]
    Transport(String),
}

/// Codes for [`Connection::close`], so that logs on both sides say the same. Any other number may be used too.
pub mod close_code {
    /// Done, or dropped without a word.
    pub const DONE: u32 = 0;
    /// This process is going down.
    pub const SHUTDOWN: u32 = 1;
    /// The handshake was answered with a refusal.
    pub const REFUSED: u32 = 2;
    /// The peer did not speak as it must.
    pub const PROTOCOL: u32 = 3;
}

/// What kind of path a connection runs over; it decides how large its packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MtuClass {
    /// No packets: inside a process.
    Memory,
    /// This machine: large packets from the start.
    Loopback,
    /// Anything else: starts small and finds out.
    Network,
}

impl std::fmt::Display for MtuClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Memory => "memory",
            Self::Loopback => "loopback",
            Self::Network => "network",
        })
    }
}

/// A connection to one peer. Cheap to clone; closed when the last clone and the last lane are dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: Inner,
}

#[derive(Debug, Clone)]
enum Inner {
    Quic(Arc<QuicConnection>),
    Memory(Arc<MemoryConnection>),
}

impl From<QuicConnection> for Connection {
    fn from(connection: QuicConnection) -> Self {
        Self { inner: Inner::Quic(Arc::new(connection)) }
    }
}

impl From<MemoryConnection> for Connection {
    fn from(connection: MemoryConnection) -> Self {
        Self { inner: Inner::Memory(Arc::new(connection)) }
    }
}

impl Connection {
    /// Opens a lane. Waits only if very many are open already (4096 over QUIC).
    pub async fn open_lane(&self, kind: LaneKind) -> Result<Lane, CloseReason> {
        match &self.inner {
            Inner::Quic(connection) => connection.open_lane(kind).await,
            Inner::Memory(connection) => connection.open_lane(kind).await,
        }
    }

    /// The next lane that the peer opens. Cancel-safe. Lanes of unknown kinds are refused here and go unseen.
    pub async fn accept_lane(&self) -> Result<(LaneKind, Lane), CloseReason> {
        match &self.inner {
            Inner::Quic(connection) => connection.accept_lane().await,
            Inner::Memory(connection) => connection.accept_lane().await,
        }
    }

    pub fn peer(&self) -> &PeerInfo {
        match &self.inner {
            Inner::Quic(connection) => connection.peer(),
            Inner::Memory(connection) => connection.peer(),
        }
    }

    /// None inside a process.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        match &self.inner {
            Inner::Quic(connection) => Some(connection.remote_address()),
            Inner::Memory(_) => None,
        }
    }

    /// Ends the connection and all its lanes at once. What is still queued on a lane is lost: finish the lane and wait for
    /// its `closed()` where that matters.
    pub fn close(&self, code: u32, reason: &str) {
        match &self.inner {
            Inner::Quic(connection) => connection.close(code, reason),
            Inner::Memory(connection) => connection.close(code, reason),
        }
    }

    pub async fn closed(&self) -> CloseReason {
        match &self.inner {
            Inner::Quic(connection) => connection.closed().await,
            Inner::Memory(connection) => connection.closed().await,
        }
    }

    pub fn mtu_class(&self) -> MtuClass {
        match &self.inner {
            Inner::Quic(connection) => connection.mtu_class(),
            Inner::Memory(_) => MtuClass::Memory,
        }
    }

    /// Largest packet sent at the moment, in bytes of UDP payload. None inside a process.
    pub fn current_mtu(&self) -> Option<u16> {
        match &self.inner {
            Inner::Quic(connection) => Some(connection.current_mtu()),
            Inner::Memory(_) => None,
        }
    }
}
