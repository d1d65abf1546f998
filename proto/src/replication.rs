//! How a log is replicated: how many copies, how many before an answer, across what, how durable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nodeset::Scope;

/// The three numbers of a quorum system. See docs/CONSISTENCY.md for what each choice promises.
///
/// ```
/// use dlog_proto::QuorumConfig;
/// let majority = QuorumConfig::majority(3);
/// assert_eq!((majority.replication_factor, majority.write_quorum, majority.read_quorum), (3, 2, 2));
/// assert!(majority.is_strict());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QuorumConfig {
    /// Copies of each record (R), 1 to [`QuorumConfig::REPLICATION_MAX`].
    pub replication_factor: u8,
    /// Copies before an append is acknowledged (W), 1 to R.
    pub write_quorum: u8,
    /// Copies of which one must be seen before absence is believed, 1 to R. `R − W + 1` or more always meets the
    /// write quorum; less is available where the other stalls, and flags every decision that rests on too few answers.
    pub read_quorum: u8,
}

impl QuorumConfig {
    pub const REPLICATION_MAX: u8 = 16;
    /// If nobody says how many, and so many nodes store.
    pub const REPLICATION_DEFAULT: u8 = 3;

    /// `W = ⌊R/2⌋ + 1`, the default.
    pub const fn majority(replication_factor: u8) -> Self {
        let write_quorum = replication_factor / 2 + 1;
        Self { replication_factor, write_quorum, read_quorum: replication_factor + 1 - write_quorum }
    }

    /// `W = R`: an acknowledged record has all its copies.
    pub const fn strong(replication_factor: u8) -> Self {
        Self { replication_factor, write_quorum: replication_factor, read_quorum: 1 }
    }

    /// `R = W = 1` of `replication_factor` reached: availability before consistency. See docs/CONSISTENCY.md.
    pub const fn available(replication_factor: u8) -> Self {
        Self { replication_factor, write_quorum: 1, read_quorum: 1 }
    }

    /// Whether every read quorum meets every write quorum.
    pub const fn is_strict(self) -> bool {
        self.read_quorum + self.write_quorum > self.replication_factor
    }
}

/// When a copy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// After fdatasync.
    #[default]
    Sync,
    /// In memory; flushed within a bound of time and bytes. Readers see a record when it is flushed.
    WriteCache,
}

/// How an epoch is replicated; fixed for its whole life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replication {
    pub quorum: QuorumConfig,
    /// Over how many domains of a scope the copies are spread. Without an entry for a scope nothing is promised there.
    pub across: BTreeMap<Scope, u8>,
    pub durability: Durability,
}

/// Why a replication cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    #[error("replication must be 1 to {max}, not {0}", max = QuorumConfig::REPLICATION_MAX)]
    Factor(u8),
    #[error("write quorum must be 1 to the replication ({replication_factor}), not {write_quorum}")]
    WriteQuorum { write_quorum: u8, replication_factor: u8 },
    #[error("read quorum must be 1 to the replication ({replication_factor}), not {read_quorum}")]
    ReadQuorum { read_quorum: u8, replication_factor: u8 },
    #[error("{replication_factor} copies cannot be spread across {count} {scope}s")]
    Across { scope: Scope, count: u8, replication_factor: u8 },
}

impl Replication {
    /// `quorum` with each copy on another node, synced.
    pub fn new(quorum: QuorumConfig) -> Self {
        let across = BTreeMap::from([(Scope::Node, quorum.replication_factor)]);
        Self { quorum, across, durability: Durability::Sync }
    }

    pub fn factor(&self) -> usize {
        self.quorum.replication_factor.into()
    }

    pub fn write_quorum(&self) -> usize {
        self.quorum.write_quorum.into()
    }

    pub fn validate(&self) -> Result<(), ReplicationError> {
        let QuorumConfig { replication_factor, write_quorum, read_quorum } = self.quorum;
        if !(1..=QuorumConfig::REPLICATION_MAX).contains(&replication_factor) {
            return Err(ReplicationError::Factor(replication_factor));
        }
        if !(1..=replication_factor).contains(&write_quorum) {
            return Err(ReplicationError::WriteQuorum { write_quorum, replication_factor });
        }
        if !(1..=replication_factor).contains(&read_quorum) {
            return Err(ReplicationError::ReadQuorum { read_quorum, replication_factor });
        }
        match self.across.iter().find(|(_, count)| !(1..=replication_factor).contains(*count)) {
            Some((&scope, &count)) => Err(ReplicationError::Across { scope, count, replication_factor }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_modes_are_what_they_say() {
        for r in 1..=QuorumConfig::REPLICATION_MAX {
            assert!(QuorumConfig::majority(r).is_strict());
            assert!(QuorumConfig::strong(r).is_strict());
            assert_eq!(QuorumConfig::available(r).is_strict(), r == 1);
            for config in [QuorumConfig::majority(r), QuorumConfig::strong(r), QuorumConfig::available(r)] {
                assert_eq!(Replication::new(config).validate(), Ok(()));
            }
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let with = |r, w, q| {
            Replication::new(QuorumConfig { replication_factor: r, write_quorum: w, read_quorum: q }).validate()
        };
        assert!(with(0, 0, 0).is_err() && with(17, 1, 1).is_err());
        assert!(with(3, 0, 1).is_err() && with(3, 4, 1).is_err());
        assert!(with(3, 2, 0).is_err() && with(3, 2, 4).is_err());
        let mut wide = Replication::new(QuorumConfig::majority(3));
        wide.across.insert(Scope::Rack, 4);
        assert_eq!(
            wide.validate(),
            Err(ReplicationError::Across { scope: Scope::Rack, count: 4, replication_factor: 3 })
        );
    }
}
