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
mod kafka;
mod metrics;
mod peers;
mod probe;
mod proposer;
mod registration;
mod retention;
mod shards;
mod trust;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dlog_client::pool::Pool;
use dlog_metadata::{Metadata, MetadataConfig, Snapshots, Timings};
use dlog_proto::transport::{
    Admission, ConnectionClass, ConnectorConfig, Hello, ListenError, ListenerConfig, PROTOCOL_MAX, PROTOCOL_MIN,
    PeerIdentity, QuicConnector, QuicListener, Refused, TlsError, Welcome, close_code,
};
use dlog_proto::{ClusterId, NodeId, ProcessId};
use dlog_sequencer::Settings;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::control::{ControlPlane, ShardReaders};
use self::controller::Controller;
use self::core::{CoreHandle, CoreSetup, Input, Reach, Tails};
use self::heartbeats::Heartbeats;
use self::kafka::{KafkaServer, NodeBroker};
pub(crate) use self::metrics::NodeMetrics;
use self::metrics::{CoreCounters, Sources};
use self::peers::Peers;
use self::proposer::{Carrier, Proposer, Requests};
use self::registration::Registrar;
pub(crate) use self::registration::RegistrationError;
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
const SOFTWARE: &str = concat!("dlog ", env!("CARGO_PKG_VERSION"));

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot resolve {address} (listen): {error}")]
    Unresolved { address: String, error: io::Error },
    #[error("{0}; choose one with --listen")]
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

/// A node that serves.
pub(crate) struct Node {
    process: ProcessId,
    metadata: Metadata,
    cores: Vec<CoreHandle>,
    listener: Arc<QuicListener>,
    peers: Arc<Peers>,
    shards: Arc<ShardReaders>,
    kafka: KafkaServer,
    tasks: JoinSet<()>,
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
        let voters = voters(&config)?;
        let trust::Identity { cert, trust } = trust::Identity::load(&config)?;
        let listener = Arc::new(bind(&config, &cert).await?);
        let kafka_listener = KafkaServer::bind(&config).await?;
        let cores = config.data_threads_on(std::thread::available_parallelism().map_or(1, usize::from));
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| CoreHandle::new()).unzip();
        let introduction = Arc::new(Introduction {
            cluster: OnceLock::new(),
            welcome: Welcome {
                protocol: PROTOCOL_MAX,
                cluster: None,
                node: config.node_id,
                process,
                cores: cores as u16,
                software: SOFTWARE.to_owned(),
            },
        });
        if let Some(cluster) = data_dir.cluster() {
            introduction.know(cluster);
        }
        let hello = hello(&config, process, data_dir.cluster());
        let connecting = ConnectorConfig { connect_timeout: CONNECT_TIMEOUT, ..ConnectorConfig::default() };
        let connector = || QuicConnector::new(trust.clone(), Some(&cert), connecting.clone());
        let peers = Peers::new(Pool::new(connector()?, hello.clone()));
        let metadata = Metadata::start(metadata_config(&config, &data_dir, process, voters), peers.clone()).await?;

        let (suspects, mut suspected) = mpsc::unbounded_channel();
        let (proposer, asks) = Proposer::new();
        let settings = Arc::new(sequencer_settings(&config));
        let counters: Vec<Arc<CoreCounters>> = handles.iter().map(|_| Arc::default()).collect();
        let tails = Tails::default();
        for (index, (me, inbox)) in handles.iter().zip(inboxes).enumerate() {
            let reach = Reach {
                node: config.node_id,
                hello: hello.clone(),
                connector: connector()?,
                own_cores: handles.clone(),
                suspects: suspects.clone(),
            };
            core::start(CoreSetup {
                index: index as u16,
                me: me.clone(),
                inbox,
                counters: counters[index].clone(),
                admission: introduction.clone(),
                settings: settings.clone(),
                proposer: proposer.clone(),
                reach,
                tails: tails.clone(),
            })
            .map_err(NodeError::Thread)?;
        }

        let shards = Arc::new(ShardReaders::default());
        metrics.set(Sources { metadata: metadata.clone(), cores: counters, shards: shards.clone() });
        let control = ControlPlane { metadata: metadata.clone(), cores: handles.clone(), shards: shards.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener.clone(), control, introduction.clone()));
        let suspicious = metadata.clone();
        tasks.spawn(async move {
            while let Some((node, process)) = suspected.recv().await {
                suspicious.handle_suspect(node, process);
            }
        });

        let requests = Arc::new(Requests::new(process));
        let kafka_requests = requests.clone();
        let registrar = Registrar {
            config: config.clone(),
            data_dir,
            process,
            cores: cores as u16,
            metadata: metadata.clone(),
            requests: requests.clone(),
            waits_for: Arc::new(waits_for),
        };
        let dirs = ShardDir::all(&config, &registrar.data_dir);
        let mut stop_asked = stop.clone();
        let joined = tokio::select! {
            joined = registrar.join(dirs) => joined?,
            said = peers.foreign() => return Err(NodeError::OtherCluster(said)),
            () = stop_asked.requested() => return Err(NodeError::Stopped),
        };
        introduction.know(joined.cluster);
        for (dir, incomplete_before) in joined.shards {
            let core = &handles[usize::from(dir.shard.shard) % handles.len()];
            if let Some(shard) = dir.start(&config, incomplete_before, core) {
                shards.insert(shard.shard_ref(), shard.committer.clone());
                core.tell(Input::Shard(Box::new(shard)));
            }
        }

        let node = config.node_id;
        let keeper_requests = requests.clone();
        let carrier = Carrier { node, process, metadata: metadata.clone(), requests, cores: handles.clone() };
        tasks.spawn(carrier.run(asks));
        let forgotten = Arc::new(Notify::new());
        tasks.spawn(Controller::new(node, process, metadata.clone(), handles.clone(), forgotten.clone()).run());
        let again = registrar.clone();
        tasks.spawn(async move {
            loop {
                forgotten.notified().await;
                again.register_again().await;
            }
        });
        let keeper = Keeper {
            node,
            metadata: metadata.clone(),
            shards: shards.clone(),
            cores: handles.clone(),
            requests: keeper_requests,
        };
        tasks.spawn(keeper.run());
        let heartbeats = Heartbeats {
            node,
            process,
            interval: config.metadata.heartbeat_ms.duration(),
            metadata: metadata.clone(),
            peers: peers.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(heartbeats.run());
        registrar.say_waiting("the metadata leader to hear that this node lives");
        tokio::select! {
            () = lives(&metadata, node, process) => {}
            () = stop_asked.requested() => return Err(NodeError::Stopped),
        }
        let broker =
            NodeBroker { node, metadata: metadata.clone(), cores: handles.clone(), tails, requests: kafka_requests };
        let kafka = KafkaServer::start(&config, kafka_listener, broker)?;
        Ok(Self { process, metadata, cores: handles, listener, peers, shards, kafka, tasks })
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Hands over what it sequences, closes the shards, says goodbye.
    pub(crate) async fn stop(mut self, node: NodeId) {
        let _ = timeout(HAND_OVER_TIME, self.handed_over(node)).await;
        drop(self.kafka);
        self.shards.clear();
        for core in &self.cores {
            core.stop().await;
        }
        self.tasks.abort_all();
        self.metadata.shutdown().await;
        self.peers.close();
        self.listener.close(close_code::SHUTDOWN, "the node is stopping");
        let _ = timeout(FAREWELL_TIME, self.listener.drained()).await;
    }

    /// Waits until other nodes sequence what this one did, if there are any.
    async fn handed_over(&self, node: NodeId) {
        loop {
            let (view, liveness) = (self.metadata.view(), self.metadata.liveness());
            let others = liveness.alive.iter().any(|alive| alive.node != node && !alive.stopping);
            let mine =
                view.partitions().any(|(_, p)| p.newest().is_some_and(|(_, _, process)| process == self.process));
            if !others || !mine {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Who this node is, to those who connect.
struct Introduction {
    /// Once it is known.
    cluster: OnceLock<ClusterId>,
    welcome: Welcome,
}

impl Introduction {
    fn know(&self, cluster: ClusterId) {
        let _ = self.cluster.set(cluster);
    }
}

impl Admission for Introduction {
    fn admit(&self, hello: &Hello, peer: &PeerIdentity) -> Result<Welcome, Refused> {
        Welcome { cluster: self.cluster.get().copied(), ..self.welcome.clone() }.answer(hello, peer)
    }
}

fn hello(config: &Config, process: ProcessId, cluster: Option<ClusterId>) -> Hello {
    Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster,
        node: Some(config.node_id),
        process: Some(process),
        expect_node: None,
        software: SOFTWARE.to_owned(),
    }
}

async fn bind(config: &Config, cert: &dlog_proto::transport::NodeCert) -> Result<QuicListener, NodeError> {
    let resolved = crate::address::resolve(&config.listen).await;
    let address = resolved.map_err(|error| NodeError::Unresolved { address: config.listen.to_string(), error })?;
    let limits =
        ListenerConfig { connections_max: config.limits.connections_max as usize, ..ListenerConfig::default() };
    Ok(QuicListener::bind(address, cert, limits)?)
}

/// Hands connections to the threads that will own them.
async fn accept(listener: Arc<QuicListener>, control: ControlPlane, introduction: Arc<Introduction>) {
    while let Some(incoming) = listener.accept().await {
        match incoming.class() {
            ConnectionClass::Data { core } => {
                control.cores[usize::from(core) % control.cores.len()].tell(Input::Incoming(Box::new(incoming)));
            }
            ConnectionClass::Control | ConnectionClass::Unknown => {
                tokio::spawn(control.clone().accept(incoming, introduction.clone()));
            }
        }
    }
}

/// Waits until this process counts as alive.
async fn lives(metadata: &Metadata, node: NodeId, process: ProcessId) {
    let mut updates = metadata.liveness_updates();
    let is_there = |liveness: &dlog_proto::wire::Liveness| {
        liveness.alive.iter().any(|alive| alive.node == node && alive.process == process)
    };
    let _ = updates.wait_for(is_there).await;
}

/// Those who vote: the first nodes, an odd number of them where there are enough.
fn voters(config: &Config) -> Result<BTreeMap<NodeId, String>, NodeError> {
    let voters = match config.cluster_nodes.len() {
        few @ 0..=3 => few,
        4 => 3,
        _ => 5,
    };
    let voting: BTreeMap<_, _> =
        config.cluster_nodes.iter().take(voters).map(|(node, address)| (node, address.to_string())).collect();
    if voting.contains_key(&config.node_id) && !config.roles.metadata {
        return Err(NodeError::VoterWithoutRole { node: config.node_id, voters });
    }
    Ok(voting)
}

fn metadata_config(
    config: &Config,
    data_dir: &DataDir,
    process: ProcessId,
    voters: BTreeMap<NodeId, String>,
) -> MetadataConfig {
    let times = &config.metadata;
    let (heartbeat, election) = (times.heartbeat_ms.duration(), times.election_ms.duration());
    let timings = Timings {
        heartbeat,
        election_min: election,
        election_max: election * 2,
        lease: times.lease_ms.duration(),
        probe: (heartbeat * 3 / 2).min(times.lease_ms.duration()),
        ..Timings::default()
    };
    let (node, data_dir) = (config.node_id, data_dir.metadata_dir());
    MetadataConfig { node, process, voters, data_dir, timings, snapshots: Snapshots::default() }
}

fn sequencer_settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    let bytes = |size: crate::config::ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    Settings {
        batch_limits: dlog_proto::record::BatchLimits {
            batch_len_max: bytes(config.limits.batch_bytes_max),
            ..defaults.batch_limits
        },
        block_len_target: bytes(config.limits.block_bytes),
        window_bytes_max: bytes(config.limits.append_window_bytes),
        ..defaults
    }
}
