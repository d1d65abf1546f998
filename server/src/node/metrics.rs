//! What a node counts, as scrapers see it. Cores count for themselves; everything else is asked when it is shown.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dlog_metadata::Metadata;
use dlog_storage_node::SyncReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::control::ShardReaders;

/// Counted by one core, read by anyone.
#[derive(Debug, Default)]
pub(crate) struct CoreCounters {
    pub(crate) append_batches: AtomicU64,
    pub(crate) append_bytes: AtomicU64,
    pub(crate) appends_acknowledged: AtomicU64,
    pub(crate) appends_refused: AtomicU64,
    pub(crate) read_blocks: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    /// These two as of the last second.
    pub(crate) sequencers: AtomicU64,
    pub(crate) lanes: AtomicU64,
}

impl CoreCounters {
    /// Only the core itself adds: no two threads ever do.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }
}

/// What a node that runs can be asked.
pub(crate) struct Sources {
    pub(crate) metadata: Metadata,
    pub(crate) cores: Vec<Arc<CoreCounters>>,
    pub(crate) shards: Arc<ShardReaders>,
}

/// Empty until the node runs.
#[derive(Clone, Default)]
pub(crate) struct NodeMetrics(Arc<OnceLock<Sources>>);

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeMetrics")
    }
}

impl NodeMetrics {
    pub(crate) fn set(&self, sources: Sources) {
        let _ = self.0.set(sources);
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(sources) = self.0.get() else { return Ok(()) };
        let mut out = Out { encoder: &mut encoder };
        out.cores(&sources.cores)?;
        out.shards(&sources.shards)?;
        out.metadata(&sources.metadata)
    }
}

struct Out<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Out<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.encoder.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    fn cores(&mut self, cores: &[Arc<CoreCounters>]) -> fmt::Result {
        let sum = |of: fn(&CoreCounters) -> &AtomicU64| {
            cores.iter().map(|core| of(core).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
        };
        self.counter("append_batches", "Batches that came to sequencers here", sum(|core| &core.append_batches))?;
        self.counter("append_bytes", "Bytes of those batches", sum(|core| &core.append_bytes))?;
        let acknowledged = sum(|core| &core.appends_acknowledged);
        self.counter("appends_acknowledged", "Batches that were acknowledged", acknowledged)?;
        self.counter(
            "appends_refused",
            "Batches that were refused, also to be retried",
            sum(|core| &core.appends_refused),
        )?;
        self.counter("read_blocks", "Blocks that shards here sent to readers", sum(|core| &core.read_blocks))?;
        self.counter("read_bytes", "Bytes of those blocks", sum(|core| &core.read_bytes))?;
        self.gauge("sequencers", "Partitions that are sequenced here", sum(|core| &core.sequencers))?;
        self.gauge("lanes", "Open lanes for records", sum(|core| &core.lanes))
    }

    fn shards(&mut self, shards: &ShardReaders) -> fmt::Result {
        let values = shards.counters();
        let labels = |shard: &dlog_proto::ShardId| [("shard", shard.to_string())];
        let mut family = |name: &str, help: &str, of: fn(&dlog_storage_node::CounterValues) -> u64| {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut descriptor = self.encoder.encode_descriptor(name, help, None, kind)?;
            values.iter().try_for_each(|(shard, values)| {
                ConstCounter::new(of(values)).encode(descriptor.encode_family(&labels(shard))?)
            })
        };
        family("shard_entries", "Entries written: blocks, placements, seals, ends", |values| values.entries)?;
        family("shard_payload_bytes", "Bytes of blocks written", |values| values.payload_bytes)?;
        family("shard_written_bytes", "Bytes given to the disk for the log", |values| values.written_bytes)?;
        family("shard_zeroed_bytes", "Zeros written ahead of the log", |values| values.zeroed_bytes)?;
        family("shard_groups", "Writes that those entries shared", |values| values.groups)?;
        family("shard_damaged_blocks", "Damaged blocks met by readers", |values| values.damaged_blocks)?;
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut syncs = self.encoder.encode_descriptor("shard_syncs", "Syncs of the log, by reason", None, kind)?;
        for (shard, values) in &values {
            for (reason, count) in SyncReason::ALL.iter().zip(values.syncs) {
                let labels = [("shard", shard.to_string()), ("reason", format!("{reason:?}").to_lowercase())];
                ConstCounter::new(count).encode(syncs.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn metadata(&mut self, metadata: &Metadata) -> fmt::Result {
        let (status, view, liveness) = (metadata.status(), metadata.view(), metadata.liveness());
        self.gauge("metadata_is_leader", "Whether this node leads the metadata tier", u64::from(metadata.is_leader()))?;
        self.gauge("metadata_term", "Raft term", status.term)?;
        self.gauge("metadata_revision", "Revision of this node's replica", status.applied)?;
        self.gauge("metadata_log_bytes", "Bytes of Raft entries after the last snapshot", status.log_bytes)?;
        self.gauge("nodes_registered", "Nodes that are known", view.nodes().count() as u64)?;
        self.gauge("nodes_alive", "Nodes that live", liveness.alive.len() as u64)?;
        self.gauge("partitions", "Partitions of all logs", view.partitions_len() as u64)?;
        let missing = view.all_under_replicated().count() as u64;
        self.gauge(
            "partitions_under_replicated",
            "Partitions of which copies are missing, as far as is on record",
            missing,
        )
    }
}
