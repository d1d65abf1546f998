//! Why there is no connection, in words that tell what to do.

use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode, VarInt};
use rustls::AlertDescription;

use super::{close_reason, printable};
use crate::transport::address::HostPort;
use crate::transport::connection::{CloseReason, close_code};
use crate::transport::handshake::{Refused, RefusedCode};

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve '{host}': {why}")]
    Unresolved { host: String, why: String },
    #[error("no answer from {address} within {after:?}: is the server running, and is UDP let through?")]
    Unreachable { address: HostPort, after: Duration },
    #[error("{address} did not complete the handshake within {after:?}")]
    Silent { address: HostPort, after: Duration },
    #[error("{address} takes no more connections for now")]
    Busy { address: HostPort },
    #[error("{address} refused the connection: {}", refused.message)]
    Refused { address: HostPort, refused: Refused },
    #[error(
        "refused to connect to {address}: without the cluster's CA only a server on this machine (a loopback address) is \
         trusted. Give the CA with --ca FILE or DLOG_CA; servers keep it in <data-dir>/tls/ca.pem"
    )]
    NoTrust { address: HostPort },
    #[error(
        "the certificate of {address} is not trusted ({why}). Give the CA of that cluster with --ca FILE or DLOG_CA; its \
         servers keep it in <data-dir>/tls/ca.pem"
    )]
    Untrusted { address: HostPort, why: String },
    #[error("{address} does not trust this node's certificate ({why}): was it issued by the CA of that cluster?")]
    Distrusted { address: HostPort, why: String },
    #[error("{address} is not a DLog server, or one of an incompatible version ({why})")]
    NotDlog { address: HostPort, why: String },
    #[error("the connection to {address} was lost in its handshake: {reason}")]
    Lost { address: HostPort, reason: CloseReason },
    #[error("no UDP socket to connect from: {why}")]
    Socket { why: String },
}

impl ConnectError {
    /// How long to wait before trying again; None where trying again cannot help until somebody changes something.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            // These have taken their time already.
            Self::Unreachable { .. } | Self::Silent { .. } => Some(Duration::ZERO),
            Self::Lost { .. } => Some(Duration::from_millis(100)),
            Self::Busy { .. } | Self::Unresolved { .. } | Self::Socket { .. } => Some(Duration::from_secs(1)),
            Self::Refused { refused: Refused { code: RefusedCode::Busy, .. }, .. } => Some(Duration::from_secs(1)),
            Self::Refused { .. }
            | Self::NoTrust { .. }
            | Self::Untrusted { .. }
            | Self::Distrusted { .. }
            | Self::NotDlog { .. } => None,
        }
    }

    /// What a failed handshake means. Whose TLS alert it was tells who does not trust whom.
    pub(super) fn explain(error: &ConnectionError, address: &HostPort, connect_timeout: Duration) -> Self {
        let address = address.clone();
        let (code, why, ours) = match error {
            ConnectionError::TransportError(error) => (error.code, error.reason.clone(), true),
            ConnectionError::ConnectionClosed(close) => (close.error_code, printable(&close.reason), false),
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(close_code::REFUSED) => {
                let refused = Refused::new(RefusedCode::NotAllowed, printable(&close.reason));
                return Self::Refused { address, refused };
            }
            ConnectionError::VersionMismatch => {
                return Self::NotDlog { address, why: "it speaks another version of QUIC".to_owned() };
            }
            ConnectionError::TimedOut => {
                return Self::Unreachable { address, after: connect_timeout };
            }
            other => return Self::Lost { address, reason: close_reason(other) },
        };
        if code == TransportErrorCode::CONNECTION_REFUSED {
            return Self::Busy { address };
        }
        match alert(code) {
            Some(AlertDescription::NoApplicationProtocol) => Self::NotDlog { address, why },
            Some(_) if ours => Self::Untrusted { address, why },
            Some(_) => Self::Distrusted { address, why },
            None => Self::Lost { address, reason: close_reason(error) },
        }
    }
}

/// The TLS alert in a transport error, if it is about a certificate or about what is spoken.
fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code);
    let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok()).map(AlertDescription::from)?;
    let about_identity = matches!(
        alert,
        AlertDescription::NoApplicationProtocol
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    );
    about_identity.then_some(alert)
}
