//! Nodes and their shards: who they are, where they stand, which disk is behind each shard.
//!
//! INV-INCARNATION: incarnations come from one counter and are never given twice, so a disk that was wiped or replaced
//! is never taken for the one before it (trap C4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dlog_proto::{Incarnation, Location, Member, NodeId, ProcessId, ShardId};
use serde::{Deserialize, Serialize};

use super::State;
use super::command::{Damaged, RegisterNode, Roles, ShardRegistration};
use super::errors::{DamagedError, RegisterError};
use super::response::{Registered, RegisteredShard};

pub const SHARDS_PER_NODE_MAX: usize = 256;
pub(super) const ADDRESS_LEN_MAX: usize = 255;
/// Replaced disks that a shard is remembered to have had.
const LOST_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Where clients and peers reach it, `host:port`.
    pub address: String,
    pub http: String,
    pub roles: Roles,
    pub location: Location,
    /// Its last start: what an earlier process asks for is refused.
    pub process: ProcessId,
    pub cores: u16,
    pub weight: u16,
    /// Revision of its last registration.
    pub registered_at: u64,
    pub shards: BTreeMap<u16, ShardInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    pub incarnation: Incarnation,
    pub weight: u16,
    pub state: ShardState,
    /// Whether the node's last start has it. What is gone from a node takes part in no new epoch.
    pub served: bool,
    /// For epochs activated before this revision, what the shard lacks proves nothing if their log is write-cached
    /// (trap C2). 0 if it never lost anything.
    pub incomplete_before: u64,
    /// For epochs activated before this revision, the shard may lack anything that it was given: its log was damaged (trap C15).
    pub damaged_before: u64,
    /// Disks that were behind this shard before, with the revisions at which they were replaced: what old nodesets name
    /// by these incarnations is lost.
    pub lost: Vec<(Incarnation, u64)>,
}

/// Whether a shard takes part in new epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ShardState {
    #[default]
    Enabled,
    /// Serves reads; takes part in no new epoch.
    Disabled,
    /// As disabled, and its records are being copied elsewhere.
    Draining,
}

impl NodeInfo {
    /// Its shards that take part in new epochs; `node` is its id.
    pub fn writable_shards(&self, node: NodeId) -> impl Iterator<Item = Member> {
        let writable = |shard: &ShardInfo| shard.state == ShardState::Enabled && shard.served && shard.weight > 0;
        let shards = self.shards.iter().filter(move |(_, shard)| self.roles.storage && writable(shard));
        shards.map(move |(index, shard)| self.member(node, *index, shard))
    }

    /// What a shard is as a member of a nodeset.
    fn member(&self, node: NodeId, index: u16, shard: &ShardInfo) -> Member {
        let (incarnation, weight) = (shard.incarnation, shard.weight);
        Member { shard: ShardId { node, shard: index }, incarnation, location: self.location.clone(), weight }
    }
}

impl State {
    /// The shards from which nodesets of new epochs are drawn.
    pub fn writable_shards(&self) -> Vec<Member> {
        self.nodes.iter().flat_map(|(node, info)| info.writable_shards(*node)).collect()
    }

    /// Whether `incarnation` of a shard was replaced by another disk: what it held is lost.
    pub fn is_lost(&self, shard: ShardId, incarnation: Incarnation) -> bool {
        let info = self.nodes.get(&shard.node).and_then(|node| node.shards.get(&shard.shard));
        info.is_some_and(|info| info.incarnation != incarnation)
    }

    pub(super) fn register_node(&mut self, command: RegisterNode) -> Result<Registered, RegisterError> {
        let cluster = self.cluster.ok_or(RegisterError::NoCluster)?.id;
        let node = command.node;
        let old = self.nodes.get(&node).cloned();
        check(&command, old.as_deref())?;
        let mut shards = old.map(|old| old.shards.clone()).unwrap_or_default();
        shards.values_mut().for_each(|shard| shard.served = false);
        let mut registered = Vec::with_capacity(command.shards.len());
        for registration in &command.shards {
            let shard = self.register_shard(shards.remove(&registration.index), registration, command.weight);
            let &ShardInfo { incarnation, incomplete_before, damaged_before, .. } = &shard;
            let index = registration.index;
            registered.push(RegisteredShard { index, incarnation, incomplete_before, damaged_before });
            shards.insert(registration.index, shard);
        }
        let RegisterNode { address, http, roles, location, process, cores, weight, .. } = command;
        let registered_at = self.revision;
        let info = NodeInfo { address, http, roles, location, process, cores, weight, registered_at, shards };
        Arc::make_mut(&mut self.nodes).insert(node, Arc::new(info));
        self.touched.nodes.insert(node);
        Ok(Registered { cluster, shards: registered })
    }

    pub(super) fn note_damage(&mut self, command: Damaged) -> Result<u64, DamagedError> {
        let (Damaged { shard, incarnation }, revision) = (command, self.revision);
        let known = self.nodes.get(&shard.node).and_then(|info| info.shards.get(&shard.shard));
        if known.is_none_or(|known| known.incarnation != incarnation) {
            return Err(DamagedError::NotRegistered { shard, incarnation });
        }
        let info = Arc::make_mut(&mut self.nodes).get_mut(&shard.node).map(Arc::make_mut);
        if let Some(known) = info.and_then(|info| info.shards.get_mut(&shard.shard)) {
            known.damaged_before = revision;
        }
        self.touched.nodes.insert(shard.node);
        Ok(revision)
    }

    fn register_shard(&mut self, old: Option<ShardInfo>, asked: &ShardRegistration, weight: u16) -> ShardInfo {
        let revision = self.revision;
        let mut shard = old.unwrap_or_else(|| ShardInfo {
            incarnation: Incarnation::default(),
            weight,
            state: ShardState::Enabled,
            served: true,
            incomplete_before: 0,
            damaged_before: 0,
            lost: Vec::new(),
        });
        (shard.weight, shard.served) = (weight, true);
        if asked.incarnation.is_none() {
            if shard.incarnation != Incarnation::default() {
                shard.lost.push((shard.incarnation, revision));
                let forget = shard.lost.len().saturating_sub(LOST_MAX);
                shard.lost.drain(..forget);
            }
            let next = self.counters.incarnation.0.checked_add(1).expect("fewer than 2^32 disks are ever formatted");
            self.counters.incarnation = Incarnation(next);
            shard.incarnation = self.counters.incarnation;
            // A fresh disk has lost nothing that it was ever given.
            (shard.incomplete_before, shard.damaged_before) = (0, 0);
        } else if asked.unclean {
            shard.incomplete_before = revision;
        }
        shard
    }
}

fn check(command: &RegisterNode, old: Option<&NodeInfo>) -> Result<(), RegisterError> {
    let node = command.node;
    if node == NodeId(0) {
        return Err(RegisterError::NodeZero);
    }
    let is_address = |text: &str| {
        text.len() <= ADDRESS_LEN_MAX
            && text.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok())
    };
    let bad = [&command.address, &command.http].into_iter().zip([false, true]);
    for (address, may_be_empty) in bad {
        if !(is_address(address) || may_be_empty && address.is_empty()) {
            return Err(RegisterError::Address(address.chars().take(80).collect()));
        }
    }
    if command.shards.len() > SHARDS_PER_NODE_MAX {
        return Err(RegisterError::TooManyShards(command.shards.len() as u32));
    }
    let mut seen = BTreeSet::new();
    for &ShardRegistration { index, incarnation, .. } in &command.shards {
        let shard = ShardId { node, shard: index };
        if !seen.insert(index) {
            return Err(RegisterError::DuplicateShard(shard));
        }
        let current = old.and_then(|old| old.shards.get(&index)).map(|shard| shard.incarnation);
        match (incarnation, current) {
            (Some(found), Some(current)) if found != current => {
                return Err(RegisterError::OtherDisk { shard, found, current });
            }
            (Some(found), None) => return Err(RegisterError::ForeignDisk { shard, found }),
            _ => {}
        }
    }
    Ok(())
}
