//! A forwarder between real sockets.

use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::fault::Fault;
use super::{End, Network};
use crate::ports::free_addresses;

const SOON: Duration = Duration::from_secs(5);
const NOTHING: Duration = Duration::from_millis(100);
const TO: (End, End) = (End::Clients, End::Node(1));
const BACK: (End, End) = (End::Node(1), End::Clients);

/// A node's socket, and a client's that is connected to the address which the node advertises.
struct Pair {
    network: Network,
    node: UdpSocket,
    client: UdpSocket,
}

impl Pair {
    async fn new() -> Self {
        let [advertised, real] = free_addresses(2).unwrap().try_into().unwrap();
        let mut network = Network::new(1, 1);
        let node = UdpSocket::bind(real).await.unwrap();
        // No process of this number has sockets here: all senders are clients.
        network.open(1, 0, advertised, real).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(advertised).await.unwrap();
        Self { network, node, client }
    }

    /// Whether a question comes to the node, and its answer back.
    async fn ask(&self) -> (bool, bool) {
        let mut buffer = [0; 16];
        self.client.send(b"question").await.unwrap();
        let Ok(heard) = timeout(NOTHING, self.node.recv_from(&mut buffer)).await else { return (false, false) };
        let (len, from) = heard.unwrap();
        assert_eq!(&buffer[..len], b"question");
        self.node.send_to(b"answer", from).await.unwrap();
        (true, timeout(NOTHING, self.client.recv(&mut buffer)).await.is_ok())
    }
}

#[tokio::test]
async fn links_are_cut_in_one_direction_and_healed() {
    let pair = Pair::new().await;
    assert_eq!(pair.ask().await, (true, true));
    let to = pair.network.add(Fault::CUT, vec![TO]);
    assert_eq!(pair.ask().await, (false, false));
    pair.network.remove(to);
    pair.network.add(Fault::CUT, vec![BACK]);
    assert_eq!(pair.ask().await, (true, false));
    pair.network.heal();
    assert_eq!(pair.ask().await, (true, true));
    let lost: Vec<_> =
        pair.network.counts().into_iter().map(|(link, count)| (link, count.passed, count.lost)).collect();
    assert_eq!(lost, [(TO, 3, 1), (BACK, 2, 1)]);
}

#[tokio::test]
async fn datagrams_come_late_and_twice() {
    let pair = Pair::new().await;
    let delay = Duration::from_millis(50);
    pair.network.add(Fault { delay, twice: 1.0, ..Fault::default() }, vec![TO]);
    let began = Instant::now();
    pair.client.send(b"late").await.unwrap();
    let mut buffer = [0; 16];
    for _ in 0..2 {
        timeout(SOON, pair.node.recv_from(&mut buffer)).await.unwrap().unwrap();
    }
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    assert!(timeout(NOTHING, pair.node.recv_from(&mut buffer)).await.is_err(), "and not three times");
}

#[tokio::test]
async fn a_dead_nodes_port_is_refused() {
    let mut pair = Pair::new().await;
    assert_eq!(pair.ask().await, (true, true));
    pair.network.close(1).await;
    let refused = async {
        loop {
            // The first is refused after it was sent, which the next call is told.
            if pair.client.send(b"question").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, refused).await.expect("the kernel says that the port is closed");
}
