//! The metadata tier's way to its peers: a Raft lane to each, opened when it is needed and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dlog_client::ClientError;
use dlog_client::control::Control;
use dlog_client::pool::Pool;
use dlog_metadata::{PeerError, PeerFuture, PeerTransport};
use dlog_proto::NodeId;
use dlog_proto::transport::{ConnectError, Connection, ConnectionClass, HostPort, LaneKind, Refused, RefusedCode};
use dlog_proto::wire::{Raft, RaftAnswer, RaftRpc};
use tokio::sync::watch;

/// After so many requests in a row without an answer, the connection is not believed in any more.
const SILENCES_MAX: u32 = 5;

/// Reaches other nodes' control planes.
#[derive(Debug)]
pub(crate) struct Peers {
    pool: Pool,
    lanes: Mutex<HashMap<(NodeId, HostPort), Control>>,
    /// Nodes that did not answer when they were asked last, and how often in a row.
    away: Mutex<HashMap<NodeId, u32>>,
    /// A peer's word that it belongs to another cluster.
    foreign: watch::Sender<Option<String>>,
}

impl Peers {
    pub(crate) fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self { pool, lanes: Mutex::default(), away: Mutex::default(), foreign: watch::Sender::new(None) })
    }

    /// A control connection to this node.
    pub(crate) async fn connect(&self, node: NodeId, address: &str) -> Result<Connection, String> {
        let address: HostPort = address.parse().map_err(|error| format!("{error}"))?;
        let connecting = self.pool.connect(&address, ConnectionClass::Control, None).await;
        let connection = connecting.map_err(|error| {
            if let ConnectError::Refused { refused: Refused { code: RefusedCode::OtherCluster, message }, .. } = &error
            {
                self.foreign.send_replace(Some(format!("{address}: {message}")));
            }
            error.to_string()
        })?;
        match connection.peer().node {
            Some(found) if found != node => Err(format!("{found} answers at {address}, not {node}")),
            _ => Ok(connection),
        }
    }

    async fn lane(&self, node: NodeId, address: &str) -> Result<Control, String> {
        let key = (node, address.parse().map_err(|error| format!("{error}"))?);
        let known = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(lane) = known.filter(Control::is_open) {
            return Ok(lane);
        }
        let connection = self.connect(node, address).await?;
        let lane = Control::open(&connection, LaneKind::Raft).await.map_err(|error| error.to_string())?;
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(key, lane.clone());
        Ok(lane)
    }

    async fn ask(&self, node: NodeId, address: &str, rpc: RaftRpc, payload: Bytes) -> Result<Bytes, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable { node, reason };
        let lane = self.lane(node, address).await.map_err(unreachable)?;
        match lane.ask::<Raft, RaftAnswer>(&Raft { rpc }, payload.into()).await {
            Ok((answer, payload)) if answer.rpc == rpc => Ok(payload.into_contiguous()),
            Ok(_) => Err(PeerError::Invalid { node, reason: "an answer to another question".to_owned() }),
            Err(ClientError::Failed(failed)) => Err(PeerError::Refused { node, reason: failed.to_string() }),
            Err(ClientError::NotUnderstood(reason)) => Err(PeerError::Invalid { node, reason }),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    /// Says once that a node is away, and once that it is back.
    fn note(&self, node: NodeId, address: &str, answered: &Result<Bytes, PeerError>) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match answered {
            Ok(_) | Err(PeerError::Refused { .. }) => {
                if away.remove(&node).is_some() {
                    tracing::info!("{node} answers again");
                }
            }
            Err(error) => {
                let times = away.entry(node).or_insert(0);
                *times += 1;
                if *times == 1 {
                    tracing::warn!("the metadata tier goes on without {node} for now: {error}");
                }
                if times.is_multiple_of(SILENCES_MAX) && matches!(error, PeerError::Timeout { .. }) {
                    self.drop_connection(node, address);
                }
            }
        }
    }

    /// The next request goes over a new connection: nobody is told when the machine at the other end forgets one.
    fn drop_connection(&self, node: NodeId, address: &str) {
        if let Ok(address) = address.parse::<HostPort>() {
            self.pool.forget(&address, ConnectionClass::Control);
            self.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(&(node, address));
        }
    }

    /// Waits until a peer says that it belongs to another cluster than this node; what it says.
    pub(crate) async fn foreign(&self) -> String {
        let mut said = self.foreign.subscribe();
        match said.wait_for(Option::is_some).await {
            Ok(said) => said.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

impl PeerTransport for Peers {
    fn call<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
        rpc: RaftRpc,
        payload: Bytes,
        timeout: Duration,
    ) -> PeerFuture<'a> {
        Box::pin(async move {
            let asked = tokio::time::timeout(timeout, self.ask(node, address, rpc, payload));
            let answered = asked.await.unwrap_or(Err(PeerError::Timeout { node, after: timeout }));
            self.note(node, address, &answered);
            answered
        })
    }
}
