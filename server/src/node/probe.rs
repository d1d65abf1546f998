//! Noticing soon that a process is gone. A datagram to a port that nobody has open is answered by its machine's kernel (ICMP port
//! unreachable), which a connected socket reports as "connection refused": then the process is dead, within milliseconds.
//! Silence says nothing, so where this does not work (a firewall, a machine that lost power) leases run out as always.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_proto::clock::every;
use dlog_proto::transport::HostPort;
use dlog_proto::{NodeId, ProcessId};
use tokio::net::UdpSocket;
use tokio::time::sleep;

use crate::address::resolve;

/// Between two datagrams to a node.
const EVERY: Duration = Duration::from_millis(20);
/// After a node was found dead, or could not be looked for.
const PAUSE: Duration = Duration::from_millis(500);
/// Shorter than any QUIC packet: the other side drops it unread.
const DATAGRAM: [u8; 1] = [0];

/// Watches a process, for ever. Its connections' port is `address`.
pub(crate) async fn watch(node: NodeId, process: ProcessId, address: String, metadata: Metadata) {
    loop {
        match until_refused(&address).await {
            Ok(()) => {
                tracing::debug!("{node} is gone: its port is closed");
                metadata.handle_suspect(node, process);
            }
            Err(error) => tracing::debug!("{node} cannot be probed at {address}: {error}"),
        }
        sleep(PAUSE).await;
    }
}

async fn until_refused(address: &str) -> io::Result<()> {
    let address: HostPort = address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    // By the rule of those who listen: on another address of a name, nobody may.
    let to = resolve(&address).await?;
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    let mut ticks = every(EVERY);
    let mut ignored = [0; 64];
    loop {
        let probed = tokio::select! {
            _ = ticks.tick() => socket.send(&DATAGRAM).await,
            received = socket.recv(&mut ignored) => received,
        };
        match probed {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
