//! Writing a segment again, so that each partition's blocks lie together and nothing lies between them that is not needed.
//!
//! Commits write what comes, partition by partition as it comes; a reader of one partition then reads everybody's. And when
//! most of a segment is given up, the rest keeps its whole file. So when a segment is full and wholly indexed, its next
//! *generation* may be written beside it, in the background and within a budget: a file of just the length that it takes,
//! with the same number, in the same place of the log.
//!
//! What makes this simple: which blocks a shard has, and which placements, ends and trims hold, does not depend on where in
//! the log they stand, because the newest of each is marked as such in itself. So a segment may be replaced by any other that
//! holds the same frames in another order, less those that are not needed, and the log says the same.
//!
//! 1. *Survey*: all frames are read; if any is damaged the segment stays as it is, because what was there must be missed.
//! 2. *Select*: the index says which of them are needed. Runs are kept whole.
//! 3. *Write*: the new file, synced; every block's checksum is verified on the way.
//! 4. *Switch*: it gets its name, durably, and then the index leads to it, in one batch: what rows say besides positions stays.
//!    What was trimmed meanwhile has no rows any more and is not led to.
//! 5. *Retire*: when that batch is durable and whoever was reading is done, the old file is taken away.
//!
//! After a crash in between there are two generations, either of them good; the index says which one it knows (without an
//! index: the newer).

mod contents;
mod copy;
mod select;
mod switch;

use std::io;
use std::sync::Arc;

use self::contents::Contents;
use self::copy::Copying;
use self::select::Selecting;
use crate::engine::UpkeepError;
use crate::segment::SegmentId;
use crate::segment::file::Segment;
use crate::segment::walk::Walk;
use crate::shared::Shared;

/// A rewriting under way.
pub(crate) struct Rewrite {
    shared: Arc<Shared>,
    source: Arc<Segment>,
    to: SegmentId,
    stage: Stage,
}

enum Stage {
    Survey(Walk, Contents),
    Select(Selecting),
    Copy(Copying),
    Over,
}

/// What became of a step.
pub(crate) enum Progress {
    /// It goes on; so many bytes were read or written.
    Went(u64),
    /// The next generation is on the disk, and the index can be led to it.
    Written(Written),
    /// The segment stays as it is, and why.
    Kept(String),
}

/// A new generation that is ready.
pub(crate) struct Written {
    pub(crate) source: Arc<Segment>,
    pub(crate) target: Arc<Segment>,
    contents: Contents,
    /// As the index counts them.
    stretches: u32,
}

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rewrite").field("source", &self.source.id).finish_non_exhaustive()
    }
}

impl Rewrite {
    /// `None` if the segment cannot be rewritten once more.
    pub(crate) fn new(shared: &Arc<Shared>, source: Arc<Segment>) -> io::Result<Option<Self>> {
        let Some(to) = source.id.rewritten() else { return Ok(None) };
        let walk = source.walk(0..source.len)?;
        let stage = Stage::Survey(walk, Contents::default());
        Ok(Some(Self { shared: Arc::clone(shared), source, to, stage }))
    }

    pub(crate) fn source(&self) -> SegmentId {
        self.source.id
    }

    /// Goes on for about so many bytes.
    pub(crate) fn step(&mut self, bytes: u32) -> Result<Progress, UpkeepError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Survey(walk, contents) => Ok(self.survey(walk, contents, bytes)),
            Stage::Select(selecting) => self.select(selecting),
            Stage::Copy(copying) => self.copy(copying, bytes),
            Stage::Over => Ok(Progress::Kept("it is over".to_owned())),
        }
    }

    fn survey(&mut self, mut walk: Walk, mut contents: Contents, bytes: u32) -> Progress {
        let begin = walk.offset();
        let surveyed = contents.survey(&mut walk, bytes);
        let read = u64::from(walk.offset() - begin);
        self.stage = match surveyed {
            Ok(true) => Stage::Select(Selecting::new(contents)),
            Ok(false) => Stage::Survey(walk, contents),
            Err(why) => return Progress::Kept(why),
        };
        Progress::Went(read)
    }

    fn select(&mut self, mut selecting: Selecting) -> Result<Progress, UpkeepError> {
        self.stage = match selecting.step(&self.shared.kv, self.source.id)? {
            Ok(false) => Stage::Select(selecting),
            Ok(true) => match Copying::begin(&self.shared, &self.source, self.to, selecting.into_contents())? {
                Ok(copying) => Stage::Copy(copying),
                Err(why) => return Ok(Progress::Kept(why)),
            },
            Err(why) => return Ok(Progress::Kept(why)),
        };
        Ok(Progress::Went(0))
    }

    fn copy(&mut self, mut copying: Copying, bytes: u32) -> Result<Progress, UpkeepError> {
        Ok(match copying.step(&self.source, bytes)? {
            Err(why) => {
                copying.give_up(&*self.shared.disk);
                Progress::Kept(why)
            }
            Ok(0) => {
                let (target, contents, stretches) = copying.finish(&self.shared)?;
                Progress::Written(Written { source: Arc::clone(&self.source), target, contents, stretches })
            }
            Ok(copied) => {
                self.stage = Stage::Copy(copying);
                Progress::Went(copied)
            }
        })
    }

    /// The segment is not needed any more.
    pub(crate) fn give_up(self) {
        if let Stage::Copy(copying) = self.stage {
            copying.give_up(&*self.shared.disk);
        }
    }
}
