//! Nodesets that were chosen before, for as long as the shards are the same: to draw one costs some ten microseconds,
//! and when a node is lost, thousands of partitions get new epochs at once.
//!
//! What is remembered follows from the shards and the attributes alone, so a replica that has forgotten it chooses the
//! same.

use std::sync::Arc;

use dlog_proto::{Member, Nodeset, PartitionUid, Replication};

use super::interned::{Interned, fingerprint};
use super::shared_map::SharedMap;
use crate::placement::{NotEnough, Pool, default_nodeset_size, placement_group};

/// Different replications that are remembered; with more, all is forgotten.
const REPLICATIONS_MAX: usize = 64;

#[derive(Debug, Clone, Default)]
pub(super) struct ChosenNodesets {
    shards: Arc<Vec<Member>>,
    replications: Arc<Vec<Replication>>,
    /// By place of the replication, size and placement group; with the fingerprint.
    chosen: SharedMap<(usize, u8, u64), (u64, Arc<Nodeset>)>,
}

/// What a batch needs to draw nodesets, made when the first one has to be drawn; one per replication.
pub(super) struct Pools<'a> {
    shards: &'a [Member],
    pools: Vec<(usize, Result<Pool<'a>, NotEnough>)>,
}

impl<'a> Pools<'a> {
    pub(super) fn new(shards: &'a [Member]) -> Self {
        Self { shards, pools: Vec::new() }
    }

    fn get(&mut self, at: usize, replication: &Replication) -> Result<&Pool<'a>, NotEnough> {
        let place = self.pools.iter().position(|(known, _)| *known == at).unwrap_or_else(|| {
            self.pools.push((at, Pool::new(self.shards, replication)));
            self.pools.len() - 1
        });
        self.pools[place].1.as_ref().map_err(|short| *short)
    }
}

impl ChosenNodesets {
    /// Forgets what was chosen from other shards. Gives the shards to make [`Pools`] of.
    pub(super) fn set_shards(&mut self, shards: Vec<Member>) -> Arc<Vec<Member>> {
        if *self.shards != shards || self.replications.len() > REPLICATIONS_MAX {
            *self = Self { shards: Arc::new(shards), ..Self::default() };
        }
        self.shards.clone()
    }

    /// The number of the nodeset of a new epoch, with one use more.
    pub(super) fn acquire(
        &mut self,
        nodesets: &mut Interned<Nodeset>,
        pools: &mut Pools<'_>,
        uid: PartitionUid,
        replication: &Replication,
        size: Option<u8>,
    ) -> Result<u32, NotEnough> {
        let at = self.replications.iter().position(|known| known == replication).unwrap_or_else(|| {
            Arc::make_mut(&mut self.replications).push(replication.clone());
            self.replications.len() - 1
        });
        let size = size.unwrap_or_else(|| default_nodeset_size(replication));
        // A nodeset of all shards is the same for all groups.
        let group = if usize::from(size) >= self.shards.len() { 0 } else { placement_group(uid) };
        let key = (at, size, group);
        if let Some((fingerprint, nodeset)) = self.chosen.get(&key) {
            return Ok(nodesets.acquire_shared(*fingerprint, nodeset));
        }
        let nodeset = Arc::new(pools.get(at, replication)?.choose(group, Some(size)));
        let fingerprint = fingerprint(&*nodeset);
        let number = nodesets.acquire_shared(fingerprint, &nodeset);
        let kept = nodesets.get(number).expect("acquired above").clone();
        self.chosen.insert(key, (fingerprint, kept));
        Ok(number)
    }
}
