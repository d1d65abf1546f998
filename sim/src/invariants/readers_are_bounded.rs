//! What a reader cannot hand out yet stays within its window. A shard that is behind is read from though the window is full, or nothing
//! would go on: one block of each such shard may be let in.

use dlog_client::read::core::ReaderCore;

/// `longest`: length of the longest block that came.
pub(crate) fn check(reader: &ReaderCore, longest: usize) -> Result<(), String> {
    let (buffered, window) = (reader.buffered_bytes(), reader.settings().buffer_bytes_max);
    if buffered <= window + longest * reader.shards() {
        return Ok(());
    }
    Err(format!("a reader buffers {buffered} bytes, and its window has {window}"))
}
