//! What a core is told. Everything comes through one queue, so a core's state needs no lock.

use std::sync::Arc;

use bytes::Bytes;
use dlog_metadata::state::NodeInfo;
use dlog_proto::producer::ActiveProducer;
use dlog_proto::transport::{Connection, LaneKind, LaneSender, QuicIncoming};
use dlog_proto::wire::{Acks, AppendError, AppendOk, EpochEnd, Frame, Tail};
use dlog_proto::{Epoch, EpochTable, Lsn, NodeId, PartitionUid, ShardId, ShardRef, Time};
use dlog_storage_node::entry::PartitionImage;
use dlog_storage_node::read::{Chunk, ReadError};
use tokio::sync::{Notify, mpsc, oneshot};

use super::links::LinkId;
use super::shard::NewShard;

/// Tells one lane from another, for as long as the process lives.
pub(super) type LaneNumber = u64;

#[derive(Debug)]
pub(crate) enum Input {
    /// Somebody wants to connect; the connection is to live on this core.
    Incoming(Box<QuicIncoming>),
    /// Another part of this process has connected.
    Connected(Connection),
    LaneOpened {
        lane: LaneNumber,
        kind: LaneKind,
        is_node: bool,
        tx: LaneSender,
    },
    LaneFrames {
        lane: LaneNumber,
        batch: FrameBatch,
    },
    LaneClosed(LaneNumber),

    /// A lane to a core of a node that keeps shards.
    LinkUp {
        link: LinkId,
        tx: LaneSender,
    },
    LinkFrames {
        link: LinkId,
        batch: FrameBatch,
    },
    LinkDown(LinkId),

    /// The nodes that live, as registered.
    Nodes(Vec<(NodeId, Arc<NodeInfo>)>),
    /// A second has passed.
    Tick,

    Sequencing(SequencingInput),

    NewShard(Box<NewShard>),
    /// All shards of this node have been handed over.
    AllShards,
    Shard(ShardId, ShardInput),
    /// The metadata tier has let go of these partitions up to there.
    Trimmed(Vec<(PartitionUid, Lsn)>),
    /// Partitions of logs that were deleted for good.
    Erase(Vec<PartitionUid>),
    /// Closes the shards; the core ends when that is done.
    Stop(oneshot::Sender<()>),
}

/// For a core's sequencers.
#[derive(Debug)]
pub(crate) enum SequencingInput {
    /// Whether this node should sequence these partitions.
    Assigned(Vec<(PartitionUid, bool)>),
    /// Whether what native clients append to these partitions gets the time at which it is appended.
    AppendTime(Vec<(PartitionUid, bool)>),
    /// See [`Host::handle_lease`](dlog_sequencer::Host::handle_lease).
    Lease(Time),
    /// Begin new epochs of these, if they are sequenced here: their logs are replicated otherwise by now.
    Renew(Vec<PartitionUid>),
    /// Partitions of which another process has a later epoch.
    Superseded(Vec<(PartitionUid, Epoch)>),

    /// The metadata tier has answered.
    Activated(Vec<(PartitionUid, Option<EpochTable>)>),
    Decided(Vec<(PartitionUid, EpochEnd)>),
    /// Because a later epoch exists.
    DecisionRefused {
        partition: PartitionUid,
        by: Epoch,
    },
    MissingRecorded(Vec<(PartitionUid, Epoch, ShardRef)>),
    Covered(Vec<(PartitionUid, Epoch)>),

    Append(LocalAppend),
    GetTail {
        partition: PartitionUid,
        reply: oneshot::Sender<Option<Tail>>,
    },
    GetUsable {
        partition: PartitionUid,
        reply: oneshot::Sender<Vec<ShardRef>>,
    },
    GetProducers {
        partition: PartitionUid,
        reply: oneshot::Sender<Option<Vec<ActiveProducer>>>,
    },
}

/// For one of a core's shards.
#[derive(Debug)]
pub(crate) enum ShardInput {
    /// Damage was found in its log.
    Damaged,
    SealAnew(SealAnew),
    /// Somebody wants to hear how far the shard knows a partition to be released.
    WatchReleased(PartitionUid),
    /// Its commit thread has something to tell.
    Progress,
    Loaded(Vec<(PartitionUid, Result<Option<PartitionImage>, ReadError>)>),
    ReadDone {
        lane: LaneNumber,
        version: u32,
        chunk: Result<Chunk, ReadError>,
    },
}

impl From<SequencingInput> for Input {
    fn from(input: SequencingInput) -> Self {
        Self::Sequencing(input)
    }
}

/// What came on a lane. A lane has at most one batch in the inbox: its task goes on when it is told to.
#[derive(Debug)]
pub(crate) struct FrameBatch {
    pub(super) frames: Vec<Frame>,
    pub(super) go_on: Arc<Notify>,
}

/// An append of another part of this process.
#[derive(Debug)]
pub(crate) struct LocalAppend {
    pub(crate) partition: PartitionUid,
    pub(crate) acks: Acks,
    pub(crate) with_offset: bool,
    /// See [`AppendRequest`](dlog_sequencer::AppendRequest).
    pub(crate) append_time: bool,
    pub(crate) batch: Bytes,
    pub(crate) reply: oneshot::Sender<Result<AppendOk, AppendError>>,
}

/// All cores of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cores(Arc<[CoreHandle]>);

impl Cores {
    /// With what each is told.
    pub(crate) fn new(count: u16) -> (Self, Vec<mpsc::UnboundedReceiver<Input>>) {
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| CoreHandle::new()).unzip();
        (Self(handles.into()), inboxes)
    }

    pub(crate) fn count(&self) -> u16 {
        self.0.len() as u16
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &CoreHandle> {
        self.0.iter()
    }

    /// By its number, which may come from a peer: modulo the cores that there are.
    pub(crate) fn at(&self, core: u16) -> &CoreHandle {
        &self.0[usize::from(core % self.count())]
    }

    pub(crate) fn of_partition(&self, partition: PartitionUid) -> &CoreHandle {
        self.at(partition.core(self.count()))
    }

    pub(crate) fn of_shard(&self, shard: ShardId) -> &CoreHandle {
        self.at(shard.core(self.count()))
    }

    pub(crate) fn tell_all<I: Into<Input>>(&self, input: impl Fn() -> I) {
        self.iter().for_each(|core| core.tell(input()));
    }
}

/// A core, for those who want to tell it something. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CoreHandle {
    inbox: mpsc::UnboundedSender<Input>,
}

impl CoreHandle {
    /// What waits in the inbox is bounded by those who send: a batch per lane, an answer per question.
    fn new() -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (inbox, inputs) = mpsc::unbounded_channel();
        (Self { inbox }, inputs)
    }

    /// A core that has ended hears nothing, and has nobody to answer.
    pub(crate) fn tell(&self, input: impl Into<Input>) {
        let _ = self.inbox.send(input.into());
    }

    pub(crate) async fn tail(&self, partition: PartitionUid) -> Option<Tail> {
        let (reply, answer) = oneshot::channel();
        self.tell(SequencingInput::GetTail { partition, reply });
        answer.await.ok().flatten()
    }

    /// The members of its nodeset that a partition's sequencer can store on now; none if it is not sequenced here.
    pub(crate) async fn usable_members(&self, partition: PartitionUid) -> Vec<ShardRef> {
        let (reply, answer) = oneshot::channel();
        self.tell(SequencingInput::GetUsable { partition, reply });
        answer.await.unwrap_or_default()
    }

    /// The producers that a partition's sequencer knows; `None` if it is not sequenced here, or what they wrote in earlier
    /// epochs is not known yet.
    pub(crate) async fn producers(&self, partition: PartitionUid) -> Option<Vec<ActiveProducer>> {
        let (reply, answer) = oneshot::channel();
        self.tell(SequencingInput::GetProducers { partition, reply });
        answer.await.ok().flatten()
    }

    /// Returns when the core's shards are closed.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.tell(Input::Stop(done));
        let _ = stopped.await;
    }
}

/// What it takes to serve stores again after damage.
#[derive(Debug)]
pub(crate) struct SealAnew {
    /// Of every partition.
    pub(crate) newest: Vec<(PartitionUid, Epoch)>,
    /// For epochs activated before this revision, what the shard lacks proves nothing.
    pub(crate) damaged_before: u64,
    /// Told when all of them are sealed, durably.
    pub(crate) done: oneshot::Sender<()>,
}
