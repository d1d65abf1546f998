//! What is asked of a node besides records: questions about the cluster, commands, Raft, who lives. On the control runtime, on
//! connections of their own, so that nothing waits behind bulk data.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use dlog_metadata::Metadata;
use dlog_proto::transport::{Admission, Connection, LaneKind, LaneReceiver, LaneSender, QuicIncoming};
use dlog_proto::wire::{
    Answer, BlockDescribed, CopyDescription, DescribeBlock, ErrorCode, Failed, FindTime, Frame, GetTail, Heartbeat,
    Liveness, Message, MessageError, Payload, Propose, Proposed, Query, Raft, RaftAnswer, ReadStatus, TimeFound,
    WirePlacement,
};
use dlog_proto::{ShardId, ShardRef};
use dlog_storage_node::CounterValues;
use dlog_storage_node::commit::Committer;
use dlog_storage_node::read::{Found, ReadError, Reader};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::core::{Cores, not_sequenced, speaks_for_a_node};

/// Questions of one lane that are answered at the same time; more wait on the network.
const AT_ONCE: usize = 64;

/// The shards that this node serves, for those who look beside the cores.
#[derive(Debug, Default)]
pub(crate) struct ShardReaders(RwLock<BTreeMap<ShardId, Served>>);

#[derive(Debug, Clone)]
struct Served {
    shard: ShardRef,
    committer: Committer,
}

impl ShardReaders {
    pub(crate) fn insert(&self, shard: ShardRef, committer: Committer) {
        let served = Served { shard, committer };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard.shard, served);
    }

    fn get(&self, shard: ShardId) -> Option<(ShardRef, Reader)> {
        let shards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shards.get(&shard).map(|served| (served.shard, served.committer.reader()))
    }

    pub(crate) fn reader(&self, shard: ShardId) -> Option<Reader> {
        self.get(shard).map(|(_, reader)| reader)
    }

    fn all(&self) -> Vec<(ShardRef, Reader)> {
        self.committers().into_iter().map(|(shard, committer)| (shard, committer.reader())).collect()
    }

    pub(crate) fn committers(&self) -> Vec<(ShardRef, Committer)> {
        let shards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shards.values().map(|served| (served.shard, served.committer.clone())).collect()
    }

    /// What each shard has counted.
    pub(crate) fn counters(&self) -> Vec<(ShardId, CounterValues)> {
        let shards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shards.iter().map(|(shard, served)| (*shard, served.committer.counters())).collect()
    }

    /// No segment is held open for questions any more.
    pub(crate) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Answers questions.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    pub(crate) metadata: Metadata,
    pub(crate) cores: Cores,
    pub(crate) shards: Arc<ShardReaders>,
}

type Answered = Result<Frame, Failed>;

impl ControlPlane {
    pub(crate) async fn accept(self, incoming: QuicIncoming, admission: Arc<dyn Admission>) {
        // A failed handshake is logged where it fails.
        if let Ok(connection) = incoming.establish(&*admission).await {
            self.serve(connection).await;
        }
    }

    async fn serve(self, connection: Connection) {
        let is_node = speaks_for_a_node(&connection);
        while let Ok((kind, lane)) = connection.accept_lane().await {
            let (tx, rx) = lane.split();
            let this = self.clone();
            match kind {
                LaneKind::Control => drop(tokio::spawn(this.answer_lane(tx, rx, Self::answer))),
                LaneKind::Raft if is_node => drop(tokio::spawn(this.answer_lane(tx, rx, Self::answer_raft))),
                LaneKind::Liveness if is_node => drop(tokio::spawn(this.serve_liveness(tx, rx))),
                kind => {
                    let why = format!("a lane for {kind:?} is not served on this connection, or not for this peer");
                    let _ = tx.send(Failed::new(ErrorCode::Unsupported, why).to_frame(0, Payload::empty()));
                }
            }
        }
    }

    /// Answers what comes in on a lane, in any order.
    async fn answer_lane<F>(self, tx: LaneSender, mut rx: LaneReceiver, answer: fn(Self, Frame) -> F)
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        while let Ok(frame) = rx.recv().await {
            let slot = slots.clone().acquire_owned().await.expect("nobody closes the semaphore");
            if tx.ready().await.is_err() {
                return;
            }
            let (this, tx, corr) = (self.clone(), tx.clone(), frame.corr);
            tokio::spawn(async move {
                let frame = answer(this, frame).await.unwrap_or_else(|failed| failed.to_frame(corr, Payload::empty()));
                // Nobody waits any more.
                let _ = tx.send(frame);
                drop(slot);
            });
        }
    }

    async fn answer(self, frame: Frame) -> Answered {
        let corr = frame.corr;
        if Query::is(&frame) {
            let Query { freshness } = understood(&frame)?;
            let asked = frame.payload.into_contiguous();
            let (revision, answer) =
                self.metadata.handle_query(freshness, &asked).await.map_err(|error| error.to_failed())?;
            Ok(Answer { revision }.to_frame(corr, answer.into()))
        } else if Propose::is(&frame) {
            let Propose { request } = understood(&frame)?;
            let command = frame.payload.into_contiguous();
            let (revision, response) =
                self.metadata.handle_propose(request, command).await.map_err(|error| error.to_failed())?;
            Ok(Proposed { revision }.to_frame(corr, response.into()))
        } else if GetTail::is(&frame) {
            let GetTail { partition } = understood(&frame)?;
            let tail =
                self.cores.of_partition(partition).tail(partition).await.ok_or_else(|| not_sequenced(partition))?;
            Ok(tail.to_frame(corr, Payload::empty()))
        } else if DescribeBlock::is(&frame) {
            let described = self.describe(understood(&frame)?).await?;
            Ok(described.to_frame(corr, Payload::empty()))
        } else if FindTime::is(&frame) {
            let found = self.find_time(understood(&frame)?).await?;
            Ok(found.to_frame(corr, Payload::empty()))
        } else {
            let kind = frame.kind;
            Err(Failed::new(ErrorCode::Unsupported, format!("a message of kind {kind} is no question for a node")))
        }
    }

    async fn answer_raft(self, frame: Frame) -> Answered {
        let Raft { rpc } = understood(&frame)?;
        let answer =
            self.metadata.handle_raft(rpc, frame.payload.into_contiguous()).await.map_err(|error| error.to_failed())?;
        Ok(RaftAnswer { rpc }.to_frame(frame.corr, answer.into()))
    }

    /// Hears heartbeats, and tells who lives whenever that changes.
    async fn serve_liveness(self, tx: LaneSender, mut rx: LaneReceiver) {
        let mut updates = self.metadata.liveness_updates();
        loop {
            let said = tokio::select! {
                frame = rx.recv() => match frame {
                    Ok(frame) => self.hear_heartbeat(&frame),
                    Err(_) => return,
                },
                changed = updates.changed() => match changed {
                    Ok(()) => updates.borrow_and_update().to_frame(0, Payload::empty()),
                    Err(_) => return,
                },
            };
            if tx.send(said).is_err() {
                return;
            }
        }
    }

    fn hear_heartbeat(&self, frame: &Frame) -> Frame {
        let heard = understood::<Heartbeat>(frame)
            .and_then(|heartbeat| self.metadata.handle_heartbeat(&heartbeat).map_err(|error| error.to_failed()));
        match heard {
            Ok(liveness) => Liveness::to_frame(&liveness, frame.corr, Payload::empty()),
            Err(failed) => failed.to_frame(frame.corr, Payload::empty()),
        }
    }

    async fn describe(&self, asked: DescribeBlock) -> Result<BlockDescribed, Failed> {
        let shards = self.shards.all();
        let look = move || {
            let describe = |(shard, reader): (ShardRef, Reader)| match reader.describe(asked.partition, asked.lsn) {
                Ok(Found::Block(held)) => Some(Ok(CopyDescription {
                    shard: shard.shard,
                    incarnation: shard.incarnation,
                    first: held.header.first_lsn(),
                    span: held.header.span,
                    crc: held.header.crc,
                    len: held.header.block_len() as u32,
                    placement: WirePlacement::from(&held.placement),
                })),
                Ok(Found::Damaged | Found::Nothing) => None,
                Err(error) => Some(Err(unreadable(shard.shard, &error))),
            };
            shards.into_iter().filter_map(describe).collect::<Result<Vec<_>, _>>()
        };
        Ok(BlockDescribed { copies: away(look).await? })
    }

    async fn find_time(&self, asked: FindTime) -> Result<TimeFound, Failed> {
        let FindTime { shard, incarnation, partition, from, timestamp } = asked;
        let Some((known, reader)) = self.shards.get(shard) else {
            return Ok(TimeFound { status: ReadStatus::Disabled, lsn: None });
        };
        if known.incarnation != incarnation {
            return Ok(TimeFound { status: ReadStatus::Incarnation, lsn: None });
        }
        let look = move || reader.find_time(partition, from, timestamp).map_err(|error| unreadable(shard, &error));
        Ok(TimeFound { status: ReadStatus::Ok, lsn: away(look).await? })
    }
}

/// Looks at the disk, where waiting holds nobody up.
async fn away<T: Send + 'static>(look: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
    let stopping = |_| Failed::new(ErrorCode::Unavailable, "the node is stopping");
    spawn_blocking(look).await.map_err(stopping)?
}

fn unreadable(shard: ShardId, error: &ReadError) -> Failed {
    tracing::error!(%shard, %error, "cannot read");
    Failed::new(ErrorCode::Internal, format!("shard {shard}: {error}"))
}

fn understood<M: Message>(frame: &Frame) -> Result<M, Failed> {
    M::from_frame(frame).map_err(|error| {
        let code =
            if matches!(error, MessageError::Version { .. }) { ErrorCode::Unsupported } else { ErrorCode::Invalid };
        Failed::new(code, error.to_string())
    })
}
