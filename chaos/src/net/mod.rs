//! A network that misbehaves on demand, in user space and so alike everywhere: every node advertises the address of a forwarder
//! in this process, which hands datagrams on to the node's real port, and what comes back to whoever sent.
//!
//! ```text
//! node 2 ──► advertised address of node 1 ═ forwarder ═► real port of node 1
//!        ◄──────────────────────────────── one flow per sender ◄──
//! ```
//!
//! Links have directions: what node 2 sends to node 1, and what it answers node 1, go over the link 2 → 1. Whose socket a
//! datagram comes from is told by the system ([`owner`]). A node that is dead has no forwarder: its port is closed, and the kernel
//! says so to whoever asks, as for any dead process; unless it is to look like a machine that lost power.

pub(crate) mod fault;
mod forwarder;
mod owner;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fault::{Fate, Fault, Faults, Link};
use owner::Owners;

use self::forwarder::Forwarder;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    /// All of this process's clients.
    Clients,
    /// By its number, from 1.
    Node(usize),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clients => f.write_str("clients"),
            Self::Node(node) => write!(f, "n{node}"),
        }
    }
}

/// What went over a link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) lost: u64,
}

#[derive(Debug)]
struct Links {
    faults: Faults,
    counts: HashMap<Link, Count>,
    rng: fastrand::Rng,
}

/// What forwarders share.
#[derive(Debug)]
struct Shared {
    links: Mutex<Links>,
    owners: Owners,
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, from: End, to: End) -> Fate {
        let mut links = self.links();
        let Links { faults, counts, rng } = &mut *links;
        let fate = faults.of(from, to).fate(rng);
        let count = counts.entry((from, to)).or_default();
        match fate {
            Fate::Lost => count.lost += 1,
            Fate::Arrives { .. } => count.passed += 1,
        }
        fate
    }
}

/// The network between nodes and clients.
#[derive(Debug)]
pub(crate) struct Network {
    shared: Arc<Shared>,
    forwarders: Vec<Option<Forwarder>>,
}

impl Network {
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        let links = Links { faults: Faults::default(), counts: HashMap::new(), rng: fastrand::Rng::with_seed(seed) };
        let shared = Arc::new(Shared { links: Mutex::new(links), owners: Owners::default() });
        Self { shared, forwarders: std::iter::repeat_with(|| None).take(nodes).collect() }
    }

    /// A node's process is there now, or another one is.
    pub(crate) async fn open(
        &mut self,
        node: usize,
        process: u32,
        advertised: SocketAddr,
        real: SocketAddr,
    ) -> std::io::Result<()> {
        self.shared.owners.set(node, process, real.ip());
        if let Some(old) = self.forwarders[node - 1].take() {
            old.close().await;
        }
        self.forwarders[node - 1] = Some(Forwarder::open(self.shared.clone(), node, advertised, real).await?);
        Ok(())
    }

    /// A node's process is gone, and its port is closed.
    pub(crate) async fn close(&mut self, node: usize) {
        if let Some(forwarder) = self.forwarders[node - 1].take() {
            forwarder.close().await;
        }
    }

    /// Adds a fault to these links; the number takes it away again.
    pub(crate) fn add(&self, fault: Fault, links: Vec<Link>) -> u64 {
        self.shared.links().faults.add(fault, links)
    }

    pub(crate) fn remove(&self, number: u64) {
        self.shared.links().faults.remove(number);
    }

    pub(crate) fn heal(&self) {
        self.shared.links().faults.clear();
    }

    /// All links that something went over, in order.
    pub(crate) fn counts(&self) -> Vec<(Link, Count)> {
        let mut counts: Vec<_> = self.shared.links().counts.iter().map(|(link, count)| (*link, *count)).collect();
        counts.sort_unstable_by_key(|(link, _)| *link);
        counts
    }
}

/// Whether it can be told here which node sends: without that, nodes cannot be cut off from each other.
pub(crate) fn tells_nodes_apart() -> bool {
    owner::is_supported()
}
