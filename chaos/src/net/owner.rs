//! Whose socket a datagram comes from. Where nodes have machines of their own, the address tells. On one machine they send from ports
//! that the system gives them, so it is the system that can tell (`/proc`, on Linux). Elsewhere all senders count as clients.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::End;

/// The processes and addresses of nodes.
#[derive(Debug, Default)]
pub(super) struct Owners {
    nodes: Mutex<HashMap<usize, (u32, IpAddr)>>,
}

pub(super) fn is_supported() -> bool {
    Path::new("/proc/self/net/udp").exists()
}

impl Owners {
    pub(super) fn set(&self, node: usize, process: u32, address: IpAddr) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (process, address));
    }

    /// Who sends from here over UDP.
    pub(super) fn of(&self, from: SocketAddr) -> End {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let inodes = match from.ip().is_loopback() {
            true => inodes_of(&std::fs::read_to_string("/proc/self/net/udp").unwrap_or_default(), from.port()),
            false => Vec::new(),
        };
        let sends = |process: u32, address: IpAddr| match from.ip().is_loopback() {
            true => inodes.iter().any(|inode| has_socket(process, inode)),
            false => address == from.ip(),
        };
        let owner = nodes.into_iter().find(|(_, (process, address))| sends(*process, *address));
        owner.map_or(End::Clients, |(node, _)| End::Node(node))
    }
}

/// The sockets that are bound to this port, in `/proc/net/udp`: `sl local_address rem_address st … inode …`, addresses as
/// hexadecimal `address:port`, the inode tenth.
fn inodes_of(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let inode = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.nth(1).filter(|local| local.ends_with(&suffix))?;
        fields.nth(7).map(|inode| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn has_socket(process: u32, inode: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let is = |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == inode);
    files.flatten().any(|file| is(&file.path()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     100: 0100007F:2384 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n\
                     101: 00000000:2385 0100007F:2384 01 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n";
        assert_eq!(inodes_of(table, 0x2385), ["socket:[4712]"]);
        assert_eq!(inodes_of(table, 0x2386), [""; 0]);
    }

    #[test]
    fn own_sockets_are_those_of_this_process() {
        if !is_supported() {
            return;
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = socket.local_addr().unwrap();
        let owners = Owners::default();
        assert_eq!(owners.of(from), End::Clients);
        owners.set(3, std::process::id(), from.ip());
        assert_eq!(owners.of(from), End::Node(3));
    }

    #[test]
    fn a_machine_is_known_by_its_address() {
        let owners = Owners::default();
        (1..=2).for_each(|node| owners.set(node, 0, IpAddr::from([10, 83, 0, node as u8])));
        assert_eq!(owners.of(([10, 83, 0, 2], 4711).into()), End::Node(2));
        assert_eq!(owners.of(([10, 83, 1, 2], 4711).into()), End::Clients);
    }
}
