//! Writing the new file.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use dlog_proto::PartitionUid;
use dlog_proto::block::{Block, BlockHeader};

use super::contents::Contents;
use super::select::Piece;
use crate::disk::{Disk, DiskFile};
use crate::engine::UpkeepError;
use crate::entry::Entry;
use crate::recovery::inventory::{NEW_PREFIX, read_header};
use crate::segment::encode::{COMMIT_FRAME_LEN, END_FRAME_LEN, GroupEncoder, end_frame};
use crate::segment::entries::{Commit, Head};
use crate::segment::file::Segment;
use crate::segment::frame::{FrameHeader, Place};
use crate::segment::header::SegmentHeader;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;

/// A file in the making.
pub(super) struct Copying {
    contents: Contents,
    groups: Vec<Vec<Piece>>,
    next_group: usize,
    name: String,
    file: Box<dyn DiskFile>,
    header: SegmentHeader,
    offset: u32,
    encoder: GroupEncoder,
    stretches: u32,
}

impl Copying {
    /// The inner error says why the segment stays as it is.
    pub(super) fn begin(
        shared: &Shared,
        source: &Segment,
        to: SegmentId,
        mut contents: Contents,
    ) -> Result<Result<Self, String>, UpkeepError> {
        let groups = groups(&mut contents, shared.config.group_len_max);
        let len = file_len(&mut contents, &groups);
        if len > u64::from(source.len) {
            return Ok(Err("it would not become shorter".to_owned()));
        }
        let disk = &shared.disk;
        if disk.free_bytes()? < len + shared.config.keep_free_bytes {
            return Ok(Err("there is no space for its next generation".to_owned()));
        }
        let source_name = source.id.file_name();
        let Ok(header) = read_header(&**disk, &source_name, source.len.into()) else {
            return Ok(Err("its header is damaged".to_owned()));
        };
        let header = SegmentHeader { segment: to, len: len as u32, ..header };
        let name = format!("{NEW_PREFIX}{to}");
        let file = match disk.create(&name, len) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Ok(Err("there is no space for its next generation".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        Ok(Ok(Self {
            contents,
            groups,
            next_group: 0,
            name,
            file,
            header,
            offset: SegmentHeader::PAGE_LEN,
            encoder: GroupEncoder::default(),
            stretches: 0,
        }))
    }

    /// Copies groups of about so many bytes, and says how many it were; 0 at the end.
    pub(super) fn step(&mut self, source: &Segment, bytes: u32) -> Result<Result<u64, String>, UpkeepError> {
        let begin = self.offset;
        while self.next_group < self.groups.len() && self.offset - begin < bytes {
            if let Err(why) = self.group(source)? {
                return Ok(Err(why));
            }
            self.next_group += 1;
        }
        if self.offset > begin {
            // A little at a time: one sync of all of it in the end would hold up those of the commits.
            self.file.sync()?;
        }
        Ok(Ok(2 * u64::from(self.offset - begin)))
    }

    fn group(&mut self, source: &Segment) -> Result<Result<(), String>, UpkeepError> {
        let pieces = std::mem::take(&mut self.groups[self.next_group]);
        self.encoder.begin(self.header.binding, self.offset);
        let mut stretch = None;
        for piece in pieces {
            let moved = self.contents.moved(piece);
            moved.to = self.offset + self.encoder.len() as u32;
            let (from, len) = (moved.from, moved.len);
            let entry = match read_entry(source, from, len) {
                Ok(entry) => entry,
                Err(why) => return Ok(Err(format!("it is damaged at {from}: {why}"))),
            };
            self.count_stretch(&mut stretch, &entry);
            let before = self.encoder.len();
            self.encoder.put(&entry);
            assert_eq!(self.encoder.len() - before, len as usize, "a frame keeps its length");
        }
        let (number, group_len) = (self.contents.last_commit, self.encoder.len() as u32);
        let commit = Commit { number, group_len, durable: Position::ZERO };
        self.file.write_at(self.offset.into(), &self.encoder.finish(commit))?;
        self.encoder.clear();
        self.offset += group_len;
        Ok(Ok(()))
    }

    fn count_stretch(&mut self, stretch: &mut Option<PartitionUid>, entry: &Entry) {
        if let Entry::Block { block, .. } = entry
            && *stretch != Some(block.header().partition)
        {
            *stretch = Some(block.header().partition);
            self.stretches += 1;
        }
    }

    /// Gives the file its name, durably.
    pub(super) fn finish(self, shared: &Shared) -> io::Result<(Arc<Segment>, Contents, u32)> {
        let place = Place { binding: self.header.binding, offset: self.offset };
        self.file.write_at(self.offset.into(), &[IoSlice::new(&end_frame(place))])?;
        self.file.sync()?;
        shared.disk.rename(&self.name, &self.header.segment.file_name())?;
        shared.disk.sync_dir()?;
        let target = Segment::new(Arc::clone(&shared.disk), &self.header, self.header.len);
        Ok((Arc::new(target), self.contents, self.stretches))
    }

    pub(super) fn give_up(self, disk: &dyn Disk) {
        // What stays is taken for space for segments to come by the next start, or removed.
        let _ = disk.remove(&self.name);
    }
}

/// Parts that stay together, in groups that are not longer than `len_max` unless one part is.
fn groups(contents: &mut Contents, len_max: u32) -> Vec<Vec<Piece>> {
    let parts: Vec<Vec<Piece>> = contents.order.parts().map(<[Piece]>::to_vec).collect();
    let (mut groups, mut group, mut len) = (Vec::new(), Vec::new(), COMMIT_FRAME_LEN);
    for part in parts {
        let part_len = part.iter().map(|piece| contents.moved(*piece).len as usize).sum::<usize>();
        if !group.is_empty() && len + part_len > len_max as usize {
            groups.push(std::mem::take(&mut group));
            len = COMMIT_FRAME_LEN;
        }
        group.extend(part);
        len += part_len;
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

fn file_len(contents: &mut Contents, groups: &[Vec<Piece>]) -> u64 {
    let frames: u64 = groups.iter().flatten().map(|piece| u64::from(contents.moved(*piece).len)).sum();
    let fixed = u64::from(SegmentHeader::PAGE_LEN) + (groups.len() * COMMIT_FRAME_LEN + END_FRAME_LEN) as u64;
    (fixed + frames).next_multiple_of(SegmentHeader::PAGE_LEN.into())
}

/// Reads a frame, and verifies all of it.
fn read_entry(source: &Segment, from: u32, len: u32) -> Result<Entry, String> {
    let mut bytes = vec![0; len as usize];
    source.file().and_then(|file| file.read_at(from.into(), &mut bytes)).map_err(|error| error.to_string())?;
    let place = Place { binding: source.binding, offset: from };
    let frame =
        FrameHeader::decode(&bytes, place).filter(|frame| frame.frame_len() == len && frame.verify(&bytes, place));
    let frame = frame.ok_or("no frame stands there")?;
    let body_at = frame.body_at() as usize;
    let head = Head::decode(frame.kind, &bytes[FrameHeader::LEN..body_at], frame.body_len);
    Ok(match head.map_err(|error| error.to_string())? {
        Head::Block { placement, header } => {
            let begin = body_at - BlockHeader::LEN;
            let bytes = Bytes::from(bytes).slice(begin..begin + header.block_len());
            let block = Block::decode(bytes.into()).map_err(|error| error.to_string())?;
            Entry::Block { placement, block }
        }
        Head::Amend(amend) => Entry::Amend {
            partition: amend.partition,
            epoch: amend.epoch,
            first_esn: amend.first_esn,
            placement: amend.placement,
        },
        Head::Partition(meta) => Entry::Partition(meta),
        Head::Shard(meta) => Entry::Shard(meta),
        Head::Commit(_) | Head::Segments(_) | Head::End => return Err("another frame stands there".to_owned()),
    })
}
