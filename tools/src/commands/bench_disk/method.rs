//! Ways of writing, and how long each takes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, OFlags};

/// What DLog writes in one call at most.
const PIECE_LEN: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    PwriteRecycled,
    PwriteZeroFilled,
    PwriteFallocated,
    PwriteGrowing,
    MapRecycled,
    MapFallocated,
    DirectDsync,
    DirectSync,
}

impl Method {
    pub(super) const ALL: [Self; 8] = [
        Self::PwriteRecycled,
        Self::PwriteZeroFilled,
        Self::PwriteFallocated,
        Self::PwriteGrowing,
        Self::MapRecycled,
        Self::MapFallocated,
        Self::DirectDsync,
        Self::DirectSync,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PwriteRecycled => "pwrite, recycled file",
            Self::PwriteZeroFilled => "pwrite, zero-filled file",
            Self::PwriteFallocated => "pwrite, fallocated file",
            Self::PwriteGrowing => "pwrite, growing file",
            Self::MapRecycled => "mmap, recycled file",
            Self::MapFallocated => "mmap, fallocated file",
            Self::DirectDsync => "O_DIRECT|O_DSYNC, recycled file",
            Self::DirectSync => "O_DIRECT + fdatasync, recycled file",
        }
    }

    /// Writes groups from the beginning of a file on, each synced, until the time or the file is over. `None` if the file
    /// system cannot do that.
    pub(super) fn measure(
        self,
        dir: &Path,
        file_len: u64,
        group_len: usize,
        time: Duration,
    ) -> io::Result<Option<Measured>> {
        let path = self.prepare(dir, file_len)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match self {
            Self::DirectDsync => options.custom_flags((OFlags::DIRECT | OFlags::DSYNC).bits() as i32),
            Self::DirectSync => options.custom_flags(OFlags::DIRECT.bits() as i32),
            _ => &mut options,
        };
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            Err(error) => return Err(error),
        };
        // Pages of its own, as O_DIRECT wants it.
        let mut group = MmapMut::map_anon(group_len)?;
        fastrand::Rng::with_seed(1).fill(&mut group);
        let mut map = match self {
            // SAFETY: the file is this process's own, in a directory that it made.
            Self::MapRecycled | Self::MapFallocated => Some(unsafe { MmapMut::map_mut(&file)? }),
            _ => None,
        };
        let mut measured = Measured::default();
        let begun = Instant::now();
        let mut at = 0;
        while at + group_len as u64 <= file_len && begun.elapsed() < time {
            let started = Instant::now();
            match &mut map {
                Some(map) => {
                    map[at as usize..][..group_len].copy_from_slice(&group);
                    map.flush_range(at as usize, group_len)?;
                }
                None => {
                    write(&file, at, &group)?;
                    if self != Self::DirectDsync {
                        file.sync_data()?;
                    }
                }
            }
            measured.note(group_len, started.elapsed());
            at += group_len as u64;
        }
        Ok(Some(measured))
    }

    /// Makes the file as it should be found, and gives its path.
    fn prepare(self, dir: &Path, len: u64) -> io::Result<std::path::PathBuf> {
        let fresh = dir.join("fresh");
        match self {
            Self::PwriteFallocated | Self::MapFallocated => {
                rustix::fs::fallocate(make(&fresh)?, FallocateFlags::empty(), 0, len)?;
            }
            Self::PwriteGrowing => drop(make(&fresh)?),
            Self::PwriteZeroFilled => fill(&make(&fresh)?, len, 0)?,
            _ => {
                let recycled = dir.join("recycled");
                if !recycled.try_exists()? {
                    fill(&make(&recycled)?, len, 1)?;
                }
                return Ok(recycled);
            }
        }
        Ok(fresh)
    }
}

fn make(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)
}

fn fill(file: &File, len: u64, byte: u8) -> io::Result<()> {
    let piece = vec![byte; PIECE_LEN];
    for at in (0..len).step_by(PIECE_LEN) {
        file.write_all_at(&piece[..PIECE_LEN.min((len - at) as usize)], at)?;
    }
    file.sync_all()
}

fn write(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    for (n, piece) in bytes.chunks(PIECE_LEN).enumerate() {
        file.write_all_at(piece, at + (n * PIECE_LEN) as u64)?;
    }
    Ok(())
}

/// How long groups of one length took.
#[derive(Debug, Default)]
pub(super) struct Measured {
    times: Vec<Duration>,
    bytes: u64,
}

impl Measured {
    fn note(&mut self, bytes: usize, time: Duration) {
        self.times.push(time);
        self.bytes += bytes as u64;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.times.extend(&other.times);
        self.times.sort_unstable();
        self.bytes += other.bytes;
    }

    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let at = self.times.len() * percent / 100;
        self.times.get(at.min(self.times.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// In MB/s.
    pub(super) fn rate(&self) -> f64 {
        let seconds = self.times.iter().sum::<Duration>().as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 / 1e6 / seconds } else { 0.0 }
    }
}
