//! A shard trims only what it knows to be released.

use dlog_proto::Lsn;

pub(super) fn check(trim: Lsn, released: Lsn) -> Result<(), String> {
    if trim <= released { Ok(()) } else { Err(format!("trimmed up to {trim}, but released is {released}")) }
}
