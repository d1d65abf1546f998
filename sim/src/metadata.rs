//! The metadata tier, simulated as one service around the production state machine: what Raft makes of several voters. It
//! may be away for a while; what it has answered, it keeps.

use std::collections::BTreeMap;

use dlog_metadata::state::{
    Command, CreateLog, Decided, InitCluster, LogAttributes, Response, SetAttributes, State, Trim, TrimItem,
};
use dlog_proto::{ClusterId, Epoch, LogId, Lsn, NodeId, PartitionUid, ProcessId};
use dlog_sequencer::LeaseGrant;

use crate::context::Context;
use crate::ledger::Claim;
use crate::message::{Lane, Message};
use crate::network::Address;

#[derive(Debug)]
pub(crate) struct Metadata {
    pub state: State,
    /// Processes that are believed to live.
    pub alive: BTreeMap<NodeId, ProcessId>,
    pub available: bool,
    /// Something changed that nodes have to be told.
    pub changed: bool,
}

impl Metadata {
    pub(crate) fn new(cluster: ClusterId) -> Self {
        let mut state = State::default();
        state.apply(1, None, Command::InitCluster(InitCluster { cluster, created_ms: 0 }));
        Self { state, alive: BTreeMap::new(), available: true, changed: false }
    }

    fn apply(&mut self, request: Option<dlog_proto::RequestId>, command: Command) -> Response {
        let revision = self.state.revision() + 1;
        self.changed = true;
        self.state.apply(revision, request, command)
    }

    /// Makes a log, before the run begins.
    ///
    /// # Panics
    /// If it cannot be made: the run was drawn wrongly.
    pub(crate) fn create_log(&mut self, name: &str, partitions: u32, attributes: LogAttributes) -> Vec<PartitionUid> {
        let log = LogId::new("sim", name).expect("a legal name");
        let create = Command::CreateLog(CreateLog { log, partitions, attributes, created_ms: 0 });
        match self.apply(None, create) {
            Response::CreateLog(Ok(made)) => {
                (0..u64::from(made.partitions)).map(|i| PartitionUid(made.first_partition.0 + i)).collect()
            }
            other => panic!("the log could not be made: {other:?}"),
        }
    }

    pub(crate) fn handle(&mut self, cx: &mut Context<'_>, from: Address, message: Message) {
        if !self.available {
            return;
        }
        match message {
            Message::Propose { request, command } => {
                if let Command::RegisterNode(register) = &command {
                    self.alive.insert(register.node, register.process);
                }
                let decided = match &command {
                    Command::Decide(decide) => decide.decisions.clone(),
                    _ => Vec::new(),
                };
                let newest: Vec<_> = decided.iter().map(|d| self.newest_if_open(d.partition, d.epoch)).collect();
                let response = self.apply(Some(request), command);
                if let Response::Decide(Ok(results)) = &response {
                    for ((decision, newest), result) in decided.iter().zip(newest).zip(results) {
                        let Ok(Decided { end, .. }) = result else { continue };
                        if newest.is_some_and(|newest| newest != decision.recoverer) {
                            cx.violation(format!("{} decides, and {newest:?} is the newest", decision.recoverer));
                        }
                        let (partition, epoch) = (decision.partition, decision.epoch);
                        let (last_esn, authoritative) = (end.last_esn, end.authoritative);
                        let recoverer = Some(decision.recoverer);
                        cx.claim(Claim::Ended { partition, epoch, last_esn, authoritative, recoverer });
                    }
                }
                if let Err(why) = self.state.check_invariants() {
                    cx.violation(why);
                }
                let state = Box::new(self.state.clone());
                cx.send(from, Lane::Control, Message::Proposed { request, state, response });
            }
            Message::WantLease(asked) => {
                let revision = self.state.revision();
                cx.send(from, Lane::Lease, Message::Lease(LeaseGrant { asked, revision }));
            }
            Message::WhoSequences(partition) => {
                let newest = self.state.partition(partition).and_then(|p| p.newest());
                let live = newest.filter(|(_, node, process)| self.alive.get(node) == Some(process));
                let sequences = Message::Sequences(partition, live.map(|(_, node, _)| node));
                cx.send(from, Lane::Control, sequences);
            }
            Message::WantTable(partition) => {
                if let Some(table) = self.state.table(partition) {
                    cx.send(from, Lane::Control, Message::Table(Box::new(table)));
                }
            }
            other => unreachable!("not for the metadata tier: {other:?}"),
        }
    }

    /// The newest epoch, if this one is not decided yet: an answer may be repeated.
    fn newest_if_open(&self, partition: PartitionUid, epoch: Epoch) -> Option<Epoch> {
        let table = self.state.undecided_table(partition)?;
        table.epoch(epoch)?;
        table.newest().map(|entry| entry.epoch)
    }

    /// Somebody lets go of records.
    pub(crate) fn trim(&mut self, partition: PartitionUid, upto: Lsn) -> Option<Lsn> {
        match self.apply(None, Command::Trim(Trim { items: vec![TrimItem { partition, upto }] })) {
            Response::Trim(Ok(trimmed)) => trimmed.into_iter().next()?.ok(),
            _ => None,
        }
    }

    /// A log's attributes become others.
    pub(crate) fn change_log(&mut self, name: &str, changes: BTreeMap<String, Option<String>>) {
        let log = LogId::new("sim", name).expect("a legal name");
        self.apply(None, Command::SetAttributes(SetAttributes { log, changes }));
    }

    /// A process is believed to be gone.
    pub(crate) fn handle_gone(&mut self, node: NodeId, process: ProcessId) {
        if self.alive.get(&node) == Some(&process) {
            self.alive.remove(&node);
            self.changed = true;
        }
    }

    /// A process is believed to live after all.
    pub(crate) fn handle_back(&mut self, node: NodeId, process: ProcessId) {
        let registered = self.state.node(node).is_some_and(|info| info.process == process);
        if registered && self.alive.insert(node, process) != Some(process) {
            self.changed = true;
        }
    }

    /// What nodes are told.
    pub(crate) fn view(&self) -> Message {
        let alive = self.alive.iter().map(|(node, process)| (*node, *process)).collect();
        Message::View { state: Box::new(self.state.clone()), alive }
    }
}
