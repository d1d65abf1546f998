//! Commands on their way into the log.
//!
//! On the leader, commands that wait at the same moment become one Raft entry: openraft syncs entry by entry, so what
//! matters is how much an entry carries. Elsewhere they are sent to the leader, again and again until the deadline.
//! That is safe, because the state machine does a request once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::wire::RaftRpc;
use dlog_proto::{NodeId, RequestId};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::error::MetadataError;
use super::operation::Operation;
use super::{Inner, Metadata};
use crate::raft::rpc::{ProposeAnswer, Proposed, Refusal};
use crate::raft::types::{Applied, Proposal, Proposals, node_id, raft_id};
use crate::state::{Command, Response, decode, encode};

/// A command may be so long, encoded.
pub const COMMAND_LEN_MAX: usize = 4 << 20;
/// An entry is closed when it has so many commands or bytes.
const ENTRY_COMMANDS_MAX: usize = 256;
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Entries on their way at once: the leader's sync of one overlaps with the followers' of another.
const ENTRIES_IN_FLIGHT: usize = 4;
/// How long one attempt is waited for. An attempt that takes longer has most likely gone to a leader that is none any
/// more.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The same of one who is not said to lead: it answers at once, if only who does.
const ATTEMPT_ASIDE: Duration = Duration::from_millis(250);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(100);

pub(super) struct WaitingProposal {
    proposal: Proposal,
    answer: oneshot::Sender<ProposeAnswer>,
}

impl Metadata {
    /// Carries out `operation`. Answers with the revision as of which it was, and what came of it.
    pub async fn run<O: Operation>(&self, request: RequestId, operation: O) -> Result<(u64, O::Answer), MetadataError> {
        let (revision, response) = self.propose(request, &operation.into_command()).await?;
        match response {
            Response::Forgotten => Err(MetadataError::Forgotten),
            response => {
                let unexpected = || MetadataError::Invalid("the answer is to another command".to_owned());
                Ok((revision, O::answer(response).ok_or_else(unexpected)?))
            }
        }
    }

    /// Carries out `command`, once, however often it is asked for with the same `request`. This node's view may not
    /// have reached the revision yet: see [`Self::wait_applied`].
    pub async fn propose(&self, request: RequestId, command: &Command) -> Result<(u64, Response), MetadataError> {
        let command = Bytes::from(encode(command));
        let Proposed { revision, response } = self.inner.propose(Proposal { request: Some(request), command }).await?;
        Ok((revision, response))
    }

    /// [`Self::propose`] for a command that came encoded from a client or peer.
    pub async fn handle_propose(&self, request: RequestId, command: Bytes) -> Result<(u64, Bytes), MetadataError> {
        check(&command)?;
        let Proposed { revision, response } = self.inner.propose(Proposal { request: Some(request), command }).await?;
        Ok((revision, encode(&response).into()))
    }
}

/// Nothing enters the log that could not be applied.
fn check(command: &[u8]) -> Result<(), MetadataError> {
    if command.len() > COMMAND_LEN_MAX {
        let problem = format!("a command has at most {COMMAND_LEN_MAX} bytes, not {}: send several", command.len());
        return Err(MetadataError::Invalid(problem));
    }
    decode::<Command>(command)?;
    Ok(())
}

impl Inner {
    /// Tries to have a command carried out until the deadline.
    async fn propose(&self, proposal: Proposal) -> Result<Proposed, MetadataError> {
        if proposal.command.len() > COMMAND_LEN_MAX {
            check(&proposal.command)?;
        }
        let proposal = &proposal;
        self.at_leader(|leader, address, time| async move {
            if leader == self.config.node {
                return self.propose_here(proposal.clone(), time).await;
            }
            let asked = self.network.peer(leader, &address).call(RaftRpc::Propose, proposal, time).await;
            asked.unwrap_or_else(|error| Err(Refusal::Unavailable(error.to_string())))
        })
        .await
    }

    /// Has `attempt` made at whoever leads, until it succeeds, is refused for good, or the deadline passes.
    pub(super) async fn at_leader<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        attempt: impl Fn(NodeId, String, Duration) -> F,
    ) -> Result<T, MetadataError> {
        let deadline = Instant::now() + self.config.timings.deadline;
        let mut backoff = BACKOFF_MIN;
        let mut tries = 0;
        let mut last = "no leader is known".to_owned();
        let mut told = None;
        loop {
            if let Some(reason) = self.failed() {
                return Err(MetadataError::Stopped(reason));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let deadline = self.config.timings.deadline;
                return Err(MetadataError::Unavailable(format!("tried for {deadline:?}; {last}")));
            }
            let known = self.leader().map(|(leader, _)| leader);
            let is_told = told.is_some();
            let (leader, address) = told.take().unwrap_or_else(|| self.leader_or_voter(tries));
            tries += 1;
            let time = left.min(if is_told || known == Some(leader) { ATTEMPT } else { ATTEMPT_ASIDE });
            let late = || Refusal::Unavailable(format!("no answer within {time:?}"));
            let attempted = tokio::select! {
                attempted = timeout(time, attempt(leader, address, time)) => attempted.unwrap_or_else(|_| Err(late())),
                () = self.leader_news([known, Some(leader)]) => {
                    Err(Refusal::Unavailable("the leader has changed".to_owned()))
                }
            };
            match attempted {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Invalid(problem)) => return Err(MetadataError::Invalid(problem)),
                Err(refusal) => {
                    last = format!("{leader}: {refusal}");
                    if let Refusal::NotLeader { leader: Some((id, address)) } = refusal {
                        told = Some((node_id(id), address)).filter(|(node, _)| *node != leader);
                    }
                }
            }
            tokio::select! {
                () = sleep(backoff.min(left)) => backoff = (backoff * 2).min(BACKOFF_MAX),
                () = self.leader_news([known, Some(leader)]) => backoff = BACKOFF_MIN,
            }
        }
    }

    /// Puts a command into the log; this node leads, or refuses.
    pub(super) async fn propose_here(&self, proposal: Proposal, time: Duration) -> ProposeAnswer {
        if self.leader().is_none_or(|(leader, _)| leader != self.config.node) {
            return Err(self.not_leader());
        }
        let (answer, wait) = oneshot::channel();
        let stopped = || Refusal::Stopped("it is shutting down".to_owned());
        self.proposals.send(WaitingProposal { proposal, answer }).await.map_err(|_| stopped())?;
        match timeout(time, wait).await {
            Ok(answered) => answered.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(Refusal::Unavailable(format!("no majority of the voters has taken it within {time:?}"))),
        }
    }

    /// Answers a peer's [`RaftRpc::Propose`].
    pub(super) async fn handle_propose(&self, proposal: Proposal) -> ProposeAnswer {
        check(&proposal.command).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.propose_here(proposal, ATTEMPT).await
    }

    fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { leader: self.leader().map(|(node, address)| (raft_id(node), address)) }
    }
}

/// Makes entries of what waits, for ever.
pub(super) async fn serve_proposals(inner: Arc<Inner>, mut queue: mpsc::Receiver<WaitingProposal>) {
    let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let mut held: Option<WaitingProposal> = None;
    loop {
        let first = match held.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let mut bytes = first.proposal.command.len();
        let mut batch = vec![first];
        while batch.len() < ENTRY_COMMANDS_MAX {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.proposal.command.len();
            if bytes > ENTRY_BYTES_MAX {
                held = Some(next);
                break;
            }
            batch.push(next);
        }
        let inner = inner.clone();
        tokio::spawn(async move {
            write(&inner, batch).await;
            drop(permit);
        });
    }
}

async fn write(inner: &Inner, batch: Vec<WaitingProposal>) {
    let (proposals, waiters): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.proposal, w.answer)).unzip();
    match inner.raft.client_write(Proposals(proposals)).await {
        Ok(written) => {
            let (revision, Applied(responses)) = (written.log_id.index, written.data);
            for (waiter, response) in waiters.into_iter().zip(responses) {
                let _ = waiter.send(Ok(Proposed { revision, response }));
            }
        }
        Err(error) => {
            let refusal = match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => inner.not_leader(),
                RaftError::APIError(error) => Refusal::Unavailable(error.to_string()),
                RaftError::Fatal(fatal) => Refusal::Stopped(fatal.to_string()),
            };
            waiters.into_iter().for_each(|waiter| drop(waiter.send(Err(refusal.clone()))));
        }
    }
}
