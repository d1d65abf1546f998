//! Which files a directory has, before any of them is believed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{OpenError, checkpoint};
use crate::disk::Disk;
use crate::index::kv::{Kv, KvError};
use crate::index::schema::{Row, SegmentRow, Table};
use crate::segment::SegmentId;
use crate::segment::file::Segment;
use crate::segment::header::{HeaderError, Identity, SegmentHeader};

/// Prefixes of files that hold nothing: space for the next segments.
const SPARE_PREFIXES: [&str; 2] = [FREE_PREFIX, NEW_PREFIX];
/// A segment that is not needed any more.
pub(crate) const FREE_PREFIX: &str = "free-";
/// A segment that is not ready yet.
pub(crate) const NEW_PREFIX: &str = "new-";

/// How often a header is read before it is called unreadable.
const READ_TRIES: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) segments: BTreeMap<SegmentId, Arc<Segment>>,
    /// By their names; their headers cannot be read, and so nothing in them.
    pub(crate) damaged: Vec<SegmentId>,
    /// Files whose space can be used again, with their lengths.
    pub(crate) spare: Vec<(String, u64)>,
}

impl Inventory {
    /// Looks at all files. Gives segments that were renamed their names back; moves second copies aside.
    pub(crate) fn take(disk: &Arc<dyn Disk>, identity: &Identity) -> Result<Self, OpenError> {
        let mut inventory = Self::default();
        let mut misnamed = Vec::new();
        let mut files = disk.list()?;
        files.sort();
        for (name, len) in files {
            if SPARE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                inventory.spare.push((name, len));
                continue;
            }
            let Some(named) = SegmentId::of_file_name(&name) else { continue };
            match read_header(&**disk, &name, len) {
                Ok(header) => {
                    check_identity(&name, &header.identity, identity)?;
                    if header.segment == named {
                        inventory.add(disk, &header, len);
                    } else {
                        misnamed.push((name, header, len));
                    }
                }
                Err(error @ HeaderError::Version(_)) => {
                    return Err(OpenError::Segment { name, error: error.to_string() });
                }
                Err(HeaderError::Damaged) => {
                    tracing::error!(file = name, "neither copy of the segment's header can be read");
                    inventory.damaged.push(named);
                }
            }
        }
        for (name, header, len) in misnamed {
            inventory.put_right(disk, &name, &header, len)?;
        }
        Ok(inventory)
    }

    fn add(&mut self, disk: &Arc<dyn Disk>, header: &SegmentHeader, file_len: u64) {
        let mut header = *header;
        if file_len < header.len.into() {
            tracing::error!(segment = %header.segment, file_len, expected = header.len, "the segment was cut short");
            header.len = file_len as u32 & !7;
        }
        self.segments.insert(header.segment, Arc::new(Segment::new(Arc::clone(disk), &header, header.len)));
    }

    fn put_right(&mut self, disk: &Arc<dyn Disk>, name: &str, header: &SegmentHeader, len: u64) -> io::Result<()> {
        if self.segments.contains_key(&header.segment) || self.damaged.contains(&header.segment) {
            tracing::error!(file = name, segment = %header.segment, "a second copy of a segment: moved aside");
            disk.rename(name, &format!("{name}.duplicate"))?;
        } else {
            tracing::error!(file = name, segment = %header.segment, "the segment was renamed: it gets its name back");
            disk.rename(name, &header.segment.file_name())?;
            self.add(disk, header, len);
        }
        disk.sync_dir()
    }

    /// Leaves one file per segment. A start after a crash may find two: its next generation is ready before the index leads to
    /// it, and the one before is there until that is durable. Either holds all that is needed; the index says which it knows.
    pub(crate) fn choose(&mut self, disk: &dyn Disk, kv: &dyn Kv) -> Result<(), OpenError> {
        let doubled: Vec<SegmentId> = (self.segments.keys().zip(self.segments.keys().skip(1)))
            .filter(|(one, other)| one.number() == other.number())
            .map(|(one, _)| one.original())
            .collect();
        let is_new = checkpoint(kv)?.is_none();
        for segment in doubled {
            let all = self.segments.range(segment..segment.next()).map(|(id, _)| *id).collect::<Vec<_>>();
            let chosen = if is_new { all.last().copied() } else { Some(indexed_generation(kv, segment)?) };
            for id in all.into_iter().filter(|id| Some(*id) != chosen) {
                disk.remove(&id.file_name())?;
                self.segments.remove(&id);
            }
        }
        Ok(())
    }

    /// Whether there is a file for a segment that can be read, of whichever generation.
    pub(crate) fn has(&self, segment: SegmentId) -> bool {
        self.segments.range(segment.original()..segment.next()).next().is_some()
    }

    /// Highest number that a file has.
    pub(crate) fn highest(&self) -> Option<SegmentId> {
        self.segments.keys().chain(&self.damaged).max().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.damaged.is_empty()
    }
}

/// The generation of a segment that the index leads to.
pub(crate) fn indexed_generation(kv: &dyn Kv, segment: SegmentId) -> Result<SegmentId, KvError> {
    let row = kv.get(&Table::Segment.segment(segment.original()))?;
    let row = row.as_deref().map(SegmentRow::decode).transpose()?;
    Ok(segment.of_generation(row.map_or(0, |row| row.generation)))
}

pub(crate) fn read_header(disk: &dyn Disk, name: &str, len: u64) -> Result<SegmentHeader, HeaderError> {
    // A disk that errs once may not err again.
    for _ in 0..READ_TRIES {
        match read_page(disk, name, len) {
            Ok(page) => return SegmentHeader::decode(&page),
            Err(error) => tracing::error!(file = name, %error, "cannot read the segment's header"),
        }
    }
    Err(HeaderError::Damaged)
}

/// The first page of a file, or as much of it as there is.
pub(crate) fn read_page(disk: &dyn Disk, name: &str, len: u64) -> io::Result<Vec<u8>> {
    let mut page = vec![0; SegmentHeader::PAGE_LEN.min(u32::try_from(len).unwrap_or(u32::MAX)) as usize];
    disk.open(name)?.read_at(0, &mut page)?;
    Ok(page)
}

/// Refuses what belongs to somebody else, and says to whom.
pub(crate) fn check_identity(file: &str, found: &Identity, expected: &Identity) -> Result<(), OpenError> {
    let foreign = |what, found: String, expected: String| {
        Err(OpenError::Foreign { file: file.to_owned(), what, found, expected })
    };
    if found.cluster != expected.cluster {
        return foreign("cluster", found.cluster.to_string(), expected.cluster.to_string());
    }
    if found.shard.node != expected.shard.node {
        return foreign("node", found.shard.node.to_string(), expected.shard.node.to_string());
    }
    if found.shard != expected.shard {
        return foreign("shard", found.shard.to_string(), expected.shard.to_string());
    }
    if found.incarnation != expected.incarnation {
        return foreign("incarnation", found.incarnation.0.to_string(), expected.incarnation.0.to_string());
    }
    Ok(())
}
