//! Accepting connections: one UDP socket, any number of threads that serve what comes in.
//!
//! ```text
//! accept() ─► QuicIncoming (class known, nothing spent yet) ─► any runtime ─► establish(admission) ─► Connection
//! ```
//! quinn spawns a connection's driver on the runtime that is current when the connection is accepted, so `establish` decides
//! where the connection lives. Nothing that comes in ends the listener: a failed handshake is one line in the log.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime, VarInt};
use tokio::time::{Instant, timeout_at};

use super::profile::Side;
use super::{ConnectionClass, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MTU_MAX, QuicConnection, canonical, close_reason};
use super::{profile, reset, socket};
use crate::transport::complaints::Complaints;
use crate::transport::connection::{CloseReason, Connection, MtuClass, PeerIdentity, PeerInfo, close_code};
use crate::transport::handshake::{self, Admission, HandshakeError, Hello, Refused, Welcome};
use crate::transport::tls::{ClientIdentity, NodeCert, ServerTls, TlsError};

/// Packets of connections that are not accepted yet, in bytes: clients have little to say before they are answered.
const UNACCEPTED_BYTES_MAX: u64 = 64 << 10;
const UNACCEPTED_BYTES_TOTAL_MAX: u64 = 16 << 20;
/// So far above our own limit quinn drops first packets unanswered, which is cheaper still than to refuse them.
const IGNORED_ABOVE: usize = 64;
/// How long a refusal may take to arrive before the connection is closed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// More open connections than this are refused.
    pub connections_max: usize,
    /// More connections in their handshake than this are refused.
    pub half_open_max: usize,
    /// From this many on, clients must prove that they receive at the address they claim.
    pub retry_above: usize,
    pub handshake_timeout: Duration,
    pub idle_timeout: Duration,
    /// Largest packet sent, in bytes of UDP payload, where the path carries it.
    pub mtu_max: u16,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            half_open_max: 1024,
            retry_above: 256,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            mtu_max: MTU_MAX,
        }
    }
}

/// Why a node does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("UDP {address} is in use: another server runs there; stop it or choose another port")]
    AddressInUse { address: SocketAddr },
    #[error("no permission to listen on UDP {address}: choose a port from 1024 on")]
    NotPermitted { address: SocketAddr },
    #[error("UDP {address} is not an address of this machine")]
    NotOurs { address: SocketAddr },
    #[error("cannot listen on UDP {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why an incoming connection came to nothing. It is logged already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EstablishError {
    #[error("{0}")]
    Lost(CloseReason),
    #[error("the peer did not complete the handshake within {after:?}")]
    TimedOut { after: Duration },
    #[error("{0}")]
    Handshake(HandshakeError),
    #[error("refused: {0}")]
    Refused(Refused),
}

/// Listens on one UDP address.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ListenerConfig,
    tls: ServerTls,
    loopback: Arc<ServerConfig>,
    network: Arc<ServerConfig>,
    half_open: AtomicUsize,
    overload: Complaints,
    failures: Arc<Complaints>,
}

impl QuicListener {
    /// Must be called on the runtime that will receive packets for all connections.
    pub fn bind(address: SocketAddr, cert: &NodeCert, config: ListenerConfig) -> Result<Self, ListenError> {
        let tls = ServerTls::new(cert, super::ALPN)?;
        let server_config = |class, crypto: &Arc<QuicServerConfig>| {
            let mut server = ServerConfig::with_crypto(Arc::clone(crypto) as _);
            server
                .transport_config(profile::transport(Side::Accepts, class, config.mtu_max, config.idle_timeout))
                .migration(false)
                .max_incoming(2 * config.half_open_max + IGNORED_ABOVE)
                .incoming_buffer_size(UNACCEPTED_BYTES_MAX)
                .incoming_buffer_size_total(UNACCEPTED_BYTES_TOTAL_MAX);
            server
        };
        let loopback = server_config(MtuClass::Loopback, &tls.loopback);
        let network = server_config(MtuClass::Network, &tls.network);
        let mut endpoint_config = reset::endpoint_config(cert.key_der());
        profile::accept_large_packets(&mut endpoint_config);
        let endpoint = socket::bind(address)
            .and_then(|socket| Endpoint::new(endpoint_config, Some(network.clone()), socket, Arc::new(TokioRuntime)))
            .map_err(|error| listen_error(address, error))?;
        let shared = Shared {
            tls,
            loopback: Arc::new(loopback),
            network: Arc::new(network),
            half_open: AtomicUsize::new(0),
            overload: Complaints::new(),
            failures: Arc::new(Complaints::new()),
            config,
        };
        Ok(Self { endpoint, shared: Arc::new(shared) })
    }

    /// With the port that was given where 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection; None after [`close`](Self::close). Cancel-safe.
    pub async fn accept(&self) -> Option<QuicIncoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let half_open = self.shared.half_open.load(Ordering::Relaxed);
            let limits = &self.shared.config;
            if half_open >= limits.half_open_max || self.endpoint.open_connections() >= limits.connections_max {
                let from = canonical(incoming.remote_address());
                incoming.refuse();
                self.shared.overload.complain(&format_args!(
                    "refused a connection from {from}: {} are open (limit {}), {half_open} in their handshake (limit {})",
                    self.endpoint.open_connections(),
                    limits.connections_max,
                    limits.half_open_max,
                ));
            } else if half_open >= limits.retry_above && !incoming.remote_address_validated() {
                // It may retry, as its address is not validated; quinn says so.
                let _ = incoming.retry();
            } else {
                return Some(QuicIncoming::new(incoming, Arc::clone(&self.shared)));
            }
        }
    }

    /// Closes all connections and takes no more.
    pub fn close(&self, code: u32, reason: &str) {
        self.endpoint.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until all connections are gone, so that peers know. Close them first.
    pub async fn drained(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Drop for QuicListener {
    /// Connections that exist go on; nobody is there to accept more.
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
    }
}

fn listen_error(address: SocketAddr, error: io::Error) -> ListenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::AddressInUse { address },
        io::ErrorKind::PermissionDenied => ListenError::NotPermitted { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs { address },
        _ => ListenError::Other { address, error },
    }
}

/// Somebody who wants to connect. Can be sent to the thread that shall own the connection. Dropped, it is refused.
#[derive(Debug)]
pub struct QuicIncoming {
    incoming: Incoming,
    class: ConnectionClass,
    half_open: HalfOpen,
}

/// Counts a connection in its handshake.
#[derive(Debug)]
struct HalfOpen {
    shared: Arc<Shared>,
}

impl HalfOpen {
    fn new(shared: Arc<Shared>) -> Self {
        shared.half_open.fetch_add(1, Ordering::Relaxed);
        Self { shared }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.shared.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl QuicIncoming {
    fn new(incoming: Incoming, shared: Arc<Shared>) -> Self {
        let class = ConnectionClass::from_connection_id(&incoming.orig_dst_cid());
        Self { incoming, class, half_open: HalfOpen::new(shared) }
    }

    /// What the client says the connection is for. A hint.
    pub fn class(&self) -> ConnectionClass {
        self.class
    }

    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Whether the client has shown that it receives at its address, which it must only when many connect at once.
    pub fn remote_address_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Completes the handshakes of TLS and of DLog. The connection belongs to the current runtime. An error is logged.
    pub async fn establish(self, admission: &(impl Admission + ?Sized)) -> Result<Connection, EstablishError> {
        let Self { incoming, half_open, .. } = self;
        let shared = Arc::clone(&half_open.shared);
        let remote = canonical(incoming.remote_address());
        let established = establish(incoming, &shared, admission).await;
        if let Err(error) = &established {
            shared.failures.complain(&format_args!("connection from {remote} failed: {error}"));
        }
        established
    }
}

async fn establish(
    incoming: Incoming,
    shared: &Shared,
    admission: &(impl Admission + ?Sized),
) -> Result<Connection, EstablishError> {
    let after = shared.config.handshake_timeout;
    let deadline = Instant::now() + after;
    let class = profile::mtu_class(incoming.remote_address().ip());
    let config = if class == MtuClass::Loopback { &shared.loopback } else { &shared.network };
    let lost = |error| EstablishError::Lost(close_reason(&error));
    let connecting = incoming.accept_with(Arc::clone(config)).map_err(lost)?;
    let connection =
        timeout_at(deadline, connecting).await.map_err(|_| EstablishError::TimedOut { after })?.map_err(lost)?;
    let identity = match shared.tls.client_identity(connection.peer_identity()) {
        ClientIdentity::Node(node) => PeerIdentity::Node(node),
        ClientIdentity::Unproven if class == MtuClass::Loopback => PeerIdentity::Loopback,
        ClientIdentity::Unproven => PeerIdentity::Anonymous,
    };
    match timeout_at(deadline, hear(&connection, identity, admission)).await {
        Ok(Ok((hello, welcome))) => {
            let peer = PeerInfo::of_hello(hello, identity, &welcome);
            Ok(QuicConnection::new(connection, peer, Arc::clone(&shared.failures)).into())
        }
        Ok(Err(error)) => {
            let code =
                if matches!(error, EstablishError::Refused(_)) { close_code::REFUSED } else { close_code::PROTOCOL };
            connection.close(VarInt::from_u32(code), error.to_string().as_bytes());
            Err(error)
        }
        Err(_) => {
            let error = EstablishError::TimedOut { after };
            connection.close(VarInt::from_u32(close_code::PROTOCOL), error.to_string().as_bytes());
            Err(error)
        }
    }
}

/// Hears the peer's Hello on the first stream and answers it.
async fn hear(
    connection: &quinn::Connection,
    identity: PeerIdentity,
    admission: &(impl Admission + ?Sized),
) -> Result<(Hello, Welcome), EstablishError> {
    let lane = async {
        let (send, mut recv) =
            connection.accept_bi().await.map_err(|error| EstablishError::Lost(close_reason(&error)))?;
        let mut preamble = [0; super::PREAMBLE_LEN];
        recv.read_exact(&mut preamble)
            .await
            .map_err(|_| invalid("the first stream ended before it said what it is"))?;
        super::lane_io::lane_kind(preamble).map_err(|_| invalid("the first stream is not a lane of this protocol"))?;
        Ok(super::lane_io::start(&tokio::runtime::Handle::current(), send, recv, &[]))
    };
    let (tx, mut rx) = lane.await?.split();
    let hello = handshake::hear(&mut rx).await.map_err(EstablishError::Handshake)?;
    let answer = admission.admit(&hello, &identity);
    handshake::answer(&tx, &answer).map_err(EstablishError::Handshake)?;
    match answer {
        Ok(welcome) => Ok((hello, welcome)),
        Err(refused) => {
            // Closing at once could overtake the answer. Refused it is, whether it hears of it or not.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, tx.closed()).await;
            Err(EstablishError::Refused(refused))
        }
    }
}

fn invalid(why: &'static str) -> EstablishError {
    EstablishError::Handshake(HandshakeError::Invalid(why))
}
