//! Whose directory it is, before it is opened.

use std::io;

use super::inventory::read_header;
use crate::disk::Disk;
use crate::marker::{Marker, MarkerError};
use crate::segment::SegmentId;
use crate::segment::header::Identity;

/// The shard that a directory belongs to: what its marker says or, without a readable one, its segments. `None` if it is empty.
///
/// # Errors
/// If there are segments and nothing readable says whose.
pub fn identity_of(disk: &dyn Disk) -> io::Result<Option<Identity>> {
    match Marker::read(disk)? {
        Some(Ok(marker)) => return Ok(Some(marker.identity)),
        Some(Err(error @ MarkerError::Version(_))) => return Err(io::Error::other(error.to_string())),
        Some(Err(MarkerError::Damaged)) | None => {}
    }
    let mut segments = disk.list()?;
    segments.retain(|(name, _)| SegmentId::of_file_name(name).is_some());
    let identity = segments.iter().find_map(|(name, len)| Some(read_header(disk, name, *len).ok()?.identity));
    if identity.is_none() && !segments.is_empty() {
        return Err(io::Error::other("neither its marker nor a segment says whose directory it is"));
    }
    Ok(identity)
}
