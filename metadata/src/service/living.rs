//! Liveness around its core: heartbeats in, updates out, and a word to Raft when the leader itself seems dead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dlog_proto::wire::{Heartbeat, Liveness};
use dlog_proto::{NodeId, ProcessId, Time};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::error::MetadataError;
use super::{Inner, Metadata};
use crate::liveness::{LivenessTable, is_newer};
use crate::raft::types::raft_id;

/// Voters stand for election one after the other, this far apart, when the leader seems dead.
const STAGGER: Duration = Duration::from_millis(60);

pub(super) struct Living {
    leading: Mutex<Leading>,
    known: watch::Sender<Liveness>,
    /// Whether the leader's majority was out of reach when it last looked.
    lost_majority: AtomicBool,
    /// A lease ends sooner than it did.
    shortened: Notify,
}

struct Leading {
    table: LivenessTable,
    /// Revision of the newest registration that the table knows of.
    registered_at: Option<u64>,
}

impl Living {
    pub(super) fn new(table: LivenessTable) -> Self {
        let known = watch::Sender::new(Liveness { term: 0, version: 0, alive: vec![] });
        let leading = Mutex::new(Leading { table, registered_at: None });
        Self { leading, known, lost_majority: AtomicBool::new(false), shortened: Notify::new() }
    }

    fn leading(&self) -> MutexGuard<'_, Leading> {
        self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, update: Liveness) {
        self.known.send_if_modified(|known| {
            let newer = is_newer(&update, known);
            if newer {
                *known = update;
            }
            newer
        });
    }

    /// Changes the leader's table, and tells what came of it: who lives, if this node leads.
    fn change(&self, change: impl FnOnce(&mut Leading)) -> Option<Liveness> {
        let mut leading = self.leading();
        change(&mut leading);
        let update = leading.table.liveness();
        drop(leading);
        if let Some(update) = &update {
            self.offer(update.clone());
        }
        update
    }
}

impl Metadata {
    /// Who lives, as far as this node knows.
    pub fn liveness(&self) -> Liveness {
        self.inner.living.known.borrow().clone()
    }

    /// Every change of who lives.
    pub fn liveness_updates(&self) -> watch::Receiver<Liveness> {
        self.inner.living.known.subscribe()
    }

    /// A process lives; this node leads, or says who does. The answer is who lives.
    pub fn handle_heartbeat(&self, heartbeat: &Heartbeat) -> Result<Liveness, MetadataError> {
        let (inner, now) = (&self.inner, self.inner.now());
        // A process that has just registered is to find itself alive, and a leader that was just elected itself
        // leading.
        inner.look_at_leader(now);
        let update = inner.living.change(|leading| {
            leading.table.handle_heartbeat(now, heartbeat);
        });
        update.ok_or_else(|| MetadataError::NotLeader { leader: inner.leader() })
    }

    /// The leader says who lives: the answer to a heartbeat, or sent on its own.
    pub fn handle_liveness(&self, update: Liveness) {
        self.inner.living.offer(update);
    }

    /// A connection to a process has died, which may mean that the process has. On the leader it shortens the lease; if
    /// it is the leader's process, voters do not wait longer than they must.
    pub fn handle_suspect(&self, node: NodeId, process: ProcessId) {
        let now = self.inner.now();
        self.inner.living.change(|leading| leading.table.handle_suspect(now, node, process));
        self.inner.living.shortened.notify_one();
        if self.inner.leader().is_some_and(|(leader, _)| leader == node) {
            let inner = self.inner.clone();
            self.inner.spawn(async move { inner.succeed(node).await });
        }
    }
}

impl Inner {
    /// Follows who leads and who is registered, and lets leases run out, for ever.
    pub(super) async fn watch_leases(self: Arc<Self>) {
        let (mut metrics, mut views) = (self.raft.server_metrics(), self.replica.views());
        loop {
            let now = self.now();
            self.look_at_leader(now);
            self.expire(now);
            let next = self.living.leading().table.next_timeout();
            let wait = next.map_or(Duration::from_secs(3600), |next| next - self.now());
            tokio::select! {
                () = sleep(wait.max(Duration::from_millis(1))) => {}
                changed = metrics.changed() => if changed.is_err() { return },
                changed = views.changed() => if changed.is_err() { return },
                () = self.living.shortened.notified() => {}
            }
        }
    }

    /// Has the table follow who leads and who is registered.
    fn look_at_leader(&self, now: Time) {
        let (leads, term) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader == Some(raft_id(self.config.node)), metrics.vote.leader_id().term)
        };
        let view = self.replica.view();
        let registered = || view.nodes().map(|(node, info)| (node, info.process));
        let newest = view.nodes().map(|(_, info)| info.registered_at).max();
        self.living.change(|leading| {
            if leads {
                leading.table.handle_leading(now, term, registered());
                if leading.registered_at != newest {
                    leading.table.handle_registered(now, registered());
                }
            } else {
                leading.table.handle_not_leading();
            }
            leading.registered_at = newest.filter(|_| leads);
        });
    }

    /// Lets leases run out, unless the silence is this leader's own.
    fn expire(&self, now: Time) {
        let lost = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let voters = metrics.membership_config.voter_ids().count();
            let lease_ms = self.config.timings.lease.as_millis();
            voters > 1 && metrics.millis_since_quorum_ack.is_none_or(|ms| u128::from(ms) > lease_ms)
        };
        let had_lost = self.living.lost_majority.swap(lost, Ordering::Relaxed);
        self.living.change(|leading| {
            if lost || had_lost {
                leading.table.handle_majority_found(now);
            }
            leading.table.handle_timeout(now);
        });
    }

    /// The leader seems dead. Everybody is bound to it for a while after its last word; then voters stand for election,
    /// one after the other so that they do not take votes from each other.
    async fn succeed(&self, leader: NodeId) {
        if !self.config.is_voter() || !self.newcomer.is_full() {
            return;
        }
        let others = self.config.voters.keys().filter(|voter| **voter != leader);
        let rank = others.take_while(|voter| **voter != self.config.node).count() as u32;
        let last_word = *self.last_append.borrow();
        let free_at = last_word + self.config.timings.election_max + STAGGER * rank + Duration::from_millis(5);
        sleep(free_at - self.now()).await;
        let silent = *self.last_append.borrow() == last_word;
        if silent && self.leader().is_some_and(|(now_leads, _)| now_leads == leader) {
            tracing::info!(%leader, "the metadata leader seems dead: standing for election");
            let _ = self.raft.trigger().elect().await;
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
