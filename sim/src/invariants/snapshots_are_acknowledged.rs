//! A snapshot of producers tells only of what lies before it, which is acknowledged: it must be true whatever becomes of its epoch.

use dlog_proto::block::{Block, BlockKind};
use dlog_proto::producer::ProducerTable;

/// Checks a block that a sequencer stores.
pub(crate) fn check(block: &Block) -> Result<(), String> {
    let position = block.header().first_lsn();
    if block.header().kind != BlockKind::ProducerSnapshot {
        return Ok(());
    }
    let table = ProducerTable::decode(&block.body()).map_err(|why| format!("the snapshot at {position}: {why}"))?;
    match table.active().find(|known| known.last.lsn >= position) {
        None => Ok(()),
        Some(beyond) => Err(format!("the snapshot at {position} tells of {beyond:?}")),
    }
}
