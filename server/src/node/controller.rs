//! From what the metadata tier says to what cores do: who lives, who sequences what, which epochs are over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_metadata::placement::Candidates;
use dlog_metadata::state::{NodeInfo, State};
use dlog_proto::wire::Liveness;
use dlog_proto::{Epoch, Lsn, NodeId, PartitionUid, ProcessId};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::core::{Cores, Input};
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
}

/// What one core is told.
#[derive(Default)]
struct News {
    assigned: Vec<(PartitionUid, bool)>,
    superseded: Vec<(PartitionUid, Epoch)>,
}

impl Controller {
    pub(crate) fn new(
        node: NodeId,
        process: ProcessId,
        metadata: Metadata,
        cores: Cores,
        forgotten: Arc<Notify>,
    ) -> Self {
        let (nodes, probes, assigned, touched) = (Vec::new(), HashMap::new(), HashSet::new(), HashMap::new());
        Self { node, process, metadata, cores, forgotten, nodes, probes, assigned, touched, trimmed: HashMap::new() }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        let (mut views, mut alive) = (self.metadata.views(), self.metadata.liveness_updates());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (view, liveness) = (views.borrow_and_update().clone(), alive.borrow_and_update().clone());
            self.look(&view, &liveness);
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                changed = alive.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.tick(&view),
            }
        }
    }

    fn tick(&mut self, view: &State) {
        self.cores.tell_all(|| Input::Tick);
        if view.node(self.node).is_some_and(|info| info.process != self.process) {
            self.forgotten.notify_one();
        }
    }

    fn look(&mut self, view: &State, liveness: &Liveness) {
        self.tell_nodes(view, liveness);
        let registered = view.node(self.node).is_some_and(|info| info.process == self.process);
        let candidates = if registered { Candidates::new(view, liveness) } else { Candidates::default() };
        let mut news: Vec<News> = self.cores.iter().map(|_| News::default()).collect();
        let mut trimmed = Vec::new();
        for (partition, entry) in view.partitions() {
            if entry.trim > Lsn::ZERO && self.trimmed.get(&partition) != Some(&entry.trim) {
                self.trimmed.insert(partition, entry.trim);
                trimmed.push((partition, entry.trim));
            }
            let news = &mut news[usize::from(partition.core(self.cores.count()))];
            let mine = candidates.assign(view, partition) == Some(self.node);
            self.look_at(partition, entry.newest(), mine, news);
        }
        if !trimmed.is_empty() {
            self.cores.tell_all(|| Input::Trimmed(trimmed.clone()));
        }
        self.drop_deleted(view, &mut news);
        for (core, News { assigned, superseded }) in self.cores.iter().zip(news) {
            // In this order: who was superseded and is assigned again starts over.
            if !superseded.is_empty() {
                core.tell(Input::Superseded(superseded));
            }
            if !assigned.is_empty() {
                core.tell(Input::Assigned(assigned));
            }
        }
    }

    fn look_at(
        &mut self,
        partition: PartitionUid,
        newest: Option<(Epoch, NodeId, ProcessId)>,
        mine: bool,
        news: &mut News,
    ) {
        let others = newest.filter(|(_, _, process)| *process != self.process);
        if let (Some((epoch, ..)), Some(known)) = (others, self.touched.get_mut(&partition))
            && *known < epoch
        {
            *known = epoch;
            news.superseded.push((partition, epoch));
            self.assigned.remove(&partition);
        }
        if mine && self.assigned.insert(partition) {
            self.touched.entry(partition).or_insert_with(|| others.map_or(Epoch::ZERO, |(epoch, ..)| epoch));
            news.assigned.push((partition, true));
        } else if !mine && self.assigned.remove(&partition) {
            news.assigned.push((partition, false));
        }
    }

    fn drop_deleted(&mut self, view: &State, news: &mut [News]) {
        self.touched.retain(|partition, _| {
            let exists = view.partition(*partition).is_some();
            if !exists {
                let news = &mut news[usize::from(partition.core(self.cores.count()))];
                news.assigned.push((*partition, false));
                news.superseded.push((*partition, Epoch::MAX));
            }
            exists
        });
        self.trimmed.retain(|partition, _| view.partition(*partition).is_some());
        if self.assigned.len() > self.touched.len() {
            self.assigned.retain(|partition| view.partition(*partition).is_some());
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
