//! SASL is not offered here; those who try hear so.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateResponse, SaslHandshakeResponse};

use super::text;

pub(super) fn handshake() -> SaslHandshakeResponse {
    let mut response = SaslHandshakeResponse::default();
    response.error_code = ResponseError::UnsupportedSaslMechanism.code();
    response
}

pub(super) fn authenticate() -> SaslAuthenticateResponse {
    let mut response = SaslAuthenticateResponse::default();
    response.error_code = ResponseError::IllegalSaslState.code();
    let why = "this listener does not authenticate: use security.protocol=PLAINTEXT";
    response.error_message = Some(text(why));
    response
}
