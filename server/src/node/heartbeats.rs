//! Saying that this process lives: to whoever leads the metadata tier, which says in turn who else does.

use std::sync::Arc;
use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_proto::clock::every;
use dlog_proto::transport::{Lane, LaneKind};
use dlog_proto::wire::{Heartbeat, Liveness, Message, Payload};
use dlog_proto::{NodeId, ProcessId};
use tokio::time::{sleep, timeout};

use super::peers::Peers;
use crate::signals::Stop;

/// How long a leader may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

pub(crate) struct Heartbeats {
    pub(crate) node: NodeId,
    pub(crate) process: ProcessId,
    pub(crate) interval: Duration,
    pub(crate) metadata: Metadata,
    pub(crate) peers: Arc<Peers>,
    /// What this process does is taken over by others when it is about to stop.
    pub(crate) stop: Stop,
}

impl Heartbeats {
    /// For ever.
    pub(crate) async fn run(self) {
        let voters: Vec<(NodeId, String)> = self.metadata.config().voters.clone().into_iter().collect();
        for turn in 0.. {
            // Who does not know of a leader asks one voter after the other.
            let (leader, address) = self.metadata.leader().unwrap_or_else(|| voters[turn % voters.len()].clone());
            if leader == self.node {
                let _ = self.metadata.handle_heartbeat(&self.heartbeat());
                sleep(self.interval).await;
                continue;
            }
            match timeout(CONNECT_TIMEOUT, self.lane(leader, &address)).await {
                Ok(Ok(lane)) => self.beat(leader, lane).await,
                Ok(Err(why)) => tracing::debug!("{leader} cannot be told that this node lives: {why}"),
                Err(_) => tracing::debug!("{leader} cannot be told that this node lives: it does not answer"),
            }
            sleep(self.interval / 2).await;
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat { node: self.node, process: self.process, stopping: self.stop.is_requested() }
    }

    async fn lane(&self, leader: NodeId, address: &str) -> Result<Lane, String> {
        let connection = self.peers.connect(leader, address).await?;
        connection.open_lane(LaneKind::Liveness).await.map_err(|error| error.to_string())
    }

    /// Until the lane ends, the other side refuses, or somebody else leads.
    async fn beat(&self, leader: NodeId, lane: Lane) {
        let (tx, mut rx) = lane.split();
        let mut beats = every(self.interval);
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    let other_leads = self.metadata.leader().is_some_and(|(node, _)| node != leader);
                    if other_leads || tx.send(self.heartbeat().to_frame(0, Payload::empty())).is_err() {
                        return;
                    }
                }
                frame = rx.recv() => match frame.as_ref().map(Liveness::from_frame) {
                    Ok(Ok(liveness)) => self.metadata.handle_liveness(liveness),
                    _ => return,
                },
            }
        }
    }
}
