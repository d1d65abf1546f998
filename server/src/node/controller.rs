//! From what the metadata tier says to what cores do: who lives, who sequences what, which epochs are over.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_metadata::placement::Candidates;
use dlog_metadata::state::{NodeInfo, State};
use dlog_proto::clock::every;
use dlog_proto::wire::Liveness;
use dlog_proto::{Epoch, Lsn, NodeId, PartitionUid, ProcessId};
use dlog_sequencer::{LEASE, LeaseGrant, LeaseKeeper, LeaseTimes};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::core::{Cores, Input, SequencingInput};
use super::probe;

const TICK: Duration = Duration::from_secs(1);

pub(crate) struct Controller {
    node: NodeId,
    process: ProcessId,
    metadata: Metadata,
    cores: Cores,
    /// Told when this process is not the registered one.
    forgotten: Arc<Notify>,
    nodes: Vec<(NodeId, Arc<NodeInfo>)>,
    /// A task for each other process that lives.
    probes: HashMap<ProcessId, AbortHandle>,
    assigned: HashSet<PartitionUid>,
    /// Partitions that this process may have epochs of, and the newest epoch of another process that cores know of.
    touched: HashMap<PartitionUid, Epoch>,
    /// Trim points that cores know of.
    trimmed: HashMap<PartitionUid, Lsn>,
    /// Partitions whose records get the time at which they are appended, as far as cores know.
    append_time: HashSet<PartitionUid>,
    /// What this process sequences with a replication that its log had before.
    outdated: BTreeSet<PartitionUid>,
    /// What was looked at last.
    looked: Option<Looked>,
    leases: LeaseKeeper,
    /// See [`super::leases`].
    granted: watch::Receiver<Option<LeaseGrant>>,
}

/// As of when all partitions were looked at. While the candidates stay the same, only partitions that changed need another look.
struct Looked {
    revision: u64,
    candidates: Candidates,
}

/// What one core is told.
#[derive(Default)]
struct News {
    assigned: Vec<(PartitionUid, bool)>,
    superseded: Vec<(PartitionUid, Epoch)>,
    trimmed: Vec<(PartitionUid, Lsn)>,
    renew: Vec<PartitionUid>,
    append_time: Vec<(PartitionUid, bool)>,
}

impl Controller {
    pub(crate) fn new(
        node: NodeId,
        process: ProcessId,
        metadata: Metadata,
        cores: Cores,
        forgotten: Arc<Notify>,
        granted: watch::Receiver<Option<LeaseGrant>>,
    ) -> Self {
        Self {
            node,
            process,
            metadata,
            cores,
            forgotten,
            nodes: Vec::new(),
            probes: HashMap::new(),
            assigned: HashSet::new(),
            touched: HashMap::new(),
            trimmed: HashMap::new(),
            append_time: HashSet::new(),
            outdated: BTreeSet::new(),
            looked: None,
            leases: LeaseKeeper::new(LeaseTimes::of(LEASE)),
            granted,
        }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        let (mut views, mut alive) = (self.metadata.views(), self.metadata.liveness_updates());
        let mut tick = every(TICK);
        loop {
            let granted = *self.granted.borrow_and_update();
            let (view, liveness) = (views.borrow_and_update().clone(), alive.borrow_and_update().clone());
            self.look(&view, &liveness);
            granted.into_iter().for_each(|grant| self.leases.handle_granted(grant));
            if let Some(until) = self.leases.handle_told(view.revision()) {
                self.cores.tell_all(|| SequencingInput::Lease(until));
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                changed = alive.changed() => if changed.is_err() { return },
                changed = self.granted.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.tick(&view),
            }
        }
    }

    fn tick(&mut self, view: &State) {
        self.cores.tell_all(|| Input::Tick);
        self.renew_again();
        if view.node(self.node).is_some_and(|info| info.process != self.process) {
            self.forgotten.notify_one();
        }
    }

    /// Whose epoch had not begun yet, or was about to give way already, when a new one was asked for.
    fn renew_again(&self) {
        let mut news = self.no_news();
        for partition in &self.outdated {
            news[usize::from(partition.core(self.cores.count()))].renew.push(*partition);
        }
        self.tell(news);
    }

    fn look(&mut self, view: &State, liveness: &Liveness) {
        self.tell_nodes(view, liveness);
        let registered = view.node(self.node).is_some_and(|info| info.process == self.process);
        let candidates = if registered { Candidates::new(view, liveness) } else { Candidates::default() };
        let mut news = self.no_news();
        match self.changed(view, &candidates) {
            Some(partitions) => {
                partitions.into_iter().for_each(|partition| self.look_at(view, partition, &candidates, &mut news));
            }
            None => {
                let known = self.touched.keys().chain(self.trimmed.keys()).copied();
                let gone: BTreeSet<_> = known.filter(|partition| view.partition(*partition).is_none()).collect();
                let all = view.partitions().map(|(partition, _)| partition).chain(gone);
                all.for_each(|partition| self.look_at(view, partition, &candidates, &mut news));
            }
        }
        self.looked = Some(Looked { revision: view.revision(), candidates });
        self.tell(news);
    }

    /// The partitions that are not as they were, and those of logs that are not; `None` if all have to be looked at.
    fn changed(&self, view: &State, candidates: &Candidates) -> Option<BTreeSet<PartitionUid>> {
        let looked = self.looked.as_ref().filter(|looked| looked.candidates == *candidates)?;
        let mut changes = self.metadata.changes_after(looked.revision)?;
        let logs = changes.logs.iter().filter_map(|log| view.log_by_uid(*log));
        changes.partitions.extend(logs.flat_map(|info| info.partitions.iter().copied()));
        Some(changes.partitions)
    }

    fn no_news(&self) -> Vec<News> {
        self.cores.iter().map(|_| News::default()).collect()
    }

    fn tell(&self, news: Vec<News>) {
        let trimmed: Vec<_> = news.iter().flat_map(|news| news.trimmed.iter().copied()).collect();
        if !trimmed.is_empty() {
            self.cores.tell_all(|| Input::Trimmed(trimmed.clone()));
        }
        for (core, News { assigned, superseded, renew, append_time, .. }) in self.cores.iter().zip(news) {
            // Before any append can come.
            if !append_time.is_empty() {
                core.tell(SequencingInput::AppendTime(append_time));
            }
            // In this order: who was superseded and is assigned again starts over.
            if !superseded.is_empty() {
                core.tell(SequencingInput::Superseded(superseded));
            }
            if !assigned.is_empty() {
                core.tell(SequencingInput::Assigned(assigned));
            }
            if !renew.is_empty() {
                core.tell(SequencingInput::Renew(renew));
            }
        }
    }

    fn look_at(&mut self, view: &State, partition: PartitionUid, candidates: &Candidates, news: &mut [News]) {
        let news = &mut news[usize::from(partition.core(self.cores.count()))];
        let Some(entry) = view.partition(partition) else { return self.drop_deleted(partition, news) };
        if entry.trim > Lsn::ZERO && self.trimmed.insert(partition, entry.trim) != Some(entry.trim) {
            news.trimmed.push((partition, entry.trim));
        }
        let (newest, mine) = (entry.newest(), candidates.assign(view, partition) == Some(self.node));
        let outdated =
            mine && newest.is_some_and(|(.., process)| process == self.process) && view.is_outdated(partition);
        if !outdated {
            self.outdated.remove(&partition);
        } else if self.outdated.insert(partition) {
            news.renew.push(partition);
        }
        let others = newest.filter(|(_, _, process)| *process != self.process);
        if let (Some((epoch, ..)), Some(known)) = (others, self.touched.get_mut(&partition))
            && *known < epoch
        {
            *known = epoch;
            news.superseded.push((partition, epoch));
            self.assigned.remove(&partition);
        }
        if mine {
            let log = view.log_by_uid(entry.log);
            self.set_append_time(partition, log.is_some_and(|log| log.attributes.is_log_append_time()), news);
        }
        if mine && self.assigned.insert(partition) {
            self.touched.entry(partition).or_insert_with(|| others.map_or(Epoch::ZERO, |(epoch, ..)| epoch));
            news.assigned.push((partition, true));
        } else if !mine && self.assigned.remove(&partition) {
            news.assigned.push((partition, false));
        }
    }

    fn set_append_time(&mut self, partition: PartitionUid, append_time: bool, news: &mut News) {
        let changed =
            if append_time { self.append_time.insert(partition) } else { self.append_time.remove(&partition) };
        if changed {
            news.append_time.push((partition, append_time));
        }
    }

    fn drop_deleted(&mut self, partition: PartitionUid, news: &mut News) {
        self.trimmed.remove(&partition);
        self.assigned.remove(&partition);
        self.outdated.remove(&partition);
        self.set_append_time(partition, false, news);
        if self.touched.remove(&partition).is_some() {
            news.assigned.push((partition, false));
            news.superseded.push((partition, Epoch::MAX));
        }
    }

    /// The nodes that live, to those who connect to them.
    fn tell_nodes(&mut self, view: &State, liveness: &Liveness) {
        let lives = |node: NodeId, info: &NodeInfo| {
            liveness.alive.iter().any(|alive| alive.node == node && alive.process == info.process)
        };
        let nodes: Vec<_> =
            view.nodes().filter(|(node, info)| lives(*node, info)).map(|(node, info)| (node, info.clone())).collect();
        if nodes != self.nodes {
            self.cores.tell_all(|| Input::Nodes(nodes.clone()));
            self.nodes = nodes;
            self.probe_nodes();
        }
    }

    fn probe_nodes(&mut self) {
        self.probes.retain(|process, probe| {
            let lives = self.nodes.iter().any(|(_, info)| info.process == *process);
            if !lives {
                probe.abort();
            }
            lives
        });
        for (node, info) in self.nodes.iter().filter(|(node, _)| *node != self.node) {
            let probe = || {
                let watch = probe::watch(*node, info.process, info.address.clone(), self.metadata.clone());
                tokio::spawn(watch).abort_handle()
            };
            self.probes.entry(info.process).or_insert_with(probe);
        }
    }
}
