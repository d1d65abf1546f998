//! Which files a directory has, before any of them is believed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::OpenError;
use crate::disk::Disk;
use crate::segment::SegmentId;
use crate::segment::file::Segment;
use crate::segment::header::{HeaderError, Identity, SegmentHeader};

/// Prefixes of files that hold nothing: space for the next segments.
const SPARE_PREFIXES: [&str; 2] = [FREE_PREFIX, NEW_PREFIX];
/// A segment that is not needed any more.
pub(crate) const FREE_PREFIX: &str = "free-";
/// A segment that is not ready yet.
pub(crate) const NEW_PREFIX: &str = "new-";

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

    /// Highest number that a file has.
    pub(crate) fn highest(&self) -> Option<SegmentId> {
        self.segments.keys().chain(&self.damaged).max().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.damaged.is_empty()
    }
}

pub(crate) fn read_header(disk: &dyn Disk, name: &str, len: u64) -> Result<SegmentHeader, HeaderError> {
    match read_page(disk, name, len) {
        Ok(page) => SegmentHeader::decode(&page),
        Err(error) => {
            tracing::error!(file = name, %error, "cannot read the segment's header");
            Err(HeaderError::Damaged)
        }
    }
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
