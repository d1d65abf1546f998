//! A voter that starts without a log.
//!
//! If the cluster is new, that is as it should be: the voters begin together. If it is not, this voter's disk was wiped
//! or replaced, and it has forgotten votes it gave and entries it confirmed. Were it to vote, entries that it had
//! helped to commit could be lost. So it first asks the other voters:
//!
//! - Somebody has history: this one is a *newcomer*. It follows, does not vote nor stand for election, and refuses
//!   leaders of terms below those it was told of, until it has applied what a leader had committed in its own term.
//! - A majority, itself included, has none, and nobody is known to have any: the cluster is new. Begin.
//! - Otherwise ask again.
//!
//! That it is a newcomer stands in a file until it is over, so that a restart on the way does not make a full voter of
//! it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use dlog_proto::NodeId;
use dlog_proto::wire::RaftRpc;
use openraft::BasicNode;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Inner, Metadata};
use crate::raft::PeerError;
use crate::raft::rpc::{AppendAsked, Refusal, Status};
use crate::raft::types::raft_id;

/// Asked again after this long.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_millis(300);

/// Whether this replica may vote.
pub(super) struct Newcomer {
    phase: AtomicU8,
    /// Below this, a leader may be one that this voter has forgotten to have left.
    term_min: AtomicU64,
    /// What must be applied to be caught up; `u64::MAX` while that is not known.
    target: AtomicU64,
    data_dir: PathBuf,
    marker: PathBuf,
}

/// Asks whether the cluster is new.
const ASKING: u8 = 0;
const FOLLOWING: u8 = 1;
/// As good as any.
const FULL: u8 = 2;

impl Newcomer {
    /// `is_blank`: a voter without a log.
    pub(super) fn new(data_dir: &Path, is_blank: bool) -> Self {
        let marker = data_dir.join("newcomer");
        let phase = match (is_blank, marker.exists()) {
            (true, false) => ASKING,
            (_, true) => FOLLOWING,
            (false, false) => FULL,
        };
        let (phase, term_min, target) = (AtomicU8::new(phase), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { phase, term_min, target, data_dir: data_dir.to_owned(), marker }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    pub(super) fn is_asking(&self) -> bool {
        self.phase() == ASKING
    }

    pub(super) fn is_full(&self) -> bool {
        self.phase() == FULL
    }

    pub(super) fn check_vote(&self) -> Result<(), Refusal> {
        match self.phase() {
            FULL => Ok(()),
            _ => {
                Err(Refusal::Unavailable("this voter has lost its log and is catching up: it does not vote".to_owned()))
            }
        }
    }

    pub(super) fn check_term(&self, term: u64) -> Result<(), Refusal> {
        match self.phase() {
            FULL => Ok(()),
            FOLLOWING if term >= self.term_min.load(Ordering::Acquire) => Ok(()),
            FOLLOWING => Err(Refusal::Unavailable("this voter knows of a later leader".to_owned())),
            _ => Err(Refusal::Unavailable("this voter is finding out whether the cluster is new".to_owned())),
        }
    }

    pub(super) fn check_append(&self, asked: &AppendAsked) -> Result<(), Refusal> {
        let leader = asked.vote.leader_id();
        self.check_term(leader.term)?;
        if self.phase() == FOLLOWING {
            // What a leader has committed in its own term comes after everything that was committed before it.
            let own = asked.leader_commit.filter(|commit| commit.leader_id.term == leader.term);
            if let Some(commit) = own {
                let _ = self.target.compare_exchange(u64::MAX, commit.index, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        Ok(())
    }

    fn follow(&self, term_min: u64) -> io::Result<()> {
        let file = File::create(&self.marker)?;
        file.sync_all()?;
        File::open(&self.data_dir)?.sync_all()?;
        self.term_min.store(term_min, Ordering::Release);
        self.phase.store(FOLLOWING, Ordering::Release);
        Ok(())
    }

    fn become_full(&self) {
        match fs::remove_file(&self.marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let file = self.marker.display();
                tracing::warn!(%error, %file, "cannot remove; the next start will catch up again");
            }
            _ => {}
        }
        self.phase.store(FULL, Ordering::Release);
    }
}

/// What the answers of the other voters mean. `voters` counts all of them, this one too.
fn judge(voters: usize, answers: &[Status]) -> Option<Verdict> {
    let term = answers.iter().map(|status| status.term).max().unwrap_or_default();
    if answers.iter().any(|status| status.has_history) {
        Some(Verdict::Follow { term })
    } else if answers.len() + 1 > voters / 2 {
        Some(Verdict::Begin)
    } else {
        None
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Begin,
    Follow { term: u64 },
}

impl Metadata {
    /// Whether this voter does not vote yet, because it began without a log while the cluster had one.
    pub fn is_catching_up(&self) -> bool {
        !self.inner.newcomer.is_full()
    }
}

impl Inner {
    /// Finds out whether the cluster is new, and begins it if so. Returns when this voter may vote.
    pub(super) async fn arrive(&self) {
        if self.newcomer.is_asking() {
            self.ask_others().await;
        }
        if !self.newcomer.is_full() {
            self.catch_up().await;
        }
    }

    async fn ask_others(&self) {
        let voters = &self.config.voters;
        loop {
            let others = voters.iter().filter(|(node, _)| **node != self.config.node);
            let mut asked: JoinSet<Result<Status, PeerError>> = others
                .map(|(node, address)| self.network.peer(*node, address))
                .map(|peer| async move { peer.call(RaftRpc::Status, &(), ASK_TIMEOUT).await })
                .collect();
            let mut answers = Vec::new();
            while let Some(answer) = asked.join_next().await {
                answers.extend(answer.into_iter().flatten());
            }
            match judge(voters.len(), &answers) {
                Some(Verdict::Begin) => return self.begin().await,
                Some(Verdict::Follow { term }) => {
                    tracing::warn!(
                        "this voter has no log, but the cluster has: it follows, and votes once it has caught up"
                    );
                    match self.newcomer.follow(term) {
                        Ok(()) => return,
                        Err(error) => tracing::error!(%error, "cannot note that this voter is catching up"),
                    }
                }
                None => {}
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Begins a cluster, with all others who do.
    pub(super) async fn begin(&self) {
        self.newcomer.become_full();
        let voter = |(node, address): (&NodeId, &String)| (raft_id(*node), BasicNode::new(address));
        let voters: std::collections::BTreeMap<_, _> = self.config.voters.iter().map(voter).collect();
        if let Err(error) = self.raft.initialize(voters).await {
            // A leader was faster: it has sent the same membership.
            tracing::debug!(%error, "not the first to begin the cluster");
        }
        self.raft.runtime_config().elect(true);
    }

    async fn catch_up(&self) {
        let mut views = self.replica.views();
        loop {
            let target = self.newcomer.target.load(Ordering::Acquire);
            if views.borrow_and_update().revision() >= target {
                break;
            }
            // The target comes with an append, a view with what is applied: neither alone wakes for both.
            let _ = tokio::time::timeout(ASK_EVERY, views.changed()).await;
        }
        // Who was elected with this voter's forgotten vote has made itself known by then.
        sleep(self.config.timings.election_max * 2).await;
        self.newcomer.become_full();
        self.raft.runtime_config().elect(true);
        tracing::info!(revision = self.replica.view().revision(), "this voter has caught up, and votes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_new_if_a_majority_has_no_history_and_nobody_is_known_to() {
        let blank = Status { has_history: false, term: 1 };
        let old = Status { has_history: true, term: 7 };
        assert_eq!(judge(1, &[]), Some(Verdict::Begin));
        assert_eq!(judge(3, &[]), None);
        assert_eq!(judge(3, &[blank]), Some(Verdict::Begin));
        assert_eq!(judge(5, &[blank]), None);
        assert_eq!(judge(5, &[blank, blank]), Some(Verdict::Begin));
        assert_eq!(judge(3, &[blank, old]), Some(Verdict::Follow { term: 7 }));
    }
}
