//! What sequencers ask of the metadata tier, in batches: everything that waits goes together in one command.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlog_metadata::state::{
    Activate, Cover, CoverItem, Decide, DecideOutcome, Decision, RecordUnderReplicated, UnderReplicatedChange,
    UnderReplicatedItem,
};
use dlog_metadata::{Metadata, MetadataError, Operation};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{End, NodeId, PartitionUid, ProcessId, RequestId};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::core::{Cores, SequencingInput};

/// Things asked for in one command.
const ITEMS_AT_ONCE: usize = 512;
/// Pause after the tier did not answer.
const RETRY: Duration = Duration::from_millis(50);

/// Something a core asks for; the answer goes to its inbox.
#[derive(Debug)]
pub(crate) enum Ask {
    Activate { core: u16, partitions: Vec<PartitionUid>, planned: bool },
    Decide { core: u16, decision: dlog_sequencer::Decision },
    Missing { core: u16, item: UnderReplicatedItem },
    Cover { core: u16, item: CoverItem },
}

/// Where cores put what they ask for.
#[derive(Debug, Clone)]
pub(crate) struct Proposer {
    asks: mpsc::UnboundedSender<Ask>,
}

impl Proposer {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (asks, inbox) = mpsc::unbounded_channel();
        (Self { asks }, inbox)
    }

    /// Without a node that serves, nobody is there to answer.
    pub(crate) fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }
}

/// Numbers for the commands of this process.
#[derive(Debug)]
pub(crate) struct Requests {
    process: ProcessId,
    next: AtomicU64,
}

impl Requests {
    pub(crate) fn new(process: ProcessId) -> Self {
        Self { process, next: AtomicU64::new(1) }
    }

    pub(crate) fn next(&self) -> RequestId {
        RequestId { process: self.process, counter: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Asks until there is an answer: what was asked for may have been done whatever went wrong, and the same request is not
    /// done twice. Answers with the revision too.
    pub(crate) async fn carry_out<O: Operation + Clone>(
        &self,
        metadata: &Metadata,
        operation: O,
    ) -> Result<(u64, O::Answer), MetadataError> {
        let request = self.next();
        loop {
            match metadata.run(request, operation.clone()).await {
                Err(error @ (MetadataError::Unavailable(_) | MetadataError::NotLeader { .. })) => {
                    tracing::info!("waiting for the metadata tier: {error}");
                    sleep(RETRY).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Carries what is asked for to the tier.
#[derive(Clone)]
pub(crate) struct Carrier {
    pub(crate) node: NodeId,
    pub(crate) process: ProcessId,
    pub(crate) metadata: Metadata,
    pub(crate) requests: std::sync::Arc<Requests>,
    pub(crate) cores: Cores,
}

impl Carrier {
    pub(crate) async fn run(self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        let mut asks = Vec::new();
        let (records, to_record) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().record_in_order(to_record));
        while inbox.recv_many(&mut asks, ITEMS_AT_ONCE).await > 0 {
            let (mut decisions, mut covers) = (Vec::new(), Vec::new());
            for ask in asks.drain(..) {
                match ask {
                    Ask::Activate { core, partitions, planned } => {
                        tokio::spawn(self.clone().activate(core, partitions, planned));
                    }
                    Ask::Decide { core, decision } => decisions.push((core, decision)),
                    Ask::Missing { core, item } => drop(records.send((core, item))),
                    Ask::Cover { core, item } => covers.push((core, item)),
                }
            }
            if !decisions.is_empty() {
                tokio::spawn(self.clone().decide(decisions));
            }
            if !covers.is_empty() {
                tokio::spawn(self.clone().cover(covers));
            }
        }
    }

    /// `None` if there will be no answer.
    async fn ask<O: Operation + Clone>(&self, operation: O) -> Option<(u64, O::Answer)> {
        let answer = self.requests.carry_out(&self.metadata, operation).await;
        answer.inspect_err(|error| tracing::warn!(%error, "the metadata tier will not answer")).ok()
    }

    async fn activate(self, core: u16, partitions: Vec<PartitionUid>, planned: bool) {
        let (sequencer, process) = (self.node, self.process);
        let activate = Activate { sequencer, process, partitions: partitions.clone(), planned };
        let mut tables: Vec<_> = partitions.iter().map(|partition| (*partition, None)).collect();
        if let Some((revision, Ok(activated))) = self.ask(activate).await
            && let Ok(view) = self.metadata.wait_applied(revision).await
        {
            for ((partition, table), result) in tables.iter_mut().zip(activated.results) {
                match result {
                    Ok(activation) => *table = view.table_upto(*partition, activation.epoch),
                    Err(error) => tracing::warn!(%partition, %error, "no epoch for this node"),
                }
            }
        }
        self.tell(core, SequencingInput::Activated(tables));
    }

    async fn decide(self, decisions: Vec<(u16, dlog_sequencer::Decision)>) {
        let command = Decide { decisions: decisions.iter().map(|(_, decision)| to_command(decision)).collect() };
        let Some((_, Ok(results))) = self.ask(command).await else { return };
        let mut decided = BTreeMap::<u16, Vec<_>>::new();
        for ((core, decision), result) in decisions.into_iter().zip(results) {
            let dlog_sequencer::Decision { partition, epoch, .. } = decision;
            match DecideOutcome::of(result) {
                Ok(DecideOutcome::Ended(End { last_esn, authoritative })) => {
                    let end = EpochEnd { epoch, last_esn, authoritative };
                    decided.entry(core).or_default().push((partition, end));
                }
                Ok(DecideOutcome::Superseded(by)) => {
                    self.tell(core, SequencingInput::DecisionRefused { partition, by })
                }
                Err(error) => tracing::error!(%error, "a decision was refused"),
            }
        }
        decided.into_iter().for_each(|(core, ends)| self.tell(core, SequencingInput::Decided(ends)));
    }

    async fn cover(self, covers: Vec<(u16, CoverItem)>) {
        let command = Cover { items: covers.iter().map(|(_, item)| *item).collect() };
        let Some((_, Ok(results))) = self.ask(command).await else { return };
        let mut covered = BTreeMap::<u16, Vec<_>>::new();
        for ((core, CoverItem { partition, epoch }), result) in covers.into_iter().zip(results) {
            match result {
                Ok(_) => covered.entry(core).or_default().push((partition, epoch)),
                Err(error) => tracing::info!(%error, "a producer snapshot is not on record"),
            }
        }
        covered.into_iter().for_each(|(core, items)| self.tell(core, SequencingInput::Covered(items)));
    }

    /// One batch after the other: what is closed was opened before.
    async fn record_in_order(self, mut inbox: mpsc::UnboundedReceiver<(u16, UnderReplicatedItem)>) {
        let mut items = Vec::new();
        while inbox.recv_many(&mut items, ITEMS_AT_ONCE).await > 0 {
            self.record(std::mem::take(&mut items)).await;
        }
    }

    async fn record(&self, items: Vec<(u16, UnderReplicatedItem)>) {
        let command = RecordUnderReplicated { items: items.iter().map(|(_, item)| *item).collect() };
        let Some((_, Ok(results))) = self.ask(command).await else { return };
        for ((core, item), result) in items.into_iter().zip(results) {
            match result {
                Ok(()) if matches!(item.change, UnderReplicatedChange::Open { .. }) => {
                    self.tell(
                        core,
                        SequencingInput::MissingRecorded(vec![(item.partition, item.epoch, item.shard_ref())]),
                    );
                }
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "missing copies were not recorded"),
            }
        }
    }

    fn tell(&self, core: u16, input: SequencingInput) {
        self.cores.at(core).tell(input);
    }
}

fn to_command(decision: &dlog_sequencer::Decision) -> Decision {
    let dlog_sequencer::Decision { partition, epoch, last_esn, authoritative, recoverer, missing, .. } = decision;
    let end = End { last_esn: *last_esn, authoritative: *authoritative };
    Decision::new((*partition, *epoch), end, *recoverer, missing)
}
