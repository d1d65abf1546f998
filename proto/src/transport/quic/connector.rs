//! Connecting: one per runtime, with a UDP socket per address family, opened when first needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{ClientConfig, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, VarInt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connect_error::ConnectError;
use super::profile::Side;
use super::{ConnectionClass, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MTU_MAX, QuicConnection, profile, socket};
use crate::transport::address::HostPort;
use crate::transport::complaints::Complaints;
use crate::transport::connection::{Connection, MtuClass, PeerIdentity, PeerInfo, close_code};
use crate::transport::handshake::{self, HandshakeError, Hello};
use crate::transport::lane::{LaneClosed, LaneKind};
use crate::transport::tls::{ClientTls, NodeCert, TlsError, Trust, server_name};

/// How long the addresses of one host wait for each other: a name may have addresses on which nobody listens.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(150);

#[derive(Debug, Clone)]
pub struct ConnectorConfig {
    /// How long a connection may take to be ready, from the first packet on.
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    /// Largest packet sent, in bytes of UDP payload, where the path carries it.
    pub mtu_max: u16,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self { connect_timeout: HANDSHAKE_TIMEOUT, idle_timeout: IDLE_TIMEOUT, mtu_max: MTU_MAX }
    }
}

/// Opens connections. Cheap to clone. Belongs to the runtime on which it is first used.
#[derive(Debug, Clone)]
pub struct QuicConnector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tls: ClientTls,
    config: ConnectorConfig,
    loopback: Arc<quinn::TransportConfig>,
    network: Arc<quinn::TransportConfig>,
    endpoints: Mutex<Endpoints>,
    complaints: Arc<Complaints>,
}

#[derive(Debug, Default)]
struct Endpoints {
    ipv4: Option<Endpoint>,
    ipv6: Option<Endpoint>,
}

impl QuicConnector {
    /// `node` is shown to servers, so that they know this node for one.
    pub fn new(trust: Trust, node: Option<&NodeCert>, config: ConnectorConfig) -> Result<Self, TlsError> {
        let shared = Shared {
            tls: ClientTls::new(trust, node, super::ALPN)?,
            loopback: profile::transport(Side::Connects, MtuClass::Loopback, config.mtu_max, config.idle_timeout),
            network: profile::transport(Side::Connects, MtuClass::Network, config.mtu_max, config.idle_timeout),
            endpoints: Mutex::default(),
            complaints: Arc::new(Complaints::new()),
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Connects to the first address of the host that answers. The connection belongs to the current runtime.
    pub async fn connect(
        &self,
        address: &HostPort,
        class: ConnectionClass,
        hello: &Hello,
    ) -> Result<Connection, ConnectError> {
        let unresolved = |why: String| ConnectError::Unresolved { host: address.host().to_owned(), why };
        let mut candidates = address.resolve().await.map_err(|error| unresolved(error.to_string()))?;
        if candidates.is_empty() {
            return Err(unresolved("the name has no address".to_owned()));
        }
        if self.shared.tls.trusts_loopback_only() {
            candidates.retain(|candidate| profile::mtu_class(candidate.ip()) == MtuClass::Loopback);
            if candidates.is_empty() {
                return Err(ConnectError::NoTrust { address: address.clone() });
            }
        }
        let mut attempts = JoinSet::new();
        for (place, candidate) in (0..).zip(candidates) {
            let attempt =
                Attempt { connector: self.clone(), address: address.clone(), candidate, class, hello: hello.clone() };
            attempts.spawn(async move {
                sleep(NEXT_ADDRESS_DELAY * place).await;
                attempt.run().await
            });
        }
        first_success(attempts).await
    }

    /// Closes all connections that were opened here, and waits until the peers know.
    pub async fn close(&self, code: u32, reason: &str) {
        let Endpoints { ipv4, ipv6 } = std::mem::take(&mut *self.shared.endpoints());
        for endpoint in [ipv4, ipv6].into_iter().flatten() {
            endpoint.close(VarInt::from_u32(code), reason.as_bytes());
            endpoint.wait_idle().await;
        }
    }
}

impl Shared {
    fn endpoints(&self) -> std::sync::MutexGuard<'_, Endpoints> {
        self.endpoints.lock().expect("nothing panics while it holds the sockets")
    }

    fn endpoint(&self, to: SocketAddr) -> io::Result<Endpoint> {
        let mut endpoints = self.endpoints();
        let (endpoint, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&mut endpoints.ipv4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut endpoints.ipv6, Ipv6Addr::UNSPECIFIED.into()),
        };
        if let Some(endpoint) = endpoint {
            return Ok(endpoint.clone());
        }
        let mut config = EndpointConfig::default();
        profile::accept_large_packets(&mut config);
        let opened = Endpoint::new(config, None, socket::bind(SocketAddr::new(any, 0))?, Arc::new(TokioRuntime))?;
        Ok(endpoint.insert(opened).clone())
    }
}

/// The others are dropped, and with them what they have opened.
async fn first_success(mut attempts: JoinSet<Result<Connection, ConnectError>>) -> Result<Connection, ConnectError> {
    let mut telling: Option<ConnectError> = None;
    while let Some(outcome) = attempts.join_next().await {
        match outcome.expect("an attempt neither panics nor is aborted") {
            Ok(connection) => return Ok(connection),
            // A server that answers tells more than an address at which there is none.
            Err(error) if !matches!(telling, None | Some(ConnectError::Unreachable { .. })) => drop(error),
            Err(error) => telling = Some(error),
        }
    }
    Err(telling.expect("there was an address to try"))
}

/// Connecting to one address of a host.
struct Attempt {
    connector: QuicConnector,
    address: HostPort,
    candidate: SocketAddr,
    class: ConnectionClass,
    hello: Hello,
}

impl Attempt {
    async fn run(self) -> Result<Connection, ConnectError> {
        let Shared { config, complaints, .. } = &*self.connector.shared;
        let after = config.connect_timeout;
        let deadline = Instant::now() + after;
        let connecting = self.start()?;
        let connection = timeout_at(deadline, connecting)
            .await
            .map_err(|_| ConnectError::Unreachable { address: self.address.clone(), after })?
            .map_err(|error| self.explain(&error))?;
        match timeout_at(deadline, self.greet(&connection)).await {
            Ok(Ok(peer)) => Ok(QuicConnection::new(connection, peer, Arc::clone(complaints)).into()),
            Ok(Err(error)) => {
                connection.close(VarInt::from_u32(close_code::PROTOCOL), b"");
                Err(error)
            }
            Err(_) => {
                connection.close(VarInt::from_u32(close_code::PROTOCOL), b"no answer to Hello");
                Err(ConnectError::Silent { address: self.address.clone(), after })
            }
        }
    }

    fn on_loopback(&self) -> bool {
        profile::mtu_class(self.candidate.ip()) == MtuClass::Loopback
    }

    fn start(&self) -> Result<quinn::Connecting, ConnectError> {
        let shared = &self.connector.shared;
        let transport = if self.on_loopback() { &shared.loopback } else { &shared.network };
        let mut config = ClientConfig::new(Arc::clone(&shared.tls.config) as _);
        let class = self.class;
        config
            .transport_config(Arc::clone(transport))
            .initial_dst_cid_provider(Arc::new(move || class.to_connection_id()));
        let socket_error = |why: String| ConnectError::Socket { why };
        let endpoint = shared.endpoint(self.candidate).map_err(|error| socket_error(error.to_string()))?;
        endpoint
            .connect_with(config, self.candidate, &server_name(self.hello.expect_node))
            .map_err(|error| socket_error(error.to_string()))
    }

    async fn greet(&self, connection: &quinn::Connection) -> Result<PeerInfo, ConnectError> {
        let lane = super::open_lane(connection, &tokio::runtime::Handle::current(), LaneKind::Control)
            .await
            .map_err(|error| self.explain(&error))?;
        match handshake::greet(lane, &self.hello).await {
            Ok(Ok(welcome)) => {
                let identity = match self.connector.shared.tls.server_node(connection.peer_identity()) {
                    Some(proven) if proven != welcome.node => {
                        let why = format!("it is that of {proven}, but the server says it is {}", welcome.node);
                        return Err(ConnectError::Untrusted { address: self.address.clone(), why });
                    }
                    Some(proven) => PeerIdentity::Node(proven),
                    None if self.on_loopback() => PeerIdentity::Loopback,
                    None => PeerIdentity::Anonymous,
                };
                Ok(PeerInfo::of_welcome(welcome, identity))
            }
            Ok(Err(refused)) => Err(ConnectError::Refused { address: self.address.clone(), refused }),
            Err(HandshakeError::Lane(LaneClosed::ConnectionLost { .. })) => {
                let error = connection.close_reason().unwrap_or(ConnectionError::TimedOut);
                Err(self.explain(&error))
            }
            Err(error) => Err(ConnectError::NotDlog { address: self.address.clone(), why: error.to_string() }),
        }
    }

    fn explain(&self, error: &ConnectionError) -> ConnectError {
        ConnectError::explain(error, &self.address, self.connector.shared.config.connect_timeout)
    }
}
