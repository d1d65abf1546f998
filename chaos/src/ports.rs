//! Ports for nodes. Below the range from which systems give ports to sockets that ask for none: while a node is down, nobody gets
//! its port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

const PORTS: Range<u16> = 12_000..32_000;
const TRIES: usize = 1000;

/// Addresses of this machine that nobody uses right now, by neither protocol.
pub(crate) fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut held = Vec::new();
    for _ in 0..TRIES {
        if held.len() == count {
            return Ok(held.into_iter().map(|(address, _)| address).collect());
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
        // Held until all are found, so that none comes twice.
        if let (Ok(tcp), Ok(udp)) = (TcpListener::bind(address), UdpSocket::bind(address)) {
            held.push((address, (tcp, udp)));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no {count} free ports in {PORTS:?}")))
}
