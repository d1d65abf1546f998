//! What a sequencer holds stays within its window, and what waits for recovery within its bound.

use dlog_sequencer::{PartitionSequencer, Settings};

/// One batch may be let in when the window is nearly full.
const BATCH_MAX: usize = 4096;

pub(crate) fn check<'a>(
    sequencers: impl Iterator<Item = &'a PartitionSequencer>,
    settings: &Settings,
) -> Result<(), String> {
    for sequencer in sequencers {
        let (window, waiting) = (sequencer.window_bytes(), sequencer.waiting_bytes());
        if window > settings.window_bytes_max + BATCH_MAX || waiting > settings.recovery_wait_bytes_max {
            let (partition, epoch) = (sequencer.partition(), sequencer.epoch());
            return Err(format!("{partition} {epoch}: {window} bytes in the window, {waiting} bytes wait"));
        }
    }
    Ok(())
}
