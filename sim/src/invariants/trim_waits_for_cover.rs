//! A sequencer lets shards trim only when it is on record that the snapshot which tells of the producers lies in its epoch, or if nothing
//! is before it. Otherwise whoever succeeds looks for the snapshot elsewhere.

use dlog_metadata::state::State;
use dlog_proto::{Epoch, Lsn, PartitionUid};

pub(super) fn check(state: &State, partition: PartitionUid, epoch: Epoch, trim_limit: Lsn) -> Result<(), String> {
    let Some(table) = state.table(partition).filter(|_| trim_limit > Lsn::ZERO) else { return Ok(()) };
    let is_first = table.epochs.first().is_none_or(|first| first.epoch >= epoch);
    if is_first || table.covered >= epoch {
        return Ok(());
    }
    Err(format!("may be trimmed to {trim_limit}, but on record as covered is what is before {} only", table.covered))
}
