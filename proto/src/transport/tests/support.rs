//! What the tests of the transport have in common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::transport::tls::ClientTls;
use crate::transport::*;
use crate::wire::{Frame, Payload};
use crate::{ClusterId, NodeId, ProcessId};

pub(super) static CA: LazyLock<ClusterCa> = LazyLock::new(|| ClusterCa::create().unwrap());
pub(super) static CERT: LazyLock<NodeCert> = LazyLock::new(|| CA.issue_node(NodeId(1), &[]).unwrap());

pub(super) const CLUSTER: ClusterId = ClusterId(0xC1);

/// Node 1 of the cluster, as it introduces itself.
pub(super) fn node_1() -> Welcome {
    Welcome {
        protocol: PROTOCOL_MAX,
        cluster: Some(CLUSTER),
        node: NodeId(1),
        process: ProcessId(7),
        cores: 2,
        software: "test server".to_owned(),
    }
}

/// Lets everybody in who wants to come here.
pub(super) fn admit(hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused> {
    node_1().answer(hello, peer)
}

pub(super) fn hello() -> Hello {
    Hello::client("test client")
}

pub(super) fn listener(config: ListenerConfig) -> QuicListener {
    QuicListener::bind("127.0.0.1:0".parse().unwrap(), &CERT, config).unwrap()
}

pub(super) fn address(listener: &QuicListener) -> HostPort {
    listener.local_address().unwrap().into()
}

pub(super) fn connector(trust: Trust) -> QuicConnector {
    let config = ConnectorConfig { connect_timeout: Duration::from_millis(1500), ..ConnectorConfig::default() };
    QuicConnector::new(trust, None, config).unwrap()
}

/// Accepts everything in the background, and hands over what was established.
pub(super) fn serve(listener: QuicListener) -> tokio::sync::mpsc::UnboundedReceiver<Connection> {
    let (sender, established) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Ok(connection) = incoming.establish(&admit).await {
                    let _ = sender.send(connection);
                }
            });
        }
    });
    established
}

/// The connecting side and the accepting side.
pub(super) async fn quic_pair() -> (Connection, Connection) {
    let listener = listener(ListenerConfig::default());
    let to = address(&listener);
    let mut established = serve(listener);
    let client = connector(Trust::LoopbackOnly).connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
    (client, established.recv().await.unwrap())
}

/// Runs a scenario over each kind of connection, with a limit on its time.
pub(super) async fn over_each(scenario: impl AsyncFn(Connection, Connection)) {
    let (left, right) = memory::pair();
    within(scenario(left, right)).await;
    let (left, right) = quic_pair().await;
    within(scenario(left, right)).await;
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("the test hangs")
}

pub(super) async fn lane(left: &Connection, right: &Connection) -> (Lane, Lane) {
    let ours = left.open_lane(LaneKind::Store).await.unwrap();
    let (kind, theirs) = right.accept_lane().await.unwrap();
    assert_eq!(kind, LaneKind::Store);
    (ours, theirs)
}

pub(super) fn frame(corr: u64, payload: impl Into<Bytes>) -> Frame {
    let payload: Bytes = payload.into();
    Frame { kind: 9, body_version: 1, corr, body: Bytes::from_static(b"body"), payload: Payload::from(payload) }
}

/// A client that speaks QUIC and TLS as it should, and what it likes after that.
pub(super) async fn raw_client(to: SocketAddr, alpn: &[u8]) -> Result<quinn::Connection, quinn::ConnectionError> {
    let tls = ClientTls::new(Trust::LoopbackOnly, None, alpn).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.connect_with(quinn::ClientConfig::new(tls.config), to, "localhost").unwrap().await
}

/// A server that is not DLog, and its address.
pub(super) fn raw_server(alpn: &[u8]) -> (quinn::Endpoint, HostPort) {
    let tls = tls::ServerTls::new(&CERT, alpn).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::clone(&tls.loopback) as _);
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap().into();
    (endpoint, address)
}
