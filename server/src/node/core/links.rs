//! Links: from this core's sequencers to the shards of all nodes, one lane per core that has shards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlog_metadata::state::NodeInfo;
use dlog_proto::transport::{
    CloseReason, Connection, ConnectionClass, Hello, HostPort, LaneKind, LaneReceiver, LaneSender, QuicConnector,
    close_code, memory,
};
use dlog_proto::wire::Frame;
use dlog_proto::{NodeId, ProcessId, ShardId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::inbox::{CoreHandle, Cores, Input};
use super::lanes::hand_on;

/// Pause before a node that could not be reached is tried again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

/// How a core reaches nodes.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) node: NodeId,
    pub(crate) hello: Hello,
    pub(crate) connector: QuicConnector,
    /// The cores of this node.
    pub(crate) own_cores: Cores,
    /// Where processes are named to which a connection has died.
    pub(crate) suspects: mpsc::UnboundedSender<(NodeId, ProcessId)>,
}

/// A node that keeps shards.
#[derive(Debug)]
struct Peer {
    info: Arc<NodeInfo>,
    links: Vec<Link>,
}

/// A lane to a core of a node, told from those before it by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkId {
    number: u64,
    node: NodeId,
    core: u16,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    tx: Option<LaneSender>,
    task: AbortHandle,
}

#[derive(Debug)]
pub(super) struct Links {
    reach: Reach,
    me: CoreHandle,
    peers: BTreeMap<NodeId, Peer>,
}

impl Links {
    pub(super) fn new(reach: Reach, me: CoreHandle) -> Self {
        Self { reach, me, peers: BTreeMap::new() }
    }

    /// Goes by what is known of nodes now: links to those that are gone, or were started again, are given up. Gives the shards
    /// that cannot be reached any more.
    pub(super) fn handle_nodes(&mut self, nodes: Vec<(NodeId, Arc<NodeInfo>)>) -> Vec<ShardId> {
        let nodes: BTreeMap<_, _> = nodes.into_iter().filter(|(_, info)| !info.shards.is_empty()).collect();
        let mut lost = Vec::new();
        self.peers.retain(|node, peer| {
            let stays = nodes.get(node).is_some_and(|info| info.process == peer.info.process);
            if !stays {
                peer.links.iter().for_each(|link| link.task.abort());
                lost.extend(peer.info.shards.keys().map(|shard| ShardId { node: *node, shard: *shard }));
            }
            stays
        });
        for (node, info) in nodes {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.info = info;
                continue;
            }
            let links = (0..info.cores.max(1)).map(|core| self.start(node, core, &info)).collect();
            self.peers.insert(node, Peer { info, links });
        }
        lost
    }

    fn start(&self, node: NodeId, core: u16, info: &NodeInfo) -> Link {
        let number = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let id = LinkId { number, node, core };
        let task = LinkTask {
            id,
            process: info.process,
            address: info.address.clone(),
            reach: self.reach.clone(),
            me: self.me.clone(),
        };
        Link { id, tx: None, task: tokio::task::spawn_local(task.run()).abort_handle() }
    }

    /// A link is up, or down (no sender). Gives the shards that it leads to; none if it does not count any more.
    pub(super) fn handle_link(&mut self, id: LinkId, tx: Option<LaneSender>) -> Vec<ShardId> {
        let Some(peer) = self.peers.get_mut(&id.node) else { return Vec::new() };
        let Some(link) = peer.links.get_mut(usize::from(id.core)).filter(|link| link.id == id) else {
            return Vec::new();
        };
        link.tx = tx;
        let shards = peer.info.shards.keys().map(|shard| ShardId { node: id.node, shard: *shard });
        shards.filter(|shard| shard.core(peer.info.cores) == id.core).collect()
    }

    /// Whether frames of this link still count.
    pub(super) fn is_current(&self, id: LinkId) -> bool {
        self.peers.get(&id.node).and_then(|peer| peer.links.get(usize::from(id.core))).is_some_and(|link| link.id == id)
    }

    /// Sends to a shard; without a link the frame is gone, and whoever sent it is told that the link is down.
    pub(super) fn send(&self, to: ShardId, frame: Frame) {
        let Some(peer) = self.peers.get(&to.node) else { return };
        let core = to.core(peer.info.cores);
        if let Some(tx) = peer.links.get(usize::from(core)).and_then(|link| link.tx.as_ref()) {
            // A lane that is over tells it by its end.
            let _ = tx.send(frame);
        }
    }
}

/// Keeps one lane to one core of one process open.
struct LinkTask {
    id: LinkId,
    process: ProcessId,
    address: String,
    reach: Reach,
    me: CoreHandle,
}

impl LinkTask {
    async fn run(self) {
        let mut pause = RETRY_MIN;
        loop {
            match self.open().await {
                Ok((connection, tx, rx)) => {
                    pause = RETRY_MIN;
                    self.me.tell(Input::LinkUp { link: self.id, tx });
                    hand_on(rx, &self.me, |batch| Input::LinkFrames { link: self.id, batch }).await;
                    self.me.tell(Input::LinkDown(self.id));
                    self.suspect(&connection).await;
                }
                Err(why) => tracing::debug!("no link to {} at {}: {why}", self.id.node, self.address),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn open(&self) -> Result<(Connection, LaneSender, LaneReceiver), String> {
        let connection = if self.id.node == self.reach.node { self.connect_inside() } else { self.connect().await? };
        let lane = connection.open_lane(LaneKind::Store).await.map_err(|error| error.to_string())?;
        let (tx, rx) = lane.split();
        Ok((connection, tx, rx))
    }

    /// To a core of this process, without a network.
    fn connect_inside(&self) -> Connection {
        let (ours, theirs) = memory::pair();
        self.reach.own_cores.at(self.id.core).tell(Input::Connected(theirs));
        ours
    }

    async fn connect(&self) -> Result<Connection, String> {
        let address: HostPort = self.address.parse().map_err(|error| format!("{error}"))?;
        let hello = Hello { expect_node: Some(self.id.node), ..self.reach.hello.clone() };
        let class = ConnectionClass::Data { core: self.id.core };
        let connection = self.reach.connector.connect(&address, class, &hello).await.map_err(|e| e.to_string())?;
        if connection.peer().process != Some(self.process) {
            connection.close(close_code::DONE, "it is another process than the one that is registered");
            return Err("another process than the registered one answers".to_owned());
        }
        Ok(connection)
    }

    /// If it was the connection that ended, the process may have.
    async fn suspect(&self, connection: &Connection) {
        let reason = tokio::time::timeout(Duration::from_millis(1), connection.closed()).await;
        if matches!(reason, Ok(reason) if reason != CloseReason::Local) {
            let _ = self.reach.suspects.send((self.id.node, self.process));
        }
    }
}
