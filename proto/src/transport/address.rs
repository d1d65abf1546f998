//! Addresses as users write them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::ParseError;

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// `host:port`, where host is a name or an address; IPv6 addresses in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// All addresses that the host has now.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let mut addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        // "localhost" is often both; servers listen on IPv4 more often.
        addresses.sort_by_key(|address| address.is_ipv6() && address.ip().is_loopback());
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new(s, "an address such as localhost:9092, 10.0.0.1:9092 or [::1]:9092");
        let (host, port) = s.rsplit_once(':').ok_or_else(error)?;
        let bare = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(Some(inner)) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            None if is_name(host) => host,
            _ => return Err(error()),
        };
        let port = port.parse().ok().filter(|&port| port > 0).ok_or_else(error)?;
        Ok(Self { host: bare.to_owned(), port })
    }
}

fn is_name(host: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=253).contains(&host.len()) && host.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_typed() {
        for good in ["localhost:9092", "10.0.0.1:1", "[::1]:9092", "node-1.example_x.org:65535"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in
            ["", "localhost", ":9092", "host:0", "host:65536", "::1:9092", "[x]:1", "[::1]", "a b:1", "http://x:1"]
        {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
        let socket: SocketAddr = "[::1]:9092".parse().unwrap();
        assert_eq!(HostPort::from(socket), "[::1]:9092".parse().unwrap());
    }
}
