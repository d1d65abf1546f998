//! How far the log is known to be durable, noted after each sync in a file of its own.
//!
//! The note is not synced: it may be older than the truth, never newer. So it cannot tell that something is a torn
//! tail, but it can tell that something is not.
//!
//! ```text
//!  0  segment  u64
//!  8  len      u64 of it that is durable
//! 16  reserved u32 0
//! 20  crc      u32 CRC-32 of bytes 0..20
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{WalError, io_error};

const LEN: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Durable {
    pub(super) segment: u64,
    pub(super) len: u64,
}

pub(super) struct DurableFile(File);

impl DurableFile {
    /// Opens the note of the log in `dir`; nothing is known if there is none or it is torn.
    pub(super) fn open(dir: &Path) -> Result<(Self, Durable), WalError> {
        let path = dir.join("durable");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(io_error("open", &path))?;
        let mut bytes = [0; LEN];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((Self(file), Durable::default())),
            Err(error) => return Err(io_error("read", &path)(error)),
        }
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let whole = bytes[20..] == crc32fast::hash(&bytes[..20]).to_le_bytes();
        let durable = if whole { Durable { segment: u64_at(0), len: u64_at(8) } } else { Durable::default() };
        Ok((Self(file), durable))
    }

    pub(super) fn note(&self, durable: Durable) -> io::Result<()> {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&durable.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&durable.len.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}
