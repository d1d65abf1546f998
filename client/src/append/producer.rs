//! The shell around an [`AppendCore`]: one task per partition that is written to.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::record::{BatchOptions, Compression, NewRecord, ProducerStamp};
use dlog_proto::transport::{Connection, LaneKind, LaneReceiver, LaneSender};
use dlog_proto::wire::{
    Acks, Append, AppendError, AppendOk, Appended as AppendedMessage, Failed, Frame, Freshness, Message,
};
use dlog_proto::{Epoch, NodeId, PartitionUid, ProcessId, Time};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::accumulator::{Accumulator, Closed};
use super::ack::{Ack, BatchState};
use super::core::{AppendCore, AppendFailure, AppendSettings, Output};
use crate::directory::{Directory, NodeAddress};
use crate::error::ClientError;
use dlog_proto::clock::{now, now_ms, sleep_until};

/// How long connecting to a sequencer may take before somebody is asked whether it is still the one.
const CONNECT_DOUBT: Duration = Duration::from_millis(100);

/// How appends are made.
#[derive(Debug, Clone)]
pub struct AppendOptions {
    pub compression: Compression,
    /// How long a record may wait for others to share its batch. Zero: only while batches before it are on their way.
    pub linger: Duration,
    /// Longest batch, in bytes before compression.
    pub batch_len_max: usize,
    /// Records that are not acknowledged, in bytes; above it, [`append`](super::Appender::append) waits.
    pub window_bytes_max: usize,
    /// How long until a record that cannot be stored fails.
    pub delivery_timeout: Duration,
    /// Copies to wait for, of records that do not say so themselves.
    pub acks: Acks,
    /// Answer with offsets always, waiting for recovery if need be.
    pub with_offset: bool,
}

impl Default for AppendOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            linger: Duration::ZERO,
            batch_len_max: 256 << 10,
            window_bytes_max: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            acks: Acks::Quorum,
            with_offset: false,
        }
    }
}

/// What the appending side and the partition's task share.
#[derive(Debug)]
pub(super) struct Shared {
    options: AppendOptions,
    accumulator: Mutex<Accumulator>,
    /// Bytes of records that are not acknowledged.
    in_window: AtomicUsize,
    /// What went wrong since the last acknowledgement, for a person.
    trouble: Mutex<Option<String>>,
    /// Nobody can append any more.
    closed: AtomicBool,
    work: Notify,
    /// The window has room again, or is empty.
    space: Notify,
}

impl Shared {
    pub(super) fn new(options: AppendOptions) -> Self {
        let accumulator = Mutex::new(Accumulator::new(options.batch_len_max));
        let (in_window, closed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (work, space) = (Notify::new(), Notify::new());
        Self { options, accumulator, in_window, trouble: Mutex::default(), closed, work, space }
    }

    fn accumulator(&self) -> std::sync::MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Waits until the window has room.
    pub(super) async fn ready(&self) {
        self.wait_until_below(self.options.window_bytes_max).await;
    }

    /// Waits until every record has its outcome.
    pub(super) async fn flushed(&self) {
        self.wait_until_below(1).await;
    }

    async fn wait_until_below(&self, bytes: usize) {
        while self.in_window.load(Ordering::Acquire) >= bytes {
            let space = self.space.notified();
            // It may have changed before we listened.
            if self.in_window.load(Ordering::Acquire) < bytes {
                return;
            }
            space.await;
        }
    }

    fn give_back(&self, counted: usize) {
        let before = self.in_window.fetch_sub(counted, Ordering::AcqRel);
        if before >= self.options.window_bytes_max || before == counted {
            self.space.notify_waiters();
        }
    }

    /// Lets the partition's task end when everything has its outcome.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.work.notify_one();
    }

    pub(super) fn push(&self, record: &super::Record<'_>) -> Ack {
        let super::Record { key, value, headers, timestamp_ms, acks, .. } = *record;
        let new = NewRecord { timestamp_ms: timestamp_ms.unwrap_or_else(now_ms), key, value, headers };
        let mut accumulator = self.accumulator();
        let (ack, len, look) = accumulator.push(now, acks.unwrap_or(self.options.acks), &new);
        // Before anybody can take the record: what is given back was counted.
        self.in_window.fetch_add(len, Ordering::AcqRel);
        drop(accumulator);
        if look {
            self.work.notify_one();
        }
        ack
    }
}

/// A batch that was handed to the core.
#[derive(Debug)]
struct Sent {
    state: Arc<BatchState>,
    acks: Acks,
    counted: usize,
}

/// An open lane to the sequencer.
#[derive(Debug)]
struct Link {
    process: ProcessId,
    /// Which epoch it was said to sequence, if that was said.
    epoch: Option<Epoch>,
    round: u32,
    tx: LaneSender,
    rx: LaneReceiver,
}

/// A lane, where it leads to, and in which epoch, if that is known.
type Connected = Result<(ProcessId, Option<Epoch>, LaneSender, LaneReceiver), ClientError>;
type Connecting = Pin<Box<dyn Future<Output = Connected> + Send>>;
/// A producer id for the next batches.
type Identifying = Pin<Box<dyn Future<Output = Result<i64, AppendFailure>> + Send>>;
/// Who sequences the partition, and in which epoch, as somebody said. A server that is cut off names one that has been replaced.
type Claim = (Epoch, NodeAddress);
type Inquiry = Pin<Box<dyn Future<Output = Option<Claim>> + Send>>;

/// The task of one partition.
pub(super) struct Producer {
    partition: PartitionUid,
    directory: Arc<Directory>,
    ids: Arc<ProducerIds>,
    shared: Arc<Shared>,
    core: AppendCore,
    stamp: Option<ProducerStamp>,
    /// By the core's number.
    sent: HashMap<u64, Sent>,
    link: Option<Link>,
    connecting: Option<Connecting>,
    inquiry: Option<Inquiry>,
    /// Inquiries since the last acknowledgement.
    inquiries: u32,
    /// Who was said to have taken over.
    claim: Option<Claim>,
    /// The newest epoch in which something was acknowledged: what is known of older ones is out of date.
    newest: Epoch,
    identifying: Option<Identifying>,
    round: u32,
}

enum Event {
    Work,
    Frames(Vec<Frame>),
    LinkLost(String),
    Connected(Connected),
    Inquired(Option<Claim>),
    Identified(Result<i64, AppendFailure>),
    Time,
    Closed,
}

impl Producer {
    pub(super) fn new(
        partition: PartitionUid,
        directory: Arc<Directory>,
        ids: Arc<ProducerIds>,
        shared: Arc<Shared>,
    ) -> Self {
        let settings =
            AppendSettings { delivery_timeout: shared.options.delivery_timeout, ..AppendSettings::default() };
        Self {
            partition,
            directory,
            ids,
            shared,
            core: AppendCore::new(settings),
            stamp: None,
            sent: HashMap::new(),
            link: None,
            connecting: None,
            inquiry: None,
            inquiries: 0,
            claim: None,
            newest: Epoch::ZERO,
            identifying: None,
            round: 0,
        }
    }

    /// Runs until nobody can append any more and everything is acknowledged or has failed.
    pub(super) async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::Work | Event::Time => {}
                Event::Frames(frames) => self.handle_frames(&frames),
                Event::LinkLost(why) => self.handle_link_lost(why),
                Event::Connected(connected) => self.handle_connected(connected),
                Event::Inquired(claim) => self.handle_inquired(claim),
                Event::Identified(id) => self.handle_identified(id),
                Event::Closed => return,
            }
            self.core.handle_tick(now());
            // What has failed ends its producer id before anything more is made with it.
            self.drain();
            self.make_batches();
            self.drain();
            if let Some(trouble) = self.core.poll_trouble() {
                self.shared.set_trouble(Some(trouble.to_owned()));
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let closed = self.shared.closed.load(Ordering::Acquire);
        if closed && self.core.is_idle() && self.shared.accumulator().is_empty() {
            return Event::Closed;
        }
        let timeout = self.core.next_timeout().into_iter().chain(self.linger_until()).min();
        let (link, connecting, inquiry) = (&mut self.link, &mut self.connecting, &mut self.inquiry);
        let identifying = &mut self.identifying;
        tokio::select! {
            biased;
            event = frames(link) => event,
            connected = pending_or(connecting) => Event::Connected(connected),
            claim = pending_or(inquiry) => Event::Inquired(claim),
            id = pending_or(identifying) => Event::Identified(id),
            () = self.shared.work.notified() => Event::Work,
            () = sleep_until(timeout) => Event::Time,
        }
    }

    /// When the open batch has waited long enough, if it waits for company.
    fn linger_until(&self) -> Option<Time> {
        let accumulator = self.shared.accumulator();
        let can_be_made = self.identifying.is_none() && self.core.wants_batch();
        let lingers = !self.shared.options.linger.is_zero() && !accumulator.is_empty() && can_be_made;
        lingers.then(|| accumulator.opened_at + self.shared.options.linger)
    }

    /// Makes batches of what waits, as long as the core wants them.
    fn make_batches(&mut self) {
        while self.core.wants_batch() {
            let linger = self.shared.options.linger;
            let mut accumulator = self.shared.accumulator();
            let waits = !linger.is_zero() && !accumulator.has_full() && accumulator.opened_at + linger > now();
            if waits || accumulator.is_empty() {
                return;
            }
            if self.stamp.is_none() {
                drop(accumulator);
                // Between batches of two producer ids the sequencer keeps no order.
                if self.core.is_idle() {
                    self.identify();
                }
                return;
            }
            let Some(closed) = accumulator.take() else { return };
            drop(accumulator);
            self.make_batch(closed);
        }
    }

    /// Asks for a producer id, without which there is no batch.
    fn identify(&mut self) {
        let (ids, shared) = (self.ids.clone(), self.shared.clone());
        self.identifying.get_or_insert_with(|| {
            Box::pin(async move {
                let patience = shared.options.delivery_timeout;
                identify(patience, || ids.next(), |trouble| shared.set_trouble(Some(trouble))).await
            })
        });
    }

    fn handle_identified(&mut self, id: Result<i64, AppendFailure>) {
        self.identifying = None;
        let mut failure = match id {
            Ok(id) => return self.stamp = Some(ProducerStamp { id, epoch: 0, base_sequence: 0 }),
            Err(failure) => failure,
        };
        loop {
            let Some(closed) = self.shared.accumulator().take() else { return };
            closed.state.complete(Err(std::mem::replace(&mut failure, AppendFailure::Behind)));
            self.shared.give_back(closed.counted);
        }
    }

    fn make_batch(&mut self, mut closed: Closed) {
        let Some(stamp) = &mut self.stamp else { return };
        let count = closed.builder.record_count();
        let options = BatchOptions {
            compression: self.shared.options.compression,
            producer: Some(*stamp),
            ..BatchOptions::default()
        };
        let bytes = closed.builder.finish(options).freeze();
        stamp.base_sequence = stamp.sequence_after(count);
        self.shared.accumulator().recycle(closed.builder);
        let number = self.core.handle_batch(now(), bytes);
        self.sent.insert(number, Sent { state: closed.state, acks: closed.acks, counted: closed.counted });
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Connect { hint } => self.connect(hint),
                Output::Inquire => self.inquire(),
                Output::Send { round, batch, bytes } => self.send(round, batch, bytes),
                Output::Done { batch, outcome } => self.done(batch, outcome),
            }
        }
    }

    fn connect(&mut self, hint: Option<NodeId>) {
        self.link = None;
        let claim = self.claim.take().filter(|(_, node)| hint == Some(node.node));
        let (directory, partition, newest) = (self.directory.clone(), self.partition, self.newest);
        self.connecting = Some(Box::pin(connect(directory, partition, newest, hint, claim)));
    }

    /// Asks who sequences now; the old connection stays meanwhile. Whoever asks again does not believe just any server.
    fn inquire(&mut self) {
        let Some(process) = self.link.as_ref().map(|link| link.process) else { return };
        let (directory, partition, newest) = (self.directory.clone(), self.partition, self.newest);
        let is_first = self.inquiries == 0;
        self.inquiries = self.inquiries.saturating_add(1);
        self.inquiry = Some(Box::pin(async move {
            let has_moved = |(_, node): &Claim| node.process != process;
            let local = claim(&directory, partition, newest).await.ok().flatten();
            if is_first || local.as_ref().is_some_and(has_moved) {
                return local;
            }
            directory.look_for_sequencer(partition, has_moved).await
        }));
    }

    fn handle_inquired(&mut self, claim: Option<Claim>) {
        self.inquiry = None;
        let Some(link) = &self.link else { return };
        self.claim = claim.filter(|(epoch, node)| node.process != link.process && *epoch >= self.newest);
        let moved = self.claim.as_ref().map(|(_, node)| node.node);
        self.core.handle_inquired(now(), moved);
    }

    fn send(&mut self, round: u32, batch: u64, bytes: Bytes) {
        self.round = round;
        let (Some(link), Some(sent)) = (&mut self.link, self.sent.get(&batch)) else { return };
        link.round = round;
        let (acks, with_offset) = (sent.acks, self.shared.options.with_offset);
        let append = Append { partition: self.partition, acks, with_offset };
        // A lane that is closed says so to its receiver as well.
        let _ = link.tx.send(append.to_frame(batch, bytes.into()));
    }

    fn done(&mut self, batch: u64, outcome: Result<AppendOk, AppendFailure>) {
        let Some(sent) = self.sent.remove(&batch) else { return };
        match &outcome {
            Ok(ok) => {
                self.newest = self.newest.max(ok.lsn.epoch());
                self.inquiries = 0;
                self.shared.set_trouble(None);
            }
            // What follows must not be taken for its continuation.
            Err(_) => self.stamp = None,
        }
        sent.state.complete(outcome);
        self.shared.give_back(sent.counted);
    }

    fn handle_frames(&mut self, frames: &[Frame]) {
        for frame in frames {
            let answer = if Failed::is(frame) {
                Failed::from_frame(frame).map(|failed| Err(failed.to_string()))
            } else {
                AppendedMessage::from_frame(frame).map(Ok)
            };
            match answer {
                Ok(Ok(AppendedMessage { outcome: Err(error), .. })) if self.is_out_of_date(&error) => {
                    self.handle_link_lost(format!("a sequencer that may have been replaced says: {error}"));
                }
                Ok(Ok(appended)) => self.core.handle_appended(now(), self.round, frame.corr, appended.outcome),
                Ok(Err(why)) => self.handle_link_lost(why),
                Err(error) => self.handle_link_lost(error.to_string()),
            }
        }
    }

    /// Whether an answer may come of not knowing what was stored since: a sequencer that has been replaced and does not know it has not
    /// heard of batches that its successor has acknowledged.
    fn is_out_of_date(&self, error: &AppendError) -> bool {
        let of_memory = matches!(error, AppendError::OutOfOrder { .. } | AppendError::UnknownProducer { .. });
        let epoch = self.link.as_ref().and_then(|link| link.epoch);
        of_memory && epoch.is_none_or(|epoch| epoch < self.newest)
    }

    fn handle_link_lost(&mut self, why: String) {
        let round = self.link.take().map_or(self.round, |link| link.round);
        self.core.handle_disconnected(now(), round, why);
    }

    fn handle_connected(&mut self, connected: Connected) {
        self.connecting = None;
        match connected {
            Ok((process, epoch, tx, rx)) => {
                self.link = Some(Link { process, epoch, round: self.round + 1, tx, rx });
                self.core.handle_connected(now());
            }
            Err(error) if error.is_not_found() => self.core.handle_gone(),
            Err(error) => self.core.handle_unreachable(now(), error.to_string()),
        }
    }
}

async fn frames(link: &mut Option<Link>) -> Event {
    let Some(link) = link else { return std::future::pending().await };
    let mut frames = Vec::new();
    match link.rx.recv_many(&mut frames).await {
        Ok(_) => Event::Frames(frames),
        Err(closed) => Event::LinkLost(closed.to_string()),
    }
}

async fn pending_or<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// A producer id, asked for until there is one, there never will be, or patience is over. `tell` hears of what went wrong.
async fn identify<F: Future<Output = Result<i64, ClientError>>>(
    patience: Duration,
    next: impl Fn() -> F,
    tell: impl Fn(String),
) -> Result<i64, AppendFailure> {
    const PAUSE: Duration = Duration::from_millis(100);
    let began = now();
    let deadline = began + patience;
    let mut last = "the metadata tier gave no producer id".to_owned();
    loop {
        let next = tokio::select! {
            biased;
            next = next() => next,
            () = sleep_until(Some(deadline)) => return Err(AppendFailure::NotSent { after: patience, last }),
        };
        let error = match next {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        last = error.to_string();
        tell(last.clone());
        if !error.is_transient() && !matches!(error, ClientError::TimedOut { .. }) {
            return Err(AppendFailure::NotSent { after: now().since(began), last });
        }
        sleep_until(Some(deadline.min(now() + PAUSE))).await;
        // An error that comes at once never lets the deadline through above.
        if now() >= deadline {
            return Err(AppendFailure::NotSent { after: patience, last });
        }
    }
}

/// Who sequences the partition, as the server says that answers first, unless that is known to be out of date.
async fn claim(
    directory: &Arc<Directory>,
    partition: PartitionUid,
    newest: Epoch,
) -> Result<Option<Claim>, ClientError> {
    match directory.sequencer_at(partition, Freshness::Local).await? {
        Some((epoch, _)) if epoch < newest => directory.sequencer_at(partition, Freshness::Linearizable).await,
        claim => Ok(claim),
    }
}

/// An append lane to the partition's sequencer: to the one that has taken over, to the node that somebody named, or to whom the
/// cluster names.
async fn connect(
    directory: Arc<Directory>,
    partition: PartitionUid,
    newest: Epoch,
    hint: Option<NodeId>,
    known: Option<Claim>,
) -> Connected {
    let named = match (known, hint) {
        (Some((epoch, node)), _) => Some((Some(epoch), node)),
        (None, Some(node)) => directory.node(node).await?.map(|node| (None, node)),
        (None, None) => None,
    };
    let (epoch, node) = match named {
        Some(named) => named,
        None => {
            let claim = claim(&directory, partition, newest).await?;
            let none = || ClientError::Lost("the partition has no live sequencer right now".to_owned());
            claim.map(|(epoch, node)| (Some(epoch), node)).ok_or_else(none)?
        }
    };
    let (epoch, node, connection) = reach(&directory, partition, newest, (epoch, node)).await?;
    let (tx, rx) = connection.open_lane(LaneKind::Append).await?.split();
    Ok((node.process, epoch, tx, rx))
}

/// A connection to the sequencer, or to the one that takes over while it does not answer: whoever named it may not know that it died.
async fn reach(
    directory: &Arc<Directory>,
    partition: PartitionUid,
    newest: Epoch,
    (mut epoch, mut node): (Option<Epoch>, NodeAddress),
) -> Result<(Option<Epoch>, NodeAddress, Connection), ClientError> {
    loop {
        let connecting = directory.data(&node, partition.core(node.cores));
        let successor = async {
            let is_news = |(epoch, other): &Claim| *epoch >= newest && other.process != node.process;
            loop {
                sleep(CONNECT_DOUBT).await;
                if let Some(claim) = directory.look_for_sequencer(partition, is_news).await {
                    return claim;
                }
            }
        };
        let (successors_epoch, successor) = tokio::select! {
            connected = connecting => return Ok((epoch, node, connected?)),
            successor = successor => successor,
        };
        (epoch, node) = (Some(successors_epoch), successor);
    }
}

/// Producer ids for this client's partitions.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    directory: Arc<Directory>,
    left: tokio::sync::Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    /// Taken from the metadata tier at a time.
    const AT_ONCE: u32 = 8;

    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, left: tokio::sync::Mutex::new(0..0) }
    }

    async fn next(&self) -> Result<i64, ClientError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            *left = self.directory.producer_ids(Self::AT_ONCE).await?;
        }
        left.next().ok_or(ClientError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_is_asked_for_as_long_as_a_record_may_take() {
        let (told, asked) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let tell = |trouble| told.lock().unwrap().push(trouble);
        let lost = || ClientError::Lost("n1 is gone".to_owned());
        let third = || {
            let found = asked.fetch_add(1, Ordering::Relaxed) == 2;
            std::future::ready(if found { Ok(7) } else { Err(lost()) })
        };
        assert_eq!(identify(Duration::from_secs(60), third, tell).await, Ok(7));
        assert_eq!(told.lock().unwrap().len(), 2);

        let patience = Duration::from_millis(200);
        let failure = identify(patience, || std::future::ready(Err(lost())), tell).await.unwrap_err();
        assert_eq!(failure, AppendFailure::NotSent { after: patience, last: lost().to_string() });
        assert!(
            failure.to_string().contains("not sent within 0.2 s (last trouble: the connection was lost: n1 is gone)")
        );
        let silent = std::future::pending;
        assert!(
            matches!(identify(patience, silent, tell).await, Err(AppendFailure::NotSent { after, .. }) if after == patience)
        );
    }

    #[tokio::test]
    async fn what_really_passed_is_what_is_told() {
        let closed = || std::future::ready(Err(ClientError::Closed));
        let Err(AppendFailure::NotSent { after, last }) = identify(Duration::from_secs(60), closed, drop).await else {
            panic!("it never comes")
        };
        assert!(after < Duration::from_secs(30) && last == "the client is closed", "{after:?} {last}");
    }
}
