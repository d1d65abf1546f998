//! A simulated server: a process that may be killed, stopped or lose power, with the cores of a sequencer and of its shards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::placement::Candidates;
use dlog_metadata::state::{
    Activate, Command, Cover, CoverItem, Damaged, Decide, DecideError, DecideOutcome, Decided, Decision, Partition,
    RecordUnderReplicated, RegisterNode, Response, Roles, ShardRegistration, State, UnderReplicatedChange,
    UnderReplicatedItem,
};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::record::BatchHeader;
use dlog_proto::wire::{Acks, AliveNode, EpochEnd, Liveness, LostBefore, PartitionRelease, Release, Seal};
use dlog_proto::{
    ClusterId, End, Epoch, Location, Lsn, NodeId, PartitionUid, ProcessId, RequestId, ShardId, ShardRef, Time,
};
use dlog_sequencer::{
    AppendRequest, Host, HostOutput, LeaseGrant, LeaseKeeper, LeaseTimes, Output, Proposal, Settings, Token,
};
use dlog_storage_node::Start;

use crate::context::Context;
use crate::invariants::{self, producers_are_known, snapshots_are_acknowledged};
use crate::ledger::{Claim, Copies};
use crate::message::{Lane, Message};
use crate::network::Address;
use crate::shard::{Medium, Shard, ShardTimer};

/// How long too few shards may take writes before another nodeset is asked for.
const NODESET_PATIENCE: Duration = Duration::from_millis(500);
/// How long a proposal waits for its answer before it is sent again.
const PROPOSAL_RETRY: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub(crate) struct Server {
    pub node: NodeId,
    pub location: Location,
    pub weight: u16,
    pub media: Vec<Medium>,
    pub boot: u128,
    pub process: Option<Process>,
}

/// Who asked for an append.
#[derive(Debug, Clone, Copy)]
struct Origin {
    writer: Address,
    partition: PartitionUid,
    round: u32,
    batch: u64,
    acks: Acks,
    since: Time,
    /// Its producer and the last of its sequence numbers.
    producer: Option<(i64, i32)>,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    sent_at: Time,
}

/// What lives in memory.
#[derive(Debug)]
pub(crate) struct Process {
    pub id: ProcessId,
    node: NodeId,
    cluster: ClusterId,
    pub host: Host,
    pub shards: BTreeMap<u16, Shard>,
    /// The metadata tier knows of this process.
    registered: bool,
    /// Messages for shards that came before.
    early: Vec<(Address, Message)>,
    unclean: BTreeSet<u16>,
    /// Shards whose damage the metadata tier is to be told of.
    damaged: BTreeSet<u16>,
    start: Start,
    state: State,
    alive: Vec<(NodeId, ProcessId)>,
    connected: BTreeSet<u16>,
    origins: BTreeMap<Token, Origin>,
    next_token: u64,
    pending: BTreeMap<RequestId, Pending>,
    /// What is to be put on record, one after the other.
    to_record: VecDeque<UnderReplicatedItem>,
    next_request: u64,
    /// Up to where each partition's trim was told to the shards.
    trims: BTreeMap<PartitionUid, Lsn>,
    leases: LeaseKeeper,
    lease_times: LeaseTimes,
    /// When a lease is asked for again, if there are logs that need one.
    ask_lease_at: Time,
}

impl Server {
    /// Starts a process. What its disks say may be a violation.
    pub(crate) fn start(&mut self, cx: &mut Context<'_>, cluster: ClusterId, settings: &Arc<Settings>) {
        let mut id = ProcessId(cx.rng.cores.u128(..));
        if bug(Bug::RequestIdsRepeat) {
            id = ProcessId(self.node.0.into());
        }
        let lease_times = LeaseTimes::of(settings.lease.expect("every run has one"));
        let start = Start { boot_id: self.boot, now_ms: cx.now_ms, random: cx.rng.cores.u64(..) };
        let mut process = Process {
            id,
            node: self.node,
            cluster,
            host: Host::new(settings.clone(), cx.rng.cores.u64(..)),
            shards: BTreeMap::new(),
            registered: false,
            early: Vec::new(),
            unclean: BTreeSet::new(),
            damaged: BTreeSet::new(),
            start,
            state: State::default(),
            alive: Vec::new(),
            connected: BTreeSet::new(),
            origins: BTreeMap::new(),
            next_token: 0,
            pending: BTreeMap::new(),
            to_record: VecDeque::new(),
            next_request: 0,
            trims: BTreeMap::new(),
            leases: LeaseKeeper::new(lease_times),
            lease_times,
            ask_lease_at: Time::ZERO,
        };
        for (index, medium) in self.media.iter_mut().enumerate() {
            let index = index as u16;
            let Some(incarnation) = medium.incarnation else { continue };
            let shard = ShardId { node: self.node, shard: index };
            let opened = Shard::open(medium, cluster, shard, incarnation, start, &mut cx.history.ledger);
            (medium.unsynced, medium.lost_power) = (Vec::new(), false);
            match opened {
                Ok((opened, lost)) => {
                    process.shards.insert(index, opened);
                    if lost.write_cache {
                        process.unclean.insert(index);
                    }
                    if lost.durable {
                        process.damaged.insert(index);
                    }
                }
                Err(why) => cx.violation(why),
            }
        }
        self.process = Some(process);
    }

    /// Registers with the metadata tier, once it can be reached.
    pub(crate) fn register(&mut self, cx: &mut Context<'_>) {
        let Some(process) = &mut self.process else { return };
        if process.pending.values().any(|p| matches!(p.command, Command::RegisterNode(_))) {
            return;
        }
        let shard = |(index, medium): (usize, &Medium)| ShardRegistration {
            index: index as u16,
            incarnation: medium.incarnation,
            unclean: process.unclean.contains(&(index as u16)),
        };
        let shards = self.media.iter().enumerate().map(shard).collect();
        let command = Command::RegisterNode(RegisterNode {
            node: self.node,
            address: format!("{}:9092", self.node),
            http: String::new(),
            roles: Roles::ALL,
            location: self.location.clone(),
            process: process.id,
            cores: 1,
            weight: self.weight,
            shards,
        });
        process.propose(cx, command);
    }

    pub(crate) fn handle(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        let Some(process) = &mut self.process else { return };
        match message {
            Message::Proposed { request, state, response } => {
                if process.pending.get(&request).is_some_and(|p| matches!(p.command, Command::RegisterNode(_))) {
                    process.pending.remove(&request);
                    process.handle_registered(cx, &mut self.media, response);
                } else {
                    process.handle_proposed(cx, request, &state, response);
                }
            }
            message => process.handle(cx, from, message),
        }
        process.pump(cx);
        // A late registration of an earlier process may have taken the place of this one's.
        if process.is_forgotten() {
            self.register(cx);
        }
    }

    pub(crate) fn handle_link(&mut self, cx: &mut Context<'_>, peer: Address, up: bool) {
        if peer == Address::Metadata && up && self.process.as_ref().is_some_and(|p| !p.registered) {
            self.register(cx);
        }
        let Some(process) = &mut self.process else { return };
        match peer {
            Address::Server(node) => process.handle_link(cx, node, up),
            Address::Reader(_) if !up => process.shards.values_mut().for_each(|shard| shard.stop_reads(peer)),
            _ => {}
        }
        process.pump(cx);
    }

    pub(crate) fn handle_shard_timer(&mut self, cx: &mut Context<'_>, shard: u16, timer: ShardTimer) {
        let Some(process) = &mut self.process else { return };
        if let Some(shard) = process.shards.get_mut(&shard) {
            shard.handle_timer(cx, timer);
        }
        process.pump(cx);
    }

    pub(crate) fn handle_wake(&mut self, cx: &mut Context<'_>) {
        let registered = self.process.as_ref().is_some_and(|p| p.registered);
        if let Some(process) = &mut self.process {
            process.retry_proposals(cx);
            process.ask_lease(cx);
            process.pump(cx);
        }
        if !registered && self.process.as_ref().is_some_and(|p| p.pending.is_empty()) {
            self.register(cx);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let process = self.process.as_ref()?;
        let proposals = process.pending.values().map(|p| p.sent_at + PROPOSAL_RETRY).min();
        let lease = process.state.prefers_availability().then_some(process.ask_lease_at);
        process.host.next_timeout().into_iter().chain(proposals).chain(lease).min()
    }
}

impl Process {
    /// Whether the metadata tier takes another process for this node's, although this one was registered.
    fn is_forgotten(&self) -> bool {
        let registering = self.pending.values().any(|p| matches!(p.command, Command::RegisterNode(_)));
        let known = self.state.node(self.node).map(|info| info.process);
        self.registered && !registering && known.is_some_and(|process| process != self.id)
    }

    fn propose(&mut self, cx: &mut Context<'_>, command: Command) {
        self.next_request += 1;
        let request = RequestId { process: self.id, counter: self.next_request };
        self.pending.insert(request, Pending { command: command.clone(), sent_at: cx.now });
        cx.send(Address::Metadata, Lane::Control, Message::Propose { request, command });
    }

    fn retry_proposals(&mut self, cx: &mut Context<'_>) {
        for (request, pending) in &mut self.pending {
            if pending.sent_at + PROPOSAL_RETRY <= cx.now {
                pending.sent_at = cx.now;
                let (request, command) = (*request, pending.command.clone());
                cx.send(Address::Metadata, Lane::Control, Message::Propose { request, command });
            }
        }
    }

    fn handle_registered(&mut self, cx: &mut Context<'_>, media: &mut [Medium], response: Response) {
        let Response::RegisterNode(Ok(registered)) = response else {
            return cx.violation(format!("{} was not registered: {response:?}", self.node));
        };
        for given in registered.shards {
            let medium = &mut media[usize::from(given.index)];
            let shard = ShardId { node: self.node, shard: given.index };
            if medium.incarnation.is_none() {
                medium.incarnation = Some(given.incarnation);
                match Shard::open(medium, self.cluster, shard, given.incarnation, self.start, &mut cx.history.ledger) {
                    Ok((opened, _)) => drop(self.shards.insert(given.index, opened)),
                    Err(why) => cx.violation(why),
                }
            }
            if let Some(shard) = self.shards.get_mut(&given.index) {
                shard.handle_registered(LostBefore { cached: given.incomplete_before, durable: given.damaged_before });
            }
        }
        self.registered = true;
        self.unclean.clear();
        for index in std::mem::take(&mut self.damaged) {
            let ShardRef { shard, incarnation } = self.shards[&index].shard_ref();
            self.propose(cx, Command::Damaged(Damaged { shard, incarnation }));
        }
        let own: Vec<u16> = self.shards.keys().copied().collect();
        own.into_iter()
            .for_each(|index| self.host.handle_link(cx.now, ShardId { node: self.node, shard: index }, true));
        for (from, message) in std::mem::take(&mut self.early) {
            self.handle_shard_message(cx, from, message);
        }
    }

    fn handle_link(&mut self, cx: &mut Context<'_>, node: u16, up: bool) {
        let changed = if up { self.connected.insert(node) } else { self.connected.remove(&node) };
        if changed {
            self.tell_links(cx, node, up);
        }
    }

    fn tell_links(&mut self, cx: &mut Context<'_>, node: u16, up: bool) {
        let shards = self.state.node(NodeId(node)).map(|info| info.shards.keys().copied().collect::<Vec<_>>());
        for shard in shards.unwrap_or_default() {
            self.host.handle_link(cx.now, ShardId::new(node, shard), up);
        }
    }

    fn handle(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        match message {
            Message::Append { partition, round, batch, acks, bytes } => {
                self.next_token += 1;
                let token = Token(self.next_token);
                let producer = producer_of(&bytes);
                let since = cx.now;
                self.origins.insert(token, Origin { writer: from, partition, round, batch, acks, since, producer });
                let request = AppendRequest { token, acks, with_offset: false, append_time: false, batch: bytes };
                self.host.handle_append(cx.now, cx.now_ms, partition, request);
            }
            Message::Stored(answer) => self.host.handle_stored(cx.now, &answer),
            Message::Flushed(_, flushed) => self.host.handle_flushed(cx.now, &flushed),
            Message::Sealed(sealed) => self.host.handle_sealed(sealed),
            Message::Fetched(answer, block) => self.host.handle_fetched(cx.now, &answer, block),
            Message::ProducersRead(answer, table) => self.host.handle_producers(&answer, table.as_ref()),
            Message::View { state, alive } => self.handle_view(cx, *state, alive),
            Message::Lease(LeaseGrant { asked, revision }) => {
                let asked = if bug(Bug::LeaseFromAnswer) { cx.now } else { asked };
                self.leases.handle_granted(LeaseGrant { asked, revision });
                self.tell_lease();
            }
            message => self.handle_shard_message(cx, from, message),
        }
    }

    fn handle_shard_message(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        // A shard serves when the metadata tier knows of this start.
        if !self.registered {
            return self.early.push((from, message));
        }
        let shard = match &message {
            Message::Store(store, _) => store.shard,
            Message::Amend(amend) => amend.shard,
            Message::Seal(seal) => seal.shard,
            Message::Release(release) => release.shard,
            Message::Fetch(fetch) => fetch.shard,
            Message::ReadProducers(read) => read.shard,
            Message::StartRead(_, request) => request.shard,
            Message::StopRead(_, shard) => *shard,
            other => unreachable!("not for a server: {other:?}"),
        };
        if let Some(shard) = self.shards.get_mut(&shard.shard) {
            shard.handle(cx, from, message);
        }
    }

    /// How things stand: who is to sequence what, and which of our epochs are over.
    fn handle_view(&mut self, cx: &mut Context<'_>, state: State, alive: Vec<(NodeId, ProcessId)>) {
        if state.revision() < self.state.revision() {
            return;
        }
        let new_nodes: Vec<u16> =
            state.nodes().map(|(node, _)| node.0).filter(|n| self.connected.contains(n)).collect();
        (self.state, self.alive) = (state, alive);
        for node in new_nodes {
            self.tell_links(cx, node, true);
        }
        let alive =
            self.alive.iter().map(|(node, process)| AliveNode { node: *node, process: *process, stopping: false });
        let liveness = Liveness { term: 1, version: 1, alive: alive.collect() };
        let candidates = Candidates::new(&self.state, &liveness);
        let partitions: Vec<_> = self.state.partitions().map(|(uid, partition)| (uid, partition.newest())).collect();
        for (uid, newest) in partitions {
            let assigned = self.registered && candidates.assign(&self.state, uid) == Some(self.node);
            self.host.handle_assigned(uid, assigned);
            if let Some((epoch, ..)) = newest.filter(|(_, _, process)| *process != self.id) {
                self.host.handle_superseded(cx.now, uid, epoch);
            }
        }
        self.host.retry_assigned();
        self.host.renew_stalled(cx.now, NODESET_PATIENCE);
        self.tell_trims(cx);
        self.tell_lease();
    }

    fn ask_lease(&mut self, cx: &mut Context<'_>) {
        if self.state.prefers_availability() && self.ask_lease_at <= cx.now {
            self.ask_lease_at = cx.now + self.lease_times.every;
            cx.send(Address::Metadata, Lane::Control, Message::WantLease(cx.now));
        }
    }

    fn tell_lease(&mut self) {
        if let Some(until) = self.leases.handle_told(self.state.revision()) {
            self.host.handle_lease(until);
        }
    }

    fn tell_trims(&mut self, cx: &mut Context<'_>) {
        let known = |(uid, partition): (PartitionUid, &Arc<Partition>)| (uid, partition.trim);
        let trims: Vec<(PartitionUid, Lsn)> = self.state.partitions().map(known).collect();
        for (partition, trim) in trims {
            if self.registered && self.trims.get(&partition).is_none_or(|told| *told < trim) {
                self.trims.insert(partition, trim);
                self.shards.values_mut().for_each(|shard| shard.handle_trim(cx, partition, trim));
            }
        }
    }

    /// Gives way to a new epoch of a partition that this process sequences.
    pub(crate) fn renew(&mut self, cx: &mut Context<'_>, partition: PartitionUid) {
        self.host.handle_renew(partition);
        self.pump(cx);
    }

    fn handle_proposed(&mut self, cx: &mut Context<'_>, request: RequestId, state: &State, response: Response) {
        let Some(pending) = self.pending.remove(&request) else { return };
        self.record_next(cx);
        match (pending.command, response) {
            (Command::Activate(activate), Response::Activate(Ok(activated))) => {
                for (partition, result) in activate.partitions.into_iter().zip(activated.results) {
                    let table = result.ok().and_then(|activation| state.table_upto(partition, activation.epoch));
                    self.host.handle_activated(cx.now, cx.now_ms, partition, table);
                }
            }
            (Command::Decide(decide), Response::Decide(Ok(results))) => {
                for (decision, result) in decide.decisions.into_iter().zip(results) {
                    self.handle_decision(cx, &decision, result);
                }
            }
            (Command::UnderReplicated(record), Response::UnderReplicated(Ok(results))) => {
                for (item, result) in record.items.into_iter().zip(results) {
                    if result.is_ok() && matches!(item.change, UnderReplicatedChange::Open { .. }) {
                        self.host.handle_missing_recorded(cx.now, item.partition, item.epoch, item.shard_ref());
                    }
                }
            }
            (Command::Cover(cover), Response::Cover(Ok(results))) => {
                for (item, result) in cover.items.into_iter().zip(results) {
                    if result.is_ok() {
                        self.host.handle_covered(item.partition, item.epoch);
                    }
                }
            }
            (Command::Damaged(Damaged { shard, .. }), Response::Damaged(Ok(damaged_before))) => {
                let newest = |(uid, partition): (PartitionUid, &Arc<Partition>)| Some((uid, partition.newest()?.0));
                if let Some(shard) = self.shards.get_mut(&shard.shard) {
                    shard.handle_seal_anew(cx, damaged_before, state.partitions().filter_map(newest));
                }
            }
            (_, Response::Forgotten) => {}
            (command, response) => cx.violation(format!("{command:?} was answered {response:?}")),
        }
    }

    fn handle_decision(&mut self, cx: &mut Context<'_>, decision: &Decision, result: Result<Decided, DecideError>) {
        let Decision { partition, epoch, .. } = *decision;
        match DecideOutcome::of(result) {
            Ok(DecideOutcome::Ended(End { last_esn, authoritative })) => {
                self.host.handle_decided(partition, EpochEnd { epoch, last_esn, authoritative });
            }
            Ok(DecideOutcome::Superseded(by)) => self.host.handle_decision_refused(cx.now, partition, by),
            Err(error) => cx.violation(format!("a decision was refused: {error}")),
        }
    }

    fn pump(&mut self, cx: &mut Context<'_>) {
        self.host.pump(cx.now, cx.now_ms);
        while let Some(output) = self.host.poll_output() {
            match output {
                HostOutput::Activate(partitions) => self.activate(cx, partitions, false),
                HostOutput::Partition { partition, epoch, output } => self.carry_out(cx, partition, epoch, output),
            }
        }
    }

    fn activate(&mut self, cx: &mut Context<'_>, partitions: Vec<PartitionUid>, planned: bool) {
        let (sequencer, process) = (self.node, self.id);
        self.propose(cx, Command::Activate(Activate { sequencer, process, partitions, planned }));
    }

    fn carry_out(&mut self, cx: &mut Context<'_>, partition: PartitionUid, epoch: Epoch, output: Output) {
        let to = |shard: ShardId| Address::Server(shard.node.0);
        match output {
            Output::Store { store, block } => {
                if let Err(why) = snapshots_are_acknowledged::check(&block) {
                    cx.violation(format!("{partition}: {why}"));
                }
                cx.send(to(store.shard), Lane::Store, Message::Store(store, block));
            }
            Output::Amend(amend) => cx.send(to(amend.shard), Lane::Store, Message::Amend(amend)),
            Output::Seal { to: ShardRef { shard, incarnation }, seal } => {
                let seal = Seal { shard, incarnation, partitions: vec![seal] };
                cx.send(to(shard), Lane::Store, Message::Seal(seal));
            }
            Output::Fetch(fetch) => cx.send(to(fetch.shard), Lane::Store, Message::Fetch(fetch)),
            Output::ReadProducers(read) => cx.send(to(read.shard), Lane::Store, Message::ReadProducers(read)),
            Output::Release { to: shards, release } => {
                let PartitionRelease { released, settled, trim_limit, .. } = release;
                for EpochEnd { epoch, last_esn, authoritative } in &release.ends {
                    let (epoch, last_esn, authoritative) = (*epoch, *last_esn, *authoritative);
                    cx.claim(Claim::Ended { partition, epoch, last_esn, authoritative, recoverer: None });
                }
                cx.claim(Claim::Released { partition, released, settled, trim_limit });
                for ShardRef { shard, incarnation } in shards {
                    let release = Release { shard, incarnation, partitions: vec![release.clone()] };
                    cx.send(to(shard), Lane::Store, Message::Release(release));
                }
            }
            Output::Reply { token, outcome } => {
                if let Some(Origin { writer, partition, round, batch, acks, since, producer }) =
                    self.origins.remove(&token)
                {
                    if let Ok(ok) = &outcome {
                        if let Some((producer, last)) = producer {
                            let acked = cx.history.of(partition).acked_sequences.entry(producer).or_insert(last);
                            *acked = last.max(*acked);
                        }
                        let copies = if acks == Acks::One { Copies::One } else { Copies::Quorum };
                        cx.claim(Claim::Acknowledged { partition, lsn: ok.lsn, by: epoch, copies });
                        if let Err(why) = invariants::check_patience(cx.history.of(partition), cx.now.since(since)) {
                            cx.violation(format!("{partition} {}: {why}", ok.lsn));
                        }
                    }
                    let appended = Message::Appended { partition, round, batch, outcome };
                    cx.send(writer, Lane::Append(partition), appended);
                }
            }
            Output::Propose(proposal) => self.carry_proposal(cx, proposal),
            Output::Event(event) => {
                if let dlog_sequencer::Event::Conflict { .. } = event {
                    cx.violation(format!("{partition}: {event:?}"));
                }
                if let (dlog_sequencer::Event::Recovered { .. }, Some(sequencer)) =
                    (event, self.host.sequencer(partition))
                    && let Err(why) =
                        producers_are_known::check(cx.history.of(partition), &sequencer.producers().collect::<Vec<_>>())
                {
                    cx.violation_of_newest(partition, epoch, why);
                }
            }
        }
    }

    fn record(&mut self, cx: &mut Context<'_>, item: UnderReplicatedItem) {
        self.to_record.push_back(item);
        self.record_next(cx);
    }

    /// What is missing goes on record in order, as in the server.
    fn record_next(&mut self, cx: &mut Context<'_>) {
        if !self.pending.values().any(|p| matches!(p.command, Command::UnderReplicated(_)))
            && let Some(item) = self.to_record.pop_front()
        {
            self.propose(cx, Command::UnderReplicated(RecordUnderReplicated { items: vec![item] }));
        }
    }

    fn carry_proposal(&mut self, cx: &mut Context<'_>, proposal: Proposal) {
        let item =
            |partition, epoch, shard: ShardRef, change| UnderReplicatedItem::new(partition, epoch, shard, change);
        let command = match proposal {
            Proposal::Decide(decision) => {
                let dlog_sequencer::Decision {
                    partition,
                    epoch,
                    last_esn,
                    authoritative,
                    recoverer,
                    answered,
                    missing,
                } = decision;
                let answered = answered.into_iter().collect();
                cx.history.ledger.answered.insert((partition, epoch, recoverer), answered);
                let end = End { last_esn, authoritative };
                let decision = Decision::new((partition, epoch), end, recoverer, &missing);
                Command::Decide(Decide { decisions: vec![decision] })
            }
            Proposal::OpenMissing { partition, epoch, shard, from } => {
                return self.record(cx, item(partition, epoch, shard, UnderReplicatedChange::Open { from }));
            }
            Proposal::CloseMissing { partition, epoch, shard, to } => {
                return self.record(cx, item(partition, epoch, shard, UnderReplicatedChange::Close { to }));
            }
            Proposal::Cover { partition, epoch } => {
                Command::Cover(Cover { items: vec![CoverItem { partition, epoch }] })
            }
            Proposal::NewEpoch { partition, .. } => return self.activate(cx, vec![partition], true),
        };
        self.propose(cx, command);
    }
}

/// Who made a record batch, and its last sequence number, if it is numbered.
fn producer_of(batch: &[u8]) -> Option<(i64, i32)> {
    let header = BatchHeader::parse(batch).ok()?;
    Some((header.producer?.id, header.last_sequence()?))
}
