//! The state as bytes: what is needed to make it again, and nothing that follows from the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use dlog_proto::{NodeId, Nodeset, PartitionUid, Replication};
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::chosen::ChosenNodesets;
use super::codec::{CodecError, decode, encode};
use super::interned::{Interned, InternedImage};
use super::logs::{DeletedLog, LogInfo, LogUid};
use super::nodes::NodeInfo;
use super::partition::Partition;
use super::requests::Requests;
use super::shared_map::SharedMap;
use super::under_replicated::UnderReplicated;
use super::{ClusterInfo, Counters, State};

#[derive(Serialize, Deserialize)]
struct Image {
    revision: u64,
    cluster: Option<ClusterInfo>,
    counters: Counters,
    nodes: Arc<BTreeMap<NodeId, Arc<NodeInfo>>>,
    logs: SharedMap<LogUid, Arc<LogInfo>>,
    nodesets: InternedImage<Nodeset>,
    replications: InternedImage<Replication>,
    partitions: SharedMap<PartitionUid, Arc<Partition>>,
    under_replicated: SharedMap<PartitionUid, Arc<UnderReplicated>>,
    deleted: Arc<BTreeMap<(u64, LogUid), Arc<DeletedLog>>>,
    requests: Requests,
}

impl State {
    pub fn to_snapshot(&self) -> Vec<u8> {
        // A clone of the maps is cheap; the bytes are made once.
        let image = Image {
            revision: self.revision,
            cluster: self.cluster,
            counters: self.counters,
            nodes: self.nodes.clone(),
            logs: self.logs.clone(),
            nodesets: self.nodesets.image(),
            replications: self.replications.image(),
            partitions: self.partitions.clone(),
            under_replicated: self.under_replicated.clone(),
            deleted: self.deleted.clone(),
            requests: self.requests.clone(),
        };
        encode(&image)
    }

    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, CodecError> {
        let image: Image = decode(bytes)?;
        let invalid = |reason: &str| CodecError::Invalid(reason.to_owned());
        let mut state = Self {
            revision: image.revision,
            cluster: image.cluster,
            counters: image.counters,
            nodes: image.nodes,
            logs: image.logs,
            partitions: image.partitions,
            nodesets: Interned::from_image(image.nodesets).map_err(invalid)?,
            replications: Interned::from_image(image.replications).map_err(invalid)?,
            under_replicated: image.under_replicated,
            deleted: image.deleted,
            requests: image.requests,
            names: SharedMap::default(),
            namespaces: SharedMap::default(),
            chosen: ChosenNodesets::default(),
            touched: Changes::default(),
        };
        state.derive()?;
        state.check_invariants().map_err(CodecError::Invalid)?;
        Ok(state)
    }

    /// Makes what follows from the rest.
    fn derive(&mut self) -> Result<(), CodecError> {
        for (uid, info) in self.logs.clone().iter() {
            if self.names.contains_key(&info.log) {
                return Err(CodecError::Invalid(format!("two logs are named {}", info.log)));
            }
            self.add_name(&info.log, *uid);
        }
        let rows = self.partitions.iter().flat_map(|(_, partition)| &partition.epochs);
        for row in rows {
            if self.nodesets.get(row.nodeset).is_none() || self.replications.get(row.replication).is_none() {
                return Err(CodecError::Invalid(format!("{} names a nodeset that is not there", row.epoch)));
            }
            self.nodesets.acquire_again(row.nodeset);
            self.replications.acquire_again(row.replication);
        }
        Ok(())
    }
}
