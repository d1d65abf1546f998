//! Snapshots on disk.
//!
//! A snapshot is written under another name, synced and renamed, so one that has its name is whole. The last two are
//! kept: if the newest is damaged and the log still reaches back, the one before it will do.
//!
//! ```text
//! snapshot-<index of the last entry in it>.snap
//!   0  magic     8   "DLOGSNAP"
//!   8  version   u32 1
//!  12  reserved  u32 0
//!  16  meta_len  u64
//!  24  state_len u64
//!  32  crc       u32 CRC-32 of meta and state
//!  36  crc       u32 CRC-32 of bytes 0..36
//!  40  meta      openraft's SnapshotMeta, postcard
//!  ..  state     see `State::to_snapshot`
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use super::types::SnapshotMeta;
use crate::state::State;

const MAGIC: &[u8; 8] = b"DLOGSNAP";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 40;
const KEPT: usize = 2;

/// A snapshot that was read and holds together.
pub(crate) struct Loaded {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: State,
}

/// The directory of a replica's snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir(PathBuf);

impl SnapshotDir {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for path in paths(dir)? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, index: u64) -> PathBuf {
        self.0.join(format!("snapshot-{index:020}.snap"))
    }

    /// Snapshots with the index of their last entry, newest first.
    fn list(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let index = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.parse().ok()
        };
        let mut found: Vec<_> = paths(&self.0)?.filter_map(|path| Some((index(&path)?, path))).collect();
        found.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        Ok(found)
    }

    /// Makes a snapshot durable, and removes those that are not needed any more. Does not return before both.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let path = self.path(index);
        let unfinished = path.with_extension("tmp");
        let encoded = postcard::to_stdvec(meta).map_err(io::Error::other)?;
        let mut file = File::create(&unfinished)?;
        file.write_all(&header(&encoded, state))?;
        file.write_all(&encoded)?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(&self.0)?.sync_all()?;
        for (_, old) in self.list()?.into_iter().skip(KEPT) {
            fs::remove_file(old)?;
        }
        Ok(())
    }

    /// The newest snapshot's bytes, as they go to a peer. `None` if there is none.
    pub(crate) fn newest(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some((_, path)) = self.list()?.into_iter().next() else { return Ok(None) };
        let read = parse(fs::read(&path)?.into());
        let (meta, state) =
            read.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display())))?;
        Ok(Some((meta, state)))
    }

    /// The newest snapshot that holds together, and what is wrong with those that do not: they are set aside.
    pub(crate) fn load(&self) -> io::Result<(Option<Loaded>, Vec<String>)> {
        let mut damaged = vec![];
        for (index, path) in self.list()? {
            let read = parse(fs::read(&path)?.into());
            let loaded = read.and_then(|(meta, bytes)| {
                let state = State::from_snapshot(&bytes).map_err(|error| error.to_string())?;
                let last = meta.last_log_id.map(|last| last.index);
                if last == Some(index) && state.revision() == index {
                    Ok(Loaded { meta, state })
                } else {
                    Err("it is not of the entry that its name says".to_owned())
                }
            });
            match loaded {
                Ok(loaded) => return Ok((Some(loaded), damaged)),
                Err(what) => {
                    fs::rename(&path, path.with_extension("damaged"))?;
                    damaged.push(format!("{}: {what}", path.display()));
                }
            }
        }
        Ok((None, damaged))
    }
}

fn paths(dir: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()))
}

fn header(meta: &[u8], state: &[u8]) -> [u8; HEADER_LEN] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(meta);
    hasher.update(state);
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&(meta.len() as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&(state.len() as u64).to_le_bytes());
    bytes[32..36].copy_from_slice(&hasher.finalize().to_le_bytes());
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Takes a whole file apart. `Err` says what is wrong.
fn parse(mut file: Bytes) -> Result<(SnapshotMeta, Bytes), String> {
    if file.len() < HEADER_LEN {
        return Err("it is too short".to_owned());
    }
    let header = file.split_to(HEADER_LEN);
    if &header[..8] != MAGIC || header[36..] != crc32fast::hash(&header[..36]).to_le_bytes() {
        return Err("its header does not hold together".to_owned());
    }
    let mut fields = &header[8..36];
    let version = fields.get_u32_le();
    if version != VERSION {
        return Err(format!("it is of version {version}, this process knows {VERSION}"));
    }
    fields.advance(4);
    let (meta_len, state_len, crc) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u32_le());
    if meta_len.checked_add(state_len) != Some(file.len() as u64) || crc32fast::hash(&file) != crc {
        return Err("its content does not hold together".to_owned());
    }
    let meta = file.split_to(meta_len as usize);
    let meta = postcard::from_bytes(&meta).map_err(|error| format!("its head does not hold together: {error}"))?;
    Ok((meta, file))
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use tempfile::TempDir;

    use super::*;
    use crate::raft::types::{LogId, Membership};

    fn save(dir: &SnapshotDir, index: u64) {
        let mut state = State::default();
        state.advance(index);
        let last_log_id = Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        let meta = SnapshotMeta { last_log_id, last_membership: Membership::default(), snapshot_id: "x".to_owned() };
        dir.save(&meta, &state.to_snapshot()).unwrap();
    }

    #[test]
    fn the_last_two_are_kept_and_the_newest_sound_one_is_loaded() {
        let temp = TempDir::new().unwrap();
        let dir = SnapshotDir::open(temp.path()).unwrap();
        assert!(dir.load().unwrap().0.is_none() && dir.newest().unwrap().is_none());
        (1..=4).for_each(|i| save(&dir, i * 10));
        assert_eq!(dir.list().unwrap().iter().map(|(index, _)| *index).collect::<Vec<_>>(), [40, 30]);
        let whole = fs::read(dir.path(40)).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(dir.path(40), &bytes).unwrap();
            let (loaded, damaged) = dir.load().unwrap();
            assert_eq!((loaded.unwrap().state.revision(), damaged.len()), (30, 1), "flipped at {at}");
            assert!(dir.path(40).with_extension("damaged").exists() && dir.newest().unwrap().is_some());
        }
        for len in 0..whole.len() {
            fs::write(dir.path(40), &whole[..len]).unwrap();
            assert_eq!(dir.load().unwrap().0.unwrap().state.revision(), 30, "cut at {len}");
        }
        fs::write(dir.path(40), &whole).unwrap();
        fs::write(temp.path().join("snapshot-00000000000000000050.tmp"), b"half").unwrap();
        let dir = SnapshotDir::open(temp.path()).unwrap();
        assert_eq!(dir.load().unwrap().0.unwrap().state.revision(), 40);
        assert!(!temp.path().join("snapshot-00000000000000000050.tmp").exists());
    }
}
