//! What the leader sees to: that the cluster has an id, that every registered node follows, and on every node that
//! snapshots are made in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::ClusterId;
use dlog_proto::clock::now_ms;
use tokio::time::sleep;

use super::Inner;
use crate::raft::types::Proposal;
use crate::state::{Command, InitCluster, encode};

/// Looked at again after this long, whatever happens.
const EVERY: Duration = Duration::from_millis(500);
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

impl Inner {
    /// Does what is to be done, for ever.
    pub(super) async fn do_chores(self: Arc<Self>) {
        let (mut metrics, mut views) = (self.raft.server_metrics(), self.replica.views());
        loop {
            metrics.borrow_and_update();
            views.borrow_and_update();
            if self.leader().is_some_and(|(leader, _)| leader == self.config.node) {
                self.name_cluster().await;
                self.add_followers().await;
            }
            self.compact().await;
            self.compare_voters();
            tokio::select! {
                () = sleep(EVERY) => {}
                changed = metrics.changed() => if changed.is_err() { return },
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn name_cluster(&self) {
        if self.replica.view().cluster().is_some() {
            return;
        }
        let command = Command::InitCluster(InitCluster { cluster: ClusterId::random(), created_ms: now_ms() });
        // Without a request id: the first one wins, however many there are.
        let proposal = Proposal { request: None, command: Bytes::from(encode(&command)) };
        if let Err(refusal) = self.propose_here(proposal, NAME_TIMEOUT).await {
            tracing::debug!(%refusal, "the cluster has no id yet");
        }
    }

    /// openraft makes snapshots by number of entries; large ones are fewer.
    async fn compact(&self) {
        if self.log.bytes_after(self.replica.snapshot_index()) > self.config.snapshots.bytes {
            let _ = self.raft.trigger().snapshot().await;
        }
    }
}
