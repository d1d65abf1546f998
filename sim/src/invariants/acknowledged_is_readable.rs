//! Every acknowledged record is read, at the LSN that the acknowledgement named.

use crate::history::{Fate, PartitionHistory};

pub(super) fn check(history: &PartitionHistory) -> Result<(), String> {
    for (payload, fate) in &history.written {
        let Fate::Acknowledged(lsn) = fate else { continue };
        match history.read.get(lsn) {
            Some((read, _)) if read == payload => {}
            Some((read, _)) => return Err(format!("{payload:?} was acknowledged at {lsn}, where {read:?} was read")),
            None => return Err(format!("{payload:?} was acknowledged at {lsn}, which was never read")),
        }
    }
    Ok(())
}
