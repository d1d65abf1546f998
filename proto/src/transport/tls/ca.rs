//! The cluster's CA and the certificates of its nodes, and where they are kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;

use super::files::{self, Readers};
use super::{TlsError, node_name, provider, verify};
use crate::NodeId;

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE_CERT: &str = "node.pem";
const NODE_KEY: &str = "node.key";

/// The same for every CA, so that the key alone is enough to issue.
const CA_NAME: &str = "DLog cluster CA";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const VALIDITY: Duration = Duration::from_secs(3653 * DAY.as_secs());
/// For clocks that run behind.
const BACKDATED: Duration = DAY;
/// A certificate with less left is issued again where the CA's key is at hand.
const RENEW_BEFORE_END: Duration = Duration::from_secs(90 * DAY.as_secs());

/// Issues certificates for the nodes of a cluster.
#[derive(Debug)]
pub struct ClusterCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl ClusterCa {
    pub fn create() -> Result<Self, TlsError> {
        Self::of_key(KeyPair::generate()?)
    }

    /// The CA of a directory, made if there is none. With the key alone the certificate is made again.
    pub fn load_or_create(dir: &Path) -> Result<Self, TlsError> {
        let (key_path, cert_path) = (dir.join(CA_KEY), dir.join(CA_CERT));
        match (files::read_if_there(&key_path)?, files::read_if_there(&cert_path)?) {
            (None, None) => {
                let ca = Self::create()?;
                files::create_dir(dir)?;
                files::write(&key_path, &ca.issuer.key().serialize_pem(), Readers::Owner)?;
                files::write(&cert_path, &ca.pem, Readers::All)?;
                Ok(ca)
            }
            (Some(key), None) => {
                let ca = Self::of_key(parse_key(&key_path, &key)?)?;
                files::write(&cert_path, &ca.pem, Readers::All)?;
                Ok(ca)
            }
            (None, Some(_)) => Err(TlsError::CaKeyMissing { dir: dir.to_owned() }),
            (Some(key), Some(pem)) => {
                let certificate = files::certificates(&cert_path, &pem)?.swap_remove(0);
                let pem = String::from_utf8(pem).map_err(|error| files::damaged(&cert_path, &error))?;
                let issuer = Issuer::new(ca_params(), parse_key(&key_path, &key)?);
                let ca = Self { issuer, certificate, pem };
                // Proves that the two belong together and that the certificate can be used.
                ca.issue_node(NodeId(1), &[])?.check(UnixTime::now(), &cert_path).map_err(|error| match error {
                    TlsError::OtherCa { .. } => files::damaged(&cert_path, &"it does not belong to ca.key beside it"),
                    other => other,
                })?;
                Ok(ca)
            }
        }
    }

    fn of_key(key: KeyPair) -> Result<Self, TlsError> {
        let params = ca_params();
        let certificate = params.self_signed(&key)?;
        Ok(Self { pem: certificate.pem(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// What clients and other nodes need in order to trust the cluster.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a node. `names` are host names and addresses under which it is reached, besides those of every
    /// node (its own, `localhost`, the loopback addresses); DLog's own clients do not look at them.
    pub fn issue_node(&self, node: NodeId, names: &[String]) -> Result<NodeCert, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        valid_from_now(&mut params);
        params.distinguished_name = name(&format!("DLog node {node}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![
            SanType::DnsName(Ia5String::try_from(node_name(node))?),
            SanType::DnsName(Ia5String::try_from("localhost")?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        for name in names {
            let san = match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(NodeCert {
            node,
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            ca: self.certificate.clone(),
        })
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    valid_from_now(&mut params);
    params.distinguished_name = name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid_from_now(params: &mut CertificateParams) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // To the second: X.509 has nothing finer.
    let now = Duration::from_secs(now.as_secs());
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + VALIDITY;
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<KeyPair, TlsError> {
    let pem = str::from_utf8(pem).map_err(|error| files::damaged(path, &error))?;
    KeyPair::from_pem(pem).map_err(|error| files::damaged(path, &error))
}

/// A node's certificate with its key, and the CA that stands behind it.
#[derive(Debug)]
pub struct NodeCert {
    node: NodeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: CertificateDer<'static>,
    pem: String,
    key_pem: String,
}

impl NodeCert {
    /// What was issued elsewhere and copied to the directory: `ca.pem`, `node.pem`, `node.key`.
    pub fn load(dir: &Path, node: NodeId) -> Result<Self, TlsError> {
        let cert = Self::read(dir, node)?.ok_or_else(|| TlsError::NodeCertMissing { dir: dir.to_owned() })?;
        cert.check(UnixTime::now(), &dir.join(NODE_CERT))?;
        Ok(cert)
    }

    /// The certificate of a directory, issued if there is none or if its end is near.
    pub fn load_or_create(dir: &Path, ca: &ClusterCa, node: NodeId, names: &[String]) -> Result<Self, TlsError> {
        let path = dir.join(NODE_CERT);
        if let Some(cert) = Self::read(dir, node)? {
            let soon = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + RENEW_BEFORE_END);
            match cert.check(soon, &path) {
                Ok(()) => return Ok(cert),
                Err(TlsError::NotValidNow { .. }) => {
                    tracing::info!("{} has run out or soon will: issued again", path.display());
                }
                Err(error) => return Err(error),
            }
        }
        let cert = ca.issue_node(node, names)?;
        cert.save(dir)?;
        Ok(cert)
    }

    /// Writes `node.key` and `node.pem`.
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        files::create_dir(dir)?;
        files::write(&dir.join(NODE_KEY), &self.key_pem, Readers::Owner)?;
        files::write(&dir.join(NODE_CERT), &self.pem, Readers::All)
    }

    /// None: not both files are there. The key is written first, so that a crash in between leaves a key that nothing needs.
    fn read(dir: &Path, node: NodeId) -> Result<Option<Self>, TlsError> {
        let paths: [PathBuf; 2] = [dir.join(NODE_CERT), dir.join(NODE_KEY)];
        let (Some(pem), Some(key_pem)) = (files::read_if_there(&paths[0])?, files::read_if_there(&paths[1])?) else {
            return Ok(None);
        };
        let ca_path = dir.join(CA_CERT);
        let ca = files::certificates(&ca_path, &files::read(&ca_path)?)?.swap_remove(0);
        let chain = files::certificates(&paths[0], &pem)?;
        let key = files::private_key(&paths[1], &key_pem)?;
        let text = |path, bytes| String::from_utf8(bytes).map_err(|error| files::damaged(path, &error));
        Ok(Some(Self { node, chain, key, ca, pem: text(&paths[0], pem)?, key_pem: text(&paths[1], key_pem)? }))
    }

    /// Whether the files belong together, to this node, and to a time. `path` names the certificate in errors.
    fn check(&self, at: UnixTime, path: &Path) -> Result<(), TlsError> {
        let damaged = |error: &dyn std::error::Error| files::damaged(path, &error.to_string());
        CertifiedKey::from_der(self.chain.clone(), self.key(), &provider()).map_err(|error| damaged(&error))?;
        let (end, intermediates) = self.chain.split_first().expect("files::certificates gives at least one");
        let certificate = webpki::EndEntityCert::try_from(end).map_err(|error| damaged(&error))?;
        let anchor = webpki::anchor_from_trusted_cert(&self.ca)
            .map_err(|error| files::damaged(&path.with_file_name(CA_CERT), &error))?;
        let algorithms = provider().signature_verification_algorithms.all;
        let usage = webpki::KeyUsage::server_auth();
        let issued =
            certificate.verify_for_usage(algorithms, &[anchor], intermediates, at, usage, None, None).map(|_path| ());
        match issued {
            Ok(()) => {}
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
                return Err(TlsError::NotValidNow { path: path.to_owned() });
            }
            // All CAs have one name, so what tells them apart is the signature.
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                return Err(TlsError::OtherCa { path: path.to_owned() });
            }
            Err(error) => return Err(damaged(&error)),
        }
        match verify::node_of(end) {
            Some(found) if found == self.node => Ok(()),
            found => Err(TlsError::OtherNode {
                path: path.to_owned(),
                found: found.map_or_else(|| "no node".to_owned(), |node| node.to_string()),
                expected: self.node,
            }),
        }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The certificate of the CA: what this node trusts as a client.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(in super::super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(in super::super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(in super::super) fn key_der(&self) -> &[u8] {
        self.key.secret_der()
    }
}
