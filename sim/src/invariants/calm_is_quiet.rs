//! Where nothing is wrong, nothing is asked twice: a reader that starts over in a calm run was told something untrue.
//!
//! A block that was placed twice is an exception: in a second wave, because the network was slow, or by the recovery of its epoch before it
//! was settled. Its holders have it under different placements meanwhile, and each may take another for the one that ships it. Nobody is
//! told anything untrue, but the reader asks everybody.

use dlog_proto::{Epoch, PartitionUid};

use crate::ledger::{Held, Ledger};

pub(crate) fn check(ledger: &Ledger, readers: impl Iterator<Item = (PartitionUid, u32)>) -> Result<(), String> {
    let placed_twice = |epoch: Epoch, held: &Held| {
        held.newest().is_some_and(|placed| placed.version.wave > 1 || placed.version.writer_epoch > epoch)
    };
    for (partition, rewinds) in readers {
        let mut blocks = ledger.all_blocks().filter(|(of, ..)| *of == partition);
        if rewinds > 0 && !blocks.any(|(_, first, held)| placed_twice(first.epoch(), held)) {
            return Err(format!("{partition}: a reader had to start over {rewinds} times, and nothing was wrong"));
        }
    }
    Ok(())
}
