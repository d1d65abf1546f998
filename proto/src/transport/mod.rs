//! Frames between processes, and between roles of one process.
//!
//! ```text
//! QuicListener ── QuicIncoming ─┐                                    ┌─ Lane { tx, rx } ─ Frames
//! QuicConnector ────────────────┼─► Connection ─ open / accept_lane ─┼─ Lane
//! MemoryNetwork ────────────────┘                                    └─ …
//! ```
//! A [`Connection`] leads to one peer that has introduced itself (`handshake`). It carries [`Lane`]s: ordered, reliable streams
//! of frames, one per purpose. Over QUIC (`quic`, encrypted by `tls`) or inside a process (`memory`) they behave alike. Lost
//! frames do not exist: either a frame arrives, after all that were sent before it on its lane, or the lane ends with a
//! reason.
//!
//! Nothing that a peer does ends more than what it has touched: junk on a lane ends the lane, a bad handshake the connection;
//! the listener goes on. What a peer can make us hold is bounded: frames by their limits, lanes by their queues and by flow
//! control, connections by the listener.

mod address;
mod complaints;
mod connection;
mod handshake;
mod lane;
pub mod memory;
mod queue;
mod quic;
mod tls;

#[cfg(test)]
mod tests;

pub use address::HostPort;
pub use complaints::Complaints;
pub use connection::{CloseReason, Connection, MtuClass, PeerIdentity, PeerInfo, close_code};
pub use handshake::{
    Admission, HandshakeError, Hello, PROTOCOL_MAX, PROTOCOL_MIN, Refused, RefusedCode, TEXT_LEN_MAX, Welcome,
};
pub use lane::{AbortCode, Lane, LaneClosed, LaneKind, LaneReceiver, LaneSender};
pub use quic::{
    ConnectError, ConnectionClass, ConnectorConfig, EstablishError, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, ListenError,
    ListenerConfig, MTU_MAX, QuicConnector, QuicIncoming, QuicListener,
};
pub use tls::{ClusterCa, NodeCert, TlsError, Trust};
