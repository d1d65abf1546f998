//! One shard's engine: opens a directory, appends, syncs, keeps the index up, closes.
//!
//! Everything here is called by one thread and waits for the disk; [`Reader`]s work beside it. A running shard puts it on
//! threads of its own ([`Committer`](crate::commit::Committer)); a simulation calls it step by step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::PartitionUid;
use dlog_proto::bugs::{Bug, bug};

use crate::commit::{ReserveRefused, ShardFailed};
use crate::config::EngineConfig;
use crate::counters::{CounterValues, SyncReason};
use crate::disk::{Disk, LockGuard};
use crate::entry::{Entry, Marks, ShardMeta};
use crate::index::kv::{Kv, KvError, KvStore};
use crate::log::{AppendError, SegmentLog};
use crate::marker::{MARKER_FILE, Marker, MarkerError};
use crate::read::Reader;
use crate::reclaim::Reclaim;
use crate::recovery::inventory::{Inventory, check_identity};
use crate::recovery::resume::resume;
use crate::recovery::{Loss, OpenError, Recovered, Replayed, losses, open_index, replay, shard_row};
use crate::segment::header::Identity;
use crate::segment::{Position, SegmentId};
use crate::shared::Shared;
use crate::upkeep::Upkeep;

/// Read or written at once by what goes on in the background.
pub(crate) const BACKGROUND_STEP_LEN: u32 = 1 << 20;

/// What the engine cannot know by itself: handed in, so that a simulation decides it.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Of the machine, see [`boot_id`](crate::disk::boot_id).
    pub boot_id: u128,
    pub now_ms: i64,
    /// Random bits.
    pub random: u64,
}

/// An open shard.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: SegmentLog,
    pub(crate) upkeep: Upkeep,
    pub(crate) stop: CleanStop,
    now_ms: i64,
}

/// What it takes to leave the directory properly.
#[derive(Debug)]
pub(crate) struct CleanStop {
    disk: Arc<dyn Disk>,
    marker: Marker,
    _lock: Lock,
}

struct Lock(#[expect(dead_code, reason = "held, not used")] LockGuard);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl Engine {
    /// Opens a shard's directory, or makes one of an empty directory.
    pub fn open(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        index: &dyn KvStore,
        identity: Identity,
        start: Start,
    ) -> Result<(Self, Recovered), OpenError> {
        config.check().map_err(OpenError::Config)?;
        let lock = Lock(disk.lock()?);
        let marker = read_marker(&*disk, &identity, start)?;
        let mut inventory = Inventory::take(&disk, &identity)?;
        let (marker, formatted) = match marker {
            Some(marker) => (marker, false),
            None => (unmarked(&identity, start.random), inventory.is_empty()),
        };
        if formatted {
            // An index without a log is of another life of the directory.
            index.set_aside()?;
        }
        let Caught { kv, index_rebuilt, replayed, losses, shard } =
            catch_up(index, &*disk, &mut inventory, &marker, start.boot_id, config.search_len())?;
        let lost_write_cache = !formatted && loses_write_cache(&marker, start);
        let recovered = Recovered {
            formatted,
            clean: marker.clean,
            lost_write_cache,
            torn_bytes: replayed.torn_bytes,
            losses,
            new_losses: replayed.new_losses,
            index_rebuilt: index_rebuilt.filter(|_| !formatted),
            replayed_bytes: replayed.replayed_bytes,
            shard,
        };
        let (boot, end) = (start.boot_id, Position::ZERO);
        let in_use = Marker { boot, clean: false, rebuild_index: false, lost_write_cache, end, ..marker };
        in_use.write(&*disk)?;
        let shared = Arc::new(Shared::new(config, identity, Arc::clone(&disk), kv));
        let tail = (replayed.tail, replayed.next_commit);
        let (log, upkeep) = resume(&shared, inventory, (in_use.secret, marker.end.segment), tail, start.now_ms)?;
        let stop = CleanStop { disk, marker: in_use, _lock: lock };
        Ok((Self { shared, log, upkeep, stop, now_ms: start.now_ms }, recovered))
    }

    /// What its threads had, when they are done.
    pub(crate) fn of_parts(log: SegmentLog, upkeep: Upkeep, stop: CleanStop) -> Self {
        Self { shared: log.shared(), log, upkeep, stop, now_ms: 0 }
    }

    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    pub fn counters(&self) -> CounterValues {
        self.shared.counters.values()
    }

    /// Appends entries: they can be read when this returns, and are durable after the next [`sync`](Self::sync).
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), AppendError> {
        for (done, entry) in entries.iter().enumerate() {
            if let Err(refused) = self.reserve(entry) {
                entries[..done].iter().for_each(|entry| self.shared.space.unreserve(entry));
                return Err(match refused {
                    ReserveRefused::TooLong { len, max } => AppendError::TooLong { len, max },
                    _ => AppendError::NoSpace,
                });
            }
        }
        self.log.append(entries)
    }

    fn reserve(&mut self, entry: &Entry) -> Result<(), ReserveRefused> {
        self.shared.space.reserve(entry).or_else(|_| {
            // There may be room on the disk for another segment.
            if let Err(error) = self.upkeep.prepare(self.now_ms) {
                tracing::warn!(%error, "cannot prepare a segment");
            }
            self.shared.space.reserve(entry)
        })
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), ShardFailed> {
        self.log.sync(SyncReason::Asked).map(|_| ())
    }

    /// Notes in the log how far it is durable. Worth it when nothing else is to be written for a while.
    pub fn mark(&mut self) -> Result<(), AppendError> {
        self.log.mark()
    }

    /// Notes marks that no entry tells. They may be lost.
    pub fn note_marks(&self, partition: PartitionUid, marks: &Marks) {
        self.shared.note_hint(partition, marks);
    }

    /// Brings the index up to what is durable, and makes the next segment ready if room is low.
    pub fn upkeep(&mut self, now_ms: i64) -> Result<(), UpkeepError> {
        self.now_ms = now_ms;
        self.index()?;
        self.upkeep.prepare(now_ms)?;
        self.upkeep.fill()?;
        Ok(())
    }

    fn index(&mut self) -> Result<(), KvError> {
        while self.upkeep.index()? {}
        while self.upkeep.trim()? {}
        Ok(())
    }

    /// Forgets these losses: what may be missing is on record elsewhere. Until then every start tells of them.
    pub fn forget_losses(&mut self, losses: &[Loss]) -> Result<(), UpkeepError> {
        let log = &mut self.log;
        Reclaim::new(&self.shared, &mut self.upkeep).forget_losses(losses, &mut |job| job(log))
    }

    /// Forgets that the write cache was lost: the metadata tier knows. Until then every start tells of it.
    pub fn forget_lost_write_cache(&mut self) -> io::Result<()> {
        self.stop.forget_lost_write_cache()
    }

    /// Makes the index durable as far as it is.
    pub fn checkpoint(&mut self) -> Result<(), KvError> {
        self.upkeep.checkpoint()
    }

    /// Frees segments in which nothing is needed any more, and says how many.
    pub fn reclaim(&mut self) -> Result<usize, UpkeepError> {
        self.index()?;
        let log = &mut self.log;
        Reclaim::new(&self.shared, &mut self.upkeep).run(&mut |job| job(log))
    }

    /// Writes one segment again that is worth it (see [`EngineConfig`]); `false` if there is none.
    pub fn rewrite(&mut self) -> Result<bool, UpkeepError> {
        self.index()?;
        let before = self.shared.counters.values().rewritten_bytes;
        while self.shared.counters.values().rewritten_bytes == before {
            if self.upkeep.rewrite(BACKGROUND_STEP_LEN)?.is_none() {
                return Ok(false);
            }
        }
        self.upkeep.drop_retired()?;
        Ok(true)
    }

    /// Reads all full segments and says how much damage was found that is not on record yet: it is now, see
    /// [`Reader::losses`].
    pub fn scrub(&mut self) -> Result<u64, UpkeepError> {
        let before = self.shared.counters.values().damage_found;
        self.upkeep.scrub_behind(SegmentId::default());
        while self.upkeep.scrub(BACKGROUND_STEP_LEN, Duration::ZERO)?.is_some() {}
        Ok(self.shared.counters.values().damage_found - before)
    }

    /// Leaves the directory so that the next start has nothing to do.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.log.sync(SyncReason::Internal)?;
        while self.upkeep.index()? {}
        self.upkeep.checkpoint()?;
        self.stop.stop(self.log.position())?;
        Ok(())
    }
}

impl CleanStop {
    /// Everything before `end` is durable, and nothing more is written.
    pub(crate) fn stop(self, end: Position) -> io::Result<()> {
        Marker { clean: true, end, ..self.marker }.write(&*self.disk)
    }

    fn forget_lost_write_cache(&mut self) -> io::Result<()> {
        if self.marker.lost_write_cache {
            let known = Marker { lost_write_cache: false, ..self.marker };
            known.write(&*self.disk)?;
            self.marker = known;
        }
        Ok(())
    }

    /// The index is of no use any more: the next start makes it again.
    pub(crate) fn rebuild_index(&self) -> io::Result<()> {
        Marker { rebuild_index: true, ..self.marker }.write(&*self.disk)
    }
}

/// Why the shard could not be kept up.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Index(#[from] KvError),
    #[error("disk: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Failed(#[from] ShardFailed),
}

/// Why a shard was not closed properly. The next start recovers it.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error(transparent)]
    Failed(#[from] ShardFailed),
    #[error(transparent)]
    Index(#[from] KvError),
    #[error("marker: {0}")]
    Marker(#[from] io::Error),
}

/// An index up to the end of the log.
struct Caught {
    kv: Arc<dyn Kv>,
    /// Why it was made again, if it was.
    index_rebuilt: Option<String>,
    replayed: Replayed,
    losses: Vec<Loss>,
    shard: ShardMeta,
}

/// Brings the index up to the end of the log. One that turns out to be damaged on the way is made again.
fn catch_up(
    index: &dyn KvStore,
    disk: &dyn Disk,
    inventory: &mut Inventory,
    marker: &Marker,
    machine: u128,
    search_len: u32,
) -> Result<Caught, OpenError> {
    let identity = &marker.identity;
    let mut damage = marker.rebuild_index.then(|| "it was found damaged before".to_owned());
    loop {
        let (kv, index_rebuilt) = open_index(index, identity, inventory, damage.take())?;
        let caught_up = inventory
            .choose(disk, &*kv)
            .and_then(|()| replay(&*kv, identity, inventory, marker, machine, search_len))
            .and_then(|replayed| {
                let shard = ShardMeta { incomplete_before: shard_row(&*kv)?.incomplete_before };
                Ok((replayed, losses(&*kv)?, shard))
            });
        match caught_up {
            Err(OpenError::Index(error)) if index_rebuilt.is_none() && !error.is_full_disk() => {
                damage = Some(error.to_string());
            }
            outcome => {
                let (replayed, losses, shard) = outcome?;
                return Ok(Caught { kv, index_rebuilt, replayed, losses, shard });
            }
        }
    }
}

fn read_marker(disk: &dyn Disk, identity: &Identity, start: Start) -> Result<Option<Marker>, OpenError> {
    match Marker::read(disk)? {
        None => Ok(None),
        Some(Ok(marker)) => {
            check_identity(MARKER_FILE, &marker.identity, identity)?;
            Ok(Some(marker))
        }
        Some(Err(MarkerError::Damaged)) => {
            tracing::error!(shard = %identity.shard, "the marker is damaged: the segments say whose directory it is");
            Ok(Some(unmarked(identity, start.random)))
        }
        Some(Err(error @ MarkerError::Version(_))) => Err(OpenError::Marker(error.to_string())),
    }
}

/// Whether what was only cached is gone, by this start or by an earlier one that could not tell anybody.
fn loses_write_cache(before: &Marker, start: Start) -> bool {
    let not_told = before.lost_write_cache && !bug(Bug::LostCacheNotKept);
    not_told || (!before.clean && before.boot != start.boot_id)
}

/// What holds where no marker says anything: the worst.
pub(crate) fn unmarked(identity: &Identity, secret: u64) -> Marker {
    let (identity, end) = (*identity, Position::ZERO);
    Marker { identity, secret, boot: 0, clean: false, rebuild_index: false, lost_write_cache: true, end }
}
