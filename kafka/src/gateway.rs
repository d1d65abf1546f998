//! Takes connections, within limits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dlog_client::Client;
use dlog_proto::clock::every;
use dlog_proto::transport::Complaints;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::connection::{Closed, Connection};
use crate::fetch::{FetchMemories, Readers, Sessions};
use crate::group::Groups;
use crate::handlers::{Errands, NewestSeen};
use crate::producer_ids::ProducerIds;
use crate::settings::Settings;

/// Pause after the system refused to hand over a connection: it has none left to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked for what nobody uses any more.
const UPKEEP: Duration = Duration::from_secs(1);

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) broker: Arc<dyn Broker>,
    /// Reads from the shards of a nodeset, wherever they are.
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) readers: Readers,
    pub(crate) groups: Groups,
    pub(crate) newest_seen: NewestSeen,
    pub(crate) errands: Errands,
    /// Bytes of requests, in units of [`REQUEST_UNIT`].
    pub(crate) request_memory: Arc<Semaphore>,
    pub(crate) fetch_memory: FetchMemories,
    /// The node stops: whoever waits is answered, and no connection goes on.
    pub(crate) stopping: watch::Sender<bool>,
    closed: ClosedComplaints,
    refused: Complaints,
    connections: Arc<Semaphore>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// Complaints about connections that were closed, by kind, so that a flood of one does not hide the others.
#[derive(Default)]
struct ClosedComplaints {
    foreign: Complaints,
    refused: Complaints,
    stalled: Complaints,
    unanswered: Complaints,
}

impl ClosedComplaints {
    fn about(&self, closed: &Closed) -> Option<&Complaints> {
        match closed {
            Closed::ByPeer | Closed::Io(_) | Closed::Idle(_) => None,
            Closed::NotKafka(_) | Closed::TooLong { .. } => Some(&self.foreign),
            Closed::Refused(_) => Some(&self.refused),
            Closed::Stalled { .. } => Some(&self.stalled),
            Closed::NoAnswer(_) => Some(&self.unanswered),
        }
    }
}

/// What request memory is counted in, in bytes.
pub(crate) const REQUEST_UNIT: usize = 1024;

/// The Kafka side of a node.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// A place among the connections.
struct Place {
    shared: Arc<Shared>,
    ip: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut per_ip = self.shared.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                per_ip.remove(&self.ip);
            }
        }
    }
}

impl Gateway {
    /// A gateway of the node that `broker` is; it reads with `client`. Must be called on a tokio runtime: the coordinators of
    /// groups run on it.
    pub fn new(broker: Arc<dyn Broker>, client: Client, settings: Settings) -> Self {
        let units = (settings.requests_bytes_max / REQUEST_UNIT).clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            producer_ids: ProducerIds::new(broker.clone()),
            sessions: Mutex::new(Sessions::new(settings.fetch_sessions_max)),
            readers: Readers::new(broker.clone(), client.clone()),
            groups: Groups::start(broker.clone(), client.clone(), settings.group.clone()),
            newest_seen: NewestSeen::default(),
            errands: Errands::default(),
            request_memory: Arc::new(Semaphore::new(units)),
            fetch_memory: FetchMemories::new(settings.fetches_bytes_max),
            stopping: watch::Sender::new(false),
            closed: ClosedComplaints::default(),
            refused: Complaints::new(),
            connections: Arc::new(Semaphore::new(settings.connections_max)),
            per_ip: Mutex::default(),
            broker,
            client,
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves connections until the future is dropped, which closes them.
    pub async fn serve(&self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        let mut upkeep = every(UPKEEP);
        loop {
            while tasks.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = upkeep.tick() => {
                    self.shared.readers.expire();
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => match self.place(peer) {
                    Ok(place) => drop(tasks.spawn(serve(self.shared.clone(), stream, peer, place))),
                    Err(why) => self.shared.refused.complain(&format!("kafka: {peer} was turned away: {why}")),
                },
                Err(error) => {
                    self.shared.refused.complain(&format!("kafka: no connection could be accepted: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Answers what was asked and closes each connection as soon as nothing is left to answer on it. Returns when all are closed.
    pub async fn drain(&self) {
        self.shared.stopping.send_replace(true);
        let all = u32::try_from(self.shared.settings.connections_max).unwrap_or(u32::MAX);
        // It is never closed, and has so many.
        let _ = self.shared.connections.acquire_many(all).await;
    }

    fn place(&self, peer: SocketAddr) -> Result<Place, String> {
        let Settings { connections_max, connections_per_ip_max, .. } = self.shared.settings;
        let permit = self.shared.connections.clone().try_acquire_owned();
        let permit =
            permit.map_err(|_| format!("there are {connections_max} connections, the most that are allowed"))?;
        let mut per_ip = self.shared.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let count = per_ip.entry(peer.ip()).or_default();
        if *count >= connections_per_ip_max {
            return Err(format!("it has {connections_per_ip_max} connections, the most that one address may have"));
        }
        *count += 1;
        drop(per_ip);
        Ok(Place { shared: self.shared.clone(), ip: peer.ip(), _permit: permit })
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, _place: Place) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    if let Err(closed) = Connection::new(shared.clone(), stream, peer).run().await
        && let Some(complaints) = shared.closed.about(&closed)
    {
        complaints.complain(&format!("kafka: the connection of {peer} was closed: {closed}"));
    }
}
