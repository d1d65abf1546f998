//! A sequencer that knows the past knows every producer as far as anybody acknowledged its batches: what is sent again is no new batch.

use dlog_proto::producer::ActiveProducer;

use crate::history::PartitionHistory;

/// Checks what a sequencer has read back of producers.
pub(crate) fn check(history: &PartitionHistory, known: &[ActiveProducer]) -> Result<(), String> {
    if history.may_lose {
        return Ok(());
    }
    for (producer, acked) in &history.acked_sequences {
        let last = known.iter().find(|known| known.producer == *producer).map(|known| known.last.last_sequence);
        if last.is_none_or(|last| last < *acked) {
            return Err(format!("producer {producer} was acknowledged up to {acked}, and is known up to {last:?}"));
        }
    }
    Ok(())
}
