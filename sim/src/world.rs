//! The world of a run: everybody in it, the queue of what is to happen, and the rules by which it happens.

mod connections;
mod troubles;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use dlog_client::read::core::ReaderSettings;
use dlog_proto::{ClusterId, Esn, Lsn, NodeId, PartitionUid, ProcessId, Time, TimestampMs};
use dlog_sequencer::Settings;

use crate::clock::Clock;
use crate::context::{Context, Effect};
use crate::history::History;
use crate::invariants;
use crate::message::Message;
use crate::metadata::Metadata;
use crate::network::{Address, Delivery, Later, Network};
use crate::reader::Reader;
use crate::scenario::{Focus, Scenario};
use crate::seed::Streams;
use crate::server::Server;
use crate::shard::{Medium, ShardTimer};
use crate::trace::Trace;
use crate::trouble::Losses;
use crate::writer::Writer;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xD106);

/// How often a connection that is down is tried again.
const RECONNECT: Duration = Duration::from_millis(30);
/// How often nodes are told how things stand, if something changed.
const VIEWS: Duration = Duration::from_millis(5);
/// What a sync takes on a slow disk, at most.
const SLOW_SYNC: Duration = Duration::from_millis(300);
/// What a sync takes on any disk, at least.
const SYNC_MIN: Duration = Duration::from_micros(100);

/// How a server's disks are not as they should be.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Slow,
    HangsUntil(Time),
}

#[derive(Debug)]
pub(crate) enum Event {
    Network(Later),
    /// An actor asked to be woken.
    Wake(Address),
    ShardTimer {
        server: u16,
        process: ProcessId,
        shard: u16,
        timer: ShardTimer,
    },
    /// Tries to connect.
    Connect(Address, Address),
    /// An actor notices what became of a connection.
    Notice {
        at: Address,
        peer: Address,
    },
    /// The metadata tier believes that a process is gone.
    Gone {
        node: NodeId,
        process: ProcessId,
    },
    Back {
        node: NodeId,
        process: ProcessId,
    },
    Views,
    Start(u16),
    Resume(u16),
    Mend(Address, Address),
    MetadataBack,
    DiskBack(u16),
    DiskRoom(u16),
    Cured(u16),
    NextTrouble,
}

pub(crate) struct World {
    pub now: Time,
    pub scenario: Scenario,
    pub settings: Arc<Settings>,
    queue: BinaryHeap<Reverse<Entry>>,
    events: u64,
    pub network: Network,
    pub metadata: Metadata,
    pub servers: BTreeMap<u16, Server>,
    pub writers: BTreeMap<u16, Writer>,
    pub readers: BTreeMap<u16, Reader>,
    pub history: History,
    pub rng: Streams,
    pub violations: Vec<String>,
    pub trace: Trace,
    pub partitions: Vec<Vec<PartitionUid>>,
    /// Processes that stand still, and what waits for them.
    paused: BTreeMap<u16, Vec<Event>>,
    /// How long their syncs take.
    slow: BTreeMap<u16, Pace>,
    /// The server whose disks ail.
    ailing: Option<u16>,
    wakes: BTreeMap<Address, Time>,
    /// Trouble goes on.
    pub troubled: bool,
    losses: Losses,
    /// Servers that are gone for good.
    gone: BTreeSet<u16>,
    /// By how much servers' wall clocks are off, in milliseconds.
    clocks: BTreeMap<u16, i64>,
    /// How fast their monotonic clocks run.
    speeds: BTreeMap<u16, Clock>,
    next_reader: u16,
    /// Nodes are about to be told how things stand.
    views_due: bool,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl World {
    pub(crate) fn new(mut rng: Streams, scenario: Scenario, trace: Trace) -> Self {
        let mut settings = Settings { snapshot_time: Duration::from_millis(500), ..Settings::default() };
        if let Some(esn_max) = scenario.esn_max {
            settings.esn_max = Esn(esn_max);
        }
        settings.straggler_timeout = Duration::from_millis(rng.topology.u64(50..=2_000));
        if let Some(window_bytes_max) = scenario.window_bytes_max {
            settings.window_bytes_max = window_bytes_max;
        }
        // A block of a few batches only: more of them are on their way at a time.
        settings.block_len_target = rng.topology.usize(100..=2_000);
        settings.sticky_bytes = rng.topology.usize(500..=20_000);
        settings.greylist = Duration::from_millis(rng.topology.u64(100..=2_000));
        settings.lease = Some(scenario.lease);
        settings.sticky_bytes = scenario.sticky_bytes.unwrap_or(settings.sticky_bytes);
        let drift = scenario.clock_drift_max;
        let speeds = (1..=scenario.nodes).map(|node| (node, Clock::new(rng.clocks.i64(-drift..=drift)))).collect();
        let server = |node: u16| {
            let server = Server {
                node: NodeId(node),
                location: scenario.location(node).parse().expect("a location"),
                media: (0..scenario.shards).map(|_| Medium::default()).collect(),
                weight: scenario.weight(node),
                boot: u128::from(node),
                process: None,
            };
            (node, server)
        };
        Self {
            now: Time::ZERO,
            settings: Arc::new(settings),
            queue: BinaryHeap::new(),
            events: 0,
            network: Network::new(scenario.delays.clone()),
            metadata: Metadata::new(CLUSTER),
            servers: (1..=scenario.nodes).map(server).collect(),
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
            history: History::default(),
            rng,
            violations: Vec::new(),
            trace,
            partitions: Vec::new(),
            paused: BTreeMap::new(),
            slow: BTreeMap::new(),
            ailing: None,
            wakes: BTreeMap::new(),
            troubled: false,
            losses: Losses::allowed(&scenario),
            gone: BTreeSet::new(),
            clocks: BTreeMap::new(),
            speeds,
            next_reader: 0,
            views_due: false,
            scenario,
        }
    }

    pub(crate) fn now_ms(&self) -> TimestampMs {
        1_700_000_000_000 + (self.now.0 / 1_000_000) as i64
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: Time, event: Event) {
        self.events += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), number: self.events, event }));
    }

    /// Lets the next thing happen. `false` if nothing is left to happen before `until`.
    pub(crate) fn step(&mut self, until: Time) -> bool {
        if self.queue.peek().is_none_or(|Reverse(entry)| entry.at > until) {
            return false;
        }
        let Some(Reverse(Entry { at, event, .. })) = self.queue.pop() else { return false };
        self.now = at;
        self.trace.event(at, &event);
        self.happen(event);
        if self.scenario.prompt_views && self.metadata.changed && self.metadata.available && !self.views_due {
            self.views_due = true;
            self.schedule(VIEWS, Event::Views);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        if let Some(server) = server_of(&event)
            && let Some(waiting) = self.paused.get_mut(&server)
        {
            return waiting.push(event);
        }
        match event {
            Event::Network(Later::Deliver(delivery)) => {
                if self.network.arrives(&delivery, &mut self.rng.network) {
                    self.deliver(*delivery);
                }
            }
            Event::Network(Later::Break { a, b, connection }) => {
                if self.network.is_to_break(a, b, connection) {
                    self.break_connection(a, b, Duration::ZERO);
                }
            }
            Event::Wake(address) => {
                self.wakes.remove(&address);
                self.wake(address);
            }
            Event::ShardTimer { server, process, shard, timer } => {
                let current = self.servers[&server].process.as_ref().is_some_and(|p| p.id == process);
                if current {
                    self.with_server(server, |s, cx| s.handle_shard_timer(cx, shard, timer));
                }
            }
            Event::Connect(a, b) => self.connect(a, b),
            Event::Notice { at, peer } => {
                // Whoever has a new connection meanwhile has noticed that the old one was gone.
                if !self.network.is_up(at, peer) {
                    self.notice(at, peer, false);
                }
            }
            Event::Gone { node, process } => self.metadata.handle_gone(node, process),
            Event::Back { node, process } => self.metadata.handle_back(node, process),
            Event::Views => {
                self.views_due = false;
                self.send_views();
            }
            Event::Start(server) => self.start(server),
            Event::Resume(server) => self.resume(server),
            Event::Mend(a, b) => self.mend(a, b),
            Event::MetadataBack => self.metadata.available = true,
            Event::DiskBack(server) => drop(self.slow.remove(&server)),
            Event::DiskRoom(server) => self.set_refuses(server, None),
            Event::Cured(server) => self.cure(server),
            Event::NextTrouble => self.next_trouble(),
        }
    }

    fn with_server(&mut self, number: u16, act: impl FnOnce(&mut Server, &mut Context<'_>)) {
        self.with(Address::Server(number), |world, cx| act(world.server(number), cx));
    }

    fn with(&mut self, me: Address, act: impl FnOnce(&mut Actors<'_>, &mut Context<'_>)) {
        let mut effects = Vec::new();
        let clock = match me {
            Address::Server(server) => self.clocks.get(&server).copied().unwrap_or_default(),
            _ => 0,
        };
        let now_ms = self.now_ms() + clock;
        let local = self.clock_of(me).at(self.now);
        {
            let Self { now, servers, writers, readers, metadata, network, rng, history, slow, scenario, .. } = self;
            let pace = if let Address::Server(n) = me { slow.get(&n) } else { None };
            let network = &*network;
            let is_up = move |to| network.is_up(me, to);
            let sync = match pace {
                None => (SYNC_MIN, scenario.sync_max),
                Some(Pace::Slow) => (SYNC_MIN, SLOW_SYNC),
                Some(Pace::HangsUntil(end)) => (end.since(*now).max(SYNC_MIN), Duration::ZERO),
            };
            let calm = scenario.focus == Focus::Calm;
            let effects = &mut effects;
            let mut cx = Context { now: local, now_ms, rng, history, sync, calm, effects, is_up: &is_up };
            act(&mut Actors { servers, writers, readers, metadata }, &mut cx);
        }
        self.carry_out(me, effects);
        self.keep_awake(me);
    }

    /// The monotonic clock that an actor goes by.
    fn clock_of(&self, address: Address) -> Clock {
        match address {
            Address::Server(server) => self.speeds.get(&server).copied().unwrap_or_default(),
            _ => Clock::default(),
        }
    }

    fn carry_out(&mut self, me: Address, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, lane, message } => {
                    let later = self.network.send(self.now, me, to, lane, *message, &mut self.rng.network);
                    if let Some((at, later)) = later {
                        self.schedule_at(at, Event::Network(later));
                    }
                }
                Effect::ShardTimer { shard, after, timer } => {
                    let Address::Server(server) = me else { continue };
                    let Some(process) = self.servers[&server].process.as_ref().map(|p| p.id) else { continue };
                    self.schedule(after, Event::ShardTimer { server, process, shard, timer });
                }
                Effect::Claim(claim) => {
                    let checked = invariants::check_claim(&mut self.history.ledger, &self.metadata.state, claim);
                    if let Err(why) = checked {
                        self.violations.push(format!("at {} {me:?}: {why}", show(self.now)));
                    }
                }
                Effect::ViolationOfNewest { partition, epoch, what } => {
                    let newest = self.metadata.state.partition(partition).and_then(|p| p.newest());
                    if newest.is_some_and(|(newest, ..)| newest == epoch) {
                        self.violations.push(format!("at {} {me:?}: {partition}: {epoch}: {what}", show(self.now)));
                    }
                }
                Effect::Violation(what) => self.violations.push(format!("at {} {me:?}: {what}", show(self.now))),
            }
        }
    }

    fn keep_awake(&mut self, address: Address) {
        let timeout = match address {
            Address::Server(n) => self.servers.get(&n).and_then(Server::next_timeout),
            Address::Writer(n) => self.writers.get(&n).and_then(Writer::next_timeout),
            Address::Reader(n) => self.readers.get(&n).and_then(Reader::next_timeout),
            Address::Metadata => None,
        };
        let Some(at) = timeout.map(|at| self.clock_of(address).when(at).max(self.now + Duration::from_micros(1)))
        else {
            return;
        };
        if self.wakes.get(&address).is_none_or(|known| *known > at) {
            self.wakes.insert(address, at);
            self.schedule_at(at, Event::Wake(address));
        }
    }

    pub(crate) fn wake(&mut self, address: Address) {
        match address {
            Address::Server(n) => self.with_server(n, Server::handle_wake),
            Address::Writer(n) if self.writers.contains_key(&n) => {
                self.with(address, |actors, cx| actors.writer(n).handle_wake(cx));
            }
            Address::Reader(n) if self.readers.contains_key(&n) => {
                self.with(address, |actors, cx| actors.reader(n).handle_wake(cx));
            }
            _ => {}
        }
    }

    fn deliver(&mut self, Delivery { from, to, message, .. }: Delivery) {
        match to {
            Address::Metadata => {
                self.with(to, |actors, cx| actors.metadata.handle(cx, from, message));
            }
            Address::Server(n) => self.with_server(n, |s, cx| s.handle(cx, from, message)),
            Address::Writer(n) => self.with(to, |actors, cx| match message {
                Message::Sequences(_, node) => actors.writer(n).handle_sequencer(cx, node),
                Message::Appended { round, batch, outcome, .. } => {
                    actors.writer(n).handle_appended(cx, round, batch, outcome);
                }
                other => unreachable!("not for a writer: {other:?}"),
            }),
            Address::Reader(n) if self.readers.contains_key(&n) => {
                self.with(to, |actors, cx| actors.reader(n).handle(cx, from, message));
            }
            Address::Reader(_) => {}
        }
    }

    /// The metadata tier loses sight of a process.
    fn suspect(&mut self, server: u16) {
        if let Some(process) = self.servers[&server].process.as_ref().map(|p| p.id) {
            let after = self.rng.faults.u64(1..=self.scenario.detect_max.as_millis() as u64);
            let node = NodeId(server);
            self.schedule(Duration::from_millis(after), Event::Gone { node, process });
        }
    }

    fn send_views(&mut self) {
        if !std::mem::take(&mut self.metadata.changed) || !self.metadata.available {
            return;
        }
        for peer in self.network.peers(Address::Metadata) {
            if matches!(peer, Address::Server(_)) {
                let view = self.metadata.view();
                self.with(Address::Metadata, |_, cx| cx.send(peer, crate::message::Lane::Control, view));
            }
        }
    }

    fn start(&mut self, server: u16) {
        if self.servers[&server].process.is_some() || self.gone.contains(&server) {
            return;
        }
        let settings = self.settings.clone();
        self.with_server(server, |s, cx| s.start(cx, CLUSTER, &settings));
    }

    /// A process is gone; `power`: with all that was not on the disk.
    pub(crate) fn kill(&mut self, server: u16, power: bool) {
        self.suspect(server);
        self.paused.remove(&server);
        self.wakes.remove(&Address::Server(server));
        let s = self.servers.get_mut(&server).expect("a server of the run");
        let Some(mut process) = s.process.take() else { return };
        for (index, medium) in s.media.iter_mut().enumerate() {
            if let Some(shard) = process.shards.get_mut(&(index as u16)) {
                medium.unsynced = shard.take_tracked();
            }
            if power {
                medium.lost_power = true;
                medium.disk.crash(&mut self.rng.disk);
                medium.index.crash(&mut self.rng.disk);
            } else {
                medium.disk.kill();
            }
        }
        if power {
            s.boot = self.rng.disk.u128(..);
        }
        for peer in self.network.peers(Address::Server(server)) {
            self.break_connection(Address::Server(server), peer, Duration::from_millis(100));
        }
    }

    fn resume(&mut self, server: u16) {
        for event in self.paused.remove(&server).unwrap_or_default() {
            self.schedule(Duration::ZERO, event);
        }
    }

    /// Keeps nodes told how things stand, whatever got lost.
    pub(crate) fn tell_everybody(&mut self) {
        self.restart_failed();
        self.metadata.changed = true;
        let nodes: Vec<_> = self.servers.iter().filter_map(|(n, s)| Some((*n, s.process.as_ref()?.id))).collect();
        for (node, process) in nodes {
            if self.network.is_up(Address::Server(node), Address::Metadata) && !self.paused.contains_key(&node) {
                self.metadata.handle_back(NodeId(node), process);
            }
        }
        self.send_views();
    }

    pub(crate) fn add_reader(&mut self, partition: PartitionUid, from: Lsn) -> u16 {
        self.add_reader_of(partition, from, Lsn::MAX)
    }

    /// A reader of `from` to `until`, both included.
    fn add_reader_of(&mut self, partition: PartitionUid, from: Lsn, until: Lsn) -> u16 {
        let settings = ReaderSettings::default();
        let buffer_bytes_max = self.scenario.reader_bytes_max.unwrap_or(settings.buffer_bytes_max);
        let settings = ReaderSettings { buffer_bytes_max, ..settings };
        let number = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(number, Reader::new(partition, (from, until), settings));
        self.connect_client(Address::Reader(number));
        self.schedule(Duration::from_millis(1), Event::Wake(Address::Reader(number)));
        number
    }
}

/// Everybody, while one of them acts.
pub(crate) struct Actors<'a> {
    servers: &'a mut BTreeMap<u16, Server>,
    writers: &'a mut BTreeMap<u16, Writer>,
    readers: &'a mut BTreeMap<u16, Reader>,
    pub metadata: &'a mut Metadata,
}

impl Actors<'_> {
    fn server(&mut self, number: u16) -> &mut Server {
        self.servers.get_mut(&number).expect("a server of the run")
    }

    fn writer(&mut self, number: u16) -> &mut Writer {
        self.writers.get_mut(&number).expect("a writer of the run")
    }

    fn reader(&mut self, number: u16) -> &mut Reader {
        self.readers.get_mut(&number).expect("a reader of the run")
    }
}

/// The server in whose process an event happens.
fn server_of(event: &Event) -> Option<u16> {
    let address = match event {
        Event::Network(Later::Deliver(delivery)) => delivery.to,
        Event::Wake(address) | Event::Notice { at: address, .. } => *address,
        Event::ShardTimer { server, .. } => Address::Server(*server),
        _ => return None,
    };
    match address {
        Address::Server(server) => Some(server),
        _ => None,
    }
}

/// A time as people read it.
pub(crate) fn show(at: Time) -> String {
    format!("{:.6}s", at.0 as f64 / 1e9)
}
