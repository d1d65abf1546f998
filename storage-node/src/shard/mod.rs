//! A shard's admission: what it takes, what it refuses, and when it answers. A core: no IO, no clock, no async.
//!
//! Everything that must not be forgotten (blocks, amends, seals, ends) goes through one queue to the disk, in the order of
//! admission, and is answered when the queue is durable up to it.
//!
//! INV-SEAL: once a seal is answered, no store or amend of an epoch below it becomes durable, and every block admitted before it
//! is durable and was listed, and nothing else: a copy of the same recoverer that came after the seal may not be on the disk yet. One
//! queue for stores and seals is what makes it so (trap C1).
//! INV-END: beyond a known end nothing is taken, by no kind of store, for ever (trap C8). A known end implies a seal.
//! INV-SHARD-RELEASE: `released` moves only after every end below it is known here, durably, and what lies beyond is purged.
//! INV-SEAL-ANEW: where the log was damaged, seals may be lost. From then on nothing is taken and no seal is answered until it is known
//! which epoch of each partition is the newest; each partition is then sealed there before anything of it is taken (trap C15).
//! INV-TRIM: the trim point never passes `released`, never goes back, and is durable before a seal's answer tells of it (trap C6). It
//! waits for what the sequencer says of producers (trap C11).

pub mod lookups;
mod partition;
mod read_stream;
mod read_streams;
mod replies;
#[cfg(test)]
mod traps;

use std::collections::{BTreeMap, VecDeque};

use dlog_proto::block::{Block, BlockKind, PlacementVersion};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{
    Amend, Flushed, FlushedUpto, Kept, PartitionRelease, Release, Seal, SealPartition, SealRefusal, SealedPartition,
    Store, StoreAnswer, StoreMode, StoreRefusal,
};
use dlog_proto::{Epoch, Esn, Incarnation, Lsn, PartitionUid, ShardId};

use self::partition::Admitted;
pub use self::partition::PartitionState;
pub use self::read_stream::{ReadOutput, ReadStream, Readable};
pub use self::read_streams::ReadStreams;
use self::replies::{Due, Replies, Reply};
use crate::entry::{Entry, EntrySeq, PartitionImage, PartitionMeta};

/// Stands for whoever asked; means nothing to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker(pub u64);

/// An effect.
#[derive(Debug)]
pub enum Output {
    /// Read this partition's image; the answer comes through [`ShardCore::handle_loaded`].
    Load(PartitionUid),
    /// Queue this entry. Entries are numbered from 1 in the order in which they are handed out.
    Submit {
        seq: EntrySeq,
        entry: Entry,
        sync: bool,
    },
    Stored {
        to: Asker,
        answer: StoreAnswer,
    },
    Flushed {
        to: Asker,
        flushed: Flushed,
    },
    Sealed {
        to: Asker,
        answer: SealedPartition,
    },
    /// More of this partition may be read.
    Released {
        partition: PartitionUid,
        released: Lsn,
    },
}

/// Something that waits for its partition to be loaded.
#[derive(Debug)]
enum Input {
    Store { from: Asker, store: Store, block: Block },
    Amend { from: Asker, amend: Amend },
    Seal { from: Asker, seal: SealPartition },
    Release(PartitionRelease),
    Deleted(PartitionUid),
    Trim { partition: PartitionUid, upto: Lsn },
}

/// What is known of damage to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    /// It is there, and the newest epochs are not known yet.
    Found,
    /// Every seal that was written anew is in the queue up to this entry.
    SealedUpto(EntrySeq),
}

/// How long whoever stores is to wait for a damaged shard before it asks again.
const DAMAGED_RETRY_MS: u32 = 100;

#[derive(Debug)]
enum Slot {
    Loading(Vec<Input>),
    Loaded(Box<PartitionState>),
}

/// One shard.
#[derive(Debug)]
pub struct ShardCore {
    shard: ShardId,
    incarnation: Incarnation,
    partitions: BTreeMap<PartitionUid, Slot>,
    /// Number of the entry that was handed out last.
    submitted: EntrySeq,
    replies: Replies,
    /// A write or sync failed: nothing is taken any more.
    failed: bool,
    /// The process is about to end: nothing is taken any more, and what was taken is still answered.
    draining: bool,
    damage: Damage,
    /// Partitions that are to be sealed anew before anything of them is taken.
    to_seal: BTreeMap<PartitionUid, Epoch>,
    out: VecDeque<Output>,
}

impl ShardCore {
    pub fn new(shard: ShardId, incarnation: Incarnation) -> Self {
        Self {
            shard,
            incarnation,
            partitions: BTreeMap::new(),
            submitted: EntrySeq(0),
            replies: Replies::default(),
            failed: false,
            draining: false,
            damage: Damage::None,
            to_seal: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn is_failed(&self) -> bool {
        self.failed
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Nothing is handed out for the disk from now on.
    pub fn handle_draining(&mut self) {
        self.draining = true;
    }

    /// Damage was found where the log was durable: by the start, or since.
    pub fn handle_damaged(&mut self) {
        if !bug(Bug::DamagedServes) {
            self.damage = Damage::Found;
        }
    }

    /// INV-SEAL-ANEW: these are the newest epochs of all partitions, as of a moment after the damage was found.
    pub fn handle_seal_anew(&mut self, newest: impl IntoIterator<Item = (PartitionUid, Epoch)>) {
        if self.failed {
            return;
        }
        let partitions: Vec<PartitionUid> = newest
            .into_iter()
            .map(|(partition, epoch)| {
                let known = self.to_seal.entry(partition).or_insert(epoch);
                *known = epoch.max(*known);
                partition
            })
            .collect();
        self.damage = Damage::SealedUpto(self.submitted);
        for partition in partitions {
            match self.partitions.get(&partition) {
                Some(Slot::Loaded(_)) => self.seal_anew(partition),
                Some(Slot::Loading(_)) => {}
                None => self.want(partition),
            }
        }
    }

    /// Whether all partitions are sealed anew, durably. What cannot be loaded is not: it is to be tried again.
    pub fn is_sealed_anew(&self) -> bool {
        match self.damage {
            Damage::None => true,
            Damage::Found => false,
            Damage::SealedUpto(upto) => self.to_seal.is_empty() && self.replies.is_durable(upto),
        }
    }

    fn seal_anew(&mut self, partition: PartitionUid) {
        let Some(epoch) = self.to_seal.remove(&partition) else { return };
        let state = self.state(partition);
        // A higher one that is there stays.
        if !bug(Bug::NotSealedAnew) {
            let _ = state.seal(epoch);
        }
        let entry = Entry::Partition(state.meta().clone());
        self.damage = Damage::SealedUpto(self.submit(entry, true));
    }

    /// A partition's state, if it is in memory.
    pub fn partition(&self, partition: PartitionUid) -> Option<&PartitionState> {
        match self.partitions.get(&partition)? {
            Slot::Loaded(state) => Some(state),
            Slot::Loading(_) => None,
        }
    }

    /// How much of a partition may be read, if it is in memory.
    pub fn readable(&self, partition: PartitionUid) -> Option<Readable> {
        let state = self.partition(partition)?;
        Some(Readable { released: state.released(), settled: state.settled(), trim: state.meta().trim })
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub fn handle_store(&mut self, from: Asker, store: Store, block: Block) {
        match self.refusal_to_take(store.incarnation) {
            Some(refusal) => self.refuse_store(from, &store, &block, refusal),
            None => self.handle(block.header().partition, Input::Store { from, store, block }),
        }
    }

    pub fn handle_amend(&mut self, from: Asker, amend: Amend) {
        match self.refusal_to_take(amend.incarnation) {
            Some(refusal) => self.refuse_amend(from, &amend, refusal),
            None => self.handle(amend.partition, Input::Amend { from, amend }),
        }
    }

    pub fn handle_seal(&mut self, from: Asker, seal: Seal) {
        for partition in seal.partitions {
            let refusal = match self.refusal_to_take(seal.incarnation) {
                None => None,
                Some(StoreRefusal::Incarnation(mine)) => Some(SealRefusal::Incarnation(mine)),
                Some(_) => Some(SealRefusal::Disabled),
            };
            match refusal {
                Some(refusal) => self.refuse_seal(from, &partition, refusal),
                None => self.handle(partition.partition, Input::Seal { from, seal: partition }),
            }
        }
    }

    pub fn handle_release(&mut self, release: Release) {
        if self.refusal_of(release.incarnation).is_none() && !self.draining {
            release.partitions.into_iter().for_each(|p| self.handle(p.partition, Input::Release(p)));
        }
    }

    /// The metadata tier has let go of everything up to `upto`. What is not released here yet goes when it is. Told again after a
    /// restart, a trim point that was lost with unsynced data is set again.
    pub fn handle_trim(&mut self, partition: PartitionUid, upto: Lsn) {
        if !self.failed {
            self.handle(partition, Input::Trim { partition, upto });
        }
    }

    /// The partition's log was deleted for good. Told again after a restart.
    pub fn handle_deleted(&mut self, partition: PartitionUid) {
        if !self.failed {
            self.handle(partition, Input::Deleted(partition));
        }
    }

    /// Asks for a partition's state to be in memory: a reader wants it.
    pub fn want(&mut self, partition: PartitionUid) {
        if !self.failed && !self.partitions.contains_key(&partition) {
            self.partitions.insert(partition, Slot::Loading(Vec::new()));
            self.out.push_back(Output::Load(partition));
        }
    }

    /// What the disk has of a partition that was asked for; `None` if it knows nothing of it.
    pub fn handle_loaded(&mut self, partition: PartitionUid, image: Option<PartitionImage>) {
        let state =
            image.map_or_else(|| PartitionState::new(PartitionMeta::new(partition)), PartitionState::from_image);
        let released = state.released();
        let Some(Slot::Loading(waiting)) = self.partitions.insert(partition, Slot::Loaded(Box::new(state))) else {
            unreachable!("only what was asked for is loaded")
        };
        self.out.push_back(Output::Released { partition, released });
        self.seal_anew(partition);
        waiting.into_iter().for_each(|input| self.handle(partition, input));
    }

    /// A partition that was asked for cannot be read: who waits for it is refused.
    pub fn handle_load_failed(&mut self, partition: PartitionUid) {
        let Some(Slot::Loading(waiting)) = self.partitions.remove(&partition) else { return };
        for input in waiting {
            match input {
                Input::Store { from, store, block } => {
                    self.refuse_store(from, &store, &block, StoreRefusal::Disabled);
                }
                Input::Amend { from, amend } => self.refuse_amend(from, &amend, StoreRefusal::Disabled),
                Input::Seal { from, seal } => self.refuse_seal(from, &seal, SealRefusal::Disabled),
                // They come again.
                Input::Release(_) | Input::Trim { .. } | Input::Deleted(_) => {}
            }
        }
    }

    /// The queue is on the disk up to these entries: `written` survives the process, `durable` the machine.
    pub fn handle_progress(&mut self, written: EntrySeq, durable: EntrySeq) {
        self.replies.advance(written, durable);
        self.answer_due();
    }

    fn answer_due(&mut self) {
        while let Some((seq, reply)) = self.replies.pop_due() {
            self.answer(seq, reply);
        }
        for (to, upto) in self.replies.take_flushed() {
            let (shard, incarnation) = (self.shard, self.incarnation);
            self.out.push_back(Output::Flushed { to, flushed: Flushed { shard, incarnation, upto } });
        }
    }

    /// The disk failed: what is not answered never will be, and nothing more is taken.
    pub fn handle_failed(&mut self) {
        self.failed = true;
        self.replies = Replies::default();
        let loading: Vec<_> = self.partitions.keys().copied().collect();
        loading.into_iter().for_each(|partition| self.handle_load_failed_if_loading(partition));
    }

    fn handle_load_failed_if_loading(&mut self, partition: PartitionUid) {
        if matches!(self.partitions.get(&partition), Some(Slot::Loading(_))) {
            self.handle_load_failed(partition);
        }
    }

    fn refusal_of(&self, incarnation: Incarnation) -> Option<StoreRefusal> {
        match () {
            () if self.failed => Some(StoreRefusal::Disabled),
            () if incarnation != self.incarnation && !bug(Bug::IncarnationIgnored) => {
                Some(StoreRefusal::Incarnation(Some(self.incarnation)))
            }
            () => None,
        }
    }

    fn refusal_to_take(&self, incarnation: Incarnation) -> Option<StoreRefusal> {
        self.refusal_of(incarnation).or_else(|| match () {
            () if self.draining => Some(StoreRefusal::Draining),
            () if self.damage == Damage::Found => Some(StoreRefusal::Overloaded { retry_after_ms: DAMAGED_RETRY_MS }),
            () => None,
        })
    }

    fn handle(&mut self, partition: PartitionUid, input: Input) {
        match self.partitions.get_mut(&partition) {
            Some(Slot::Loaded(_)) => match input {
                Input::Store { from, store, block } => self.admit_store(from, &store, block),
                Input::Amend { from, amend } => self.admit_amend(from, &amend),
                Input::Seal { from, seal } => self.admit_seal(from, &seal),
                Input::Release(release) => self.admit_release(release),
                Input::Trim { partition, upto } => self.admit_trim(partition, upto),
                Input::Deleted(partition) => self.admit_deleted(partition),
            },
            Some(Slot::Loading(waiting)) => waiting.push(input),
            None => {
                self.partitions.insert(partition, Slot::Loading(vec![input]));
                self.out.push_back(Output::Load(partition));
            }
        }
    }

    fn state(&mut self, partition: PartitionUid) -> &mut PartitionState {
        match self.partitions.get_mut(&partition) {
            Some(Slot::Loaded(state)) => state,
            _ => unreachable!("inputs wait until their partition is loaded"),
        }
    }

    fn submit(&mut self, entry: Entry, sync: bool) -> EntrySeq {
        self.submitted = self.submitted.next();
        self.out.push_back(Output::Submit { seq: self.submitted, entry, sync });
        self.submitted
    }

    fn admit_store(&mut self, from: Asker, store: &Store, block: Block) {
        let Some(placement) = store.placement.to_placement() else { unreachable!("messages are validated") };
        let next = self.submitted.next();
        let header = *block.header();
        let admitted = match self.state(header.partition).admit_store(store.mode, &header, &placement, next) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse_store(from, store, &block, refusal),
        };
        // Recovery stores are synced whatever the log says (trap C7b).
        let sync = store.sync || (store.mode != StoreMode::Append && !bug(Bug::RecoveryStoresCached));
        // A placement is synced like an amend: its block may be flushed already, and the mark says nothing of which placement it had.
        let sync = sync || admitted == Admitted::Placement;
        let answer = self.store_answer(store, &block, Ok(Kept::Cached));
        let (partition, epoch, first_esn) = (header.partition, header.epoch, header.first_esn);
        let seq = match admitted {
            Admitted::Block => self.submit(Entry::Block { placement, block }, sync),
            Admitted::Placement => self.submit(Entry::Amend { partition, epoch, first_esn, placement }, sync),
            Admitted::Known(seq) => seq,
        };
        let due = if sync && !bug(Bug::AnswerBeforeSync) { Due::Durable } else { Due::Written };
        self.defer(seq, due, Reply::Stored { to: from, answer });
    }

    fn admit_amend(&mut self, from: Asker, amend: &Amend) {
        let Some(placement) = amend.placement.to_placement() else { unreachable!("messages are validated") };
        let Amend { partition, epoch, first_esn, .. } = *amend;
        let next = self.submitted.next();
        let seq = match self.state(partition).admit_amend(amend.mode, epoch, first_esn, &placement, next) {
            Ok(Admitted::Known(seq)) => seq,
            Ok(_) => self.submit(Entry::Amend { partition, epoch, first_esn, placement }, true),
            Err(refusal) => return self.refuse_amend(from, amend, refusal),
        };
        let answer = self.amend_answer(amend, Ok(Kept::Flushed));
        self.defer(seq, Due::Durable, Reply::Stored { to: from, answer });
    }

    /// Answers when `seq` is where it has to be, which may be now.
    fn defer(&mut self, seq: EntrySeq, due: Due, reply: Reply) {
        self.replies.push(seq, due, reply);
        self.answer_due();
    }

    /// INV-SEAL: the seal is queued behind every block admitted before it, and tells of what is there now.
    fn admit_seal(&mut self, from: Asker, seal: &SealPartition) {
        let state = self.state(seal.partition);
        if let Err(by) = state.seal(seal.epoch) {
            return self.refuse_seal(from, seal, SealRefusal::Sealed(by));
        }
        // Written again even if nothing changed: it brings what was only cached before it to the disk.
        let entry = Entry::Partition(state.meta().clone());
        let told = state.sealed_state(&seal.undecided);
        let seq = if bug(Bug::SealNotPersisted) { self.submitted } else { self.submit(entry, true) };
        let due = if bug(Bug::SealAnsweredEarly) { Due::Written } else { Due::Durable };
        let (partition, epoch) = (seal.partition, seal.epoch);
        self.defer(seq, due, Reply::Sealed { to: from, partition, epoch, told });
    }

    /// INV-SHARD-RELEASE.
    fn admit_release(&mut self, release: PartitionRelease) {
        let partition = release.partition;
        let state = self.state(partition);
        if state.learn_ends(&release.ends) {
            let entry = Entry::Partition(state.meta().clone());
            let seq = self.submit(entry, true);
            self.defer(seq, Due::Durable, Reply::Release(release));
        } else if let Some(seq) = self.replies.release_waits_for(partition) {
            // Ends that an earlier release brought are still on their way to the disk.
            self.defer(seq, Due::Durable, Reply::Release(release));
        } else {
            self.release(&release);
        }
    }

    fn release(&mut self, release: &PartitionRelease) {
        let state = self.state(release.partition);
        state.raise_trim_limit(release.trim_limit);
        if let Some(released) = state.release(release.released, release.settled) {
            self.out.push_back(Output::Released { partition: release.partition, released });
        }
        self.admit_trim(release.partition, Lsn::ZERO);
    }

    /// INV-TRIM.
    fn admit_trim(&mut self, partition: PartitionUid, upto: Lsn) {
        let state = self.state(partition);
        if !state.trim(upto) {
            return;
        }
        let (released, entry) = (state.released(), Entry::Partition(state.meta().clone()));
        // Nobody waits for it: a seal, which tells of it, syncs what was queued before.
        self.submit(entry, false);
        self.out.push_back(Output::Released { partition, released });
    }

    /// Nothing of it is data any more; stores of it are refused for ever.
    fn admit_deleted(&mut self, partition: PartitionUid) {
        let state = self.state(partition);
        if state.delete() {
            let entry = Entry::Partition(state.meta().clone());
            self.submit(entry, false);
        }
    }

    fn answer(&mut self, seq: EntrySeq, reply: Reply) {
        match reply {
            Reply::Stored { to, mut answer } => {
                if self.replies.is_durable(seq) || bug(Bug::AnswerBeforeSync) {
                    answer.result = Ok(Kept::Flushed);
                } else {
                    let StoreAnswer { partition, epoch, first_esn, .. } = answer;
                    self.replies.push_cached(seq, to, FlushedUpto { partition, epoch, first_esn });
                }
                self.out.push_back(Output::Stored { to, answer });
            }
            Reply::Sealed { to, partition, epoch, told } => {
                let result = match self.state(partition).meta().seal {
                    by if by > epoch => Err(SealRefusal::Sealed(by)),
                    _ => Ok(told),
                };
                let answer = SealedPartition { partition, epoch, result };
                self.out.push_back(Output::Sealed { to, answer });
            }
            Reply::Release(release) => self.release(&release),
        }
    }

    /// Answers a store that cannot be taken, for a reason of the shell or of the core.
    pub fn refuse_store(&mut self, to: Asker, store: &Store, block: &Block, refusal: StoreRefusal) {
        let answer = self.store_answer(store, block, Err(refusal));
        self.out.push_back(Output::Stored { to, answer });
    }

    fn refuse_amend(&mut self, to: Asker, amend: &Amend, refusal: StoreRefusal) {
        let answer = self.amend_answer(amend, Err(refusal));
        self.out.push_back(Output::Stored { to, answer });
    }

    fn store_answer(&self, store: &Store, block: &Block, result: Result<Kept, StoreRefusal>) -> StoreAnswer {
        let header = block.header();
        let snapshot = header.kind == BlockKind::ProducerSnapshot;
        let of = (header.partition, header.epoch, header.first_esn, snapshot);
        self.answer_of(store.incarnation, of, store.placement.version, result)
    }

    fn amend_answer(&self, amend: &Amend, result: Result<Kept, StoreRefusal>) -> StoreAnswer {
        let of = (amend.partition, amend.epoch, amend.first_esn, false);
        self.answer_of(amend.incarnation, of, amend.placement.version, result)
    }

    /// The incarnation is that which was asked for: a refusal because of it must reach whoever asked.
    fn answer_of(
        &self,
        incarnation: Incarnation,
        (partition, epoch, first_esn, snapshot): (PartitionUid, Epoch, Esn, bool),
        version: PlacementVersion,
        result: Result<Kept, StoreRefusal>,
    ) -> StoreAnswer {
        StoreAnswer { shard: self.shard, incarnation, partition, epoch, first_esn, snapshot, version, result }
    }

    fn refuse_seal(&mut self, to: Asker, seal: &SealPartition, refusal: SealRefusal) {
        let answer = SealedPartition { partition: seal.partition, epoch: seal.epoch, result: Err(refusal) };
        self.out.push_back(Output::Sealed { to, answer });
    }
}
