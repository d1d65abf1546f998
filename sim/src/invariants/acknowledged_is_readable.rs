//! Every acknowledged record is read, at the LSN that the acknowledgement named, until it is trimmed. In runs that may lose by
//! right: unless no copy survives, or the loss was told.

use dlog_proto::{Lsn, PartitionUid};

use crate::history::{Fate, PartitionHistory};
use crate::ledger::Ledger;

pub(super) fn check(ledger: &Ledger, partition: PartitionUid, history: &PartitionHistory) -> Result<(), String> {
    for (payload, fate) in &history.written {
        let Fate::Acknowledged(lsn) = fate else { continue };
        match history.read.get(lsn) {
            Some((read, _)) if read == payload => {}
            Some((read, _)) => return Err(format!("{payload:?} was acknowledged at {lsn}, where {read:?} was read")),
            None if *lsn <= history.trim || (history.may_lose && is_told(ledger, partition, history, *lsn)) => {}
            None => return Err(format!("{payload:?} was acknowledged at {lsn}, which was never read")),
        }
    }
    Ok(())
}

/// Whether the loss of this record was told: by a gap, or by an end that is flagged as decided with too few answers.
pub(super) fn is_told(ledger: &Ledger, partition: PartitionUid, history: &PartitionHistory, lsn: Lsn) -> bool {
    let end = ledger.promised.get(&(partition, lsn.epoch())).and_then(|promised| promised.end);
    let flagged = end.is_some_and(|(end, authoritative)| !authoritative && lsn.esn() > end);
    flagged || history.gaps.iter().any(|(from, to)| (*from..=*to).contains(&lsn))
}
