//! Where a log is content with fewer answers than every acknowledged record must meet, a decision that rests on fewer is flagged.

use std::collections::BTreeSet;

use dlog_proto::{EpochEntry, Quorum, ShardRef, Statuses};

/// `answered`: on whose answers it rests, if the log prefers availability.
pub(super) fn check(
    entry: &EpochEntry,
    authoritative: bool,
    answered: Option<&BTreeSet<ShardRef>>,
) -> Result<(), String> {
    let Some(answered) = answered.filter(|_| authoritative) else { return Ok(()) };
    let members = answered.iter().filter_map(|shard| entry.nodeset.index_of_ref(*shard)).collect();
    let quorum = Quorum::new(&entry.nodeset, &entry.replication);
    if quorum.is_strictly_authoritative(members, Statuses::default()) {
        return Ok(());
    }
    Err(format!("{} is decided on the word of {answered:?} only, and not flagged", entry.epoch))
}
