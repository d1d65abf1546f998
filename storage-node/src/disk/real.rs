//! A directory of a real file system.
//!
//! Writes are `pwritev` in pieces of at most 1 MiB (4 MiB in one call were measured ten times slower into new page cache);
//! reads are slices of one read-only map per file. A map is filled by `MADV_POPULATE_READ` before it is looked at: a disk
//! that cannot be read is an error of that call then, where touching the page would be a SIGBUS.
//!
//! Another way of writing (`O_DIRECT|O_DSYNC`) would be another [`DiskFile`]: nothing above knows how this one does it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memmap2::Mmap;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::Errno;

use super::{Disk, DiskFile, LockError, LockGuard};

/// Most bytes in one write call.
const PIECE_LEN_MAX: usize = 1 << 20;
/// Most pieces in one write call; `IOV_MAX` everywhere.
const PIECES_MAX: usize = 1024;

const LOCK_FILE: &str = "lock";

/// A directory on a file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    dir: File,
}

impl RealDisk {
    /// Opens the directory, making it if it is not there.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        let dir = File::open(&path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { path, dir })
    }

    /// Opens a directory that is there, to look at it.
    pub fn existing(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let dir = File::open(&path)?;
        if !dir.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path, dir })
    }

    /// Keeps every process from using the directory, without leaving a trace in it.
    pub fn keep_out(&self) -> Result<LockGuard, LockError> {
        match File::open(self.at(LOCK_FILE)) {
            Ok(file) => Ok(lock_exclusively(file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(())),
            Err(error) => Err(error.into()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.at(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        if len > 0
            && let Err(errno) = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)
        {
            if errno != Errno::OPNOTSUPP {
                drop(file);
                fs::remove_file(&path)?;
                return Err(errno.into());
            }
            // No reservation on this file system: a full disk shows as a failed write, which takes the shard out.
            file.set_len(len)?;
        }
        Ok(Box::new(RealFile { file, len, map: OnceLock::new() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.at(name))?;
        let len = file.metadata()?.len();
        Ok(Box::new(RealFile { file, len, map: OnceLock::new() }))
    }

    fn open_to_scan(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).open(self.at(name))?;
        let len = file.metadata()?.len();
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        Ok(Box::new(RealFile { file, len, map: OnceLock::new() }))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        let mut file = lock_exclusively(
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.at(LOCK_FILE))?,
        )?;
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    }
}

fn lock_exclusively(mut file: File) -> Result<Box<File>, LockError> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Box::new(file)),
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Err(LockError::Held { pid: text.trim().parse().ok() })
        }
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// Identifies this start of the machine: after another one, what was not synced is gone.
pub fn boot_id() -> io::Result<u128> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).map_err(|_| io::Error::other(format!("the boot id {text:?} is not a UUID")))
}

#[derive(Debug)]
struct RealFile {
    file: File,
    len: u64,
    /// Made when something is read for the first time.
    map: OnceLock<Arc<Mmap>>,
}

impl RealFile {
    fn map(&self) -> io::Result<&Arc<Mmap>> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        // SAFETY: the map is read-only. The file is opened by this process only (it holds the directory's lock), its
        // length never changes, and bytes that were given out by `slice` are not written again while they are held: a
        // segment is written once, front to back, and only behind what readers know of; it is recycled when nobody holds
        // a slice of it.
        let map = unsafe { Mmap::map(&self.file)? };
        Ok(self.map.get_or_init(|| Arc::new(map)))
    }
}

/// What a slice keeps alive.
struct MapSlice {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for MapSlice {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        assert!(at + whole <= self.len, "files do not grow");
        let (mut next, mut skip, mut at) = (0, 0, at);
        let mut call = Vec::with_capacity(pieces.len().min(PIECES_MAX));
        while next < pieces.len() {
            call.clear();
            let (mut room, mut from) = (PIECE_LEN_MAX, skip);
            for piece in &pieces[next..] {
                if room == 0 || call.len() == PIECES_MAX {
                    break;
                }
                let part = &piece[from..(from + room).min(piece.len())];
                call.push(IoSlice::new(part));
                room -= part.len();
                from = 0;
            }
            let mut written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, &call, at))?;
            if written == 0 && call.iter().any(|piece| !piece.is_empty()) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            while next < pieces.len() && written >= pieces[next].len() - skip {
                written -= pieces[next].len() - skip;
                (next, skip) = (next + 1, 0);
            }
            skip += written;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if range.end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let map = self.map()?;
        let range = range.start as usize..range.end as usize;
        match map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()) {
            Ok(()) => {}
            // Before Linux 5.14: pages are read when they are touched.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(Bytes::from_owner(MapSlice { map: Arc::clone(map), range }))
    }

    fn read_ahead(&self, range: Range<u64>) {
        let end = range.end.min(self.len);
        if range.start < end
            && let Ok(map) = self.map()
        {
            // Whatever goes wrong shows when the bytes are asked for.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start as usize, (end - range.start) as usize);
        }
    }

    fn is_held(&self) -> bool {
        self.map.get().is_some_and(|map| Arc::strong_count(map) > 1)
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(at) => Ok(at),
            Err(Errno::NXIO) => Ok(self.len),
            // Where the file system cannot tell, everything may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(from),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path().join("shard")).unwrap();
        (dir, disk)
    }

    #[test]
    fn many_and_long_pieces_arrive_whole() {
        let (_dir, disk) = disk();
        let file = disk.create("a", 6 << 20).unwrap();
        let long = vec![7; (2 << 20) + 13];
        let many = vec![[1, 2, 3]; 3000];
        let mut pieces = vec![IoSlice::new(&long), IoSlice::new(&[])];
        pieces.extend(many.iter().map(|piece| IoSlice::new(piece)));
        pieces.push(IoSlice::new(&long));
        file.write_at(5, &pieces).unwrap();
        file.sync().unwrap();
        let expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let end = 5 + expected.len() as u64;
        assert_eq!(file.slice(5..end).unwrap(), expected);
        let mut read = vec![0; expected.len()];
        disk.open("a").unwrap().read_at(5, &mut read).unwrap();
        assert_eq!(read, expected);
    }

    #[test]
    fn slices_keep_the_file_held() {
        let (_dir, disk) = disk();
        let file = disk.create("a", 8192).unwrap();
        assert!(!file.is_held());
        let slice = file.slice(100..200).unwrap().slice(10..20);
        assert!(file.is_held());
        disk.remove("a").unwrap();
        assert_eq!(slice, [0; 10][..]);
        drop(slice);
        assert!(!file.is_held());
    }

    #[test]
    fn a_file_cut_short_is_an_error_and_not_a_signal() {
        let (_dir, disk) = disk();
        let file = disk.create("a", 64 << 10).unwrap();
        file.slice(0..4096).unwrap();
        OpenOptions::new().write(true).open(disk.at("a")).unwrap().set_len(4096).unwrap();
        assert!(file.slice(0..4096).is_ok());
        assert!(file.slice(8192..12288).is_err());
    }

    #[test]
    fn unwritten_space_is_skipped() {
        let (_dir, disk) = disk();
        let file = disk.create("a", 16 << 20).unwrap();
        file.write_at(8 << 20, &[IoSlice::new(b"x")]).unwrap();
        file.sync().unwrap();
        let data = file.next_data(0).unwrap();
        assert!(data <= 8 << 20, "never beyond what was written, {data}");
        assert!(file.next_data((8 << 20) + 1).unwrap() > 8 << 20);
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let (_dir, disk) = disk();
        let guard = disk.lock().unwrap();
        let pid = std::process::id();
        let Err(error) = disk.lock() else { panic!("locked twice") };
        assert_eq!(error.to_string(), format!("the directory is in use by another process (pid {pid}): stop it first"));
        drop(guard);
        assert!(disk.lock().is_ok());
    }

    #[test]
    fn small_files_are_replaced_whole() {
        let (_dir, disk) = disk();
        assert_eq!(super::super::read_file(&disk, "m", 100).unwrap(), None);
        super::super::replace_file(&disk, "m", b"first").unwrap();
        super::super::replace_file(&disk, "m", b"2nd").unwrap();
        assert_eq!(super::super::read_file(&disk, "m", 100).unwrap().unwrap(), b"2nd");
        assert_eq!(disk.list().unwrap(), [("m".to_owned(), 3)]);
    }
}
