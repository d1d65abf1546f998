//! What goes wrong in a run: troubles are drawn, made, and all of them ended.

use std::time::Duration;

use dlog_proto::wire::StoreRefusal;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, ShardId, ShardRef};
use dlog_storage_node::disk::simulated::{Fault, Operation};

use super::{Event, Pace, VIEWS, World};
use crate::network::Address;
use crate::server::Server;
use crate::shard::Shard;
use crate::trouble::{Ailment, Trouble};

impl World {
    pub(crate) fn begin_trouble(&mut self) {
        self.troubled = true;
        self.schedule(self.scenario.trouble_every, Event::NextTrouble);
    }

    pub(super) fn next_trouble(&mut self) {
        if !self.troubled {
            return;
        }
        if let Some(trouble) = Trouble::draw(&mut self.rng.faults, &self.scenario, &self.losses) {
            self.trace.trouble(self.now, &trouble);
            self.make(trouble);
        }
        let mean = self.scenario.trouble_every.as_micros() as f64;
        let after = -mean * (1.0 - self.rng.faults.f64()).ln();
        self.schedule(Duration::from_micros(after as u64), Event::NextTrouble);
    }

    fn make(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Kill { server, back_after } => {
                self.kill(server, false);
                self.schedule(back_after, Event::Start(server));
            }
            Trouble::Power { server, back_after } => {
                if self.servers[&server].process.is_some() {
                    self.losses.lose_power();
                }
                self.kill(server, true);
                self.schedule(back_after, Event::Start(server));
            }
            Trouble::Pause { server, for_ } => self.pause(server, for_),
            Trouble::Cut { from, to, both, for_ } => {
                self.cut(from, to, for_);
                if both {
                    self.cut(to, from, for_);
                }
            }
            Trouble::Isolate { server, for_ } => {
                let server = Address::Server(server);
                for peer in self.network.peers(server) {
                    self.cut(server, peer, for_);
                    self.cut(peer, server, for_);
                }
            }
            Trouble::MetadataAway { for_ } => {
                self.metadata.available = false;
                self.schedule(for_, Event::MetadataBack);
            }
            Trouble::SlowDisk { server, for_ } => {
                self.slow.insert(server, Pace::Slow);
                self.schedule(for_, Event::DiskBack(server));
            }
            Trouble::BreakConnection { a, b } => self.break_connection(a, b, Duration::from_millis(50)),
            Trouble::NewReader { log, partition, part } => {
                let partition = self.partitions[log][partition as usize];
                let released = self.history.of(partition).released;
                let at = |share: f64| Lsn::new(released.epoch(), Esn((f64::from(released.esn().0) * share) as u32));
                match part.filter(|_| released.epoch() > Epoch::ZERO) {
                    Some((a, b)) => self.add_reader_of(partition, at(a.min(b)).max(Lsn::FIRST), at(a.max(b)).next()),
                    None => self.add_reader(partition, Lsn::FIRST),
                };
            }
            Trouble::FalseAlarm { server } => self.suspect(server),
            Trouble::ReplaceDisk { server, shard, back_after } => self.replace_disk(server, shard, back_after),
            Trouble::LoseIndex { server, back_after } => {
                self.kill(server, false);
                self.servers[&server].media.iter().for_each(|medium| medium.index.lose());
                self.schedule(back_after, Event::Start(server));
            }
            Trouble::ReadErrors { server, shard, times } => {
                let fault = Fault { operation: Operation::Read, after: 0, times, error: Fault::EIO };
                let process = self.servers[&server].process.as_ref();
                if process.is_some_and(|p| p.shards.contains_key(&shard)) {
                    // They do not add up: what fails for longer than readers try is told as lost, and rightly so.
                    let disk = &self.servers[&server].media[usize::from(shard)].disk;
                    disk.forget_faults();
                    disk.inject(fault);
                }
            }
            Trouble::DiskFull { server, for_ } => {
                self.set_refuses(server, Some(&StoreRefusal::NoSpace));
                self.schedule(for_, Event::DiskRoom(server));
            }
            Trouble::Trim { log, partition, share } => self.trim(log, partition, share),
            Trouble::Renew { log, partition } => self.renew(self.partitions[log][partition as usize]),
            Trouble::ChangeLog { log, dice } => self.change_log(log, dice),
            Trouble::ClockJump { server, ms } => drop(self.clocks.insert(server, ms)),
            Trouble::Ail { server, ailment, for_ } => self.ail(server, ailment, for_),
            Trouble::Strand { server, for_ } => {
                self.suspect(server);
                let is_tier = |peer: &Address| matches!(peer, Address::Server(_) | Address::Metadata);
                for peer in self.network.peers(Address::Server(server)).into_iter().filter(is_tier) {
                    self.cut(Address::Server(server), peer, for_);
                    self.cut(peer, Address::Server(server), for_);
                }
            }
            Trouble::Damage { server, shard, back_after } => self.damage(server, shard, back_after),
            Trouble::Gone { server } => {
                self.losses.lose_disk();
                self.gone.insert(server);
                self.kill(server, false);
            }
        }
    }

    fn ail(&mut self, server: u16, ailment: Ailment, for_: Duration) {
        if self.ailing.is_some() {
            return;
        }
        self.ailing = Some(server);
        match ailment {
            Ailment::Slow => drop(self.slow.insert(server, Pace::Slow)),
            Ailment::Hangs => drop(self.slow.insert(server, Pace::HangsUntil(self.now + for_))),
            Ailment::Full | Ailment::Overloaded | Ailment::Disabled => {
                self.set_refuses(server, ailment.refusal().as_ref());
            }
        }
        self.schedule(for_, Event::Cured(server));
    }

    pub(super) fn cure(&mut self, server: u16) {
        if self.ailing == Some(server) {
            self.ailing = None;
            self.slow.remove(&server);
            self.set_refuses(server, None);
        }
    }

    pub(super) fn set_refuses(&mut self, server: u16, refusal: Option<&StoreRefusal>) {
        if let Some(process) = self.servers.get_mut(&server).and_then(|s| s.process.as_mut()) {
            process.shards.values_mut().for_each(|shard| shard.refuses = refusal.cloned());
        }
    }

    fn replace_disk(&mut self, server: u16, shard: u16, back_after: Duration) {
        self.kill(server, false);
        let medium = &mut self.servers.get_mut(&server).expect("a server of the run").media[usize::from(shard)];
        if let Some(incarnation) = std::mem::take(medium).incarnation {
            self.losses.lose_disk();
            self.history.ledger.lost.insert(ShardRef { shard: ShardId::new(server, shard), incarnation });
        }
        self.schedule(back_after, Event::Start(server));
    }

    fn damage(&mut self, server: u16, shard: u16, back_after: Duration) {
        if self.servers[&server].process.is_none() {
            return;
        }
        self.kill(server, false);
        let medium = &mut self.servers.get_mut(&server).expect("a server of the run").media[usize::from(shard)];
        if let (true, Some(incarnation)) = (medium.damage(&mut self.rng.faults), medium.incarnation) {
            self.losses.lose_disk();
            // What it still has of what it had, nobody counts on.
            self.history.ledger.lost.insert(ShardRef { shard: ShardId::new(server, shard), incarnation });
        }
        self.schedule(back_after, Event::Start(server));
    }

    fn trim(&mut self, log: usize, partition: u32, share: f64) {
        let partition = self.partitions[log][partition as usize];
        let history = self.history.of(partition);
        let upto = Lsn::new(history.released.epoch(), Esn((f64::from(history.released.esn().0) * share) as u32));
        if self.metadata.available && upto > history.trim && upto.epoch() > Epoch::ZERO {
            if let Some(trim) = self.metadata.trim(partition, upto) {
                history.trim = history.trim.max(trim);
            }
            self.schedule(VIEWS, Event::Views);
        }
    }

    fn renew(&mut self, partition: PartitionUid) {
        let newest = self.metadata.state.partition(partition).and_then(|p| p.newest());
        let Some((_, node, _)) = newest.filter(|(_, node, _)| !self.paused.contains_key(&node.0)) else { return };
        self.with_server(node.0, |server, cx| {
            if let Some(process) = &mut server.process {
                process.renew(cx, partition);
            }
        });
    }

    fn change_log(&mut self, log: usize, dice: u8) {
        let plan = &self.scenario.logs[log];
        let quorum = plan.replication.quorum;
        let (key, value) = if dice < 128 || !self.scenario.may_raise_quorums() {
            ("nodeset_size", quorum.replication_factor + dice % 3)
        } else {
            ("write_quorum", quorum.write_quorum + dice % (quorum.replication_factor - quorum.write_quorum + 1))
        };
        self.metadata.change_log(&format!("log{log}"), [(key.to_owned(), Some(value.to_string()))].into());
        self.schedule(VIEWS, Event::Views);
        for partition in self.partitions[log].clone() {
            self.renew(partition);
        }
    }

    fn pause(&mut self, server: u16, for_: Duration) {
        if self.servers[&server].process.is_none() || self.paused.contains_key(&server) {
            return;
        }
        self.paused.insert(server, Vec::new());
        self.suspect(server);
        self.schedule(for_, Event::Resume(server));
        if for_ > self.scenario.delays.idle_timeout {
            // The others break the connection; it notices when it goes on.
            for peer in self.network.peers(Address::Server(server)) {
                let connection = self.network.cut(self.now, Address::Server(server), peer);
                if let Some((at, later)) = connection {
                    self.schedule_at(at, Event::Network(later));
                }
                self.schedule(for_, Event::Mend(Address::Server(server), peer));
            }
        }
    }

    fn cut(&mut self, from: Address, to: Address, for_: Duration) {
        if let Some((at, later)) = self.network.cut(self.now, from, to) {
            self.schedule_at(at, Event::Network(later));
        }
        self.schedule(for_, Event::Mend(from, to));
    }

    /// Ends all trouble: everything is mended, everybody is started.
    pub(crate) fn end_trouble(&mut self) {
        self.troubled = false;
        self.metadata.available = true;
        self.metadata.changed = true;
        self.slow.clear();
        self.ailing = None;
        for (at, later) in self.network.mend_all(self.now, &mut self.rng.network) {
            self.schedule_at(at, Event::Network(later));
        }
        let paused: Vec<u16> = self.paused.keys().copied().collect();
        paused.into_iter().for_each(|server| self.resume(server));
        let servers: Vec<u16> = self.servers.keys().copied().collect();
        for server in servers {
            self.set_refuses(server, None);
            self.schedule(Duration::ZERO, Event::Start(server));
        }
        self.schedule(VIEWS, Event::Views);
    }

    /// A shard whose disk failed serves again after a restart.
    pub(super) fn restart_failed(&mut self) {
        let has_failed =
            |server: &Server| server.process.as_ref().is_some_and(|p| p.shards.values().any(Shard::is_failed));
        let failed: Vec<u16> = self.servers.iter().filter(|(_, s)| has_failed(s)).map(|(number, _)| *number).collect();
        for server in failed {
            self.kill(server, false);
            self.schedule(Duration::ZERO, Event::Start(server));
        }
    }
}
