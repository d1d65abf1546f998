//! Around the coordinators: one task per partition of the groups' log that is sequenced here.
//!
//! A task begins when a sequencer of the partition comes to this node. It appends an empty record and waits for its
//! acknowledgement: what lies before that record is all that any predecessor can have stored (a later append of theirs goes
//! to an epoch that has ended). It reads the partition up to there, and serves. When an append fails, or the sequencer goes,
//! everybody who waits is told NOT_COORDINATOR, and everything is forgotten; if the sequencer is still here, it begins anew.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_client::{Client, GapReason, Position, ReadBatch, ReadStep};
use dlog_metadata::state::{Command, CreateLog, LogAttributes, LogInfo, Response, Trim, TrimItem};
use dlog_proto::clock::{now, now_ms, sleep_until};
use dlog_proto::record::{BatchBuilder, BatchOptions, Compression, NewRecord};
use dlog_proto::wire::{Acks, AppendError, AppendOk};
use dlog_proto::{Epoch, LogId, Lsn, PartitionUid};
use kafka_protocol::ResponseError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::coordinator::{Coordinator, Output};
use super::message::{GroupAnswer, GroupRequest};
use super::settings::GroupSettings;
use super::stored::Change;
use crate::broker::{Broker, Pending};
use crate::cluster::{Cluster, INTERNAL_NAMESPACE};
use crate::fetch::End;

const LOG: &str = "groups";
/// How often it is looked which partitions are sequenced here, besides when the metadata change.
const LOOK: Duration = Duration::from_millis(250);
/// Pause before a task that failed begins anew.
const RETRY: Duration = Duration::from_millis(200);
/// Copies of the groups' log, if there are as many nodes.
const REPLICATION: u8 = 3;
/// Requests that wait for a coordinator.
const WAITING_MAX: usize = 4096;
/// Batches that are being stored; what comes meanwhile shares the next one.
const IN_FLIGHT_MAX: usize = 4;
/// A batch is closed when it is so long, in bytes before compression.
const BATCH_LEN: usize = 512 << 10;
/// How long it may take until a group's log is there.
const CREATE_TIME: Duration = Duration::from_secs(5);
/// How long what is asked of a coordinator may take, if it does not wait for other members (`offsets.commit.timeout.ms`).
const ANSWER_TIME: Duration = Duration::from_secs(5);

type Ask = (GroupRequest, oneshot::Sender<GroupAnswer>);

/// A coordinator's task, for those who ask.
struct Running {
    epoch: Epoch,
    /// `None` until everything is read.
    ask: Option<mpsc::Sender<Ask>>,
}

type All = Arc<Mutex<HashMap<PartitionUid, Running>>>;

/// The coordinators of this node.
pub(crate) struct Groups {
    broker: Arc<dyn Broker>,
    settings: GroupSettings,
    running: All,
    manager: tokio::task::AbortHandle,
    creating: tokio::sync::Mutex<()>,
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.manager.abort();
    }
}

fn lock(all: &All) -> MutexGuard<'_, HashMap<PartitionUid, Running>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_id() -> LogId {
    LogId::new(INTERNAL_NAMESPACE, LOG).expect("a legal name")
}

impl Groups {
    pub(crate) fn start(broker: Arc<dyn Broker>, client: Client, settings: GroupSettings) -> Self {
        let running = All::default();
        let manager = Manager { broker: broker.clone(), client, settings: settings.clone(), running: running.clone() };
        let manager = tokio::spawn(manager.run()).abort_handle();
        Self { broker, settings, running, manager, creating: tokio::sync::Mutex::default() }
    }

    pub(crate) fn settings(&self) -> &GroupSettings {
        &self.settings
    }

    /// The partition that a group is in; `None` before there is a groups' log.
    fn partition(&self, cluster: &Cluster, group: &str) -> Option<PartitionUid> {
        let info = cluster.view.log(&log_id())?;
        let index = xxh3_64(group.as_bytes()) % info.partitions.len().max(1) as u64;
        info.partitions.get(index as usize).copied()
    }

    /// The node that coordinates a group. The log is made when somebody asks for the first time.
    pub(crate) async fn coordinator(&self, group: &str) -> Result<dlog_proto::NodeId, ResponseError> {
        if group.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        if self.partition(&Cluster::of(&*self.broker), group).is_none() {
            timeout(CREATE_TIME, self.create()).await.unwrap_or(Err(ResponseError::CoordinatorNotAvailable))?;
        }
        let cluster = Cluster::of(&*self.broker);
        let partition = self.partition(&cluster, group).ok_or(ResponseError::CoordinatorNotAvailable)?;
        cluster.leader(partition).node.ok_or(ResponseError::CoordinatorNotAvailable)
    }

    async fn create(&self) -> Result<(), ResponseError> {
        let _one_at_a_time = self.creating.lock().await;
        let cluster = Cluster::of(&*self.broker);
        if cluster.view.log(&log_id()).is_some() {
            return Ok(());
        }
        let nodes = u8::try_from(cluster.storage_nodes()).unwrap_or(u8::MAX);
        let attributes = LogAttributes::replicated(REPLICATION.min(nodes).max(1));
        let create =
            CreateLog { log: log_id(), partitions: self.settings.partitions, attributes, created_ms: now_ms() };
        match self.broker.propose(Command::CreateLog(create)).await {
            Ok((revision, Response::CreateLog(outcome))) => {
                if let Err(error) = outcome {
                    tracing::warn!("kafka: the log of groups cannot be made: {error}");
                }
                let mut views = self.broker.views();
                let led = |view: &Cluster| {
                    let info = view.view.log(&log_id());
                    info.is_some_and(|info| info.partitions.iter().all(|uid| view.leader(*uid).node.is_some()))
                };
                let ready = views.wait_for(|view| view.revision() >= revision && led(&Cluster::of(&*self.broker)));
                ready.await.map(drop).map_err(|_| ResponseError::CoordinatorNotAvailable)
            }
            _ => Err(ResponseError::CoordinatorNotAvailable),
        }
    }

    /// Asks a group's coordinator, which must be on this node.
    pub(crate) async fn ask(&self, group: &str, request: GroupRequest) -> Result<GroupAnswer, ResponseError> {
        if group.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let partition = self.partition(&Cluster::of(&*self.broker), group).ok_or(ResponseError::NotCoordinator)?;
        let ask = match lock(&self.running).get(&partition) {
            None => return Err(ResponseError::NotCoordinator),
            Some(running) => running.ask.clone().ok_or(ResponseError::CoordinatorLoadInProgress)?,
        };
        if matches!(request, GroupRequest::Join(_) | GroupRequest::Sync(_)) {
            return send(&ask, request).await;
        }
        let answered = timeout(ANSWER_TIME, send(&ask, request)).await;
        answered.unwrap_or(Err(ResponseError::CoordinatorNotAvailable))
    }

    /// Asks every coordinator on this node.
    pub(crate) async fn ask_all(&self) -> Result<Vec<GroupAnswer>, ResponseError> {
        let all: Vec<Option<mpsc::Sender<Ask>>> =
            lock(&self.running).values().map(|running| running.ask.clone()).collect();
        let mut answers = Vec::with_capacity(all.len());
        for ask in all {
            let ask = ask.ok_or(ResponseError::CoordinatorLoadInProgress)?;
            answers.push(send(&ask, GroupRequest::List).await?);
        }
        Ok(answers)
    }
}

async fn send(ask: &mpsc::Sender<Ask>, request: GroupRequest) -> Result<GroupAnswer, ResponseError> {
    let (answer, answered) = oneshot::channel();
    ask.send((request, answer)).await.map_err(|_| ResponseError::NotCoordinator)?;
    answered.await.map_err(|_| ResponseError::NotCoordinator)
}

/// Starts and ends tasks as sequencers come and go.
struct Manager {
    broker: Arc<dyn Broker>,
    client: Client,
    settings: GroupSettings,
    running: All,
}

impl Manager {
    async fn run(self) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut views = self.broker.views();
        loop {
            while tasks.try_join_next().is_some() {}
            let view = self.broker.view();
            if let Some(info) = view.log(&log_id()).cloned() {
                for (index, uid) in (0..).zip(&info.partitions) {
                    self.look_at(&mut tasks, &info, index, *uid);
                }
            }
            // The view may change often; it is not looked at more often than this.
            tokio::time::sleep(LOOK / 5).await;
            let _ = timeout(LOOK, views.changed()).await;
        }
    }

    fn look_at(&self, tasks: &mut tokio::task::JoinSet<()>, info: &LogInfo, index: u32, uid: PartitionUid) {
        let Some(tail) = self.broker.tail(uid) else { return };
        let epoch = tail.borrow().acked.epoch();
        let mut running = lock(&self.running);
        if running.get(&uid).is_some_and(|running| running.epoch >= epoch) {
            return;
        }
        running.insert(uid, Running { epoch, ask: None });
        drop(running);
        let task = Task {
            broker: self.broker.clone(),
            client: self.client.clone(),
            settings: self.settings.clone(),
            running: self.running.clone(),
            log: info.log.clone(),
            index,
            uid,
            epoch,
        };
        tasks.spawn(task.run());
    }
}

/// Coordinates the groups of one partition in one epoch.
struct Task {
    broker: Arc<dyn Broker>,
    client: Client,
    settings: GroupSettings,
    running: All,
    log: LogId,
    index: u32,
    uid: PartitionUid,
    epoch: Epoch,
}

impl Task {
    async fn run(self) {
        if let Err(why) = self.coordinate().await {
            tracing::info!(log = %self.log, partition = self.index, epoch = %self.epoch, "kafka: coordinator stopped: {why}");
        }
        self.set(None);
        tokio::time::sleep(RETRY).await;
        // Whoever comes next may be of the same epoch.
        let mut running = lock(&self.running);
        if running.get(&self.uid).is_some_and(|running| running.epoch == self.epoch) {
            running.remove(&self.uid);
        }
    }

    /// Says whom to ask, unless a later epoch has taken over.
    fn set(&self, ask: Option<mpsc::Sender<Ask>>) {
        if let Some(running) = lock(&self.running).get_mut(&self.uid).filter(|running| running.epoch == self.epoch) {
            running.ask = ask;
        }
    }

    async fn coordinate(&self) -> Result<(), String> {
        let mut coordinator = Coordinator::new(self.settings.clone(), fastrand::u64(..));
        let barrier = self.append(&empty_batch()).await.map_err(|error| error.to_string())?;
        self.check_epoch(&barrier)?;
        let bytes = self.load(&mut coordinator, barrier.lsn).await?;
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        self.set(Some(ask));
        tracing::debug!(log = %self.log, partition = self.index, epoch = %self.epoch, bytes, "kafka: coordinator serves");
        Serving::new(self, coordinator, asked, bytes).run().await
    }

    fn append(&self, batch: &Bytes) -> Pending<Result<AppendOk, AppendError>> {
        self.broker.append(self.uid, batch.clone(), Acks::Quorum, false, false)
    }

    fn check_epoch(&self, ok: &AppendOk) -> Result<(), String> {
        let epoch = ok.lsn.epoch();
        if epoch == self.epoch { Ok(()) } else { Err(format!("its log went on to {epoch}")) }
    }

    /// Takes in everything before `end`. How many bytes there were.
    async fn load(&self, coordinator: &mut Coordinator, end: Lsn) -> Result<u64, String> {
        let mut tail = self.broker.tail(self.uid).ok_or("its sequencer is gone")?;
        let released = tail.wait_for(|tail| End::of(tail).is_some_and(|end_now| end_now.released >= end)).await;
        drop(released.map_err(|_| "its sequencer is gone")?);
        let opened = self.client.reader(&self.log, self.index, Position::Oldest, Some(Position::Lsn(end))).await;
        let mut reader = opened.map_err(|error| format!("its log cannot be read: {error}"))?;
        let mut bytes = 0;
        while let Some(step) = reader.next_step().await.map_err(|error| format!("its log cannot be read: {error}"))? {
            match step {
                ReadStep::Gap { to, reason: GapReason::DataLoss, .. } => {
                    tracing::error!(partition = self.index, upto = %to, "kafka: changes of groups were lost");
                }
                ReadStep::Gap { .. } => {}
                ReadStep::Batch(ReadBatch { batch, .. }) => {
                    bytes += batch.bytes().len() as u64;
                    for record in batch.records().map_err(|error| error.to_string())? {
                        let value = record.map_err(|error| error.to_string())?.value.unwrap_or_default();
                        if let Some(change) = Change::decode(&value).map_err(|error| error.to_string())? {
                            coordinator.load(now(), change);
                        }
                    }
                }
            }
        }
        Ok(bytes)
    }
}

fn empty_batch() -> Bytes {
    let mut builder = BatchBuilder::new(128);
    builder.append(&NewRecord { timestamp_ms: now_ms(), key: None, value: None, headers: &[] });
    builder.finish(BatchOptions::default()).freeze()
}

/// A batch that is being stored.
struct InFlight {
    stored: Pending<Result<AppendOk, AppendError>>,
    /// Writes that are complete with it.
    writes: usize,
    /// It begins a snapshot.
    snapshot_begins: bool,
    snapshot_ends: bool,
}

/// A coordinator at work.
struct Serving<'a> {
    task: &'a Task,
    coordinator: Coordinator,
    asked: mpsc::Receiver<Ask>,
    waiting: HashMap<u64, oneshot::Sender<GroupAnswer>>,
    next_token: u64,
    to_store: VecDeque<Vec<Change>>,
    in_flight: VecDeque<InFlight>,
    /// Since the last snapshot.
    bytes: u64,
    snapshot_len: u64,
    snapshot: Snapshot,
    expire_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    None,
    UnderWay { first: Option<Lsn> },
}

enum Event {
    Asked(Ask),
    Stored(Result<AppendOk, AppendError>),
    Time,
    Expire,
    Gone,
}

impl<'a> Serving<'a> {
    fn new(task: &'a Task, coordinator: Coordinator, asked: mpsc::Receiver<Ask>, bytes: u64) -> Self {
        Self {
            expire_at: Instant::now() + task.settings.offsets_check,
            task,
            coordinator,
            asked,
            waiting: HashMap::new(),
            next_token: 0,
            to_store: VecDeque::new(),
            in_flight: VecDeque::new(),
            bytes,
            snapshot_len: 0,
            snapshot: Snapshot::None,
        }
    }

    async fn run(mut self) -> Result<(), String> {
        loop {
            match self.next_event().await {
                Event::Asked((request, answer)) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    self.waiting.insert(token, answer);
                    self.coordinator.handle_request(now(), now_ms(), token, request);
                }
                Event::Stored(outcome) => self.handle_stored(outcome)?,
                Event::Time => self.coordinator.handle_timeout(now(), now_ms()),
                Event::Expire => self.expire(),
                Event::Gone => return Err("its sequencer is gone".to_owned()),
            }
            self.drain();
            self.store();
        }
    }

    async fn next_event(&mut self) -> Event {
        let timeout = self.coordinator.next_timeout();
        let mut tail = self.task.broker.tail(self.task.uid);
        let epoch = self.task.epoch;
        let gone = async {
            match &mut tail {
                None => {}
                Some(tail) => drop(tail.wait_for(|tail| tail.acked.epoch() != epoch).await),
            }
        };
        tokio::select! {
            biased;
            stored = first(&mut self.in_flight) => Event::Stored(stored),
            () = gone => Event::Gone,
            Some(ask) = self.asked.recv() => Event::Asked(ask),
            () = sleep_until(timeout) => Event::Time,
            () = tokio::time::sleep_until(self.expire_at) => Event::Expire,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.coordinator.poll_output() {
            match output {
                Output::Reply { token, answer } => {
                    if let Some(waiting) = self.waiting.remove(&token) {
                        // Whoever asked may have given up.
                        let _ = waiting.send(answer);
                    }
                }
                Output::Write(changes) => self.to_store.push_back(changes),
            }
        }
    }

    fn handle_stored(&mut self, outcome: Result<AppendOk, AppendError>) -> Result<(), String> {
        let Some(done) = self.in_flight.pop_front() else { return Ok(()) };
        let ok = outcome.map_err(|error| error.to_string())?;
        self.task.check_epoch(&ok)?;
        (0..done.writes).for_each(|_| self.coordinator.handle_written(now(), now_ms()));
        if done.snapshot_begins {
            self.snapshot = Snapshot::UnderWay { first: Some(ok.lsn) };
        }
        if let Snapshot::UnderWay { first: Some(first) } = self.snapshot
            && done.snapshot_ends
        {
            self.snapshot = Snapshot::None;
            self.trim_before(first);
        }
        Ok(())
    }

    /// Lets go of what the snapshot stands for.
    fn trim_before(&self, first: Lsn) {
        if first.esn().0 < 2 {
            return;
        }
        let upto = Lsn(first.0 - 1);
        let trim = Command::Trim(Trim { items: vec![TrimItem { partition: self.task.uid, upto }] });
        let (trimmed, index) = (self.task.broker.propose(trim), self.task.index);
        tokio::spawn(async move {
            if let Err(error) = trimmed.await {
                tracing::info!(partition = index, "kafka: old changes of groups were not trimmed: {error}");
            }
        });
    }

    /// Stores what is to be stored, many writes in a batch.
    fn store(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX && !self.to_store.is_empty() {
            let mut batch = Batcher::new(self.task);
            while let Some(changes) = self.to_store.pop_front() {
                changes.iter().for_each(|change| batch.put(change));
                batch.writes += 1;
            }
            let (batches, bytes) = batch.finish();
            self.bytes += bytes;
            self.in_flight.extend(batches);
        }
        let due = self.bytes > self.task.settings.snapshot_bytes.max(2 * self.snapshot_len);
        if due && self.snapshot == Snapshot::None && self.in_flight.len() < IN_FLIGHT_MAX {
            self.store_snapshot();
        }
    }

    /// What is being stored comes before it in the log, and what comes later after it: it need not be complete, for a change
    /// that is under way is not in it and not trimmed either.
    fn store_snapshot(&mut self) {
        if !self.in_flight.is_empty() {
            // Changes that are on their way are not known to the groups yet, and would be trimmed.
            return;
        }
        let mut batch = Batcher::new(self.task);
        self.coordinator.snapshot().iter().for_each(|change| batch.put(change));
        let (mut batches, bytes) = batch.finish();
        (self.snapshot_len, self.bytes) = (bytes, 0);
        if let Some(first) = batches.first_mut() {
            first.snapshot_begins = true;
        }
        if let Some(last) = batches.last_mut() {
            last.snapshot_ends = true;
            self.snapshot = Snapshot::UnderWay { first: None };
        }
        self.in_flight.extend(batches);
    }

    fn expire(&mut self) {
        self.expire_at = Instant::now() + self.task.settings.offsets_check;
        let cluster = Cluster::of(&*self.task.broker);
        let alive: HashSet<u64> = cluster.topics().iter().map(|topic| topic.uid.0).collect();
        self.coordinator.expire(now_ms(), &|_, uid| !alive.contains(&uid));
    }
}

/// The outcome of the oldest batch. The others are in line already and need no polling.
async fn first(in_flight: &mut VecDeque<InFlight>) -> Result<AppendOk, AppendError> {
    match in_flight.front_mut() {
        Some(first) => (&mut first.stored).await,
        None => std::future::pending().await,
    }
}

/// Packs changes into batches and appends them.
struct Batcher<'a> {
    task: &'a Task,
    builder: BatchBuilder,
    appended: Vec<InFlight>,
    writes: usize,
    bytes: u64,
}

impl<'a> Batcher<'a> {
    fn new(task: &'a Task) -> Self {
        let builder = BatchBuilder::new(1024);
        Self { task, builder, appended: Vec::new(), writes: 0, bytes: 0 }
    }

    fn put(&mut self, change: &Change) {
        let value = change.encode();
        let record = NewRecord { timestamp_ms: now_ms(), key: None, value: Some(&value), headers: &[] };
        if !self.builder.is_empty() && self.builder.len_bytes() + value.len() > BATCH_LEN {
            self.close(0);
        }
        self.builder.append(&record);
    }

    fn close(&mut self, writes: usize) {
        let options = BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() };
        let batch = self.builder.finish(options).freeze();
        self.bytes += batch.len() as u64;
        let stored = self.task.append(&batch);
        self.appended.push(InFlight { stored, writes, snapshot_begins: false, snapshot_ends: false });
    }

    /// The batches, and how long they are together.
    fn finish(mut self) -> (Vec<InFlight>, u64) {
        if !self.builder.is_empty() {
            self.close(self.writes);
        }
        (self.appended, self.bytes)
    }
}
