//! Where nothing is wrong, nothing is asked twice: a reader that starts over in a calm run was told something untrue.

use dlog_proto::PartitionUid;

pub(crate) fn check(readers: impl Iterator<Item = (PartitionUid, u32)>) -> Result<(), String> {
    for (partition, rewinds) in readers {
        if rewinds > 0 {
            return Err(format!("{partition}: a reader had to start over {rewinds} times, and nothing was wrong"));
        }
    }
    Ok(())
}
