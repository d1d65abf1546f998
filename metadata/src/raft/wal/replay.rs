//! Opening the log: read all segments, make sure that nothing is missing, cut off a torn tail.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use dlog_proto::NodeId;

use super::durable::{Durable, DurableFile};
use super::record::{self, Record, Scanned, Start};
use super::segment::{self, HEADER_LEN, Header};
use super::writer::{SegmentInfo, Writer};
use super::{Damage, WalError, io_error};
use crate::raft::types::{Entry, LogId};

/// What a log holds.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) marks: Start,
    pub(crate) entries: VecDeque<Entry>,
    /// Index of the entry that must come next; not known before the first one, if segments before it were removed.
    next_index: Option<u64>,
}

impl Replayed {
    fn apply(&mut self, record: Record) -> Result<(), Damage> {
        match record {
            Record::Start(start) => self.marks = start,
            Record::Mark => {}
            Record::Vote(vote) => self.marks.vote = Some(vote),
            Record::Committed(committed) => self.marks.committed = committed,
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                if self.next_index.is_some_and(|next| next != index) {
                    return Err(Damage::Order("an entry does not follow the one before it"));
                }
                self.next_index = Some(index + 1);
                self.entries.push_back(entry);
            }
            Record::Truncate(log_id) => {
                self.entries.retain(|entry| entry.log_id.index < log_id.index);
                self.next_index = self.next_index.map(|next| next.min(log_id.index));
            }
            Record::Purge(log_id) => self.purge(log_id),
        }
        Ok(())
    }

    fn purge(&mut self, log_id: LogId) {
        self.entries.retain(|entry| entry.log_id.index > log_id.index);
        self.marks.purged = self.marks.purged.max(Some(log_id));
        self.next_index = self.next_index.max(Some(log_id.index + 1));
    }

    fn finish(&mut self) -> Result<(), Damage> {
        let first = self.marks.purged.map_or(0, |purged| purged.index + 1);
        if self.entries.front().is_some_and(|entry| entry.log_id.index != first) {
            return Err(Damage::Order("entries are missing between what was purged and the first one"));
        }
        // The committed mark may be behind a torn tail; what is not there is not committed here.
        let last = self.entries.back().map(|entry| entry.log_id).or(self.marks.purged);
        self.marks.committed = self.marks.committed.min(last);
        Ok(())
    }
}

/// Opens the log of `node` in `dir`, or begins one.
pub(crate) fn open(dir: &Path, node: NodeId) -> Result<(Replayed, Writer), WalError> {
    fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    let lock = lock(dir)?;
    let (durable_file, durable) = DurableFile::open(dir)?;
    let Log { replayed, mut segments, torn } = read(dir, node, durable)?;
    if let Some((path, len)) = torn {
        tracing::warn!(file = %path.display(), at = len, "cut off an unfinished write of the metadata log");
        cut(&path, len)?;
    }
    let file = match segments.back() {
        Some(last) => segment::open_to_append(&segment::path(dir, last.number))?,
        None => {
            let (file, len) = segment::create(dir, &Header { node, number: 1, previous_len: 0 }, Start::default())?;
            segments.push_back(SegmentInfo { number: 1, len, last_index: None });
            file
        }
    };
    let writer = Writer::new(dir.to_owned(), node, file, segments, replayed.marks, durable_file, lock)?;
    Ok((replayed, writer))
}

/// One process has the log at a time; the lock goes with its file.
fn lock(dir: &Path) -> Result<File, WalError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WalError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

fn cut(path: &Path, len: u64) -> Result<(), WalError> {
    let file = fs::OpenOptions::new().write(true).open(path).map_err(io_error("open", path))?;
    file.set_len(len).and_then(|()| file.sync_all()).map_err(io_error("cut", path))
}

/// A log as it lies on disk.
pub(super) struct Log {
    pub(super) replayed: Replayed,
    pub(super) segments: VecDeque<SegmentInfo>,
    /// The file that ends in the middle of a write, and where it is whole.
    pub(super) torn: Option<(PathBuf, u64)>,
}

/// Reads the log in `dir`, of which `durable` is known to be durable.
pub(super) fn read(dir: &Path, node: NodeId, durable: Durable) -> Result<Log, WalError> {
    let numbers = segment::list(dir)?;
    let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]).map(|pair| pair[0] + 1);
    let last = numbers.last().copied().unwrap_or_default();
    let lost = (durable.segment > last).then_some(durable.segment);
    if let Some(number) = gap.or(lost) {
        return Err(damaged(segment::path(dir, number), 0, Damage::Missing));
    }
    let next_index = numbers.first().is_none_or(|first| *first == 1).then_some(0);
    let log = Log { replayed: Replayed { next_index, ..Replayed::default() }, segments: VecDeque::new(), torn: None };
    let mut reader = Reader { dir, node, durable, log };
    for number in numbers {
        reader.read(number, number == last)?;
    }
    let Reader { mut log, .. } = reader;
    let (path, len) = (segment::path(dir, last), log.segments.back().map_or(0, |segment| segment.len));
    log.replayed.finish().map_err(|what| damaged(path, len, what))?;
    Ok(log)
}

struct Reader<'a> {
    dir: &'a Path,
    node: NodeId,
    durable: Durable,
    log: Log,
}

impl Reader<'_> {
    fn read(&mut self, number: u64, is_last: bool) -> Result<(), WalError> {
        let path = segment::path(self.dir, number);
        let file = fs::read(&path).map_err(io_error("read", &path))?;
        let header = Header::read(&path, &file, number, self.node)?;
        if let Some(previous) = self.log.segments.back().filter(|previous| previous.len != header.previous_len) {
            let path = segment::path(self.dir, previous.number);
            return Err(damaged(path, previous.len, Damage::Short { expected: header.previous_len }));
        }
        let mut last_index = None;
        let mut at = HEADER_LEN;
        loop {
            match record::scan(&file, number, at) {
                Scanned::Record { record, next } => {
                    if (at == HEADER_LEN) != matches!(record, Record::Start(_)) {
                        let what = Damage::Order("a segment does not begin with its start");
                        return Err(damaged(path, at as u64, what));
                    }
                    if let Record::Entry(entry) = &record {
                        last_index = last_index.max(Some(entry.log_id.index));
                    }
                    self.log.replayed.apply(record).map_err(|what| damaged(path.clone(), at as u64, what))?;
                    at = next;
                }
                Scanned::End => break,
                Scanned::Broken if is_last && is_torn_tail(&file, number, at) => {
                    self.log.torn = Some((path.clone(), at as u64));
                    break;
                }
                Scanned::Broken => return Err(damaged(path, at as u64, Damage::Record)),
                Scanned::Unknown { kind } => {
                    return Err(WalError::Version { path, what: format!("a record of kind {kind} at byte {at}") });
                }
            }
        }
        let len = at as u64;
        if self.durable.segment == number && self.durable.len > len {
            return Err(damaged(path, len, Damage::Short { expected: self.durable.len }));
        }
        self.log.segments.push_back(SegmentInfo { number, len, last_index });
        Ok(())
    }
}

/// Whether what is broken at `at` of the last segment may never have been durable, as far as the segment can tell. (Its
/// start was durable before it had its name.)
fn is_torn_tail(file: &[u8], number: u64, at: usize) -> bool {
    at > HEADER_LEN && !record::has_mark(file, number, at + 1)
}

fn damaged(path: PathBuf, offset: u64, what: Damage) -> WalError {
    WalError::Damaged { path, offset, what }
}
