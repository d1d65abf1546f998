//! A node: its roles in one process, and how they are wired.
//!
//! ```text
//! QUIC ─ control connections ─► control plane (questions, commands, Raft, heartbeats)   on the control runtime
//!      └ data connections ────► cores (sequencers, shards, readers)                     a thread each
//! metadata replica ─► controller ─► cores: who lives, who sequences what
//! cores ─► proposer ─► metadata: epochs, ends, missing copies
//! ```
//! A partition belongs to core `uid % cores`, a shard to core `number % cores`, on every node.

mod control;
mod controller;
mod core;
mod heartbeats;
mod introduction;
mod kafka;
mod leases;
mod losses;
mod metrics;
mod peers;
mod probe;
mod proposer;
mod registration;
mod retention;
mod settings;
mod shards;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dlog_client::pool::Pool;
use dlog_metadata::Metadata;
use dlog_proto::transport::{
    ConnectionClass, ConnectorConfig, ListenError, QuicConnector, QuicListener, TlsError, close_code,
};
use dlog_proto::wire::{AliveNode, LostBefore};
use dlog_proto::{NodeId, ProcessId, ShardId};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::control::{ControlPlane, ShardReaders};
use self::controller::Controller;
use self::core::{CoreSetup, Cores, Input, Reach, ReleasedMarks, Tails};
use self::heartbeats::Heartbeats;
use self::introduction::{Introduction, SOFTWARE};
use self::kafka::{KafkaServer, NodeBroker};
use self::losses::LossReporter;
pub(crate) use self::metrics::NodeMetrics;
use self::metrics::{CoreCounters, Sources};
use self::peers::Peers;
use self::proposer::{Ask, Carrier, Proposer, Requests};
pub(crate) use self::registration::RegistrationError;
use self::registration::{Joined, Registrar};
use self::retention::Keeper;
use self::shards::ShardDir;
pub(crate) use self::trust::TrustError;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::signals::Stop;

/// How long others get to take over what this node sequences before it stops.
const HAND_OVER_TIME: Duration = Duration::from_millis(1500);
/// How long peers get to hear that connections are closed.
const FAREWELL_TIME: Duration = Duration::from_millis(300);
/// For connections to other nodes. One that was down is tried anew, rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot resolve {address} (listen): {error}")]
    Unresolved { address: String, error: io::Error },
    #[error("{0} with --listen")]
    Listen(#[from] ListenError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error(
        "node {} is one of the first {voters} of cluster_nodes, which vote in the metadata tier, but its roles are without \
         metadata: add that role, or put it behind other nodes there",
        node.0
    )]
    VoterWithoutRole { node: NodeId, voters: usize },
    #[error(transparent)]
    Metadata(#[from] dlog_metadata::StartError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(
        "{0}: this data directory belongs to another cluster than the nodes of --cluster-nodes; correct those, or choose a new \
         directory with --data-dir to join that cluster"
    )]
    OtherCluster(String),
    #[error("cannot listen on {address} (TCP, for Kafka clients): {error}; choose another port with --listen")]
    KafkaListen { address: String, error: io::Error },
    #[error("the Kafka gateway cannot reach this node: {0}")]
    KafkaClient(String),
    #[error("stopped before it was ready")]
    Stopped,
}

impl NodeError {
    /// Whether the node did not even come to listen.
    pub(crate) fn is_of_ports(&self) -> bool {
        matches!(self, Self::Unresolved { .. } | Self::Listen(_) | Self::KafkaListen { .. })
    }
}

/// A node that serves.
pub(crate) struct Node {
    parts: Parts,
    listener: Arc<QuicListener>,
    kafka: KafkaServer,
    tasks: JoinSet<()>,
}

/// What most of a node's tasks have a share of.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    process: ProcessId,
    metadata: Metadata,
    peers: Arc<Peers>,
    cores: Cores,
    shards: Arc<ShardReaders>,
    requests: Arc<Requests>,
    tails: Tails,
    released: ReleasedMarks,
}

impl Node {
    /// Starts all roles, joins the cluster, and returns when records are served. `waits_for` hears what it is still waiting for.
    pub(crate) async fn start(
        config: Arc<Config>,
        data_dir: Arc<DataDir>,
        stop: Stop,
        metrics: &NodeMetrics,
        waits_for: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, NodeError> {
        let process = ProcessId::random();
        let voters = settings::voters(&config)?;
        let identity = trust::Identity::load(&config)?;
        let (address, all) = listen_addresses(&config).await?;
        let listener = Arc::new(QuicListener::bind(address, &identity.cert, settings::listener_config(&config))?);
        let kafka_listener = KafkaServer::bind(&config, address, &all)?;
        let cores = config.data_threads_on(std::thread::available_parallelism().map_or(1, usize::from));
        let (cores, inboxes) = Cores::new(cores as u16);
        let introduction = Arc::new(Introduction::new(config.node_id, process, cores.count(), data_dir.cluster()));
        let peers = Peers::new(Pool::new(connector(&identity)?, introduction.hello()));
        let tier = settings::metadata_config(&config, &data_dir, process, voters);
        let metadata = Metadata::start(tier, peers.clone()).await?;

        let mut tasks = JoinSet::new();
        let (proposer, asks) = Proposer::new();
        let (suspects, suspected) = mpsc::unbounded_channel();
        tasks.spawn(pass_on(suspected, metadata.clone()));
        let parts = Parts {
            config,
            process,
            metadata,
            peers,
            cores,
            shards: Arc::default(),
            requests: Arc::new(Requests::new(process)),
            tails: Tails::default(),
            released: ReleasedMarks::default(),
        };
        let counters = parts.start_cores(inboxes, &introduction, &identity, &proposer, &suspects)?;
        let (metadata, shards) = (parts.metadata.clone(), parts.shards.clone());
        metrics.set(Sources { metadata, cores: counters, shards });
        tasks.spawn(accept(listener.clone(), parts.control_plane(), introduction.clone()));

        let shard_dirs = ShardDir::places(&parts.config, &data_dir);
        let registrar = parts.registrar(data_dir, Arc::new(waits_for));
        let joined = parts.join(&registrar, stop.clone()).await?;
        parts.meet_voters().await?;
        introduction.know(joined.cluster);
        parts.serve_shards(joined.shards);
        parts.spawn_tasks(&mut tasks, asks, &registrar, &stop);
        registrar.say_waiting("the metadata leader to hear that this node lives");
        parts.lives(stop).await?;
        let kafka = KafkaServer::start(&parts.config, kafka_listener, parts.kafka_broker(shard_dirs))?;
        Ok(Self { parts, listener, kafka, tasks })
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.parts.metadata
    }

    /// Hands over what it sequences, closes the shards, says goodbye.
    pub(crate) async fn stop(mut self) {
        let _ = timeout(HAND_OVER_TIME, self.parts.handed_over()).await;
        self.kafka.drain().await;
        drop(self.kafka);
        self.parts.shards.clear();
        for core in self.parts.cores.iter() {
            core.stop().await;
        }
        self.tasks.abort_all();
        self.parts.metadata.shutdown().await;
        self.parts.peers.close();
        self.listener.close(close_code::SHUTDOWN, "the node is stopping");
        let _ = timeout(FAREWELL_TIME, self.listener.drained()).await;
    }
}

impl Parts {
    fn start_cores(
        &self,
        inboxes: Vec<mpsc::UnboundedReceiver<Input>>,
        introduction: &Arc<Introduction>,
        identity: &trust::Identity,
        proposer: &Proposer,
        suspects: &mpsc::UnboundedSender<(NodeId, ProcessId)>,
    ) -> Result<Vec<Arc<CoreCounters>>, NodeError> {
        let settings = Arc::new(settings::sequencer_settings(&self.config));
        let counters: Vec<Arc<CoreCounters>> = self.cores.iter().map(|_| Arc::default()).collect();
        for (index, (me, inbox)) in (0_u16..).zip(self.cores.iter().zip(inboxes)) {
            let reach = Reach {
                node: self.config.node_id,
                hello: introduction.hello(),
                connector: connector(identity)?,
                own_cores: self.cores.clone(),
                suspects: suspects.clone(),
            };
            let setup = CoreSetup {
                index,
                me: me.clone(),
                inbox,
                counters: counters[usize::from(index)].clone(),
                admission: introduction.clone(),
                settings: settings.clone(),
                proposer: proposer.clone(),
                reach,
                tails: self.tails.clone(),
                released: self.released.clone(),
            };
            core::start(setup).map_err(NodeError::Thread)?;
        }
        Ok(counters)
    }

    fn control_plane(&self) -> ControlPlane {
        ControlPlane { metadata: self.metadata.clone(), cores: self.cores.clone(), shards: self.shards.clone() }
    }

    fn kafka_broker(&self, shard_dirs: Vec<(ShardId, PathBuf)>) -> NodeBroker {
        NodeBroker {
            shards: self.shards.clone(),
            shard_dirs,
            node: self.config.node_id,
            metadata: self.metadata.clone(),
            cores: self.cores.clone(),
            tails: self.tails.clone(),
            released: self.released.clone(),
            requests: self.requests.clone(),
        }
    }

    fn registrar(&self, data_dir: Arc<DataDir>, waits_for: Arc<dyn Fn(&str) + Send + Sync>) -> Registrar {
        Registrar {
            config: self.config.clone(),
            data_dir,
            process: self.process,
            cores: self.cores.count(),
            metadata: self.metadata.clone(),
            requests: self.requests.clone(),
            waits_for,
        }
    }

    async fn join(&self, registrar: &Registrar, mut stop: Stop) -> Result<Joined, NodeError> {
        let dirs = ShardDir::all(&self.config, &registrar.data_dir);
        tokio::select! {
            joined = registrar.join(dirs) => Ok(joined?),
            said = self.peers.foreign() => Err(NodeError::OtherCluster(said)),
            () = stop.requested() => Err(NodeError::Stopped),
        }
    }

    /// A cluster whose voters are not those that are configured: either they were changed by command, or this directory is of another
    /// cluster than the configured nodes, who then say so.
    async fn meet_voters(&self) -> Result<(), NodeError> {
        if self.metadata.voters_mismatch().borrow().is_none() {
            return Ok(());
        }
        let mut meeting = JoinSet::new();
        for (node, address) in self.metadata.config().voters.clone() {
            let peers = self.peers.clone();
            // Who does not answer says nothing.
            meeting.spawn(async move { drop(peers.connect(node, &address).await) });
        }
        tokio::select! {
            biased;
            said = self.peers.foreign() => Err(NodeError::OtherCluster(said)),
            _ = meeting.join_all() => Ok(()),
        }
    }

    fn serve_shards(&self, open: Vec<(ShardDir, LostBefore)>) {
        for (dir, lost) in open {
            let core = self.cores.of_shard(dir.shard);
            if let Some(shard) = dir.start(&self.config, lost, core) {
                self.shards.insert(shard.shard_ref(), shard.committer.clone());
                core.tell(Input::NewShard(Box::new(shard)));
            }
        }
        self.cores.tell_all(|| Input::AllShards);
    }

    /// What goes on as long as the node serves.
    fn spawn_tasks(
        &self,
        tasks: &mut JoinSet<()>,
        asks: mpsc::UnboundedReceiver<Ask>,
        registrar: &Registrar,
        stop: &Stop,
    ) {
        let Self { config, process, metadata, peers, cores, shards, requests, .. } = self.clone();
        let node = config.node_id;
        let carrier =
            Carrier { node, process, metadata: metadata.clone(), requests: requests.clone(), cores: cores.clone() };
        tasks.spawn(carrier.run(asks));
        let forgotten = Arc::new(Notify::new());
        let (grant, granted) = watch::channel(None);
        tasks.spawn(leases::ask(metadata.clone(), grant));
        let controller = Controller::new(node, process, metadata.clone(), cores.clone(), forgotten.clone(), granted);
        tasks.spawn(controller.run());
        let registrar = registrar.clone();
        tasks.spawn(async move {
            loop {
                forgotten.notified().await;
                registrar.register_again().await;
            }
        });
        let (shards_of, requests_of) = (shards.clone(), requests.clone());
        let reporter = LossReporter::new(metadata.clone(), shards_of, cores.clone(), requests_of);
        tasks.spawn(reporter.run());
        tasks.spawn(Keeper { node, metadata: metadata.clone(), shards, cores, requests }.run());
        let (interval, stop) = (config.metadata.heartbeat_ms.duration(), stop.clone());
        tasks.spawn(Heartbeats { node, process, interval, metadata, peers, stop }.run());
    }

    /// Waits until this process counts as alive.
    async fn lives(&self, mut stop: Stop) -> Result<(), NodeError> {
        let mut updates = self.metadata.liveness_updates();
        let is_this = |alive: &AliveNode| alive.node == self.config.node_id && alive.process == self.process;
        tokio::select! {
            _ = updates.wait_for(|liveness| liveness.alive.iter().any(is_this)) => Ok(()),
            () = stop.requested() => Err(NodeError::Stopped),
        }
    }

    /// Waits until other nodes sequence what this one did, if there are any.
    async fn handed_over(&self) {
        loop {
            let (view, liveness) = (self.metadata.view(), self.metadata.liveness());
            let others = liveness.alive.iter().any(|alive| alive.node != self.config.node_id && !alive.stopping);
            let is_mine = |process: ProcessId| process == self.process;
            let mine = view.partitions().any(|(_, p)| p.newest().is_some_and(|(_, _, process)| is_mine(process)));
            if !others || !mine {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn connector(identity: &trust::Identity) -> Result<QuicConnector, TlsError> {
    let config = ConnectorConfig { connect_timeout: CONNECT_TIMEOUT, ..ConnectorConfig::default() };
    QuicConnector::new(identity.trust.clone(), Some(&identity.cert), config)
}

/// Tells the metadata tier of processes that seem dead.
async fn pass_on(mut suspected: mpsc::UnboundedReceiver<(NodeId, ProcessId)>, metadata: Metadata) {
    while let Some((node, process)) = suspected.recv().await {
        metadata.handle_suspect(node, process);
    }
}

/// The one for QUIC and Kafka's protocol, and all that the name has.
async fn listen_addresses(config: &Config) -> Result<(SocketAddr, Vec<SocketAddr>), NodeError> {
    let unresolved = |error| NodeError::Unresolved { address: config.listen.to_string(), error };
    let first = crate::address::resolve(&config.listen).await.map_err(unresolved)?;
    Ok((first, crate::address::resolve_all(&config.listen).await.map_err(unresolved)?))
}

/// Hands connections to the threads that will own them.
async fn accept(listener: Arc<QuicListener>, control: ControlPlane, introduction: Arc<Introduction>) {
    while let Some(incoming) = listener.accept().await {
        match incoming.class() {
            ConnectionClass::Data { core } => {
                control.cores.at(core).tell(Input::Incoming(Box::new(incoming)));
            }
            ConnectionClass::Control | ConnectionClass::Unknown => {
                tokio::spawn(control.clone().accept(incoming, introduction.clone()));
            }
        }
    }
}
