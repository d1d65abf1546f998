//! Connections and lanes of a core: tasks that only hand on what arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dlog_proto::transport::{Admission, Connection, LaneReceiver, PeerIdentity};
use tokio::sync::Notify;

use super::inbox::{CoreHandle, FrameBatch, Input, LaneNumber};

static NEXT_LANE: AtomicU64 = AtomicU64::new(1);

/// Completes a handshake, and hands on the lanes of the connection.
pub(super) async fn accept(
    incoming: dlog_proto::transport::QuicIncoming,
    admission: Arc<dyn Admission>,
    core: CoreHandle,
) {
    // A failed handshake is logged where it fails.
    if let Ok(connection) = incoming.establish(&*admission).await {
        serve(connection, core).await;
    }
}

/// Hands on the lanes that the peer opens, until the connection ends.
pub(super) async fn serve(connection: Connection, core: CoreHandle) {
    let is_node = speaks_for_a_node(&connection);
    while let Ok((kind, lane)) = connection.accept_lane().await {
        let number = NEXT_LANE.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = lane.split();
        core.tell(Input::LaneOpened { lane: number, kind, is_node, tx });
        tokio::task::spawn_local(hand_on_lane(number, rx, core.clone()));
    }
}

/// Whether the peer may do what only nodes may: it has shown a node's certificate, or runs on this machine, which is trusted.
pub(crate) fn speaks_for_a_node(connection: &Connection) -> bool {
    let peer = connection.peer();
    match peer.identity {
        PeerIdentity::SameProcess | PeerIdentity::Node(_) => true,
        PeerIdentity::Loopback => peer.node.is_some(),
        PeerIdentity::Anonymous => false,
    }
}

async fn hand_on_lane(lane: LaneNumber, rx: LaneReceiver, core: CoreHandle) {
    hand_on(rx, &core, |batch| Input::LaneFrames { lane, batch }).await;
    core.tell(Input::LaneClosed(lane));
}

/// Hands on what a lane receives until it ends, a batch at a time: the next is not read before the core is done with the last.
pub(super) async fn hand_on(mut rx: LaneReceiver, core: &CoreHandle, input: impl Fn(FrameBatch) -> Input) {
    let go_on = Arc::new(Notify::new());
    let mut frames = Vec::new();
    while rx.recv_many(&mut frames).await.is_ok() {
        core.tell(input(FrameBatch { frames: std::mem::take(&mut frames), go_on: go_on.clone() }));
        go_on.notified().await;
    }
}
