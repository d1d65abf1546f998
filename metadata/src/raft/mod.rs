//! openraft, wired up: its log ([`log_store`] on [`wal`]), its state machine ([`replica`], [`snapshot_file`]), its
//! network.

pub(crate) mod log_store;
pub(crate) mod network;
pub(crate) mod replica;
pub(crate) mod rpc;
pub(crate) mod snapshot_file;
pub(crate) mod snapshot_inbox;
mod transport;
pub(crate) mod types;
mod wal;

pub use transport::{PeerError, PeerFuture, PeerTransport};
pub use wal::{Damage, WalError};

#[cfg(test)]
mod suite;
