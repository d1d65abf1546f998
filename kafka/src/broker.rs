//! What the gateway needs of the node that it is part of.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dlog_metadata::state::{Command, Response, State};
use dlog_proto::block::Block;
use dlog_proto::producer::ActiveProducer;
use dlog_proto::wire::{Acks, AppendError, AppendOk, Liveness, Tail};
use dlog_proto::{Lsn, NodeId, PartitionUid, ShardId};
use tokio::sync::watch;

/// Something that is under way.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A command was not carried out, or it is not known whether it was: the metadata tier could not be reached in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata tier did not answer: {0}")]
pub struct ProposeError(pub String);

/// A shard of this node: a directory with a part of the records.
#[derive(Debug, Clone)]
pub struct LogDir {
    pub shard: ShardId,
    pub path: PathBuf,
    /// `None` if the shard is not served.
    pub usage: Option<LogDirUsage>,
}

/// What a shard takes, in bytes.
#[derive(Debug, Clone, Default)]
pub struct LogDirUsage {
    /// Of the file system, and what is left of it.
    pub total_bytes: u64,
    pub usable_bytes: u64,
    /// Of each of the partitions that were asked for and have something here.
    pub partitions: HashMap<PartitionUid, u64>,
}

/// The node around the gateway. Nothing here may block.
pub trait Broker: Send + Sync + 'static {
    fn node(&self) -> NodeId;

    /// The metadata tier's state as this node knows it.
    fn view(&self) -> Arc<State>;

    /// Every state as it comes.
    fn views(&self) -> watch::Receiver<Arc<State>>;

    fn liveness(&self) -> Liveness;

    /// Hands a record batch to the partition's sequencer on this node. The call itself puts it in line: batches of one
    /// caller for one partition keep their order, whenever the futures are polled, if at all. With `append_time` the
    /// sequencer gives the records its own time.
    fn append(
        &self,
        partition: PartitionUid,
        batch: Bytes,
        acks: Acks,
        with_offset: bool,
        append_time: bool,
    ) -> Pending<Result<AppendOk, AppendError>>;

    /// Where the partition ends, now and as it changes; `None` if it is not sequenced here. The channel closes when its
    /// sequencer goes.
    fn tail(&self, partition: PartitionUid) -> Option<watch::Receiver<Tail>>;

    /// How far the shards of this node know a partition to be released, now and as it rises, whoever sequences it;
    /// [`Lsn::ZERO`] until they have said so. `None` if none of them is in service and in the newest epoch's nodeset.
    fn released(&self, partition: PartitionUid) -> Option<watch::Receiver<Lsn>>;

    /// The nodes on which the partition's sequencer, which is on this node, can store now: those hear what is released. None
    /// if it is not sequenced here.
    fn usable_nodes(&self, partition: PartitionUid) -> Pending<BTreeSet<NodeId>>;

    /// Blocks of one epoch as the shards of this node have them: the first holds `from`, and each goes on where the one before
    /// it ends. They end at `upto`, at about so many bytes, or where these shards have a gap; none if they lack `from`. The
    /// caller knows that everything up to `upto` may be read.
    fn local_blocks(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> Pending<Vec<Block>>;

    /// The producers that the partition's sequencer knows; `None` if it is not sequenced here, or the sequencer does not know
    /// yet what its predecessors were sent.
    fn producers(&self, partition: PartitionUid) -> Pending<Option<Vec<ActiveProducer>>>;

    /// The shards of this node, and what these partitions take there.
    fn log_dirs(&self, partitions: Vec<PartitionUid>) -> Pending<Vec<LogDir>>;

    /// Has the metadata tier carry out a command, and says at which revision.
    fn propose(&self, command: Command) -> Pending<Result<(u64, Response), ProposeError>>;
}
