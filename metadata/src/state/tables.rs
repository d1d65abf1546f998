//! Epoch tables on their way: nodesets and replications once per message instead of once per epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use dlog_proto::{
    End, Epoch, EpochEntry, EpochTable, LogOffset, Lsn, NodeId, Nodeset, PartitionUid, ProcessId, Replication,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Epoch tables, packed while they travel. Tables that are unpacked together share their nodesets again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedTables(pub Vec<EpochTable>);

#[derive(Serialize, Deserialize)]
struct Packed {
    nodesets: Vec<Arc<Nodeset>>,
    replications: Vec<Arc<Replication>>,
    tables: Vec<PackedTable>,
}

#[derive(Serialize, Deserialize)]
struct PackedTable {
    partition: PartitionUid,
    revision: u64,
    trim: Lsn,
    covered: Epoch,
    epochs: Vec<PackedEntry>,
}

#[derive(Serialize, Deserialize)]
struct PackedEntry {
    epoch: Epoch,
    sequencer: NodeId,
    process: ProcessId,
    nodeset: u32,
    replication: u32,
    base_offset: Option<LogOffset>,
    end: Option<End>,
    activated_at: u64,
}

/// Numbers shared values by where they lie: equal ones that are not shared only cost a little more.
struct Numbering<T> {
    numbers: BTreeMap<usize, u32>,
    values: Vec<Arc<T>>,
}

impl<T> Numbering<T> {
    fn new() -> Self {
        Self { numbers: BTreeMap::new(), values: Vec::new() }
    }

    fn number(&mut self, value: &Arc<T>) -> u32 {
        *self.numbers.entry(Arc::as_ptr(value).addr()).or_insert_with(|| {
            self.values.push(value.clone());
            self.values.len() as u32 - 1
        })
    }
}

impl Packed {
    fn new(tables: &[EpochTable]) -> Self {
        let (mut nodesets, mut replications) = (Numbering::new(), Numbering::new());
        let mut pack = |entry: &EpochEntry| PackedEntry {
            epoch: entry.epoch,
            sequencer: entry.sequencer,
            process: entry.process,
            nodeset: nodesets.number(&entry.nodeset),
            replication: replications.number(&entry.replication),
            base_offset: entry.base_offset,
            end: entry.end,
            activated_at: entry.activated_at,
        };
        let tables = tables.iter().map(|table| PackedTable {
            partition: table.partition,
            revision: table.revision,
            trim: table.trim,
            covered: table.covered,
            epochs: table.epochs.iter().map(&mut pack).collect(),
        });
        let tables = tables.collect();
        Self { nodesets: nodesets.values, replications: replications.values, tables }
    }

    fn unpack(self) -> Option<Vec<EpochTable>> {
        let entry = |packed: PackedEntry| {
            Some(EpochEntry {
                epoch: packed.epoch,
                sequencer: packed.sequencer,
                process: packed.process,
                nodeset: self.nodesets.get(packed.nodeset as usize)?.clone(),
                replication: self.replications.get(packed.replication as usize)?.clone(),
                base_offset: packed.base_offset,
                end: packed.end,
                activated_at: packed.activated_at,
            })
        };
        let table = |packed: PackedTable| {
            let PackedTable { partition, revision, trim, covered, epochs } = packed;
            let epochs: Vec<_> = epochs.into_iter().map(entry).collect::<Option<_>>()?;
            let ascend = epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch);
            ascend.then_some(EpochTable { partition, revision, trim, covered, epochs })
        };
        self.tables.into_iter().map(table).collect()
    }
}

impl Serialize for PackedTables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Packed::new(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PackedTables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tables = Packed::deserialize(deserializer)?.unpack();
        tables.map(Self).ok_or_else(|| serde::de::Error::custom("an epoch table does not hold together"))
    }
}
