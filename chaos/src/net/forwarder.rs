//! A forwarder: one node's advertised address. A flow per sender, with a socket of its own towards the node, so that the node
//! tells senders apart and answers find their way.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::fault::Fate;
use super::{End, Shared};

const DATAGRAM_MAX: usize = 65_535;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Senders at a time; whoever comes above it is not heard.
const FLOWS_MAX: usize = 4096;
/// Bytes that wait for a delay to be over; what comes above it is lost, as in a router.
const DELAYED_BYTES_MAX: usize = 64 << 20;
/// How long an address takes until the one who had it is gone.
const BIND_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Forwarder {
    task: JoinHandle<()>,
}

impl Forwarder {
    pub(super) async fn open(
        shared: Arc<Shared>,
        node: usize,
        advertised: SocketAddr,
        real: SocketAddr,
    ) -> io::Result<Self> {
        let front = Arc::new(bind_patiently(advertised).await?);
        let forwarding = Forwarding { shared, node, real, front, delayed: Arc::default(), flows: HashMap::new() };
        Ok(Self { task: tokio::spawn(forwarding.run()) })
    }

    /// Closes the port.
    pub(super) async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn bind_patiently(address: SocketAddr) -> io::Result<UdpSocket> {
    let mut left = BIND_PATIENCE;
    loop {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !left.is_zero() => {
                const PAUSE: Duration = Duration::from_millis(10);
                sleep(PAUSE).await;
                left = left.saturating_sub(PAUSE);
            }
            bound => return bound,
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel gives what it allows.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A sender's way to the node.
struct Flow {
    owner: End,
    back: Arc<UdpSocket>,
}

struct Forwarding {
    shared: Arc<Shared>,
    node: usize,
    real: SocketAddr,
    front: Arc<UdpSocket>,
    delayed: Arc<AtomicUsize>,
    flows: HashMap<SocketAddr, Flow>,
}

impl Forwarding {
    async fn run(mut self) {
        // Dropped with this task, and with them the tasks.
        let mut answers = JoinSet::new();
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let Ok((len, from)) = self.front.recv_from(&mut buffer).await else { continue };
            if !self.flows.contains_key(&from) && !self.begin(from, &mut answers).await {
                continue;
            }
            let Some(flow) = self.flows.get(&from) else { continue };
            let way = Way { to: None, socket: flow.back.clone(), delayed: self.delayed.clone() };
            way.pass(self.shared.fate(flow.owner, End::Node(self.node)), &buffer[..len]).await;
        }
    }

    async fn begin(&mut self, from: SocketAddr, answers: &mut JoinSet<()>) -> bool {
        if self.flows.len() >= FLOWS_MAX {
            return false;
        }
        let Ok(back) = bind((Ipv4Addr::UNSPECIFIED, 0).into()) else { return false };
        if back.connect(self.real).await.is_err() {
            return false;
        }
        let flow = Flow { owner: self.shared.owners.of(from), back: Arc::new(back) };
        let way = Way { to: Some(from), socket: self.front.clone(), delayed: self.delayed.clone() };
        answers.spawn(answer(self.shared.clone(), (End::Node(self.node), flow.owner), flow.back.clone(), way));
        self.flows.insert(from, flow);
        true
    }
}

/// Hands on what the node answers one sender.
async fn answer(shared: Arc<Shared>, link: (End, End), back: Arc<UdpSocket>, way: Way) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // An error is that the port was closed when something was sent to it.
        let Ok(len) = back.recv(&mut buffer).await else { continue };
        way.pass(shared.fate(link.0, link.1), &buffer[..len]).await;
    }
}

/// Where to, and through which socket.
#[derive(Clone)]
struct Way {
    /// `None`: the socket is connected.
    to: Option<SocketAddr>,
    socket: Arc<UdpSocket>,
    delayed: Arc<AtomicUsize>,
}

impl Way {
    async fn pass(&self, fate: Fate, datagram: &[u8]) {
        let Fate::Arrives { after, again } = fate else { return };
        for after in [Some(after), again].into_iter().flatten() {
            if after.is_zero() {
                self.send(datagram).await;
            } else if self.delayed.fetch_add(datagram.len(), Ordering::Relaxed) < DELAYED_BYTES_MAX {
                let (way, datagram) = (self.clone(), datagram.to_vec());
                tokio::spawn(async move {
                    sleep(after).await;
                    way.send(&datagram).await;
                    way.delayed.fetch_sub(datagram.len(), Ordering::Relaxed);
                });
            } else {
                self.delayed.fetch_sub(datagram.len(), Ordering::Relaxed);
            }
        }
    }

    async fn send(&self, datagram: &[u8]) {
        // Datagrams may get lost; that is what this is about.
        let _ = match self.to {
            Some(to) => self.socket.send_to(datagram, to).await,
            None => self.socket.send(datagram).await,
        };
    }
}
