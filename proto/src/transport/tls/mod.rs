//! Who may believe whom: a CA per cluster, a certificate per node, and what clients trust.
//!
//! ```text
//! <data-dir>/tls/ca.pem    the cluster's CA: given to clients and other nodes
//!                ca.key    its key, 0600: issues certificates for nodes; need not be on every node
//!                node.pem  this node's certificate, with the name n<id>.node.dlog
//!                node.key  its key, 0600
//! ```
//! A server shows its node certificate. A client that knows the CA accepts any node of it, or exactly the node it asks for;
//! not the host name, which says less than the node's own and changes more often. A client that knows no CA accepts
//! whoever answers on this machine, and nobody else. A node shows its certificate as a client too: that is how a server knows
//! it for a node. On this machine a certificate of another CA counts as none (nodes that are tried out side by side have a CA
//! each); from anywhere else it fails the handshake.

mod ca;
mod files;
mod verify;

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CipherSuite, RootCertStore};

use crate::NodeId;
use verify::{AnyServer, LenientClients, NodesOfCa};

pub use ca::{ClusterCa, NodeCert};

/// Every node certificate has a name under this domain, which no public CA can issue.
const NODE_DOMAIN: &str = "node.dlog";

/// What is wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot {action} {path}: {error}")]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{path} is damaged ({why}): restore it from a copy")]
    Damaged { path: PathBuf, why: String },
    #[error(
        "{dir} has a CA certificate but not its key, so no node certificate can be issued here: copy node.pem and node.key that \
         the holder of ca.key issued for this node to {dir}"
    )]
    CaKeyMissing { dir: PathBuf },
    #[error("{dir} has no node.pem and node.key: copy those here that the holder of the CA's key issued for this node")]
    NodeCertMissing { dir: PathBuf },
    #[error("{path} was not issued by the CA in ca.pem beside it: are these files of two clusters?")]
    OtherCa { path: PathBuf },
    #[error(
        "{path} is the certificate of {found}, but this is {expected}: is this the data directory of another node?"
    )]
    OtherNode { path: PathBuf, found: String, expected: NodeId },
    #[error("{path} is not valid at this time: is the clock right? Otherwise have it issued again")]
    NotValidNow { path: PathBuf },
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("cannot use the certificate: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("cannot use the CA: {0}")]
    UnusableCa(String),
}

/// Which servers a client believes.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// Any on this machine, none elsewhere.
    #[default]
    LoopbackOnly,
    /// Nodes with a certificate of one of these CAs.
    Ca(Vec<CertificateDer<'static>>),
}

impl Trust {
    pub fn from_ca_file(path: &Path) -> Result<Self, TlsError> {
        let pem = files::read(path)?;
        files::certificates(path, &pem).map(Self::Ca)
    }

    /// `source` names where it comes from, for errors.
    pub fn from_ca_pem(source: &str, pem: &[u8]) -> Result<Self, TlsError> {
        files::certificates(Path::new(source), pem).map(Self::Ca)
    }
}

fn node_name(node: NodeId) -> String {
    format!("{node}.{NODE_DOMAIN}")
}

fn node_of_name(name: &str) -> Option<NodeId> {
    let node: NodeId = name.strip_suffix(NODE_DOMAIN)?.strip_suffix('.')?.parse().ok()?;
    (node_name(node) == name).then_some(node)
}

/// What a client asks for: a certain node, or any.
pub(super) fn server_name(expect_node: Option<NodeId>) -> String {
    expect_node.map_or_else(|| NODE_DOMAIN.to_owned(), node_name)
}

/// ring, with the fastest cipher first: AES-128 over AES-256 over ChaCha20, which is half as fast where there is AES hardware.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What a server says and demands, by where the client is.
#[derive(Clone)]
pub(super) struct ServerTls {
    pub loopback: Arc<QuicServerConfig>,
    pub network: Arc<QuicServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// What a client has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientIdentity {
    Unproven,
    Node(NodeId),
}

impl ServerTls {
    pub(super) fn new(cert: &NodeCert, alpn: &[u8]) -> Result<Self, TlsError> {
        let provider = provider();
        let roots = roots(std::slice::from_ref(cert.ca()))?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::UnusableCa(error.to_string()))?;
        let config = |clients: Arc<dyn ClientCertVerifier>| {
            let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(clients)
                .with_single_cert(cert.chain().to_vec(), cert.key())?;
            config.alpn_protocols = vec![alpn.to_vec()];
            // Connections are few and long: nothing is gained by resuming one, and every one proves who it is.
            config.send_tls13_tickets = 0;
            Ok::<_, TlsError>(Arc::new(QuicServerConfig::try_from(config).expect("the provider has AES-128-GCM")))
        };
        let network = config(Arc::clone(&clients))?;
        let loopback = config(Arc::new(LenientClients::new(Arc::clone(&clients))))?;
        Ok(Self { loopback, network, clients })
    }

    /// `identity` as quinn gives it for a connection whose handshake is complete.
    pub(super) fn client_identity(&self, identity: Option<Box<dyn Any>>) -> ClientIdentity {
        let proven = certificates_of(identity).and_then(|certificates| {
            let (end, intermediates) = certificates.split_first()?;
            self.clients.verify_client_cert(end, intermediates, UnixTime::now()).ok()?;
            verify::node_of(end)
        });
        proven.map_or(ClientIdentity::Unproven, ClientIdentity::Node)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// What a client shows and demands.
pub(super) struct ClientTls {
    pub config: Arc<QuicClientConfig>,
    loopback_only: bool,
}

impl ClientTls {
    pub(super) fn new(trust: Trust, node: Option<&NodeCert>, alpn: &[u8]) -> Result<Self, TlsError> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let loopback_only = matches!(trust, Trust::LoopbackOnly);
        let servers: Arc<dyn ServerCertVerifier> = match trust {
            Trust::LoopbackOnly => Arc::new(AnyServer::new(algorithms)),
            Trust::Ca(certificates) => Arc::new(NodesOfCa::new(roots(&certificates)?, algorithms)),
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(servers);
        let mut config = match node {
            Some(cert) => builder.with_client_auth_cert(cert.chain().to_vec(), cert.key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(QuicClientConfig::try_from(config).expect("the provider has AES-128-GCM"));
        Ok(Self { config, loopback_only })
    }

    pub(super) fn trusts_loopback_only(&self) -> bool {
        self.loopback_only
    }

    /// Which node the server has proven to be. `identity` as quinn gives it for a connection whose handshake is complete.
    pub(super) fn server_node(&self, identity: Option<Box<dyn Any>>) -> Option<NodeId> {
        if self.loopback_only {
            return None;
        }
        certificates_of(identity).and_then(|certificates| verify::node_of(certificates.first()?))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("loopback_only", &self.loopback_only).finish_non_exhaustive()
    }
}

fn certificates_of(identity: Option<Box<dyn Any>>) -> Option<Vec<CertificateDer<'static>>> {
    identity.and_then(|identity| identity.downcast().ok()).map(|certificates| *certificates)
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| TlsError::UnusableCa(error.to_string()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_exact() {
        assert_eq!(node_of_name("n12.node.dlog"), Some(NodeId(12)));
        for bad in [
            "12.node.dlog",
            "n012.node.dlog",
            "n0.node.dlog",
            "n1node.dlog",
            "node.dlog",
            "n1.node.dlog.org",
            "N1.node.dlog",
        ] {
            assert_eq!(node_of_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn aes_128_is_offered_first() {
        assert_eq!(provider().cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
