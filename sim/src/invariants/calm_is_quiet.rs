//! Where nothing is wrong, nothing is asked twice: a reader that starts over in a calm run was told something untrue.
//!
//! A block that went out in a second wave, because the network was slow, is an exception: its holders have it under different placements
//! until it is settled, and may each take another for the one that ships it. Nobody is told anything untrue, but the reader asks everybody.

use dlog_proto::PartitionUid;

use crate::ledger::Ledger;

pub(crate) fn check(ledger: &Ledger, readers: impl Iterator<Item = (PartitionUid, u32)>) -> Result<(), String> {
    let again = |held: &crate::ledger::Held| held.newest().is_some_and(|placed| placed.version.wave > 1);
    for (partition, rewinds) in readers {
        let is_slow = || ledger.all_blocks().any(|(of, _, held)| of == partition && again(held));
        if rewinds > 0 && !is_slow() {
            return Err(format!("{partition}: a reader had to start over {rewinds} times, and nothing was wrong"));
        }
    }
    Ok(())
}
