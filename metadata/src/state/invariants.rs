//! What must hold of the state after every command. Checked by tests, by the simulator, and of every snapshot before it
//! is believed.

use std::collections::{BTreeMap, BTreeSet};

use dlog_proto::Incarnation;

use super::State;
use super::interned::Interned;
use super::names::topic_of;

impl State {
    /// `Err` names the invariant that does not hold, and where.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_partitions()?;
        self.check_interned()?;
        self.check_logs()?;
        self.check_incarnations()?;
        self.requests.check().map_err(str::to_owned)
    }

    fn check_partitions(&self) -> Result<(), String> {
        for (uid, partition) in self.partitions.iter() {
            partition.check().map_err(|name| format!("{name} at partition {uid}"))?;
            let log = self.logs.get(&partition.log);
            let named = log.and_then(|log| log.partitions.get(partition.index.0 as usize));
            if named != Some(uid) || !self.was_made(*uid) {
                return Err(format!("INV-LOG-PARTITIONS at partition {uid}"));
            }
        }
        for (uid, missing) in self.under_replicated.iter() {
            missing.check().map_err(|name| format!("{name} at partition {uid}"))?;
            if !self.partitions.contains_key(uid) || missing.is_empty() {
                return Err(format!("INV-UR-RANGES at partition {uid}"));
            }
        }
        Ok(())
    }

    fn check_interned(&self) -> Result<(), String> {
        let rows = || self.partitions.iter().flat_map(|(_, partition)| &partition.epochs);
        check_uses(&self.nodesets, rows().map(|row| row.nodeset), "nodeset")?;
        check_uses(&self.replications, rows().map(|row| row.replication), "replication")
    }

    fn check_logs(&self) -> Result<(), String> {
        let mut partitions = 0;
        let mut topics = BTreeSet::new();
        for (uid, info) in self.logs.iter() {
            partitions += info.partitions.len();
            let named = self.names.get(&info.log) == Some(uid) && uid.0 <= self.counters.log && info.uid == *uid;
            if !named {
                return Err(format!("INV-LOG-PARTITIONS at log {}", info.log));
            }
            if !topics.insert(topic_of(&info.log)) || self.is_like_namespace(&info.log) {
                return Err(format!("INV-TOPIC at log {}", info.log));
            }
        }
        let counted = partitions == self.partitions.len() && self.names.len() == self.logs.len();
        if counted { Ok(()) } else { Err("INV-LOG-PARTITIONS: partitions without a log".to_owned()) }
    }

    fn check_incarnations(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (node, info) in self.nodes.iter() {
            for (index, shard) in &info.shards {
                let all = shard.lost.iter().map(|(lost, _)| *lost).chain([shard.incarnation]);
                for incarnation in all {
                    let given = Incarnation(1)..=self.counters.incarnation;
                    if !given.contains(&incarnation) || !seen.insert(incarnation) {
                        return Err(format!("INV-INCARNATION at shard {node}s{index}"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_uses<T: serde::Serialize + PartialEq>(
    interned: &Interned<T>,
    used: impl Iterator<Item = u32>,
    what: &str,
) -> Result<(), String> {
    let mut uses: BTreeMap<u32, u32> = BTreeMap::new();
    used.for_each(|number| *uses.entry(number).or_default() += 1);
    let counted = |number: u32| uses.get(&number).copied().unwrap_or_default();
    let exact = interned.numbers().all(|number| counted(number) > 0 && counted(number) == interned.uses(number));
    if exact && uses.len() == interned.len() { Ok(()) } else { Err(format!("INV-INTERNED: {what}")) }
}
