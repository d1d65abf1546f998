//! A shard's directory, looked at while no process uses it. Nothing in it is changed, however damaged it is.

mod counts;
mod frames;
mod verify;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

pub use self::frames::{Content, Frame, Frames, Item};
pub use self::verify::{Fault, FaultKind, Verdict, VerifyError};
use crate::disk::Disk;
use crate::disk::unchanged::Unchanged;
use crate::index::kv::{Direction, Kv, KvError};
use crate::index::schema::{SegmentRow, Table, segment_of};
use crate::index::transaction::scan;
use crate::marker::{MARKER_FILE, Marker, MarkerError};
use crate::recovery::inventory::{FREE_PREFIX, NEW_PREFIX, read_header, read_page};
use crate::recovery::scan::first_commit;
use crate::segment::file::Segment;
use crate::segment::header::{HeaderError, Identity, SegmentHeader};
use crate::segment::{Position, SegmentId};

/// A shard's files.
#[derive(Debug)]
pub struct ShardFiles {
    disk: Arc<dyn Disk>,
    marker: Option<Result<Marker, MarkerError>>,
    pub segments: Vec<SegmentFile>,
    /// Space for segments to come.
    pub spare: Vec<(String, u64)>,
    /// What is not ours, or was moved aside.
    pub others: Vec<String>,
}

/// How the directory was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Stopped cleanly; everything before this place is durable.
    Cleanly(Position),
    /// In use, or its process or machine went down.
    Uncleanly,
    /// The marker does not say, because it is missing or damaged.
    Unknown(String),
}

/// A file with a segment's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    pub name: String,
    pub file_len: u64,
    /// By its name.
    pub id: SegmentId,
    pub state: SegmentState,
    /// What its header says; `None` if neither copy can be read.
    pub header: Option<Header>,
    /// Copies of the header that are good, of two.
    pub header_copies: usize,
    /// Behind the last frame, as far as it is known without reading the segment.
    pub used: Option<u32>,
    /// Number of its first group.
    pub first_commit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub id: SegmentId,
    pub identity: Identity,
    pub len: u32,
    /// By the node's clock.
    pub created_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// Full, or left for the next one.
    Sealed,
    /// The log goes on in it.
    Active,
    /// Nothing was written to it yet.
    Ready,
    /// Its header is that of another segment than its name says.
    Renamed,
    /// Its header is that of another shard.
    Foreign,
    /// Its header cannot be read, and so nothing in it.
    Damaged,
    /// Its header is of a version that this process does not know.
    Newer,
}

impl ShardFiles {
    /// Looks at the files of a directory.
    pub fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(Unchanged::new(disk)?);
        let marker = Marker::read(&*disk)?;
        let mut files = Self { disk, marker, segments: Vec::new(), spare: Vec::new(), others: Vec::new() };
        let mut names = files.disk.list()?;
        names.sort();
        for (name, len) in names {
            if let Some(id) = SegmentId::of_file_name(&name) {
                let segment = files.look_at(name, id, len);
                files.segments.push(segment);
            } else if name.starts_with(FREE_PREFIX) || name.starts_with(NEW_PREFIX) {
                files.spare.push((name, len));
            } else if name != MARKER_FILE && name != "lock" {
                files.others.push(name);
            }
        }
        files.find_ends()?;
        Ok(files)
    }

    fn look_at(&self, name: String, id: SegmentId, file_len: u64) -> SegmentFile {
        let (state, header) = match read_header(&*self.disk, &name, file_len) {
            Ok(header) if self.identity().is_some_and(|ours| ours != header.identity) => {
                (SegmentState::Foreign, Some(header))
            }
            Ok(header) if header.segment != id => (SegmentState::Renamed, Some(header)),
            Ok(header) => (SegmentState::Ready, Some(header)),
            Err(HeaderError::Damaged) => (SegmentState::Damaged, None),
            Err(HeaderError::Version(_)) => (SegmentState::Newer, None),
        };
        let header = header.map(|header| Header {
            id: header.segment,
            identity: header.identity,
            len: header.len,
            created_ms: header.created_ms,
        });
        let header_copies = read_page(&*self.disk, &name, file_len).map_or(0, |page| SegmentHeader::good_copies(&page));
        SegmentFile { name, file_len, id, state, header, header_copies, used: None, first_commit: None }
    }

    /// Which segments were written to: a group says up to where the one before it was.
    fn find_ends(&mut self) -> io::Result<()> {
        let mut commits = Vec::with_capacity(self.segments.len());
        for file in &self.segments {
            let segment = self.segment(file).ok().filter(|_| file.state == SegmentState::Ready);
            commits.push(segment.map_or(Ok(None), |segment| first_commit(&segment))?);
        }
        let last = commits.iter().rposition(Option::is_some);
        for (at, commit) in commits.iter().enumerate() {
            let Some(commit) = commit else { continue };
            let next = commits[at + 1..].iter().flatten().next().and_then(|next| next.as_ref());
            let file = &mut self.segments[at];
            file.state = if Some(at) == last { SegmentState::Active } else { SegmentState::Sealed };
            file.first_commit = commit.as_ref().map(|commit| commit.number);
            file.used = next.map(|next| next.durable).filter(|end| end.segment == file.id).map(|end| end.offset);
        }
        Ok(())
    }

    /// Whose directory it is: as the marker says.
    pub fn identity(&self) -> Option<Identity> {
        match &self.marker {
            Some(Ok(marker)) => Some(marker.identity),
            _ => self.segments.iter().find_map(|file| file.header).map(|header| header.identity),
        }
    }

    pub fn left(&self) -> Left {
        match &self.marker {
            None => Left::Unknown("there is no marker".to_owned()),
            Some(Err(error)) => Left::Unknown(error.to_string()),
            Some(Ok(marker)) if marker.clean => Left::Cleanly(marker.end),
            Some(Ok(_)) => Left::Uncleanly,
        }
    }

    /// Everything that stands in a segment, in order.
    pub fn frames(&self, file: &SegmentFile) -> io::Result<Frames> {
        Frames::new(Arc::new(self.segment(file)?))
    }

    fn segment(&self, file: &SegmentFile) -> io::Result<Segment> {
        let header = read_header(&*self.disk, &file.name, file.file_len).map_err(io::Error::other)?;
        let len = u32::try_from(file.file_len).unwrap_or(u32::MAX).min(header.len) & !7;
        // It is looked for by the name that its number gives it.
        if file.name != header.segment.file_name() {
            return Err(io::Error::other(format!("it is called {} and holds segment {}", file.name, header.segment)));
        }
        Ok(Segment::new(Arc::clone(&self.disk), &SegmentHeader { len, ..header }, len))
    }
}

/// How much of each segment is still needed, in bytes of frames of blocks, as the index knows.
pub fn live_bytes(index: &dyn Kv) -> Result<BTreeMap<SegmentId, u64>, KvError> {
    let rows = scan::<SegmentRow>(index, &Table::Segment.all(), Direction::Ascending, usize::MAX)?;
    Ok(rows
        .into_iter()
        .filter_map(|(key, row)| Some((segment_of(&key)?.of_generation(row.generation), row.live_bytes)))
        .collect())
}
