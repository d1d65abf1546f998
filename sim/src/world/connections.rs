//! Who is connected with whom: connections are made, break, and both sides hear of it, one earlier than the other.

use std::time::Duration;

use dlog_proto::NodeId;

use super::{Event, RECONNECT, VIEWS, World};
use crate::network::Address;

impl World {
    pub(super) fn notice(&mut self, at: Address, peer: Address, up: bool) {
        match at {
            Address::Server(n) => self.with_server(n, |s, cx| s.handle_link(cx, peer, up)),
            Address::Writer(n) => self.with(at, |actors, cx| actors.writer(n).handle_link(cx, peer, up)),
            Address::Reader(n) if self.readers.contains_key(&n) => {
                self.with(at, |actors, cx| actors.reader(n).handle_link(cx, peer, up));
            }
            _ => {}
        }
    }

    /// Everybody who should be connected.
    pub(crate) fn connect_all(&mut self) {
        let servers: Vec<Address> = self.servers.keys().map(|n| Address::Server(*n)).collect();
        for (i, server) in servers.iter().enumerate() {
            self.schedule(Duration::ZERO, Event::Connect(*server, Address::Metadata));
            for other in &servers[..i] {
                self.schedule(Duration::ZERO, Event::Connect(*server, *other));
            }
        }
    }

    pub(crate) fn connect_client(&mut self, client: Address) {
        let servers: Vec<Address> = self.servers.keys().map(|n| Address::Server(*n)).collect();
        for server in servers {
            self.schedule(Duration::ZERO, Event::Connect(client, server));
        }
        self.schedule(Duration::ZERO, Event::Connect(client, Address::Metadata));
    }

    pub(super) fn is_there(&self, address: Address) -> bool {
        match address {
            Address::Metadata => true,
            Address::Server(n) => self.servers[&n].process.is_some() && !self.paused.contains_key(&n),
            Address::Writer(n) => self.writers.contains_key(&n),
            Address::Reader(n) => self.readers.contains_key(&n),
        }
    }

    pub(super) fn connect(&mut self, a: Address, b: Address) {
        let clients_gone = [a, b].iter().any(|x| matches!(x, Address::Reader(_)) && !self.is_there(*x));
        if clients_gone || self.network.is_up(a, b) {
            return;
        }
        if !self.is_there(a) || !self.is_there(b) || !self.network.connect(a, b) {
            return self.schedule(RECONNECT, Event::Connect(a, b));
        }
        // Whoever had not noticed yet that the one before was gone does so now.
        for (at, peer) in [(a, b), (b, a)] {
            self.notice(at, peer, false);
            self.notice(at, peer, true);
        }
        if let (Address::Server(n), Address::Metadata) | (Address::Metadata, Address::Server(n)) = (a, b) {
            if let Some(process) = self.servers[&n].process.as_ref().map(|p| p.id) {
                self.schedule(Duration::ZERO, Event::Back { node: NodeId(n), process });
            }
            self.metadata.changed = true;
            self.schedule(VIEWS, Event::Views);
        }
    }

    /// A connection breaks; each side notices within `notice_max`.
    pub(super) fn break_connection(&mut self, a: Address, b: Address, notice_max: Duration) {
        if !self.network.disconnect(a, b) {
            return;
        }
        for (at, peer) in [(a, b), (b, a)] {
            let after = Duration::from_micros(self.rng.network.u64(0..=notice_max.as_micros() as u64));
            self.schedule(after, Event::Notice { at, peer });
            if let (Address::Metadata, Address::Server(n)) = (at, peer) {
                self.suspect(n);
            }
        }
        self.schedule(RECONNECT, Event::Connect(a, b));
    }

    pub(super) fn mend(&mut self, from: Address, to: Address) {
        for (at, later) in self.network.mend(self.now, from, to, &mut self.rng.network) {
            self.schedule_at(at, Event::Network(later));
        }
    }
}
