//! Who lives: a pure core, with the time handed in.
//!
//! The metadata leader holds a lease per registered process, renewed by each heartbeat. What it decides only says who
//! *tries* to take over what; that two may try at once is harmless, because epochs have one owner each. So:
//!
//! - A new leader has heard from nobody. It declares nobody dead for one full lease, and takes over the registered
//!   processes as living.
//! - A leader that has lost touch with the majority does the same once it has found it again: the silence was its own.
//! - A connection to a process that died is a hint, not a proof: it shortens the lease to one probe interval, in which
//!   a living process sends another heartbeat.
//! - Only a node's registered process lives. An earlier one may still be heard of; it is gone all the same.
//!
//! INV-LIVENESS-ORDER: updates are ordered by (term, version), and no two different ones have the same.

use std::collections::BTreeMap;
use std::time::Duration;

use dlog_proto::wire::{AliveNode, Heartbeat, Liveness};
use dlog_proto::{NodeId, ProcessId, Time};

/// How long silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leases {
    pub lease: Duration,
    /// What is left of a lease when a connection to the process has died. Longer than the interval of heartbeats.
    pub probe: Duration,
}

/// The leader's table.
#[derive(Debug)]
pub struct LivenessTable {
    leases: Leases,
    /// Of the reign; `None` while another node leads.
    term: Option<u64>,
    version: u64,
    nodes: BTreeMap<NodeId, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    process: ProcessId,
    stopping: bool,
    /// `None` once it has run out.
    lease_ends: Option<Time>,
    /// A heartbeat was heard in this reign.
    heard: bool,
}

impl Entry {
    fn alive(&self, node: NodeId) -> Option<AliveNode> {
        let &Self { process, stopping, lease_ends, .. } = self;
        lease_ends.map(|_| AliveNode { node, process, stopping })
    }
}

impl LivenessTable {
    pub fn new(leases: Leases) -> Self {
        Self { leases, term: None, version: 0, nodes: BTreeMap::new() }
    }

    /// This node leads now. `registered` are the processes that the state names.
    pub fn handle_leading(&mut self, now: Time, term: u64, registered: impl IntoIterator<Item = (NodeId, ProcessId)>) {
        if self.term == Some(term) {
            return;
        }
        (self.term, self.version) = (Some(term), 0);
        self.nodes.clear();
        self.handle_registered(now, registered);
        self.version += 1;
    }

    /// Another node leads, or nobody.
    pub fn handle_not_leading(&mut self) {
        self.term = None;
        self.nodes.clear();
    }

    /// What the state says about nodes has changed. A process that is new to the table gets a full lease.
    pub fn handle_registered(&mut self, now: Time, registered: impl IntoIterator<Item = (NodeId, ProcessId)>) {
        if self.term.is_none() {
            return;
        }
        let lease_ends = Some(now + self.leases.lease);
        let mut nodes = BTreeMap::new();
        let mut changed = false;
        for (node, process) in registered {
            let known = self.nodes.remove(&node).filter(|entry| entry.process == process);
            changed |= known.is_none();
            let new = Entry { process, stopping: false, lease_ends, heard: false };
            nodes.insert(node, known.unwrap_or(new));
        }
        changed |= !self.nodes.is_empty();
        self.nodes = nodes;
        self.version += u64::from(changed);
    }

    /// A process lives. `false` if it is not its node's registered one: it has to register, or is gone.
    pub fn handle_heartbeat(&mut self, now: Time, heartbeat: &Heartbeat) -> bool {
        let lease_ends = Some(now + self.leases.lease);
        let Some(entry) = self.nodes.get_mut(&heartbeat.node).filter(|entry| entry.process == heartbeat.process) else {
            return false;
        };
        let was = entry.alive(heartbeat.node);
        // A process that is stopping does not change its mind; a heartbeat that was overtaken may say otherwise.
        let stopping = entry.stopping || heartbeat.stopping;
        *entry = Entry { stopping, lease_ends, heard: true, ..*entry };
        self.version += u64::from(was != entry.alive(heartbeat.node));
        true
    }

    /// A connection to a process has died.
    pub fn handle_suspect(&mut self, now: Time, node: NodeId, process: ProcessId) {
        let probe_ends = now + self.leases.probe;
        if let Some(entry) = self.nodes.get_mut(&node).filter(|entry| entry.process == process) {
            // A new leader has not heard from it yet and bears silence for one full lease.
            if entry.heard {
                entry.lease_ends = entry.lease_ends.map(|ends| ends.min(probe_ends));
            }
        }
    }

    /// The leader has found the majority again after having lost it: all leases begin anew.
    pub fn handle_majority_found(&mut self, now: Time) {
        let full = now + self.leases.lease;
        let ends = self.nodes.values_mut().filter_map(|entry| entry.lease_ends.as_mut());
        ends.for_each(|ends| *ends = full);
    }

    /// Time has passed: leases run out.
    pub fn handle_timeout(&mut self, now: Time) {
        let mut changed = false;
        for entry in self.nodes.values_mut() {
            if entry.lease_ends.take_if(|ends| *ends <= now).is_some() {
                changed = true;
            }
        }
        self.version += u64::from(changed);
    }

    /// When the next lease runs out.
    pub fn next_timeout(&self) -> Option<Time> {
        self.nodes.values().filter_map(|entry| entry.lease_ends).min()
    }

    /// Who lives. `None` if another node leads.
    pub fn liveness(&self) -> Option<Liveness> {
        let alive = self.nodes.iter().filter_map(|(node, entry)| entry.alive(*node)).collect();
        self.term.map(|term| Liveness { term, version: self.version, alive })
    }
}

/// Whether `update` is newer than what is known.
pub fn is_newer(update: &Liveness, known: &Liveness) -> bool {
    (update.term, update.version) > (known.term, known.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASES: Leases = Leases { lease: Duration::from_millis(400), probe: Duration::from_millis(100) };

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn heartbeat(node: u16, process: u128) -> Heartbeat {
        Heartbeat { node: NodeId(node), process: ProcessId(process), stopping: false }
    }

    fn registered(nodes: &[(u16, u128)]) -> Vec<(NodeId, ProcessId)> {
        nodes.iter().map(|(node, process)| (NodeId(*node), ProcessId(*process))).collect()
    }

    /// A leader since 0 of nodes 1 to 3, each with its number as process.
    fn leading() -> LivenessTable {
        let mut table = LivenessTable::new(LEASES);
        table.handle_leading(at(0), 5, registered(&[(1, 1), (2, 2), (3, 3)]));
        table
    }

    fn alive(table: &LivenessTable) -> Vec<u16> {
        table.liveness().unwrap().alive.iter().map(|alive| alive.node.0).collect()
    }

    #[test]
    fn a_new_leader_declares_nobody_dead_for_a_full_lease() {
        let mut table = leading();
        table.handle_suspect(at(1), NodeId(3), ProcessId(3));
        table.handle_timeout(at(399));
        assert_eq!(alive(&table), [1, 2, 3]);
        table.handle_heartbeat(at(399), &heartbeat(1, 1));
        assert_eq!(table.next_timeout(), Some(at(400)));
        table.handle_timeout(at(400));
        assert_eq!(alive(&table), [1]);
        assert_eq!((table.next_timeout(), table.liveness().unwrap().version), (Some(at(799)), 3));
    }

    #[test]
    fn a_dead_connection_shortens_the_lease_and_a_heartbeat_restores_it() {
        let mut table = leading();
        assert!((1..=3).all(|n| table.handle_heartbeat(at(300), &heartbeat(n, n.into()))));
        table.handle_suspect(at(310), NodeId(2), ProcessId(2));
        table.handle_suspect(at(310), NodeId(3), ProcessId(3));
        table.handle_suspect(at(310), NodeId(1), ProcessId(99));
        table.handle_heartbeat(at(350), &heartbeat(3, 3));
        table.handle_timeout(at(410));
        assert_eq!(alive(&table), [1, 3]);
        table.handle_heartbeat(at(420), &heartbeat(2, 2));
        assert_eq!(alive(&table), [1, 2, 3], "it was only its connection");
    }

    #[test]
    fn only_the_registered_process_lives() {
        let mut table = leading();
        assert!(!table.handle_heartbeat(at(10), &heartbeat(2, 22)), "not registered yet");
        table.handle_registered(at(20), registered(&[(1, 1), (2, 22), (3, 3)]));
        assert!(!table.handle_heartbeat(at(30), &heartbeat(2, 2)), "gone");
        assert!(table.handle_heartbeat(at(30), &heartbeat(2, 22)));
        assert_eq!(table.liveness().unwrap().alive[1].process, ProcessId(22));
        table.handle_registered(at(40), registered(&[(1, 1)]));
        assert_eq!(alive(&table), [1], "removed");
    }

    #[test]
    fn stopping_is_told_and_stays() {
        let mut table = leading();
        let version = table.liveness().unwrap().version;
        table.handle_heartbeat(at(10), &Heartbeat { stopping: true, ..heartbeat(2, 2) });
        table.handle_heartbeat(at(11), &heartbeat(2, 2));
        let liveness = table.liveness().unwrap();
        assert_eq!((liveness.version, liveness.alive[1].stopping), (version + 1, true));
    }

    #[test]
    fn silence_that_was_the_leaders_own_kills_nobody() {
        let mut table = leading();
        table.handle_majority_found(at(390));
        table.handle_timeout(at(500));
        assert_eq!(alive(&table), [1, 2, 3]);
        table.handle_timeout(at(790));
        assert!(alive(&table).is_empty());
    }

    #[test]
    fn updates_are_ordered_and_nothing_is_said_by_others() {
        let mut table = leading();
        let first = table.liveness().unwrap();
        table.handle_heartbeat(at(1), &heartbeat(1, 1));
        assert_eq!(table.liveness().unwrap(), first, "a heartbeat that changes nothing is no news");
        table.handle_timeout(at(1000));
        let second = table.liveness().unwrap();
        assert!(is_newer(&second, &first) && !is_newer(&first, &second) && !is_newer(&first, &first));
        table.handle_not_leading();
        assert_eq!((table.liveness(), table.next_timeout()), (None, None));
        table.handle_leading(at(2000), 7, registered(&[(1, 1)]));
        assert!(is_newer(&table.liveness().unwrap(), &second));
    }
}
