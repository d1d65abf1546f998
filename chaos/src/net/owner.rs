//! Whose socket a datagram comes from: the nodes send from ports that the system gives them, so it is the system that can tell
//! (`/proc`, on Linux). Elsewhere all senders count as clients.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::End;

/// The processes of nodes.
#[derive(Debug, Default)]
pub(super) struct Owners {
    processes: Mutex<HashMap<usize, u32>>,
}

pub(super) fn is_supported() -> bool {
    Path::new("/proc/self/net/udp").exists()
}

impl Owners {
    pub(super) fn set(&self, node: usize, process: u32) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(node, process);
    }

    /// Who has this UDP port open.
    pub(super) fn of(&self, port: u16) -> End {
        let inodes = inodes_of(&std::fs::read_to_string("/proc/self/net/udp").unwrap_or_default(), port);
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let has = |process: u32| inodes.iter().any(|inode| has_socket(process, inode));
        let owner = processes.into_iter().find(|(_, process)| has(*process));
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
        let port = socket.local_addr().unwrap().port();
        let owners = Owners::default();
        assert_eq!(owners.of(port), End::Clients);
        owners.set(3, std::process::id());
        assert_eq!(owners.of(port), End::Node(3));
    }
}
