//! The UDP socket beneath an endpoint, with buffers that hold a send window.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Once;

use socket2::{Domain, Protocol, Socket, Type};

use super::profile::SOCKET_BUFFER_BYTES;

/// Binds; an IPv6 wildcard takes IPv4 as well where the system lets it.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Where this is not allowed the socket still serves IPv6.
        let _ = socket.set_only_v6(false);
    }
    socket.set_nonblocking(true)?;
    // The kernel clamps without an error: what was given is asked for below.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    warn_of_small_buffers(socket.recv_buffer_size()?, socket.send_buffer_size()?);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn warn_of_small_buffers(receive_bytes: usize, send_bytes: usize) {
    static WARNED: Once = Once::new();
    // Linux reports double of what it was asked for, to account for its own structures.
    let scale = if cfg!(target_os = "linux") { 2 } else { 1 };
    let (receive_bytes, send_bytes) = (receive_bytes / scale, send_bytes / scale);
    if receive_bytes.min(send_bytes) < SOCKET_BUFFER_BYTES {
        WARNED.call_once(|| {
            tracing::warn!(
                receive_bytes,
                send_bytes,
                "UDP socket buffers are smaller than {SOCKET_BUFFER_BYTES} bytes: under load packets will be lost and sent \
                 again. To raise them: sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} \
                 net.core.wmem_max={SOCKET_BUFFER_BYTES}"
            );
        });
    }
}
