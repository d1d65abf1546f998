//! How quinn is set up: the measured profile of the LAN and the loopback, and the traps around it.
//!
//! Each of these was measured:
//! - quinn sends batches of 10 segments. One that is over 65,000 bytes is split by the kernel in software; over 65,507 it is
//!   silently lost as a whole. Hence [`MTU_MAX`].
//! - An initial packet size at or over the congestion window never sends its first packet: the handshake hangs.
//! - The receive buffer of the kernel's default size (208 KiB) drops hundreds of packets per second. 4 MiB with a send window
//!   of half of that loses none.
//! - A segment occupies the send window until its last byte is acknowledged. A segment near the size of the window stalls on
//!   delayed acknowledgements, and thousands of small ones cost quadratic time: see `lane_io`.
//! - The send window (2 MiB) is shared by the lanes of a connection: bulk lanes keep others waiting. Hence control and data have
//!   connections of their own.
//! - So is the receive window. Who accepts connections has one (16 MiB, of which a lane may take 8), for anybody may fill it, and
//!   reads every lane, or two of them would stop all. Who connects chooses its lanes and may leave some unread, such as a reader's
//!   that is not read on: it bounds each (4 MiB) and not their sum, so that they keep nobody waiting.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::transport::MtuClass;

/// Segments that quinn puts into one system call (`MAX_TRANSMIT_SEGMENTS`).
const SEGMENTS_PER_BATCH: usize = 10;
/// Largest packet, in bytes of UDP payload, unless a lower bound is set.
pub const MTU_MAX: u16 = 6500;
/// Every path carries it: QUIC's minimum.
const MTU_MIN: u16 = 1200;
const INITIAL_WINDOW_BYTES: u64 = 4 << 20;
pub(super) const SEND_WINDOW_BYTES: usize = 2 << 20;
const ACCEPTED_LANE_WINDOW_BYTES: u32 = 8 << 20;
const ACCEPTED_WINDOW_BYTES: u32 = 16 << 20;
/// Twice what can be on its way.
const OPENED_LANE_WINDOW_BYTES: u32 = 4 << 20;
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const LANES_MAX: u32 = 4096;
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// The largest that UDP over IPv6 can have; what is received, not what is sent.
const UDP_PAYLOAD_MAX: u16 = 65_527;

const _: () = assert!(SEGMENTS_PER_BATCH * MTU_MAX as usize <= 65_000, "or whole batches are lost without an error");
const _: () = assert!(INITIAL_WINDOW_BYTES > 2 * MTU_MAX as u64, "or the first packet is never sent");
const _: () = assert!(MTU_MIN <= 16_383, "or quinn panics: the length of a long header has two bytes");
const _: () =
    assert!(OPENED_LANE_WINDOW_BYTES as usize >= 2 * SEND_WINDOW_BYTES, "or reading lags behind the send window");
const _: () = assert!(SOCKET_BUFFER_BYTES >= 2 * SEND_WINDOW_BYTES, "or the receiver's kernel drops packets");
const _: () = assert!(KEEP_ALIVE.as_secs() * 2 < IDLE_TIMEOUT.as_secs(), "or one lost packet ends an idle connection");

/// When a connection on which nothing arrives is given up, unless set otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn mtu_class(peer: IpAddr) -> MtuClass {
    if peer.to_canonical().is_loopback() { MtuClass::Loopback } else { MtuClass::Network }
}

/// Which side of a connection this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Accepts,
    Connects,
}

/// `mtu_max` is bounded by what every path carries and by [`MTU_MAX`].
pub(super) fn transport(side: Side, class: MtuClass, mtu_max: u16, idle_timeout: Duration) -> Arc<TransportConfig> {
    let mtu_max = mtu_max.clamp(MTU_MIN, MTU_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).reordering_threshold(VarInt::from_u32(2));
    let idle_timeout = IdleTimeout::try_from(idle_timeout).unwrap_or_else(|_| VarInt::MAX.into());
    let (lane_window, window) = match side {
        Side::Accepts => (ACCEPTED_LANE_WINDOW_BYTES.into(), ACCEPTED_WINDOW_BYTES.into()),
        Side::Connects => (OPENED_LANE_WINDOW_BYTES.into(), VarInt::MAX),
    };
    let mut config = TransportConfig::default();
    config
        .min_mtu(MTU_MIN)
        .send_window(SEND_WINDOW_BYTES as u64)
        .stream_receive_window(lane_window)
        .receive_window(window)
        .send_fairness(false)
        .ack_frequency_config(Some(acks))
        .max_concurrent_bidi_streams(VarInt::from_u32(LANES_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle_timeout));
    match class {
        MtuClass::Loopback | MtuClass::Memory => {
            let mut congestion = CubicConfig::default();
            congestion.initial_window(INITIAL_WINDOW_BYTES);
            config.initial_mtu(mtu_max).mtu_discovery_config(None).congestion_controller_factory(Arc::new(congestion));
        }
        MtuClass::Network => {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(mtu_max);
            config.initial_mtu(MTU_MIN).mtu_discovery_config(Some(discovery));
        }
    }
    Arc::new(config)
}

pub(super) fn accept_large_packets(endpoint: &mut EndpointConfig) {
    endpoint.max_udp_payload_size(UDP_PAYLOAD_MAX).expect("within the bounds of UDP");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_loopback_in_both_families() {
        for (ip, class) in [
            ("127.0.0.1", MtuClass::Loopback),
            ("127.9.9.9", MtuClass::Loopback),
            ("::1", MtuClass::Loopback),
            ("::ffff:127.0.0.1", MtuClass::Loopback),
            ("10.0.0.1", MtuClass::Network),
            ("::ffff:10.0.0.1", MtuClass::Network),
        ] {
            assert_eq!(mtu_class(ip.parse().unwrap()), class, "{ip}");
        }
    }
}
