//! The first words on a connection: who is there, do we speak a common version, is this the right place?
//!
//! ```text
//! connecting side                accepting side
//!   Hello            ───────►    admit(hello, identity)?
//!                    ◄───────    Welcome | Refused
//! ```
//! They travel on a lane of their own, the first of the connection, which is closed afterwards. Both sides wait a bounded
//! time. The bodies are rkyv archives whose layout is fixed by golden tests: this exchange must work between any two
//! versions, so these three never change; what a later version wants to say goes into a new body version.

mod codec;
mod messages;

use super::connection::{PeerIdentity, PeerInfo};
use super::lane::{Lane, LaneClosed, LaneReceiver, LaneSender};
use crate::wire::FrameLimits;
use codec::{decode_answer, decode_hello, encode_answer};

pub(super) use codec::encode_hello;
pub use messages::{Hello, Refused, RefusedCode, TEXT_LEN_MAX, Welcome};

/// The versions of the protocol after the handshake that this code speaks.
pub const PROTOCOL_MIN: u16 = 1;
pub const PROTOCOL_MAX: u16 = 1;

/// Nobody is known yet, so nobody may make us hold much.
const LIMITS: FrameLimits = FrameLimits { body_len_max: 2048, payload_len_max: 0 };

/// Decides on the accepting side who is let in. Asked once per connection.
pub trait Admission: Send + Sync {
    fn admit(&self, hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused>;
}

impl<F> Admission for F
where
    F: Fn(&Hello, &PeerIdentity) -> Result<Welcome, Refused> + Send + Sync,
{
    fn admit(&self, hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused> {
        self(hello, peer)
    }
}

/// Why a handshake came to nothing, other than by being refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("{0}")]
    Lane(#[from] LaneClosed),
    #[error("expected a handshake, found message {kind:#04x} version {version}")]
    Unexpected { kind: u8, version: u8 },
    #[error("the handshake message is damaged")]
    Damaged,
    #[error("{0}")]
    Invalid(&'static str),
}

/// The connecting side's part.
pub(super) async fn greet(mut lane: Lane, hello: &Hello) -> Result<Result<Welcome, Refused>, HandshakeError> {
    lane.rx.set_frame_limits(LIMITS);
    lane.tx.send(encode_hello(hello))?;
    decode_answer(&lane.rx.recv().await?, hello)
}

/// The accepting side's first part.
pub(super) async fn hear(rx: &mut LaneReceiver) -> Result<Hello, HandshakeError> {
    rx.set_frame_limits(LIMITS);
    decode_hello(&rx.recv().await?)
}

/// The accepting side's second part.
pub(super) fn answer(tx: &LaneSender, answer: &Result<Welcome, Refused>) -> Result<(), HandshakeError> {
    tx.send(encode_answer(answer))?;
    tx.finish();
    Ok(())
}

impl PeerInfo {
    /// The connecting side, as the accepting side sees it.
    pub(super) fn of_hello(hello: Hello, identity: PeerIdentity, welcome: &Welcome) -> Self {
        Self {
            identity,
            protocol: welcome.protocol,
            cluster: hello.cluster,
            node: hello.node,
            process: hello.process,
            cores: 0,
            software: hello.software,
        }
    }

    /// The accepting side, as the connecting side sees it.
    pub(super) fn of_welcome(welcome: Welcome, identity: PeerIdentity) -> Self {
        Self {
            identity,
            protocol: welcome.protocol,
            cluster: welcome.cluster,
            node: Some(welcome.node),
            process: Some(welcome.process),
            cores: welcome.cores,
            software: welcome.software,
        }
    }
}
