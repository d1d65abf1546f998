//! The offsets that a group has committed, and when they go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dlog_proto::TimestampMs;

use super::message::{OffsetsWanted, StoredOffset};

#[derive(Debug, Default)]
pub(super) struct Offsets {
    of: BTreeMap<(String, i32), StoredOffset>,
}

/// From when on offsets count as unused.
#[derive(Debug)]
pub(super) enum Unused {
    /// Nobody manages the group: each counts from its commit.
    SinceCommit,
    /// It has had no members since.
    Since(TimestampMs),
    /// It has members, which read these topics: the others count from their commit.
    Except(BTreeSet<String>),
    /// It cannot be told what its members read.
    Never,
}

impl Offsets {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub(super) fn set(&mut self, topic: String, partition: i32, offset: StoredOffset) {
        self.of.insert((topic, partition), offset);
    }

    pub(super) fn remove(&mut self, topic: &str, partition: i32) -> bool {
        self.of.remove(&(topic.to_owned(), partition)).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&(String, i32), &StoredOffset)> {
        self.of.iter()
    }

    pub(super) fn fetch(&self, wanted: OffsetsWanted) -> Vec<(String, i32, Option<StoredOffset>)> {
        match wanted {
            OffsetsWanted::All => {
                let all = self.of.iter();
                all.map(|((topic, partition), offset)| (topic.clone(), *partition, Some(offset.clone()))).collect()
            }
            OffsetsWanted::Of(partitions) => partitions
                .into_iter()
                .map(|key| {
                    let offset = self.of.get(&key).cloned();
                    (key.0, key.1, offset)
                })
                .collect(),
        }
    }

    /// Offsets whose time is over, and those of topics that are gone.
    pub(super) fn expired(
        &self,
        now_ms: TimestampMs,
        retention: Duration,
        unused: &Unused,
        is_gone: &dyn Fn(&str, u64) -> bool,
    ) -> Vec<(String, i32)> {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let is_old = |since: TimestampMs| since.saturating_add(retention_ms) <= now_ms;
        let expired = self.of.iter().filter(|((topic, _), offset)| {
            let over = match unused {
                Unused::Never => false,
                Unused::Except(topics) if topics.contains(topic) => false,
                Unused::SinceCommit | Unused::Except(_) => {
                    offset.expires_ms.map_or_else(|| is_old(offset.committed_ms), |at| at <= now_ms)
                }
                Unused::Since(since) => {
                    offset.expires_ms.map_or_else(|| is_old(offset.committed_ms.max(*since)), |at| at <= now_ms)
                }
            };
            over || is_gone(topic, offset.log_uid)
        });
        expired.map(|(key, _)| key.clone()).collect()
    }
}
