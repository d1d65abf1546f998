//! The Kafka gateway in this node: what it asks of the node, and the threads it runs on.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlog_client::{Client, ClientOptions};
use dlog_kafka::{Broker, Gateway, LogDir, LogDirUsage, Pending, ProposeError};
use dlog_metadata::Metadata;
use dlog_metadata::state::{Command, Response, State};
use dlog_proto::block::Block;
use dlog_proto::producer::ActiveProducer;
use dlog_proto::wire::{Acks, AppendError, AppendOk, Liveness, Tail};
use dlog_proto::{Epoch, Lsn, NodeId, PartitionUid, ShardId};
use dlog_storage_node::read::{ReadItem, Reader};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::control::ShardReaders;
use super::core::{Cores, Input, LocalAppend, ReleasedMarks, SequencingInput, ShardInput, Tails};
use super::proposer::Requests;
use super::{NodeError, SOFTWARE};
use crate::config::Config;

/// What the gateway is given of the node.
pub(super) struct NodeBroker {
    pub(super) node: NodeId,
    pub(super) metadata: Metadata,
    pub(super) cores: Cores,
    pub(super) tails: Tails,
    pub(super) released: ReleasedMarks,
    pub(super) requests: Arc<Requests>,
    /// Those that are served, and where all are.
    pub(super) shards: Arc<ShardReaders>,
    pub(super) shard_dirs: Vec<(ShardId, PathBuf)>,
}

impl Broker for NodeBroker {
    fn node(&self) -> NodeId {
        self.node
    }

    fn view(&self) -> Arc<State> {
        self.metadata.view()
    }

    fn views(&self) -> watch::Receiver<Arc<State>> {
        self.metadata.views()
    }

    fn liveness(&self) -> Liveness {
        self.metadata.liveness()
    }

    fn append(
        &self,
        partition: PartitionUid,
        batch: Bytes,
        acks: Acks,
        with_offset: bool,
        append_time: bool,
    ) -> Pending<Result<AppendOk, AppendError>> {
        let (reply, answer) = oneshot::channel();
        let append = LocalAppend { partition, acks, with_offset, append_time, batch, reply };
        self.cores.of_partition(partition).tell(SequencingInput::Append(append));
        Box::pin(async move {
            // A core that is gone sequences nothing.
            answer.await.unwrap_or(Err(AppendError::NotSequencer { node: None, epoch: Epoch::ZERO }))
        })
    }

    fn tail(&self, partition: PartitionUid) -> Option<watch::Receiver<Tail>> {
        self.tails.get(partition)
    }

    fn released(&self, partition: PartitionUid) -> Option<watch::Receiver<Lsn>> {
        let table = self.metadata.view().table(partition)?;
        let members = table.newest()?.nodeset.members().iter().map(|member| member.shard);
        let mine: Vec<_> = members.filter(|shard| shard.node == self.node && self.released.is_told(*shard)).collect();
        if mine.is_empty() {
            return None;
        }
        let (mark, is_new) = self.released.watch(partition);
        for shard in mine.into_iter().filter(|_| is_new) {
            self.cores.of_shard(shard).tell(Input::Shard(shard, ShardInput::WatchReleased(partition)));
        }
        Some(mark)
    }

    fn usable_nodes(&self, partition: PartitionUid) -> Pending<BTreeSet<NodeId>> {
        let core = self.cores.of_partition(partition).clone();
        Box::pin(async move { core.usable_members(partition).await.iter().map(|member| member.shard.node).collect() })
    }

    fn local_blocks(&self, partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> Pending<Vec<Block>> {
        let readers = self.local_members(partition, from.epoch());
        if readers.is_empty() {
            return Box::pin(std::future::ready(Vec::new()));
        }
        let read = move || local_run(&readers, partition, from, upto, bytes_max);
        Box::pin(async move { spawn_blocking(read).await.unwrap_or_default() })
    }

    fn producers(&self, partition: PartitionUid) -> Pending<Option<Vec<ActiveProducer>>> {
        let core = self.cores.of_partition(partition).clone();
        Box::pin(async move { core.producers(partition).await })
    }

    fn log_dirs(&self, partitions: Vec<PartitionUid>) -> Pending<Vec<LogDir>> {
        let dirs: Vec<_> =
            self.shard_dirs.iter().map(|(shard, path)| (*shard, path.clone(), self.shards.reader(*shard))).collect();
        let look = move || {
            let look = |(shard, path, reader): (ShardId, PathBuf, Option<Reader>)| {
                let usage = reader.and_then(|reader| {
                    let used = usage(&path, &reader, &partitions);
                    used.inspect_err(|error| tracing::error!(%shard, "cannot tell what is used: {error}")).ok()
                });
                LogDir { shard, path, usage }
            };
            dirs.into_iter().map(look).collect()
        };
        Box::pin(async move { spawn_blocking(look).await.unwrap_or_default() })
    }

    fn propose(&self, command: Command) -> Pending<Result<(u64, Response), ProposeError>> {
        let (metadata, request) = (self.metadata.clone(), self.requests.next());
        let proposed =
            async move { metadata.propose(request, &command).await.map_err(|error| ProposeError(error.to_string())) };
        let proposed: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(proposed);
        proposed
    }
}

impl NodeBroker {
    /// The members of an epoch's nodeset that are shards of this node.
    fn local_members(&self, partition: PartitionUid, epoch: Epoch) -> Vec<Reader> {
        let table = self.metadata.view().table(partition);
        let Some(entry) = table.as_ref().and_then(|table| table.epoch(epoch)) else { return Vec::new() };
        let mine = entry.nodeset.members().iter().filter(|member| member.shard.node == self.node);
        mine.filter_map(|member| self.shards.reader(member.shard)).collect()
    }
}

/// Reads on from one shard where the other one has a gap, until none has what comes next.
fn local_run(readers: &[Reader], partition: PartitionUid, from: Lsn, upto: Lsn, bytes_max: usize) -> Vec<Block> {
    let (mut blocks, mut next, mut left) = (Vec::new(), from, bytes_max);
    loop {
        let before = next;
        for reader in readers {
            if next > upto || left == 0 {
                return blocks;
            }
            let items = match reader.read(partition, next, upto, left) {
                Ok(chunk) => chunk.items,
                Err(error) => {
                    tracing::debug!(%partition, %error, "a shard of this node cannot be read");
                    continue;
                }
            };
            for item in items {
                // Others have what is damaged here.
                let ReadItem::Block(stored) = item else { break };
                let (first, last) = (stored.block.header().first_lsn(), stored.block.header().last_lsn());
                if first > next || last < next {
                    break;
                }
                left = left.saturating_sub(stored.block.bytes().len());
                next = last.next();
                blocks.push(stored.block);
            }
        }
        if next == before {
            return blocks;
        }
    }
}

/// What is used of a shard's directory, and by which of these partitions.
fn usage(path: &Path, reader: &Reader, partitions: &[PartitionUid]) -> io::Result<LogDirUsage> {
    let disk = rustix::fs::statvfs(path)?;
    let mut used = HashMap::new();
    for partition in partitions {
        let size = reader.size(*partition).map_err(io::Error::other)?;
        if size.bytes > 0 {
            used.insert(*partition, size.bytes);
        }
    }
    let (total_bytes, usable_bytes) = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize);
    Ok(LogDirUsage { total_bytes, usable_bytes, partitions: used })
}

/// The gateway while it serves, on threads of its own: neither the cores nor the control plane wait for its clients.
pub(super) struct KafkaServer {
    runtime: Option<Runtime>,
    gateway: Gateway,
}

/// How long clients may take for their last answers.
const DRAIN_TIME: Duration = Duration::from_secs(1);

impl KafkaServer {
    /// Takes the TCP port of the node, at `address`. A name that stands for this machine by several addresses ("localhost") is
    /// served at all of them that can be had: some Kafka clients try one only, and not the same one.
    pub(super) fn bind(
        config: &Config,
        address: SocketAddr,
        all: &[SocketAddr],
    ) -> Result<Vec<TcpListener>, NodeError> {
        let bind = |address: SocketAddr| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let first =
            bind(address).map_err(|error| NodeError::KafkaListen { address: config.listen.to_string(), error })?;
        let mut listeners = vec![first];
        let is_loopback = address.ip().is_loopback();
        for other in all.iter().filter(|other| is_loopback && other.ip().is_loopback() && **other != address) {
            match bind(*other) {
                Ok(listener) => listeners.push(listener),
                Err(error) => tracing::info!("Kafka clients are not served at {other}: {error}"),
            }
        }
        Ok(listeners)
    }

    pub(super) fn start(config: &Config, listeners: Vec<TcpListener>, broker: NodeBroker) -> Result<Self, NodeError> {
        let threads = usize::from(broker.cores.count());
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("kafka").enable_all().build();
        let runtime = runtime.map_err(NodeError::Thread)?;
        let _inside = runtime.enter();
        let client = Client::new(client_options(config)).map_err(|error| NodeError::KafkaClient(error.to_string()))?;
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
        let listeners = listeners.map_err(NodeError::Thread)?;
        let settings = dlog_kafka::Settings {
            auto_create_topics: config.kafka.auto_create_topics,
            partitions_default: config.kafka.partitions_default,
            replication_factor_default: config.kafka.replication_factor_default as u8,
            message_len_max: u32::try_from(config.limits.batch_bytes_max.0).unwrap_or(u32::MAX),
            connections_max: config.limits.connections_max as usize,
            connection_idle: config.kafka.connection_idle_ms.duration(),
            stall: config.kafka.stall_ms.duration(),
            ..dlog_kafka::Settings::default()
        };
        let gateway = Gateway::new(Arc::new(broker), client, settings);
        for listener in listeners {
            let gateway = gateway.clone();
            runtime.spawn(async move { gateway.serve(listener).await });
        }
        Ok(Self { runtime: Some(runtime), gateway })
    }

    /// Once what the node led is led elsewhere: those who wait are told so, and connections close.
    pub(super) async fn drain(&self) {
        let _ = timeout(DRAIN_TIME, self.gateway.drain()).await;
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        // It may be dropped where nothing may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The gateway reads as any client does, beginning with this node.
fn client_options(config: &Config) -> ClientOptions {
    let mut servers = vec![config.advertise.clone()];
    servers.extend(config.cluster_nodes.iter().map(|(_, address)| address.clone()).filter(|a| *a != config.advertise));
    let away = servers.iter().any(|address| !super::trust::is_loopback(address));
    let ca_file = away.then(|| config.tls.ca.clone());
    ClientOptions { servers, ca_file, software: format!("{SOFTWARE} kafka"), ..ClientOptions::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(address: &str) -> Option<SocketAddr> {
        TcpListener::bind(address).and_then(|listener| listener.local_addr()).ok()
    }

    #[test]
    fn a_name_of_this_machine_is_served_at_all_its_addresses() {
        let config = Config::default();
        let first = free("127.0.0.1:0").expect("there is a loopback address");
        let on = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), first.port());
        // On Linux all of 127.0.0.0/8 is this machine.
        let bound = KafkaServer::bind(&config, first, &[first, on("127.0.0.2")]).expect("it is free");
        let served: Vec<_> = bound.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
        assert_eq!(served, [first, on("127.0.0.2")]);
        assert!(KafkaServer::bind(&config, first, &[]).is_err(), "it is taken");
        drop(bound);
        let taken = TcpListener::bind(on("127.0.0.2")).expect("it is free");
        let bound = KafkaServer::bind(&config, first, &[first, taken.local_addr().expect("it is bound")]);
        assert_eq!(bound.expect("the first one is enough").len(), 1);
        // Whoever names one of several networks means that one.
        let others = KafkaServer::bind(&config, on("127.0.0.3"), &[on("192.0.2.1")]).expect("it is free");
        assert_eq!(others.len(), 1);
    }
}
