//! Lanes over QUIC.
//!
//! One UDP socket per listener serves all connections; each connection is driven by the runtime on which it was established.
//! `profile` says how quinn is set up and why, `lane_io` how frames lie on streams.

mod class;
mod connect_error;
mod connector;
mod lane_io;
mod listener;
mod profile;
mod reset;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::complaints::Complaints;
use super::connection::{CloseReason, MtuClass, PeerInfo};
use super::lane::{Lane, LaneKind};
use lane_io::{NotALane, PREAMBLE_LEN};

pub use class::ConnectionClass;
pub use connect_error::ConnectError;
pub use connector::{ConnectorConfig, QuicConnector};
pub(super) use lane_io::FrameReader;
pub use listener::{EstablishError, ListenError, ListenerConfig, QuicIncoming, QuicListener};
pub use profile::{IDLE_TIMEOUT, MTU_MAX};

/// What peers agree on in TLS before a word is said.
const ALPN: &[u8] = b"dlog/1";

/// How long a peer may take to get from its first packet to the end of the handshake, unless set otherwise.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stream may be open without saying what it is.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct QuicConnection {
    connection: quinn::Connection,
    peer: PeerInfo,
    /// Where the connection is driven; its lanes' writers run there too.
    runtime: Handle,
    mtu_class: MtuClass,
    /// Streams that did not say at once what they are, when they have. Few: each has [`PREAMBLE_TIMEOUT`].
    late: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
    late_sender: mpsc::Sender<Stream>,
    complaints: Arc<Complaints>,
}

/// A stream that the peer opened, with what it says it is.
#[derive(Debug)]
struct Stream {
    send: SendStream,
    recv: RecvStream,
    kind: Result<LaneKind, NotALane>,
}

impl QuicConnection {
    /// Must be called on the runtime that drives the connection.
    fn new(connection: quinn::Connection, peer: PeerInfo, complaints: Arc<Complaints>) -> Self {
        let (late_sender, late) = mpsc::channel(16);
        let mtu_class = profile::mtu_class(connection.remote_address().ip());
        let (runtime, late) = (Handle::current(), tokio::sync::Mutex::new(late));
        Self { connection, peer, runtime, mtu_class, late, late_sender, complaints }
    }

    pub(super) async fn open_lane(&self, kind: LaneKind) -> Result<Lane, CloseReason> {
        open_lane(&self.connection, &self.runtime, kind).await.map_err(|error| close_reason(&error))
    }

    pub(super) async fn accept_lane(&self) -> Result<(LaneKind, Lane), CloseReason> {
        let mut late = self.late.lock().await;
        loop {
            let stream = tokio::select! {
                biased;
                stream = late.recv() => stream,
                streams = self.connection.accept_bi() => {
                    let (send, recv) = streams.map_err(|error| close_reason(&error))?;
                    self.identify(send, recv)
                }
            };
            if let Some(Stream { mut send, mut recv, kind }) = stream {
                match kind {
                    Ok(kind) => return Ok((kind, lane_io::start(&self.runtime, send, recv, &[]))),
                    Err(why) => {
                        lane_io::refuse(&mut send, &mut recv, why);
                        self.complaints.complain(&format_args!("refused from {}: {why}", self.remote_address()));
                    }
                }
            }
        }
    }

    /// Reads what a stream says it is. That is there at once as a rule; otherwise it is waited for elsewhere, so that one slow
    /// stream does not keep others from being accepted.
    fn identify(&self, send: SendStream, mut recv: RecvStream) -> Option<Stream> {
        let mut bytes = [0; PREAMBLE_LEN];
        let mut filled = tokio::io::ReadBuf::new(&mut bytes);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let polled = recv.poll_read_buf(&mut context, &mut filled);
        let got = filled.filled().len();
        if got == PREAMBLE_LEN {
            return Some(Stream { send, recv, kind: lane_io::lane_kind(bytes) });
        }
        if polled.is_ready() && got == 0 {
            return Some(Stream { send, recv, kind: Err(NotALane::Incomplete) });
        }
        let late = self.late_sender.clone();
        self.runtime.spawn(async move {
            let rest = tokio::time::timeout(PREAMBLE_TIMEOUT, recv.read_exact(&mut bytes[got..])).await;
            let kind = match rest {
                Ok(Ok(())) => lane_io::lane_kind(bytes),
                Ok(Err(_)) | Err(_) => Err(NotALane::Incomplete),
            };
            // If nobody accepts lanes any more the stream is dropped, which refuses it.
            let _ = late.send(Stream { send, recv, kind }).await;
        });
        None
    }

    pub(super) fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    pub(super) async fn closed(&self) -> CloseReason {
        close_reason(&self.connection.closed().await)
    }

    pub(super) fn mtu_class(&self) -> MtuClass {
        self.mtu_class
    }

    pub(super) fn current_mtu(&self) -> u16 {
        self.connection.stats().path.current_mtu
    }
}

async fn open_lane(connection: &quinn::Connection, runtime: &Handle, kind: LaneKind) -> Result<Lane, ConnectionError> {
    let (send, recv) = connection.open_bi().await?;
    Ok(lane_io::start(runtime, send, recv, &lane_io::preamble(kind)))
}

/// An IPv4 address as such, also where the socket is an IPv6 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn close_reason(error: &ConnectionError) -> CloseReason {
    match error {
        ConnectionError::LocallyClosed => CloseReason::Local,
        ConnectionError::ApplicationClosed(close) => CloseReason::Peer {
            code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
            message: printable(&close.reason),
        },
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::Reset => CloseReason::Restarted,
        other @ (ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted) => CloseReason::Transport(other.to_string()),
    }
}

/// Text from the peer, fit for a log: bounded and without control characters.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
