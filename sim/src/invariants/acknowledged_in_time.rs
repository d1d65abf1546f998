//! One shard that is slow, hangs or refuses holds up no append for longer than its log allows for.

use std::time::Duration;

use crate::history::PartitionHistory;

pub(crate) fn check(history: &PartitionHistory, took: Duration) -> Result<(), String> {
    match history.patience {
        Some(patience) if took > patience => {
            Err(format!("acknowledged after {took:?}, and one shard costs {patience:?} at most"))
        }
        _ => Ok(()),
    }
}
