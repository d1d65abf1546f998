//! Segment files: names, headers, and the directory they lie in.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use dlog_proto::NodeId;

use super::record::{self, Record, Start};
use super::{Damage, WalError, io_error};

pub(super) const HEADER_LEN: usize = 40;
const MAGIC: &[u8; 8] = b"DLOGRAFT";
const VERSION: u32 = 1;

pub(super) struct Header {
    pub(super) node: NodeId,
    pub(super) number: u64,
    pub(super) previous_len: u64,
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_len.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of `file`, which is the segment `number` of `node`.
    pub(super) fn read(path: &Path, file: &[u8], number: u64, node: NodeId) -> Result<Self, WalError> {
        let damaged = || WalError::Damaged { path: path.to_owned(), offset: 0, what: Damage::Header };
        let bytes = file.first_chunk::<HEADER_LEN>().ok_or_else(damaged)?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..8] != MAGIC || u32_at(36) != crc32fast::hash(&bytes[..36]) {
            return Err(damaged());
        }
        if u32_at(8) != VERSION {
            return Err(WalError::Version { path: path.to_owned(), what: format!("version {}", u32_at(8)) });
        }
        let found = NodeId(u16::from_le_bytes([bytes[12], bytes[13]]));
        if found != node {
            return Err(WalError::OtherNode { path: path.to_owned(), found, node });
        }
        if u64_at(16) != number {
            return Err(damaged());
        }
        Ok(Self { node, number, previous_len: u64_at(24) })
    }
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:016}.wal"))
}

/// The numbers of the segments in `dir`, ascending. Removes what was being made when the process stopped.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, WalError> {
    let mut numbers = vec![];
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".tmp") {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        } else if let Some(number) = name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".wal")) {
            let number = number.parse().ok().filter(|number| *number > 0);
            let damaged = || WalError::Damaged { path: path.clone(), offset: 0, what: Damage::Header };
            numbers.push(number.ok_or_else(damaged)?);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a segment that begins with `start`, durable under its name when this returns. Gives the file, at its end, and
/// its length.
pub(super) fn create(dir: &Path, header: &Header, start: Start) -> Result<(File, u64), WalError> {
    let final_path = path(dir, header.number);
    let path = final_path.with_extension("tmp");
    let mut bytes = header.to_bytes().to_vec();
    record::write(&mut bytes, header.number, 0, &Record::Start(start));
    let mut file = File::create(&path).map_err(io_error("create", &path))?;
    file.write_all(&bytes).map_err(io_error("write", &path))?;
    file.sync_all().map_err(io_error("sync", &path))?;
    fs::rename(&path, &final_path).map_err(io_error("rename", &path))?;
    sync_dir(dir)?;
    Ok((file, bytes.len() as u64))
}

pub(super) fn open_to_append(path: &Path) -> Result<File, WalError> {
    OpenOptions::new().append(true).open(path).map_err(io_error("open", path))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), WalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
