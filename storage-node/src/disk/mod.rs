//! The disk as the engine sees it: one directory of files whose length is fixed when they are made.
//!
//! Two implementations: [`RealDisk`] on a directory, and [`SimulatedDisk`], which knows what is written from what is
//! durable and loses the difference on request. Nothing of the engine above knows which one it has.
//!
//! What a crash of the machine may leave, and so what the engine may rely on:
//! - Bytes given to [`DiskFile::write_at`] and not yet to a successful [`DiskFile::sync`] may be there or not, in any
//!   combination of 512-byte sectors.
//! - A name made, changed or removed and not yet followed by [`Disk::sync_dir`] may be as before or as after. A rename
//!   that replaces is one step: the old file or the new one.
//! - After a failed sync nothing is known about what was written since the last good one (the kernel marks such pages
//!   clean), so it is never tried again.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;

mod real;
pub mod simulated;
pub(crate) mod unchanged;

pub use real::{RealDisk, boot_id};
pub use simulated::SimulatedDisk;

/// A directory.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a file that reads as zeros, its space reserved: writing to it later does not fail for lack of space. Leaves
    /// nothing if there is not enough ([`io::ErrorKind::StorageFull`]).
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to look through: nothing is read ahead through this handle, so that [`DiskFile::next_data`] is not told
    /// of data where there are only pages that were read.
    fn open_to_scan(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }
    /// Names and lengths of all files, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Replaces what is called `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Space that files could still be made in.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Makes what was done to names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Keeps every other process out of the directory until the guard is dropped.
    fn lock(&self) -> Result<LockGuard, LockError>;
}

/// An open file. Safe to use from several threads; writes and reads of the same bytes at the same time are not made.
#[expect(clippy::len_without_is_empty, reason = "no file is empty")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Length in bytes; fixed.
    fn len(&self) -> u64;
    /// Writes all of `pieces`, one behind the other.
    fn write_at(&self, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes everything written before this call durable.
    fn sync(&self) -> io::Result<()>;
    /// Fills `buffer`.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// The bytes of `range` without a copy where that is possible. They stay what they are as long as the file is not
    /// written there.
    fn slice(&self, range: Range<u64>) -> io::Result<Bytes>;
    /// Has the bytes of `range` read in the background: [`slice`](Self::slice) will be asked for them soon.
    fn read_ahead(&self, range: Range<u64>);
    /// Whether anything given out by [`slice`](Self::slice) is still in use.
    fn is_held(&self) -> bool;
    /// First position at or after `from` that may hold something other than zeros; the file's length if there is none.
    fn next_data(&self, from: u64) -> io::Result<u64>;
}

/// Keeps a directory locked; dropping it lets go.
pub type LockGuard = Box<dyn Send + Sync>;

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the directory is in use by another process{}: stop it first", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held { pid: Option<u32> },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Puts `bytes` into the file `name` in one step: after a crash it holds them or what it held before.
pub(crate) fn replace_file(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let file = disk.create(&temporary, bytes.len() as u64)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}

/// All of a small file; `None` if there is none of that name.
pub(crate) fn read_file(disk: &dyn Disk, name: &str, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len().min(len_max);
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes)?;
    Ok(Some(bytes))
}
