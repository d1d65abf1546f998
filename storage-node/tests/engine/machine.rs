//! A simulated machine with one shard on it.

use std::sync::Arc;

use dlog_proto::{ClusterId, Incarnation, ShardId};
use dlog_storage_node::disk::SimulatedDisk;
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::{Engine, EngineConfig, Identity, OpenError, Recovered, Start};
use fastrand::Rng;

pub(crate) fn identity() -> Identity {
    Identity { cluster: ClusterId(7), shard: ShardId::new(1, 0), incarnation: Incarnation(1) }
}

pub(crate) struct Machine {
    pub(crate) disk: SimulatedDisk,
    pub(crate) kv: MemoryKv,
    pub(crate) boot: u128,
    pub(crate) config: EngineConfig,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let config = EngineConfig { checkpoint_bytes: 30_000, zero_ahead_bytes: 12 << 10, ..EngineConfig::small() };
        Self { disk: SimulatedDisk::new(), kv: MemoryKv::new(), boot: 1, config }
    }

    /// An independent copy.
    pub(crate) fn fork(&self) -> Self {
        Self { disk: self.disk.fork(), kv: self.kv.fork(), boot: self.boot, config: self.config }
    }

    /// The process is killed. What it had written to files is there; what the index kept in memory is not.
    pub(crate) fn kill(&self) {
        self.disk.kill();
        self.kv.crash(&mut Rng::with_seed(self.disk.bytes("marker").map_or(0, |bytes| bytes.len() as u64)));
    }

    /// Power is lost and comes back.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        self.disk.crash(rng);
        self.kv.crash(rng);
        self.boot += 1;
    }

    pub(crate) fn open_as(&self, identity: Identity) -> Result<(Engine, Recovered), OpenError> {
        let start = Start { boot_id: self.boot, now_ms: 0, random: 99 };
        Engine::open(self.config, Arc::new(self.disk.clone()), &self.kv, identity, start)
    }

    pub(crate) fn try_open(&self) -> Result<(Engine, Recovered), OpenError> {
        self.open_as(identity())
    }

    pub(crate) fn open(&self) -> (Engine, Recovered) {
        self.try_open().expect("the directory can be opened")
    }
}
