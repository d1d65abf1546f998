//! Who is who in the cluster: servers to ask, nodes and their addresses, logs, epoch tables, sequencers.
//!
//! Questions about the cluster go to any server: the one that answered last, and, if it is silent for a moment, the others
//! too; the first answer counts.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_metadata::state::{self, AllocateProducerIds, ClusterAnswer, Command, LogInfo, Query, QueryAnswer, Response};
use dlog_proto::transport::{Connection, ConnectionClass, HostPort, LaneKind};
use dlog_proto::wire::{self, Answer, ErrorCode, Failed, Freshness, Message, Payload, Propose, Proposed};
use dlog_proto::{Epoch, EpochTable, LogId, NodeId, PartitionUid, ProcessId, RequestId, ShardId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::control::Control;
use crate::error::ClientError;
use crate::pool::Pool;
use crate::sequencers::{Found, Sequencers};

/// How long a server may be silent before the next is asked as well.
const NEXT_SERVER: Duration = Duration::from_millis(30);
/// Pause before a question that got a transient error is asked again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Appenders that look for their sequencers at the same time.
const LOOKING_MAX: usize = 8;
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// How often servers are asked meanwhile what they have heard.
const LISTEN_EVERY: Duration = Duration::from_millis(25);

/// A node, as clients need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub node: NodeId,
    pub process: ProcessId,
    pub address: HostPort,
    /// Data cores: shards and partitions are spread over them by their numbers.
    pub cores: u16,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pool: Arc<Pool>,
    /// Given by the user, and learned since; the one that answered last comes first.
    servers: Mutex<Vec<HostPort>>,
    controls: Mutex<HashMap<HostPort, Control>>,
    requests: RequestIds,
    timeout: Duration,
    looking: Semaphore,
    sequencers: Sequencers,
}

/// Ids for this process's commands.
#[derive(Debug)]
struct RequestIds {
    process: ProcessId,
    next: AtomicU64,
}

impl Directory {
    pub(crate) fn new(pool: Arc<Pool>, servers: Vec<HostPort>, timeout: Duration) -> Self {
        let requests = RequestIds { process: ProcessId::random(), next: 1.into() };
        let (looking, sequencers) = (Semaphore::new(LOOKING_MAX), Sequencers::default());
        Self { pool, servers: Mutex::new(servers), controls: Mutex::default(), requests, timeout, looking, sequencers }
    }

    fn servers(&self) -> Vec<HostPort> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_answered(&self, address: &HostPort) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = servers.iter().position(|server| server == address) {
            servers[..=at].rotate_right(1);
        }
    }

    fn note_nodes(&self, nodes: impl Iterator<Item = HostPort>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for address in nodes {
            if !servers.contains(&address) {
                servers.push(address);
            }
        }
    }

    /// A control lane to this server.
    pub(crate) async fn control(&self, address: &HostPort) -> Result<Control, ClientError> {
        let known = self.controls.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        if let Some(control) = known.filter(Control::is_open) {
            return Ok(control);
        }
        let connection = self.pool.connect(address, ConnectionClass::Control, None).await?;
        let control = Control::open(&connection, LaneKind::Control).await?;
        self.controls.lock().unwrap_or_else(PoisonError::into_inner).insert(address.clone(), control.clone());
        Ok(control)
    }

    /// A control lane to this node.
    pub(crate) async fn control_of(&self, node: &NodeAddress) -> Result<Control, ClientError> {
        self.control(&node.address).await
    }

    /// Asks any server; see the module.
    async fn ask_any<Q, A>(
        self: &Arc<Self>,
        what: &'static str,
        question: Q,
        payload: Bytes,
    ) -> Result<(A, Payload), ClientError>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Send + 'static,
    {
        match self.patiently(what, || self.ask_round(&question, &payload)).await {
            // Nobody said anything at all.
            Err(ClientError::TimedOut { after, last_error: None, .. }) => {
                let why = format!("no answer within {:.1} s", after.as_secs_f64());
                Err(ClientError::NoServer {
                    tried: self.servers().into_iter().map(|server| (server, why.clone())).collect(),
                })
            }
            outcome => outcome,
        }
    }

    /// Tries again what fails for a transient reason, until the client's time limit.
    pub(crate) async fn patiently<T, F>(
        &self,
        what: &'static str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = RETRY_MIN;
        let mut last_error = None;
        loop {
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if error.is_transient() && Instant::now() + pause < deadline => {
                    last_error = Some(error);
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    return Err(match last_error {
                        Some(error @ ClientError::NoServer { .. }) => error,
                        other => {
                            let last_error = other.map(|error| error.to_string());
                            ClientError::TimedOut { what, after: self.timeout, last_error }
                        }
                    });
                }
            }
        }
    }

    /// Asks all servers, each a moment after the one before; the first answer counts.
    async fn ask_round<Q, A>(self: &Arc<Self>, question: &Q, payload: &Bytes) -> Result<(A, Payload), ClientError>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Send + 'static,
    {
        let mut waiting = self.servers().into_iter();
        let mut asked = JoinSet::new();
        let mut tried = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                let (this, question, payload) = (self.clone(), question.clone(), payload.clone());
                asked.spawn(async move {
                    let ask = async {
                        let control = this.control(&address).await?;
                        control.ask::<Q, A>(&question, payload.into()).await
                    };
                    let answer = ask.await;
                    (address, answer)
                });
            } else if asked.is_empty() {
                return Err(ClientError::NoServer { tried });
            }
            let next_server = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => sleep(NEXT_SERVER).await,
                }
            };
            tokio::select! {
                Some(done) = asked.join_next() => match done {
                    Ok((address, Ok(answer))) => {
                        self.note_answered(&address);
                        return Ok(answer);
                    }
                    Ok((address, Err(error))) if error.is_transient() => tried.push((address, error.to_string())),
                    Ok((_, Err(error))) => return Err(error),
                    Err(_) => {}
                },
                () = next_server => {}
            }
        }
    }

    pub(crate) async fn query(
        self: &Arc<Self>,
        query: &Query,
        freshness: Freshness,
    ) -> Result<(u64, QueryAnswer), ClientError> {
        let payload = Bytes::from(state::encode(query));
        let (answer, payload) = self.ask_any::<_, Answer>("the question", wire::Query { freshness }, payload).await?;
        let decoded = state::decode(&payload.into_contiguous());
        Ok((answer.revision, decoded.map_err(|error| ClientError::NotUnderstood(error.to_string()))?))
    }

    /// Has the metadata tier carry out a command, once however often it has to be sent.
    pub(crate) async fn propose(self: &Arc<Self>, command: &Command) -> Result<(u64, Response), ClientError> {
        let counter = self.requests.next.fetch_add(1, Ordering::Relaxed);
        let request = RequestId { process: self.requests.process, counter };
        let payload = Bytes::from(state::encode(command));
        let (done, payload) = self.ask_any::<_, Proposed>("the command", Propose { request }, payload).await?;
        let decoded = state::decode(&payload.into_contiguous());
        Ok((done.revision, decoded.map_err(|error| ClientError::NotUnderstood(error.to_string()))?))
    }

    /// Producer ids that nobody else gets.
    pub(crate) async fn producer_ids(self: &Arc<Self>, count: u32) -> Result<Range<i64>, ClientError> {
        match self.propose(&Command::AllocateProducerIds(AllocateProducerIds { count })).await?.1 {
            Response::AllocateProducerIds(Ok(ids)) => Ok(ids),
            Response::AllocateProducerIds(Err(error)) => Err(Failed::new(ErrorCode::Invalid, error.to_string()).into()),
            _ => Err(unexpected()),
        }
    }

    /// The cluster as some server sees it.
    pub(crate) async fn cluster(self: &Arc<Self>) -> Result<ClusterAnswer, ClientError> {
        self.cluster_at(Freshness::Local).await
    }

    pub(crate) async fn cluster_at(self: &Arc<Self>, freshness: Freshness) -> Result<ClusterAnswer, ClientError> {
        match self.query(&Query::Cluster, freshness).await?.1 {
            QueryAnswer::Cluster(cluster) => {
                let addresses = cluster.nodes.iter().filter_map(|(_, info)| info.address.parse().ok());
                self.note_nodes(addresses);
                Ok(cluster)
            }
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn log(self: &Arc<Self>, log: &LogId) -> Result<Arc<LogInfo>, ClientError> {
        let query = Query::Log { log: log.clone() };
        if let QueryAnswer::Log(Some(info)) = self.query(&query, Freshness::Local).await?.1 {
            return Ok(info);
        }
        // A server that lags may not know it yet.
        match self.query(&query, Freshness::Linearizable).await?.1 {
            QueryAnswer::Log(info) => info.ok_or_else(|| ClientError::UnknownLog(log.clone())),
            _ => Err(unexpected()),
        }
    }

    /// A partition's epoch table, at least as new as this revision.
    pub(crate) async fn table(
        self: &Arc<Self>,
        partition: PartitionUid,
        freshness: Freshness,
    ) -> Result<EpochTable, ClientError> {
        match self.query(&Query::Tables { partitions: vec![partition] }, freshness).await? {
            (_, QueryAnswer::Tables(mut tables)) => tables.0.pop().ok_or(ClientError::PartitionGone(partition)),
            _ => Err(unexpected()),
        }
    }

    /// Where a live node is.
    pub(crate) async fn node(self: &Arc<Self>, node: NodeId) -> Result<Option<NodeAddress>, ClientError> {
        Ok(node_address(&self.cluster().await?, node))
    }

    /// The newest epoch of a partition that the answering server knows of, and the live node that sequences it.
    pub(crate) async fn sequencer_at(self: &Arc<Self>, partition: PartitionUid, freshness: Freshness) -> Found {
        let (answered, begins) = self.sequencers.ask(partition, freshness);
        if begins {
            let freshness = if freshness == Freshness::Local { freshness } else { Freshness::Linearizable };
            tokio::spawn(self.clone().find_sequencers(freshness));
        }
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// Answers all who ask, until nobody does.
    async fn find_sequencers(self: Arc<Self>, freshness: Freshness) {
        // Others who were woken at the same moment ask too.
        tokio::task::yield_now().await;
        while let Some(round) = self.sequencers.next_round(freshness) {
            let found = self.newest_epochs(round.partitions(), freshness).await;
            round.answer(|partition| match &found {
                Ok(found) => found.get(&partition).cloned().ok_or(ClientError::PartitionGone(partition)),
                Err(error) => Err(error.clone()),
            });
        }
    }

    /// For each of the partitions that is not gone.
    async fn newest_epochs(
        self: &Arc<Self>,
        partitions: Vec<PartitionUid>,
        freshness: Freshness,
    ) -> Result<HashMap<PartitionUid, Option<(Epoch, NodeAddress)>>, ClientError> {
        // The newest epoch of a partition is never decided.
        let (_, QueryAnswer::Tables(tables)) = self.query(&Query::UndecidedTables { partitions }, freshness).await?
        else {
            return Err(unexpected());
        };
        let cluster = self.cluster().await?;
        let living = cluster.alive.iter().filter_map(|(node, ..)| Some((*node, node_address(&cluster, *node)?)));
        let living: HashMap<_, _> = living.collect();
        let found = |table: &EpochTable| {
            let newest = table.newest()?;
            let node = living.get(&newest.sequencer).filter(|node| node.process == newest.process)?;
            Some((newest.epoch, node.clone()))
        };
        Ok(tables.0.iter().map(|table| (table.partition, found(table))).collect())
    }

    /// Looks for a sequencer of a partition who is news: asks the metadata tier, for a server may be cut off, and listens to servers for a
    /// while, for a new metadata leader takes the dead for living at first. `None` if none is found, or many look at the same time.
    pub(crate) async fn look_for_sequencer(
        self: &Arc<Self>,
        partition: PartitionUid,
        is_news: impl Fn(&(Epoch, NodeAddress)) -> bool,
    ) -> Option<(Epoch, NodeAddress)> {
        let _turn = self.looking.try_acquire().ok()?;
        let certain = async {
            match self.sequencer_at(partition, Freshness::Linearizable).await {
                Ok(Some(claim)) if is_news(&claim) => claim,
                _ => std::future::pending().await,
            }
        };
        let heard = async {
            loop {
                sleep(LISTEN_EVERY).await;
                if let Ok(Some(claim)) = self.sequencer_at(partition, Freshness::Local).await
                    && is_news(&claim)
                {
                    return claim;
                }
            }
        };
        let found = async {
            tokio::select! {
                certain = certain => certain,
                heard = heard => heard,
            }
        };
        timeout(LOOK_PATIENCE, found).await.ok()
    }

    /// A data connection to this core of a node.
    pub(crate) async fn data(&self, node: &NodeAddress, core: u16) -> Result<Connection, ClientError> {
        let expect = Some((node.node, node.process));
        Ok(self.pool.connect(&node.address, ConnectionClass::Data { core }, expect).await?)
    }

    /// A data connection to the core that has this shard.
    pub(crate) async fn data_of_shard(self: &Arc<Self>, shard: ShardId) -> Result<Connection, ClientError> {
        let node = self.node(shard.node).await?;
        let node = node.ok_or_else(|| ClientError::Lost(format!("{} is down", shard.node)))?;
        self.data(&node, shard.core(node.cores)).await
    }
}

/// A node's address, if it lives.
pub(crate) fn node_address(cluster: &ClusterAnswer, node: NodeId) -> Option<NodeAddress> {
    let (_, info) = cluster.nodes.iter().find(|(id, _)| *id == node)?;
    let (_, process, _) = cluster.alive.iter().find(|(id, ..)| *id == node)?;
    let address = info.address.parse().ok()?;
    Some(NodeAddress { node, process: *process, address, cores: info.cores })
}

pub(crate) fn unexpected() -> ClientError {
    ClientError::NotUnderstood("an answer to another question".to_owned())
}
