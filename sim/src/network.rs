//! The virtual network: connections between processes, with lanes that keep their order and nothing that keeps order between
//! lanes; delay, cuts in one direction or both, connections that break.
//!
//! A broken connection loses what was on its way, but not always: what the receiving process had in its hands already is
//! handled late, perhaps after messages of the next connection. So "a message from the past" happens here too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dlog_proto::Time;
use fastrand::Rng;

use crate::message::{Lane, Message};

/// Somebody who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    /// The metadata tier, as one.
    Metadata,
    Server(u16),
    Writer(u16),
    Reader(u16),
}

/// Delays of a run.
#[derive(Debug, Clone)]
pub(crate) struct Delays {
    pub min: Duration,
    pub max: Duration,
    /// Share of messages that take up to `slow`.
    pub slow_share: f64,
    pub slow: Duration,
    /// After how long of silence a connection breaks.
    pub idle_timeout: Duration,
}

/// A message that arrives.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub from: Address,
    pub to: Address,
    pub connection: u64,
    pub lane: Lane,
    pub message: Message,
}

/// What the network wants to happen at a later time.
#[derive(Debug)]
pub(crate) enum Later {
    Deliver(Box<Delivery>),
    /// A direction has been cut for so long that the connection breaks, if it is still that one.
    Break {
        a: Address,
        b: Address,
        connection: u64,
    },
}

#[derive(Debug, Default)]
struct Link {
    /// The connection that is up, if one is.
    connection: Option<u64>,
    /// By direction (from the lower address to the higher first): cut.
    cut: [bool; 2],
    /// Messages that a cut holds back, in order.
    held: [Vec<(Lane, Message)>; 2],
    /// When the last message of a lane arrives.
    arrives: BTreeMap<(usize, Lane), Time>,
}

#[derive(Debug)]
pub(crate) struct Network {
    delays: Delays,
    links: BTreeMap<(Address, Address), Link>,
    connections: u64,
    /// Lanes of broken connections of which a message was lost: so is everything after it.
    lost: BTreeSet<(u64, Address, Lane)>,
}

fn key(a: Address, b: Address) -> ((Address, Address), usize) {
    if a < b { ((a, b), 0) } else { ((b, a), 1) }
}

impl Network {
    pub(crate) fn new(delays: Delays) -> Self {
        Self { delays, links: BTreeMap::new(), connections: 0, lost: BTreeSet::new() }
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let max = if rng.f64() < self.delays.slow_share { self.delays.slow } else { self.delays.max };
        let (min, max) = (self.delays.min.as_nanos() as u64, max.as_nanos() as u64);
        Duration::from_nanos(rng.u64(min..=max.max(min)))
    }

    /// Whether a connection is up.
    pub(crate) fn is_up(&self, a: Address, b: Address) -> bool {
        a == b || self.links.get(&key(a, b).0).is_some_and(|link| link.connection.is_some())
    }

    /// Makes a connection, unless one is up or the way is cut. Whether it was made.
    pub(crate) fn connect(&mut self, a: Address, b: Address) -> bool {
        let link = self.links.entry(key(a, b).0).or_default();
        if link.connection.is_some() || link.cut != [false; 2] {
            return false;
        }
        self.connections += 1;
        link.connection = Some(self.connections);
        link.arrives.clear();
        true
    }

    /// Breaks the connection. Whether one was up.
    pub(crate) fn disconnect(&mut self, a: Address, b: Address) -> bool {
        let Some(link) = self.links.get_mut(&key(a, b).0) else { return false };
        link.held = [Vec::new(), Vec::new()];
        link.connection.take().is_some()
    }

    /// Everybody that `a` has a connection to.
    pub(crate) fn peers(&self, a: Address) -> Vec<Address> {
        let up = self.links.iter().filter(|(_, link)| link.connection.is_some());
        let other = |(x, y): (Address, Address)| match a {
            _ if x == a => Some(y),
            _ if y == a => Some(x),
            _ => None,
        };
        up.filter_map(|(pair, _)| other(*pair)).collect()
    }

    /// Sends a message; if no connection is up, it is lost.
    pub(crate) fn send(
        &mut self,
        now: Time,
        from: Address,
        to: Address,
        lane: Lane,
        message: Message,
        rng: &mut Rng,
    ) -> Option<(Time, Later)> {
        if from == to {
            return Some((now, Later::Deliver(Box::new(Delivery { from, to, connection: 0, lane, message }))));
        }
        let delay = self.delay(rng);
        let (pair, direction) = key(from, to);
        let link = self.links.get_mut(&pair)?;
        let connection = link.connection?;
        if link.cut[direction] {
            link.held[direction].push((lane, message));
            return None;
        }
        let arrives = link.arrives.entry((direction, lane)).or_insert(Time::ZERO);
        *arrives = (now + delay).max(*arrives);
        Some((*arrives, Later::Deliver(Box::new(Delivery { from, to, connection, lane, message }))))
    }

    /// Whether an arriving message is to be handled: its connection is up, or it was in the receiver's hands when it broke.
    pub(crate) fn arrives(&mut self, delivery: &Delivery, rng: &mut Rng) -> bool {
        if delivery.from == delivery.to {
            return true;
        }
        let up = self.links.get(&key(delivery.from, delivery.to).0).and_then(|link| link.connection);
        if up == Some(delivery.connection) {
            return true;
        }
        let lane = (delivery.connection, delivery.to, delivery.lane);
        if self.lost.contains(&lane) || rng.f64() < 0.5 {
            self.lost.insert(lane);
            return false;
        }
        true
    }

    /// Cuts the way from `from` to `to`. The connection breaks if the cut lasts.
    pub(crate) fn cut(&mut self, now: Time, from: Address, to: Address) -> Option<(Time, Later)> {
        let (pair, direction) = key(from, to);
        let link = self.links.entry(pair).or_default();
        link.cut[direction] = true;
        let connection = link.connection?;
        Some((now + self.delays.idle_timeout, Later::Break { a: from, b: to, connection }))
    }

    /// Mends the way from `from` to `to`; what the cut held back goes on, if the connection has lasted.
    pub(crate) fn mend(&mut self, now: Time, from: Address, to: Address, rng: &mut Rng) -> Vec<(Time, Later)> {
        let (pair, direction) = key(from, to);
        let Some(link) = self.links.get_mut(&pair) else { return Vec::new() };
        link.cut[direction] = false;
        let held = std::mem::take(&mut link.held[direction]);
        held.into_iter().filter_map(|(lane, message)| self.send(now, from, to, lane, message, rng)).collect()
    }

    /// Whether the connection that was up when a cut was made is still up and still cut.
    pub(crate) fn is_to_break(&self, a: Address, b: Address, connection: u64) -> bool {
        let link = self.links.get(&key(a, b).0);
        link.is_some_and(|link| link.connection == Some(connection) && link.cut != [false; 2])
    }

    pub(crate) fn mend_all(&mut self, now: Time, rng: &mut Rng) -> Vec<(Time, Later)> {
        let pairs: Vec<_> = self.links.keys().copied().collect();
        let both = pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        both.flat_map(|(from, to)| self.mend(now, from, to, rng)).collect()
    }
}
