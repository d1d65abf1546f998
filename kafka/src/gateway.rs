//! Takes connections, within limits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dlog_proto::transport::Complaints;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::fetch::{Readers, Sessions};
use crate::group::Groups;
use crate::producer_ids::ProducerIds;
use crate::reading::Reading;
use crate::settings::Settings;

/// Pause after the system refused to hand over a connection: it has none left to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) reading: Arc<dyn Reading>,
    pub(crate) settings: Settings,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) readers: Readers,
    pub(crate) groups: Groups,
    /// Bytes of requests, in units of [`REQUEST_UNIT`].
    pub(crate) request_memory: Arc<Semaphore>,
    pub(crate) closed: Complaints,
    refused: Complaints,
    connections: Arc<Semaphore>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
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
    /// A gateway of the node that `broker` is. Must be called on a tokio runtime: the coordinators of groups run on it.
    pub fn new(broker: Arc<dyn Broker>, reading: Arc<dyn Reading>, settings: Settings) -> Self {
        let units = (settings.requests_bytes_max / REQUEST_UNIT).clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            producer_ids: ProducerIds::new(broker.clone()),
            sessions: Mutex::new(Sessions::new(settings.fetch_sessions_max)),
            readers: Readers::new(reading.clone()),
            groups: Groups::start(broker.clone(), reading.clone(), settings.group.clone()),
            request_memory: Arc::new(Semaphore::new(units)),
            closed: Complaints::new(),
            refused: Complaints::new(),
            connections: Arc::new(Semaphore::new(settings.connections_max)),
            per_ip: Mutex::default(),
            broker,
            reading,
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves connections until the future is dropped, which closes them.
    pub async fn serve(&self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            match listener.accept().await {
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

    fn place(&self, peer: SocketAddr) -> Result<Place, String> {
        let Settings { connections_max, connections_per_ip_max, .. } = self.shared.settings;
        let permit = self.shared.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| format!("there are {connections_max} connections, the most that are allowed"))?;
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
        && let Some(why) = closed.complaint()
    {
        shared.closed.complain(&format!("kafka: the connection of {peer} was closed: {why}"));
    }
}
