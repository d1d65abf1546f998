//! Writing the log: batches, segments that are full, segments that can go.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use dlog_proto::NodeId;

use super::WalError;
use super::durable::{Durable, DurableFile};
use super::record::{self, Record, Start};
use super::segment::{self, Header};
use crate::raft::types::{Entry, LogId, Vote};

/// A segment that is this long is the last of its batch.
const SEGMENT_LEN: u64 = 16 << 20;

/// Something to write.
#[derive(Debug)]
pub(crate) enum Op {
    Append(Vec<Entry>),
    Vote(Vote),
    Committed(Option<LogId>),
    Truncate(LogId),
    Purge(LogId),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentInfo {
    pub(super) number: u64,
    pub(super) len: u64,
    /// Highest index of an entry that was ever written in it.
    pub(super) last_index: Option<u64>,
}

pub(crate) struct Writer {
    dir: PathBuf,
    node: NodeId,
    file: File,
    /// Ascending; the last is the one that is written.
    segments: VecDeque<SegmentInfo>,
    marks: Start,
    durable: DurableFile,
    segment_len: u64,
    /// Held for as long as the log is open.
    _lock: File,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        node: NodeId,
        file: File,
        segments: VecDeque<SegmentInfo>,
        marks: Start,
        durable: DurableFile,
        lock: File,
    ) -> Result<Self, WalError> {
        let writer = Self { dir, node, file, segments, marks, durable, segment_len: SEGMENT_LEN, _lock: lock };
        // What was read may have been in memory only when another process was killed.
        let path = segment::path(&writer.dir, writer.active().number);
        writer.file.sync_all().map_err(super::io_error("sync", path))?;
        Ok(writer)
    }

    #[cfg(test)]
    pub(super) fn with_segment_len(mut self, segment_len: u64) -> Self {
        self.segment_len = segment_len;
        self
    }

    fn active(&self) -> SegmentInfo {
        *self.segments.back().expect("there is always a segment")
    }

    /// Writes `ops` in their order; durable when this returns. After an error nothing more may be written: what is on
    /// disk is not known, and a failed sync cannot be tried again.
    pub(crate) fn write(&mut self, ops: &[Op]) -> io::Result<()> {
        let active = self.active();
        let mut buffer = Vec::with_capacity(4096);
        let mut last_index = active.last_index;
        let mut put = |record: &Record| record::write(&mut buffer, active.number, active.len, record);
        put(&Record::Mark);
        for op in ops {
            match op {
                Op::Append(entries) => {
                    for entry in entries {
                        last_index = last_index.max(Some(entry.log_id.index));
                        put(&Record::Entry(entry.clone()));
                    }
                }
                Op::Vote(vote) => {
                    self.marks.vote = Some(*vote);
                    put(&Record::Vote(*vote));
                }
                Op::Committed(committed) => {
                    self.marks.committed = *committed;
                    put(&Record::Committed(*committed));
                }
                Op::Truncate(log_id) => put(&Record::Truncate(*log_id)),
                Op::Purge(log_id) => {
                    self.marks.purged = self.marks.purged.max(Some(*log_id));
                    put(&Record::Purge(*log_id));
                }
            }
        }
        self.file.write_all(&buffer)?;
        self.file.sync_data()?;
        let len = active.len + buffer.len() as u64;
        *self.segments.back_mut().expect("there is always a segment") = SegmentInfo { len, last_index, ..active };
        self.durable.note(Durable { segment: active.number, len })?;
        if len >= self.segment_len {
            self.begin_segment()?;
        }
        self.remove_purged()
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let SegmentInfo { number, len: previous_len, .. } = self.active();
        let header = Header { node: self.node, number: number + 1, previous_len };
        let (file, len) = segment::create(&self.dir, &header, self.marks).map_err(io::Error::other)?;
        self.file = file;
        self.segments.push_back(SegmentInfo { number: number + 1, len, last_index: None });
        Ok(())
    }

    /// Removes segments, oldest first, of which nothing is needed any more. That their entries are purged stands
    /// durably in a later one.
    fn remove_purged(&mut self) -> io::Result<()> {
        let purged = self.marks.purged.map(|purged| purged.index);
        let mut removed = false;
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.last_index <= purged) {
            let segment = self.segments.pop_front().expect("checked above");
            fs::remove_file(segment::path(&self.dir, segment.number))?;
            removed = true;
        }
        if removed { segment::sync_dir(&self.dir).map_err(io::Error::other) } else { Ok(()) }
    }
}
