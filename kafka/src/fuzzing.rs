//! What fuzz targets call.

use bytes::Bytes;

use crate::wire::parse;

/// Takes a request apart as a connection does, its length field taken off.
pub fn request(frame: &[u8]) {
    // Most are refused; none may panic, nor be believed about lengths.
    drop(parse(Bytes::copy_from_slice(frame)));
}
