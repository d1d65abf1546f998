//! How peers of a node that was restarted learn of it at once, instead of when the connection has been silent for too long.
//!
//! A packet for a connection that is not known is answered with a stateless reset, which the peer believes if it bears a token
//! that it was given before. The tokens follow from a key and the connection's id. A node's key follows from the private key of
//! its certificate, so it is the same after a restart and nobody else has it.

use std::sync::Arc;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::hmac;

const ID_LEN: usize = 8;

/// Resets per second are bounded by quinn, with this pause between two.
const RESET_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

/// An endpoint whose resets are believed by the peers of an earlier one with the same secret.
pub(super) fn endpoint_config(secret: &[u8]) -> EndpointConfig {
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"dlog stateless reset");
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())));
    config.cid_generator(|| Box::new(RandomIds)).min_reset_interval(RESET_INTERVAL);
    config
}

/// Ids that any start of the node takes for its own. quinn's default marks them with a key of the process and drops all
/// others unanswered.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_LEN];
        getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
