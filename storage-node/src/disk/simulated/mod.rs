//! A disk that remembers what would survive the machine.
//!
//! Every file has a durable image and, per 4 KiB page, what was written to it since the last sync. [`SimulatedDisk::crash`]
//! throws dice for each of those pages: it is as it was, as it is, as it was in between, or torn at 512-byte sectors. Names
//! have a durable side and changes since the last directory sync, of which any may be lost. Power can be cut at any
//! operation that changes something ([`SimulatedDisk::cut_power_at`]): it and all later ones fail, until `crash`.
//!
//! Everything is decided by the random numbers handed in: one seed, one fate.

mod faults;
mod image;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Disk, DiskFile, LockError, LockGuard};
pub use faults::{Fault, Operation};
use faults::{Faults, no_power, no_space, not_found};
use image::Image;

/// A directory in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<u64, Image>,
    next_image: u64,
    /// Names as the running process sees them.
    names: BTreeMap<String, u64>,
    /// Names as they are durable.
    durable_names: BTreeMap<String, u64>,
    /// What happened to names since.
    name_changes: Vec<NameChange>,
    /// Handles of an earlier life are dead.
    life: u64,
    locked: bool,
    capacity: Option<u64>,
    faults: Faults,
}

#[derive(Debug, Clone)]
enum NameChange {
    Made(String, u64),
    Renamed(String, String),
    Removed(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Made(name, image) => {
                names.insert(name.clone(), *image);
            }
            Self::Renamed(from, to) => {
                if let Some(image) = names.remove(from) {
                    names.insert(to.clone(), image);
                }
            }
            Self::Removed(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    fn image(&mut self, id: u64, life: u64) -> io::Result<&mut Image> {
        if life != self.life {
            return Err(no_power());
        }
        self.images.get_mut(&id).ok_or_else(not_found)
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.drop_unnamed();
    }

    /// Images that no name leads to any more, whatever a crash does, are gone. (Handles to them are not used: the engine
    /// removes files only when it has let go of them.)
    fn drop_unnamed(&mut self) {
        let made = |id: &u64| self.name_changes.iter().any(|c| matches!(c, NameChange::Made(_, made) if made == id));
        let named =
            |id: &u64| self.names.values().any(|n| n == id) || self.durable_names.values().any(|n| n == id) || made(id);
        let unnamed: Vec<u64> = self.images.keys().copied().filter(|id| !named(id)).collect();
        unnamed.iter().for_each(|id| drop(self.images.remove(id)));
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.images[id].len()).sum()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").field("files", &self.state().names.len()).finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An independent copy: what happens to one does not happen to the other.
    pub fn fork(&self) -> Self {
        let state = self.state();
        let copy = State {
            images: state.images.clone(),
            next_image: state.next_image,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            life: state.life + 1,
            locked: false,
            capacity: state.capacity,
            faults: Faults::default(),
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// The machine loses power and comes back: unsynced pages and names keep or lose what was done to them. Open handles
    /// and the lock are void, planned faults forgotten, the capacity stays.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        let mut state = self.state();
        for change in std::mem::take(&mut state.name_changes) {
            if rng.bool() {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        state.images.values_mut().for_each(|image| image.crash(rng));
        state.drop_unnamed();
        state.begin_life();
    }

    /// The process is killed; the machine stays up and loses nothing.
    pub fn kill(&self) {
        self.state().begin_life();
    }

    /// Makes a file of this length and content, durable at once: what an operator or another version left there.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.next_image;
        state.next_image += 1;
        state.images.insert(id, Image::with(bytes));
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    /// What the file holds, as the running process sees it.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let image = &state.images[state.names.get(name)?];
        Some(image.read(0..image.len()))
    }

    /// Turns one bit over, unnoticed, on the medium and in memory.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let mut state = self.state();
        let id = state.names[name];
        state.images.get_mut(&id).expect("named files have an image").flip_bit(bit);
    }

    /// Room for all files together; `None` is without end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }
}

impl State {
    fn begin_life(&mut self) {
        self.life += 1;
        self.locked = false;
        self.faults = Faults::default();
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.faults.check(Operation::Create)?;
        let replaced = state.names.get(name).map_or(0, |id| state.images[id].len());
        if state.capacity.is_some_and(|capacity| state.used() - replaced + len > capacity) {
            return Err(no_space());
        }
        let id = state.next_image;
        state.next_image += 1;
        state.images.insert(id, Image::zeros(len));
        state.change_names(NameChange::Made(name.to_owned(), id));
        let life = state.life;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, life, len, held: Arc::default() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.faults.check(Operation::Read)?;
        let id = *state.names.get(name).ok_or_else(not_found)?;
        let (life, len) = (state.life, state.images[&id].len());
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, life, len, held: Arc::default() }))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.faults.check(Operation::Read)?;
        Ok(state.names.iter().map(|(name, id)| (name.clone(), state.images[id].len())).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.faults.check(Operation::Name)?;
        if !state.names.contains_key(from) {
            return Err(not_found());
        }
        state.change_names(NameChange::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.faults.check(Operation::Name)?;
        if !state.names.contains_key(name) {
            return Err(not_found());
        }
        state.change_names(NameChange::Removed(name.to_owned()));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(state.used())))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.faults.check(Operation::Sync)?;
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        state.drop_unnamed();
        Ok(())
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        let mut state = self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held { pid: None });
        }
        Ok(Box::new(Unlock { disk: self.clone(), life: state.life }))
    }
}

struct Unlock {
    disk: SimulatedDisk,
    life: u64,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
    life: u64,
    len: u64,
    /// As many references as slices are given out, and one.
    held: Arc<()>,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedFile").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

struct HeldSlice {
    bytes: Vec<u8>,
    _held: Arc<()>,
}

impl AsRef<[u8]> for HeldSlice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl SimulatedFile {
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        state.faults.check(Operation::Read)?;
        let image = state.image(self.id, self.life)?;
        if range.end > image.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(image.read(range))
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        assert!(at + bytes.len() as u64 <= self.len, "files do not grow");
        let mut state = self.disk.state();
        let outcome = state.faults.check(Operation::Write);
        let power_fails_now = state.faults.power_fails_now();
        let image = state.image(self.id, self.life)?;
        // A write during which the power fails may have come as far as the page cache, and from there anywhere.
        if outcome.is_ok() || power_fails_now {
            image.write(at, &bytes);
        }
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let outcome = state.faults.check(Operation::Sync);
        let power_is_on = !state.faults.power_is_off();
        let image = state.image(self.id, self.life)?;
        match &outcome {
            Ok(()) => image.sync(),
            Err(_) if power_is_on => image.fail_sync(),
            Err(_) => {}
        }
        outcome
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.read(at..at + buffer.len() as u64)?);
        Ok(())
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Bytes> {
        Ok(Bytes::from_owner(HeldSlice { bytes: self.read(range)?, _held: Arc::clone(&self.held) }))
    }

    fn read_ahead(&self, _: Range<u64>) {}

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.held) > 1
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        Ok(from)
    }
}
