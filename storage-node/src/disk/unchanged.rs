//! A directory that is only looked at: what is done to it seems to be done and is not.
//!
//! With it the code that opens a shard tells what it would find and do, without doing it.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Disk, DiskFile, LockError, LockGuard};

#[derive(Debug)]
pub(crate) struct Unchanged {
    disk: Arc<dyn Disk>,
    /// What files are called that were renamed, and what they are really called.
    names: Mutex<BTreeMap<String, String>>,
}

impl Unchanged {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let names = disk.list()?.into_iter().map(|(name, _)| (name.clone(), name)).collect();
        Ok(Self { disk, names: Mutex::new(names) })
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for Unchanged {
    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let name = self.names().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(UnchangedFile(self.disk.open_to_scan(&name)?)))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let lens: BTreeMap<String, u64> = self.disk.list()?.into_iter().collect();
        let names = self.names();
        Ok(names.iter().filter_map(|(name, real)| Some((name.clone(), *lens.get(real)?))).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = self.names();
        let real = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), real);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.names().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        self.disk.lock()
    }
}

#[derive(Debug)]
struct UnchangedFile(Box<dyn DiskFile>);

impl DiskFile for UnchangedFile {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, buffer)
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.0.slice(range)
    }

    fn read_ahead(&self, range: Range<u64>) {
        self.0.read_ahead(range);
    }

    fn is_held(&self) -> bool {
        self.0.is_held()
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        self.0.next_data(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn names_seem_to_change_and_bytes_do_not() {
        let disk = SimulatedDisk::new();
        disk.put("a", b"abc");
        disk.put("b", b"b");
        let looked_at = Unchanged::new(Arc::new(disk.clone())).unwrap();
        looked_at.rename("a", "c").unwrap();
        looked_at.remove("b").unwrap();
        assert_eq!(looked_at.list().unwrap(), [("c".to_owned(), 3)]);
        let file = looked_at.open("c").unwrap();
        file.write_at(0, &[IoSlice::new(b"x")]).unwrap();
        file.sync().unwrap();
        assert_eq!(file.slice(0..3).unwrap(), b"abc"[..]);
        assert!(looked_at.open("a").is_err() && looked_at.create("d", 1).is_err());
        assert_eq!(disk.list().unwrap().len(), 2);
    }
}
