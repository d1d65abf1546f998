//! From a name to addresses that sockets can be bound to.

use std::io;
use std::net::SocketAddr;

use dlog_proto::transport::HostPort;
use tokio::net::lookup_host;

/// The address to listen on. A name that has both kinds gets its IPv4 address: clients try that first for "localhost".
pub(crate) async fn resolve(address: &HostPort) -> io::Result<SocketAddr> {
    let found = resolve_all(address).await?;
    found.first().copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// All addresses, those of IPv4 first.
pub(crate) async fn resolve_all(address: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<_> = lookup_host((address.host(), address.port())).await?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_ipv4_first() {
        let found = resolve(&"localhost:9092".parse().unwrap()).await.unwrap();
        assert_eq!(found.to_string(), "127.0.0.1:9092");
        assert_eq!(resolve(&"[::1]:1".parse().unwrap()).await.unwrap().to_string(), "[::1]:1");
        assert!(resolve(&"no-such-host.invalid:1".parse().unwrap()).await.is_err());
    }
}
