//! Fetch: waits until there is enough to send, then reads it. The leader may send a consumer to a replica instead, and a
//! replica serves consumers as far as it knows what may be read (KIP-392).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_metadata::state::LogInfo;
use dlog_proto::clock;
use dlog_proto::{LogOffset, NodeId, PartitionUid};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::broker::{Broker, Pending};
use crate::cluster::{Cluster, log_start, topic_name};
use crate::fetch::{
    Asker, Changes, End, FetchMemory, Key, Plan, ReadRequest, SessionRequest, Shown, TopicKey, Wanted, check_epoch,
    replica_end,
};
use crate::gateway::Shared;
use crate::wire::{Answer, FetchAnswer, FetchedPartition, FetchedTopic, Header, encode_fetch};

/// First version whose clients know of failing storage.
const STORAGE_ERRORS: i16 = 6;
/// First version that names topics by id.
const TOPIC_IDS: i16 = 13;
/// First version with the new leader in the answer, and where it is.
const LEADER_ENDPOINTS: i16 = 16;
const READ_COMMITTED: i8 = 1;
/// How long records that are known to be there may take to come, beyond what the client would wait.
const READ_GRACE: Duration = Duration::from_secs(1);
/// How long a replica may take to hear of what the leader told a consumer before it sends the consumer back.
const CATCH_UP: Duration = Duration::from_millis(500);
/// Longest wait, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(300);

pub(super) fn begin(shared: Arc<Shared>, header: &Header, request: FetchRequest) -> Pending<Answer> {
    let (correlation, version) = (header.correlation, header.version);
    Box::pin(async move { encode_fetch(correlation, version, handle(&shared, version, request).await) })
}

async fn handle(shared: &Arc<Shared>, version: i16, request: FetchRequest) -> FetchAnswer {
    let read_committed = request.isolation_level == READ_COMMITTED;
    let plan = match plan(shared, session_request(version, &request)) {
        Ok(plan) => plan,
        Err(error) => return FetchAnswer { error: error.code(), read_committed, ..FetchAnswer::default() },
    };
    let mut fetch = Fetch::new(shared, Asker::of(version, &request), &request, &plan.partitions);
    fetch.run().await;
    fetch.answer(&plan, version, read_committed)
}

fn plan(shared: &Shared, asked: SessionRequest) -> Result<Plan, ResponseError> {
    let mut sessions = shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.begin(clock::now(), asked, fastrand::i32(1..))
}

fn session_request(version: i16, request: &FetchRequest) -> SessionRequest {
    let uses_ids = version >= TOPIC_IDS;
    let topic_key =
        |name: &TopicName, id: Uuid| if uses_ids { TopicKey::Id(id) } else { TopicKey::Name(name.0.clone()) };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let key = topic_key(&topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|partition| Wanted {
            key: Key { topic: key.clone(), partition: partition.partition },
            fetch_offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            leader_epoch: partition.current_leader_epoch,
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = topic_key(&topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|&partition| Key { topic: key.clone(), partition }));
    }
    // Before version 7 there are no sessions, and the codec says (0, −1).
    SessionRequest { id: request.session_id, epoch: request.session_epoch, uses_ids, wanted, forgotten }
}

/// A partition of a fetch.
struct Part {
    wanted: Wanted,
    topic: Option<Arc<LogInfo>>,
    uid: PartitionUid,
    /// Offset to read next.
    next: u64,
    end: Option<End>,
    log_start: i64,
    error: Option<ResponseError>,
    /// Who should be read from instead.
    preferred: Option<NodeId>,
    /// Its sequencer is on this node.
    is_led: bool,
    /// This replica knows less than whom the consumer asked before.
    is_behind: bool,
    records: Vec<Bytes>,
    len: usize,
    /// Nothing more fits its share.
    full: bool,
}

/// What is known while the partitions are looked at.
struct Moment<'a> {
    broker: &'a dyn Broker,
    cluster: Cluster,
    asker: &'a Asker,
}

struct Fetch<'a> {
    shared: &'a Arc<Shared>,
    asker: Asker,
    parts: Vec<Part>,
    min_bytes: usize,
    max_bytes: usize,
    deadline: Instant,
    /// When to give up on what this replica has not heard of yet.
    catch_up: Instant,
    len: usize,
    /// For the records of the answer.
    memory: Option<FetchMemory>,
}

impl<'a> Fetch<'a> {
    fn new(shared: &'a Arc<Shared>, asker: Asker, request: &FetchRequest, wanted: &[Wanted]) -> Self {
        let cluster = Cluster::of(&*shared.broker);
        let mut topics: HashMap<TopicKey, Option<Arc<LogInfo>>> = HashMap::new();
        let part = |wanted: &Wanted| {
            let topic = topics.entry(wanted.key.topic.clone()).or_insert_with(|| match &wanted.key.topic {
                TopicKey::Name(name) => cluster.topic(name),
                TopicKey::Id(id) => cluster.topic_by_id(*id),
            });
            Part::new(wanted, topic.clone())
        };
        let parts = wanted.iter().map(part).collect();
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(shared.settings.fetch_bytes_max);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
        let now = Instant::now();
        Self {
            shared,
            asker,
            parts,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
            max_bytes,
            deadline: now + wait,
            catch_up: now + CATCH_UP,
            len: 0,
            memory: None,
        }
    }

    /// Reads until there is enough, something is wrong, or the time is over.
    async fn run(&mut self) {
        let mut changes = self.look();
        self.prefer().await;
        loop {
            if self.parts.iter().any(Part::is_readable) {
                self.read().await;
            }
            let trouble = self.parts.iter().any(|part| part.error.is_some() || part.preferred.is_some() || part.full);
            // What is readable and was not read has no room in the answer.
            let trouble = trouble || self.len > 0 && self.parts.iter().any(Part::is_readable);
            let waits_for_leader = self.parts.iter().any(|part| part.is_behind) && self.len == 0;
            if trouble || self.len >= self.min_bytes && !waits_for_leader || self.parts.is_empty() {
                break;
            }
            let deadline = if waits_for_leader { self.catch_up } else { self.deadline };
            if tokio::time::timeout_at(deadline, changes.first()).await.is_err() {
                break;
            }
            changes = self.look();
        }
        for part in self.parts.iter_mut().filter(|part| part.is_behind && part.error.is_none()) {
            part.fail(ResponseError::OffsetNotAvailable);
        }
    }

    /// Looks who should be read from instead of this node. Once is enough: who waits here stays.
    async fn prefer(&mut self) {
        if !self.asker.has_rack() {
            return;
        }
        let cluster = Cluster::of(&*self.shared.broker);
        for part in self.parts.iter_mut().filter(|part| part.is_led && part.error.is_none()) {
            part.preferred = self.asker.preferred(&cluster, &*self.shared.broker, part.uid).await;
        }
    }

    /// Looks where the partitions end now, and gives what to wait for.
    fn look(&mut self) -> Changes {
        let (mut changes, mut needs_view) = (Changes::default(), false);
        // Seen before it is used: what comes meanwhile is a change.
        let mut views = self.shared.broker.views();
        views.mark_unchanged();
        let at =
            Moment { broker: &*self.shared.broker, cluster: Cluster::of(&*self.shared.broker), asker: &self.asker };
        for part in &mut self.parts {
            part.look(&at, &mut changes, &mut needs_view);
        }
        if needs_view {
            changes.add(views);
        }
        changes
    }

    /// Takes memory for what is there to be read. How many bytes the answer may have then; 0 if there is no memory.
    async fn reserve(&mut self) -> usize {
        let readable = self.parts.iter().filter(|part| part.is_readable());
        let asked = readable.map(Part::share).fold(0, usize::saturating_add);
        // The first batch comes, however long it is.
        let least = if self.len == 0 { self.shared.settings.message_len_max as usize } else { 1 };
        let wanted = asked.min(self.max_bytes.saturating_sub(self.len)).max(least);
        if let Some(more) = self.shared.fetch_memory.take(wanted, least, self.deadline).await {
            match &mut self.memory {
                Some(memory) => memory.merge(more),
                None => self.memory = Some(more),
            }
        }
        self.memory.as_ref().map_or(0, FetchMemory::bytes).min(self.max_bytes.max(least))
    }

    async fn read(&mut self) {
        let limit = self.reserve().await;
        if limit <= self.len {
            return;
        }
        self.read_upto(limit).await;
        if let Some(memory) = &mut self.memory {
            memory.shrink(self.len);
        }
    }

    async fn read_upto(&mut self, limit: usize) {
        let view = self.shared.broker.view();
        for part in &mut self.parts {
            let (Some(topic), Some(end)) = (&part.topic, part.end.filter(|_| part.is_readable())) else { continue };
            let max_bytes = part.share().min(limit.min(self.max_bytes).saturating_sub(self.len));
            if max_bytes == 0 && self.len > 0 {
                continue;
            }
            let Some(table) = view.table(part.uid) else { continue };
            let Some(from) = table.lsn_of(LogOffset(part.next)) else { continue };
            let request = ReadRequest {
                log: topic.log.clone(),
                index: part.wanted.key.partition as u32,
                partition: part.uid,
                offset: part.next,
                from,
                local_upto: end.last_readable(&table, from.epoch()).filter(|upto| from <= *upto),
                until: end.high_watermark,
                max_bytes,
                at_least_one: self.len == 0,
                deadline: self.deadline + READ_GRACE,
            };
            match self.shared.readers.read(&request).await {
                Ok(batches) => {
                    for batch in &batches {
                        self.len += batch.len();
                        part.len += batch.len();
                        part.records.extend(batch.pieces());
                        part.next = batch.next_offset;
                    }
                    // What is left does not fit: nothing is gained by waiting.
                    part.full = part.next < end.high_watermark && self.len > 0;
                }
                Err(error) => {
                    tracing::debug!(partition = %part.uid, offset = part.next, "kafka: reading failed: {error}");
                    part.error = Some(ResponseError::KafkaStorageError).filter(|_| part.records.is_empty());
                }
            }
        }
    }

    fn answer(mut self, plan: &Plan, version: i16, read_committed: bool) -> FetchAnswer {
        let cluster = Cluster::of(&*self.shared.broker);
        let memory = self.memory.take();
        let mut answer = FetchAnswer { session: plan.session, read_committed, memory, ..FetchAnswer::default() };
        let mut leaders: Vec<NodeId> = Vec::new();
        let mut sessions = self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        for part in self.parts {
            let key = part.wanted.key.clone();
            let topic_id = part.topic.as_ref().map(|topic| cluster.topic_id(topic));
            let name = part.topic.as_ref().map(|topic| topic_name(topic));
            let fetched = part.fetched(&cluster, version);
            let shown = Shown {
                high_watermark: fetched.high_watermark,
                log_start: fetched.log_start,
                error: fetched.error,
                has_records: fetched.records_len > 0,
                is_sent_away: fetched.preferred.is_some(),
            };
            if !sessions.show(plan, &key, shown) {
                continue;
            }
            leaders.extend(fetched.leader.map(|(node, _)| node));
            push(&mut answer.topics, key, topic_id, name, fetched);
        }
        drop(sessions);
        if version >= LEADER_ENDPOINTS {
            leaders.sort_unstable();
            leaders.dedup();
            let endpoints = leaders.into_iter().filter_map(|node| cluster.endpoint(node));
            answer.endpoints = endpoints.map(|at| (at.node, at.host, at.port, at.rack)).collect();
        }
        answer
    }
}

/// Adds a partition to its topic, which is the last one if the client names them in order.
fn push(
    topics: &mut Vec<FetchedTopic>,
    key: Key,
    topic_id: Option<Uuid>,
    name: Option<StrBytes>,
    fetched: FetchedPartition,
) {
    let (asked_name, asked_id) = match key.topic {
        TopicKey::Name(name) => (name, topic_id.unwrap_or_default()),
        TopicKey::Id(id) => (name.unwrap_or_default(), id),
    };
    match topics.last_mut() {
        Some(last) if last.name == asked_name && last.id == asked_id => last.partitions.push(fetched),
        _ => topics.push(FetchedTopic { name: asked_name, id: asked_id, partitions: vec![fetched] }),
    }
}

impl Part {
    fn new(wanted: &Wanted, topic: Option<Arc<LogInfo>>) -> Self {
        let index = usize::try_from(wanted.key.partition).ok();
        let uid = index.and_then(|index| topic.as_ref()?.partitions.get(index).copied());
        let error = match (&wanted.key.topic, uid) {
            (_, Some(_)) => None,
            (TopicKey::Id(_), None) if topic.is_none() => Some(ResponseError::UnknownTopicId),
            _ => Some(ResponseError::UnknownTopicOrPartition),
        };
        Self {
            wanted: wanted.clone(),
            topic,
            uid: uid.unwrap_or(PartitionUid(0)),
            next: u64::try_from(wanted.fetch_offset).unwrap_or(0),
            end: None,
            log_start: -1,
            error,
            preferred: None,
            is_led: false,
            is_behind: false,
            records: Vec::new(),
            len: 0,
            full: false,
        }
    }

    /// How many more bytes it may have.
    fn share(&self) -> usize {
        usize::try_from(self.wanted.max_bytes).unwrap_or(0).saturating_sub(self.len)
    }

    fn is_readable(&self) -> bool {
        self.error.is_none()
            && self.preferred.is_none()
            && !self.full
            && self.end.is_some_and(|end| self.next < end.high_watermark)
    }

    /// Looks where the partition ends now, and adds what to wait for.
    fn look(&mut self, at: &Moment<'_>, changes: &mut Changes, needs_view: &mut bool) {
        if self.error.is_some() {
            return;
        }
        let (leads, end) = match at.broker.tail(self.uid) {
            Some(mut tail) => {
                let end = End::of(&tail.borrow_and_update());
                changes.add(tail);
                (true, end)
            }
            None if at.asker.reads_replicas => {
                match replica_end(&at.cluster, at.broker, self.uid, changes, needs_view) {
                    Some(end) => (false, Some(end)),
                    None => return self.fail(ResponseError::NotLeaderOrFollower),
                }
            }
            None => return self.fail(ResponseError::NotLeaderOrFollower),
        };
        self.end = end;
        if let Some(end) = end
            && let Err(error) = self.check(at, leads, end)
        {
            self.fail(error);
        }
    }

    /// What was read meanwhile is true all the same.
    fn fail(&mut self, error: ResponseError) {
        if self.records.is_empty() {
            self.error = Some(error);
        }
    }

    fn check(&mut self, at: &Moment<'_>, leads: bool, end: End) -> Result<(), ResponseError> {
        check_epoch(self.wanted.leader_epoch, end.epoch)?;
        let start = at.cluster.view.table(self.uid).map_or(0, |table| log_start(&table).0);
        self.log_start = start as i64;
        let asked = u64::try_from(self.wanted.fetch_offset).map_err(|_| ResponseError::OffsetOutOfRange)?;
        self.is_behind = asked > end.high_watermark && !leads;
        if asked < start || asked > end.high_watermark && leads {
            return Err(ResponseError::OffsetOutOfRange);
        }
        self.is_led = leads;
        Ok(())
    }

    fn fetched(self, cluster: &Cluster, version: i16) -> FetchedPartition {
        // Its sequencer has not learned in time where it stands.
        let error = self.error.or_else(|| self.end.is_none().then_some(ResponseError::NotLeaderOrFollower));
        let error = error.map(|error| match error {
            ResponseError::KafkaStorageError if version < STORAGE_ERRORS => ResponseError::NotLeaderOrFollower,
            error => error,
        });
        let elsewhere = matches!(error, Some(ResponseError::NotLeaderOrFollower | ResponseError::FencedLeaderEpoch));
        let leader = Some(self.uid).filter(|_| elsewhere && version >= LEADER_ENDPOINTS);
        let leader = leader.map(|uid| cluster.leader(uid));
        FetchedPartition {
            index: self.wanted.key.partition,
            error: error.map_or(0, |error| error.code()),
            high_watermark: self.end.map_or(-1, |end| end.high_watermark as i64),
            log_start: self.log_start,
            leader: leader.and_then(|leader| Some((leader.node?, leader.epoch))),
            preferred: self.preferred.filter(|_| error.is_none()),
            records_len: self.len,
            records: self.records,
        }
    }
}
