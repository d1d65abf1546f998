//! What must hold, one property per file, each named after what it protects.

mod acknowledged_in_time;
mod acknowledged_is_durable;
mod acknowledged_is_readable;
pub(crate) mod amends_are_true;
mod calm_is_quiet;
pub(crate) mod damaged_takes_nothing;
mod no_duplicates;
mod no_false_gap;
pub(crate) mod nothing_after_a_seal;
pub(crate) mod nothing_beyond_an_end;
mod offsets_agree;
mod one_end_per_epoch;
mod one_payload_per_lsn;
mod order_and_completeness;
pub(crate) mod producers_are_known;
mod queues_are_bounded;
pub(crate) mod readers_are_bounded;
mod released_is_durable;
mod released_stays;
mod short_decisions_are_flagged;
mod silence_ends_at_settled;
pub(crate) mod snapshots_are_acknowledged;
mod trim_stays_behind_released;
mod trim_waits_for_cover;
mod under_replicated_is_on_record;

use dlog_client::read::core::GapReason;
use dlog_metadata::state::State;
use dlog_proto::{LogOffset, Lsn, PartitionUid};

use crate::history::{History, PartitionHistory, Payload};
use crate::ledger::{Claim, Ledger};

pub(crate) use acknowledged_in_time::check as check_patience;
pub(crate) use calm_is_quiet::check as check_calm;
pub(crate) use queues_are_bounded::check as check_queues;

/// Checks a record at the moment when a reader gets it.
pub(crate) fn check_read(
    history: &mut PartitionHistory,
    last: Option<(Lsn, LogOffset)>,
    lsn: Lsn,
    offset: LogOffset,
    payload: Payload,
) -> Result<(), String> {
    order_and_completeness::check(last, lsn, offset)?;
    one_payload_per_lsn::check(history, lsn, offset, payload)
}

/// Checks a gap at the moment when a reader is told of it.
pub(crate) fn check_gap(
    history: &mut History,
    partition: PartitionUid,
    gap: (Lsn, Lsn),
    reason: GapReason,
) -> Result<(), String> {
    let of_partition = history.of(partition);
    let trim = of_partition.trim;
    if reason == GapReason::DataLoss && of_partition.may_lose {
        of_partition.gaps.push(gap);
    }
    no_false_gap::check(&history.ledger, partition, gap, reason, trim)
}

/// Checks a promise at the moment when it is made.
pub(crate) fn check_claim(ledger: &mut Ledger, state: &State, claim: Claim) -> Result<(), String> {
    match claim {
        Claim::Acknowledged { partition, lsn, by, copies } => {
            let Some(entry) = ledger.entry(state, partition, lsn.epoch()) else { return Ok(()) };
            acknowledged_is_durable::check(ledger, &entry, partition, lsn, by, copies)
        }
        Claim::Released { partition, released, settled, trim_limit } => {
            trim_waits_for_cover::check(state, partition, released.epoch(), trim_limit)?;
            let Some(entry) = ledger.entry(state, partition, released.epoch()) else { return Ok(()) };
            let undecided = state.undecided_table(partition).and_then(|t| t.epochs.first().map(|e| e.epoch));
            let decided = undecided.is_none_or(|epoch| epoch >= released.epoch());
            released_is_durable::check(ledger, &entry, decided, partition, released)?;
            under_replicated_is_on_record::check_settled(ledger, state, &entry, partition, settled)
        }
        Claim::Ended { partition, epoch, last_esn, authoritative, recoverer } => {
            let entry = ledger.entry(state, partition, epoch);
            let answered = recoverer.and_then(|recoverer| ledger.answered.get(&(partition, epoch, recoverer)).cloned());
            // Only where a log prefers availability may a decision pass over who did not answer.
            let answered = answered.filter(|_| entry.as_ref().is_some_and(|e| !e.replication.quorum.is_strict()));
            let end = (last_esn, authoritative);
            let new = one_end_per_epoch::check(ledger, partition, epoch, end, answered.as_ref())?;
            if new {
                ledger.promised.entry((partition, epoch)).or_default().recoverer = recoverer;
            }
            match entry {
                Some(entry) if new => {
                    short_decisions_are_flagged::check(&entry, authoritative, answered.as_ref())?;
                    under_replicated_is_on_record::check_decided(
                        ledger,
                        state,
                        &entry,
                        partition,
                        end,
                        answered.as_ref(),
                    )
                }
                _ => Ok(()),
            }
        }
        Claim::Silent { partition, upto } => silence_ends_at_settled::check(ledger, partition, upto),
        Claim::Trimmed { trim, released } => trim_stays_behind_released::check(trim, released),
    }
    .map_err(|why| format!("{claim:?}: {why}"))
}

/// Whether the loss of this record was told.
pub(crate) fn is_told(history: &History, partition: PartitionUid, lsn: Lsn) -> bool {
    let of_partition = &history.partitions[&partition];
    let may_be_lost =
        of_partition.may_lose && acknowledged_is_readable::is_told(&history.ledger, partition, of_partition, lsn);
    lsn <= of_partition.trim || may_be_lost
}

/// Says what is wrong with a partition, if anything is.
type Check = fn(&Ledger, PartitionUid, &PartitionHistory) -> Result<(), String>;

/// Checks a run when everything was written, recovered and read.
pub(crate) fn check_end(history: &History) -> Result<(), String> {
    for (partition, of_partition) in &history.partitions {
        let checks: [Check; 4] = [
            acknowledged_is_readable::check,
            no_duplicates::check,
            |_, _, history| released_stays::check(history),
            |_, _, history| offsets_agree::check(history),
        ];
        for check in checks {
            check(&history.ledger, *partition, of_partition).map_err(|why| format!("{partition}: {why}"))?;
        }
    }
    Ok(())
}
