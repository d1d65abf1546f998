//! Repair of one epoch: every block above settled gets to R shards where possible, to a legal W always, before the epoch is
//! decided (traps C7, C7b). What is short of R is put on record with the decision.
//!
//! Recovery stores are synced whatever the log says, and carry the recoverer's epoch as the placement's version, so that they
//! win over anything the old sequencer still has under way (trap C9).
//!
//! INV-STORES-FIRST: a holder is told of a new placement only when everybody else whom it names has the block on disk. A block may be
//! settled, by the word of shards that do not answer, and this recoverer may die at any time: then nobody may come to repair it. So the
//! placement that it had stays as true as it was until the new one is: nobody who has a copy is told of copies that never came, and the
//! loss of any copy that was promised is noticed by another holder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dlog_proto::block::{Block, Copyset, Placement, PlacementVersion};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{
    Amend, FetchBlock, FetchTarget, Kept, Store, StoreAnswer, StoreMode, StoreRefusal, WirePlacement,
};
use dlog_proto::{Epoch, EpochEntry, Esn, MemberSet, PartitionUid, Quorum, ShardRef, Time};
use fastrand::Rng;

use super::digest::{Copy, Digest, HeldBlock};
use crate::copyset;
use crate::output::Output;
use crate::settings::Settings;

/// Blocks that are repaired at the same time.
const AT_ONCE: usize = 64;

/// How often all holders of a block are asked for it before their copies are taken for damaged: a disk's error may pass.
const READS: u32 = 3;

/// What a repair looks at but does not own.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) entry: &'a EpochEntry,
    /// Members that are sealed and can be reached.
    pub(crate) usable: MemberSet,
    /// Members whose disks are gone for good.
    pub(crate) lost: MemberSet,
    pub(crate) settings: &'a Settings,
}

#[derive(Debug)]
pub(crate) struct Repair {
    partition: PartitionUid,
    recoverer: Epoch,
    end: Esn,
    /// All blocks that it was given, by first ESN: those that somebody may be able to read, with their newest placements, and the others.
    readable: BTreeMap<Esn, Option<PlacementVersion>>,
    given_up: BTreeSet<Esn>,
    /// That was used so far, by an earlier attempt too.
    highest_wave: u32,
    waiting: VecDeque<BlockRepair>,
    active: BTreeMap<Esn, BlockRepair>,
    /// From which ESN on members lack copies that they should have.
    missing: BTreeMap<usize, Esn>,
    out: VecDeque<Output>,
}

/// Where a block's copies are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Plan {
    copyset: MemberSet,
    /// Members whose copies the plan makes do without.
    missing: MemberSet,
}

#[derive(Debug)]
struct BlockRepair {
    held: HeldBlock,
    /// Nobody who has it can read it (INV-UNREADABLE).
    given_up: bool,
    payload: Option<Block>,
    /// From whom the payload was asked.
    fetching_from: Option<usize>,
    /// Holders that could not read it. Asked again when all are in here: a disk's error may pass.
    unreadable: MemberSet,
    /// How often all of them could not.
    failed_reads: u32,
    wave: u32,
    plan: Plan,
    asked: MemberSet,
    done: MemberSet,
    retry_at: Time,
}

impl BlockRepair {
    fn new(held: HeldBlock, wave: u32) -> Self {
        Self {
            held,
            wave,
            given_up: false,
            payload: None,
            fetching_from: None,
            unreadable: MemberSet::EMPTY,
            failed_reads: 0,
            plan: Plan::default(),
            asked: MemberSet::EMPTY,
            done: MemberSet::EMPTY,
            retry_at: Time::ZERO,
        }
    }
}

impl Repair {
    /// Repairs an epoch whose digest is this, and which is to end at `end`. `waves`: the highest of earlier attempts.
    pub(crate) fn new(
        (partition, recoverer): (PartitionUid, Epoch),
        (epoch, end): (Epoch, Esn),
        digest: &Digest,
        waves: u32,
    ) -> Self {
        let new = |held: &HeldBlock| BlockRepair::new(held.clone(), waves);
        let unsettled = digest.unsettled(epoch, end).filter(|_| !bug(Bug::DecideBeforeRepair)).map(new);
        let given_up = digest.given_up(epoch, end).filter(|_| !bug(Bug::UnreadableForgotten));
        let given_up = given_up.map(|held| BlockRepair { given_up: true, ..new(held) });
        let waiting = unsettled.chain(given_up).collect();
        let readable = digest.unsettled(epoch, end).map(|held| (held.first_esn, newest(held))).collect();
        let given_up = digest.given_up(epoch, end).map(|held| held.first_esn).collect();
        let (active, missing, out) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { partition, recoverer, end, readable, given_up, highest_wave: waves, waiting, active, missing, out }
    }

    pub(crate) fn end(&self) -> Esn {
        self.end
    }

    /// First ESNs of blocks that it may have begun to place anew.
    pub(crate) fn touched(&self) -> impl Iterator<Item = Esn> {
        self.readable.keys().chain(&self.given_up).copied()
    }

    /// Whether it looks after every block of these answers that needs it, and knew of their newest placements: what was whole may be so
    /// no more. This recoverer's own are no news: a shard that is asked again tells of them.
    pub(crate) fn covers(&self, epoch: Epoch, digest: &Digest) -> bool {
        let is_mine = |version: PlacementVersion| version.writer_epoch == self.recoverer;
        let knows = |held: &HeldBlock| {
            let newest = newest(held);
            self.readable.get(&held.first_esn).is_some_and(|known| *known >= newest || newest.is_some_and(is_mine))
        };
        digest.unsettled(epoch, self.end).all(knows)
    }

    pub(crate) fn highest_wave(&self) -> u32 {
        self.highest_wave
    }

    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// Blocks that nobody who holds them can read, and who these are (INV-UNREADABLE).
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (Esn, MemberSet)> {
        let failed = self.active.values().filter(|block| block.failed_reads >= READS && block.payload.is_none());
        failed.map(|block| (block.held.first_esn, block.held.holders()))
    }

    /// Members that lack copies, and from which ESN on.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (usize, Esn)> {
        self.missing.iter().map(|(member, from)| (*member, *from))
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.active.values().map(|block| block.retry_at).min()
    }

    /// Starts as many blocks as may run at once, and looks after those whose time has come.
    pub(crate) fn pump(&mut self, cx: &Context<'_>, rng: &mut Rng) {
        let due: Vec<Esn> = self.active.values().filter(|b| b.retry_at <= cx.now).map(|b| b.held.first_esn).collect();
        for first_esn in due {
            let block = self.active.remove(&first_esn).expect("it is active");
            self.advance(block, cx, rng);
        }
        while self.active.len() < AT_ONCE
            && let Some(block) = self.waiting.pop_front()
        {
            self.advance(block, cx, rng);
        }
    }

    /// Plans a block (again) and asks whoever has to be asked. A block whose copies are where they should be needs nothing.
    fn advance(&mut self, mut block: BlockRepair, cx: &Context<'_>, rng: &mut Rng) {
        let quorum = Quorum::new(&cx.entry.nodeset, &cx.entry.replication);
        let whole = block.held.whole_copyset(cx.entry).filter(|members| quorum.is_fully_replicated(*members));
        // What an earlier attempt did to placements, no answer tells: then every block is placed again.
        if block.wave == 0 && whole.is_some() {
            return;
        }
        block.retry_at = cx.now + cx.settings.recovery_retry;
        block.asked = MemberSet::EMPTY;
        block.fetching_from = None;
        // Without a plan not even W can be reached: more shards must come back first.
        let holders = block.held.holders();
        if let Some(plan) = if block.given_up { plan_without_payload(cx, holders) } else { plan(cx, holders, rng) } {
            if plan != block.plan {
                block.wave += 1;
                self.highest_wave = self.highest_wave.max(block.wave);
                block.done = MemberSet::EMPTY;
                block.plan = plan;
            }
            self.ask(&mut block, cx);
        }
        self.active.insert(block.held.first_esn, block);
    }

    fn ask(&mut self, block: &mut BlockRepair, cx: &Context<'_>) {
        let to_ask = block.plan.copyset.without(block.done).without(block.asked);
        let lacking = block.plan.copyset.without(block.held.holders().without(block.unreadable));
        if !lacking.is_empty() && block.payload.is_none() && block.fetching_from.is_none() {
            self.fetch(block, cx);
        }
        let may_amend = lacking.is_empty() || bug(Bug::AmendsBeforeStores);
        for member in to_ask.iter() {
            let output = match &block.payload {
                Some(payload) if lacking.contains(member) => self.store(payload.clone(), block, cx.entry, member),
                _ if !lacking.contains(member) && may_amend => Output::Amend(self.amend(block, cx.entry, member)),
                _ => continue,
            };
            block.asked.insert(member);
            self.out.push_back(output);
        }
    }

    fn fetch(&mut self, block: &mut BlockRepair, cx: &Context<'_>) {
        let holders = block.held.holders().intersection(cx.usable);
        let Some(from) = holders.without(block.unreadable).iter().next() else {
            // Asked again when the block's time comes. Who is away may have a good copy.
            block.failed_reads += u32::from(block.held.holders().is_subset_of(block.unreadable));
            block.unreadable = MemberSet::EMPTY;
            return;
        };
        block.fetching_from = Some(from);
        let ShardRef { shard, incarnation } = cx.entry.nodeset.shard_ref(from);
        let target = FetchTarget::Records { epoch: cx.entry.epoch, first_esn: block.held.first_esn };
        self.out.push_back(Output::Fetch(FetchBlock { shard, incarnation, partition: self.partition, target }));
    }

    fn copyset(&self, block: &BlockRepair, entry: &EpochEntry) -> Copyset {
        let shards = block.plan.copyset.iter().map(|m| entry.nodeset.member(m).shard);
        Copyset::new(shards).expect("a copyset is a few different members of the nodeset")
    }

    fn placement(&self, block: &BlockRepair, entry: &EpochEntry) -> WirePlacement {
        WirePlacement::from(&Placement {
            version: self.version(block, entry.epoch),
            copyset: self.copyset(block, entry),
            // Nothing is claimed about the epoch before it is decided.
            acked: Esn::ZERO,
            settled: Esn::ZERO,
        })
    }

    fn version(&self, block: &BlockRepair, epoch: Epoch) -> PlacementVersion {
        let writer_epoch = if bug(Bug::RecoveryKeepsVersion) { epoch } else { self.recoverer };
        PlacementVersion { writer_epoch, wave: block.wave }
    }

    fn amend(&self, block: &BlockRepair, entry: &EpochEntry, member: usize) -> Amend {
        let ShardRef { shard, incarnation } = entry.nodeset.shard_ref(member);
        let mode = StoreMode::Recovery { recoverer: self.recoverer };
        let (partition, epoch, first_esn) = (self.partition, entry.epoch, block.held.first_esn);
        let placement = self.placement(block, entry);
        Amend { shard, incarnation, partition, epoch, first_esn, mode, placement }
    }

    fn store(&self, payload: Block, block: &BlockRepair, entry: &EpochEntry, member: usize) -> Output {
        let ShardRef { shard, incarnation } = entry.nodeset.shard_ref(member);
        let mode = StoreMode::Recovery { recoverer: self.recoverer };
        let placement = self.placement(block, entry);
        Output::Store {
            store: Store { shard, incarnation, mode, sync: !bug(Bug::RecoveryStoresCached), placement },
            block: payload,
        }
    }

    /// The answer to a fetch.
    pub(crate) fn handle_fetched(&mut self, cx: &Context<'_>, first_esn: Esn, from: usize, payload: Option<Block>) {
        let Some(mut block) = self.active.remove(&first_esn) else { return };
        if block.fetching_from == Some(from) {
            block.fetching_from = None;
            match payload.filter(|payload| payload.header().crc == block.held.crc) {
                Some(payload) => block.payload = Some(payload),
                // Its copy is none, though it says that it has one: it is to get the block, under a version that no amend had.
                None => {
                    block.unreadable.insert(from);
                    block.wave += 1;
                    self.highest_wave = self.highest_wave.max(block.wave);
                    (block.asked, block.done) = (MemberSet::EMPTY, MemberSet::EMPTY);
                }
            }
            self.ask(&mut block, cx);
        }
        self.active.insert(first_esn, block);
    }

    /// The answer to a recovery store or amend. `Err` names the epoch that has taken over.
    pub(crate) fn handle_stored(&mut self, cx: &Context<'_>, member: usize, answer: &StoreAnswer) -> Result<(), Epoch> {
        let Some(mut block) = self.active.remove(&answer.first_esn) else { return Ok(()) };
        let version = self.version(&block, answer.epoch);
        match &answer.result {
            Err(StoreRefusal::Sealed(by)) => return Err(*by),
            // Somebody has decided the epoch: only a later recoverer can.
            Err(StoreRefusal::BeyondEnd) => return Err(self.recoverer.next()),
            // Of another plan than this; of an earlier attempt, as long as there is none.
            _ if answer.version != version || !block.plan.copyset.contains(member) => {}
            Ok(Kept::Cached) if !bug(Bug::RecoveryStoresCached) => {}
            Ok(_) => {
                block.asked.remove(member);
                block.done.insert(member);
                block.unreadable.remove(member);
                block.held.copies.insert(member, Copy { version, copyset: self.copyset(&block, cx.entry) });
                if block.plan.copyset.is_subset_of(block.done) {
                    self.finish(&block);
                    return Ok(());
                }
                self.ask(&mut block, cx);
            }
            Err(refusal) => {
                block.asked.remove(member);
                if matches!(refusal, StoreRefusal::NoPayload | StoreRefusal::Incarnation(_)) {
                    block.held.copies.remove(&member);
                    block.retry_at = cx.now;
                }
            }
        }
        self.active.insert(answer.first_esn, block);
        Ok(())
    }

    fn finish(&mut self, block: &BlockRepair) {
        let first_esn = block.held.first_esn;
        for member in block.plan.missing.iter().filter(|_| !bug(Bug::MissingNotRecorded)) {
            let from = self.missing.entry(member).or_insert(first_esn);
            *from = first_esn.min(*from);
        }
    }

    /// What lies at or below `trim` is given up: nobody is to have copies of it, and nobody may have any left (INV-REPAIR-TRIM).
    pub(crate) fn handle_trimmed(&mut self, trim: Esn) {
        self.waiting.retain(|block| block.held.last_esn > trim);
        self.active.retain(|_, block| block.held.last_esn > trim);
    }

    /// A member can no longer be reached: what was asked of it is planned again.
    pub(crate) fn handle_disconnected(&mut self, now: Time, member: usize) {
        for block in self.active.values_mut() {
            if block.fetching_from == Some(member) {
                block.fetching_from = None;
                block.retry_at = now;
            }
            if block.asked.contains(member) {
                block.retry_at = now;
            }
        }
    }
}

fn newest(held: &HeldBlock) -> Option<PlacementVersion> {
    held.newest().map(|copy| copy.version)
}

/// Those who have it and no others, when all of them are there: what one process cannot read, the next may.
fn plan_without_payload(cx: &Context<'_>, holders: MemberSet) -> Option<Plan> {
    let factor = cx.entry.replication.factor();
    let copyset: MemberSet = holders.iter().take(factor).collect();
    let missing = cx.entry.nodeset.all().without(holders).iter().take(factor - copyset.len()).collect();
    holders.is_subset_of(cx.usable).then_some(Plan { copyset, missing })
}

/// R members if there are that many, else as many as make a legal placement of at least W.
fn plan(cx: &Context<'_>, holders: MemberSet, rng: &mut Rng) -> Option<Plan> {
    let (nodeset, replication) = (&cx.entry.nodeset, &cx.entry.replication);
    let (keep, factor) = (holders.intersection(cx.usable), replication.factor());
    let fewest = if bug(Bug::RecoveryNeedsAllCopies) { factor } else { replication.write_quorum() };
    let copyset = (fewest..=factor).rev().find_map(|count| {
        let mut draw = |from, keep| copyset::draw(nodeset, replication, from, keep, count, rng);
        let first = if keep.len() <= count { draw(cx.usable, keep) } else { draw(keep, MemberSet::EMPTY) };
        first.or_else(|| draw(cx.usable, MemberSet::EMPTY))
    });
    // Where too many disks are lost for a legal placement, what is left must do: it will not become more.
    let all_left = || {
        let nobody_else = nodeset.all().without(cx.lost).is_subset_of(cx.usable) && !cx.usable.is_empty();
        nobody_else.then(|| keep.iter().chain(cx.usable.without(keep).iter()).take(factor).collect())
    };
    let copyset = copyset.or_else(all_left)?;
    let absent = nodeset.all().without(cx.usable).iter();
    let present = cx.usable.without(copyset).iter();
    let missing = absent.chain(present).take(factor.saturating_sub(copyset.len())).collect();
    Some(Plan { copyset, missing })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dlog_proto::block::BlockBuilder;
    use dlog_proto::wire::{BlockSummary, LostBefore, SealedEpoch};
    use dlog_proto::{Lsn, NodeId, ProcessId, QuorumConfig, Replication, ShardId};

    use super::*;
    use crate::testing::nodeset;

    /// What is asked of whom, in order.
    fn asked(repair: &mut Repair) -> Vec<String> {
        let of = |what: &str, shard: ShardId| format!("{what} n{}", shard.node.0);
        let mut asked: Vec<String> = std::iter::from_fn(|| repair.poll_output())
            .map(|output| match output {
                Output::Fetch(fetch) => of("fetch", fetch.shard),
                Output::Amend(amend) => of("amend", amend.shard),
                Output::Store { store, .. } => of("store", store.shard),
                other => panic!("{other:?}"),
            })
            .collect();
        asked.sort();
        asked
    }

    /// An epoch of one block of two records, and the answers of two of its three members, who have it as that epoch has placed it.
    fn placed_by(writer: u32) -> (EpochEntry, Block, Digest) {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), Esn(1), 0);
        builder.push(&Bytes::from(vec![0; 61]), 2, (0, 0));
        let block = builder.finish();
        let entry = EpochEntry {
            epoch: Epoch(1),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: Arc::new(nodeset(1..=3)),
            replication: Arc::new(Replication::new(QuorumConfig::majority(3))),
            base_offset: None,
            end: None,
            activated_at: 0,
        };
        let held = BlockSummary {
            first_esn: Esn(1),
            span: 2,
            crc: block.header().crc,
            len: 200,
            version: PlacementVersion { writer_epoch: Epoch(writer), wave: 1 },
            copyset: (1..=3).map(|node| ShardId::new(node, 0).to_u32()).collect(),
        };
        let (acked, settled) = (Esn::ZERO, Esn::ZERO);
        let answer = SealedEpoch { epoch: Epoch(1), acked, settled, known_end: None, blocks: vec![held] };
        let mut digest = Digest::default();
        (0..2).for_each(|member| digest.add(&entry, member, LostBefore::default(), Lsn::ZERO, &answer));
        (entry, block, digest)
    }

    fn repair(digest: &Digest, waves: u32) -> Repair {
        Repair::new((PartitionUid(1), Epoch(2)), (Epoch(1), Esn(2)), digest, waves)
    }

    /// A member has it on disk, as that wave has it.
    fn stored(entry: &EpochEntry, member: usize, wave: u32) -> StoreAnswer {
        let ShardRef { shard, incarnation } = entry.nodeset.shard_ref(member);
        let (partition, version) = (PartitionUid(1), PlacementVersion { writer_epoch: Epoch(2), wave });
        let (first_esn, snapshot, result) = (Esn(1), false, Ok(Kept::Flushed));
        StoreAnswer { shard, incarnation, partition, epoch: entry.epoch, first_esn, snapshot, version, result }
    }

    #[test]
    fn who_cannot_read_its_copy_gets_another() {
        let (entry, block, digest) = placed_by(1);
        let (usable, lost, settings) = (entry.nodeset.all(), MemberSet::EMPTY, Settings::default());
        let cx = Context { now: Time::ZERO, entry: &entry, usable, lost, settings: &settings };
        let mut repair = repair(&digest, 0);
        repair.pump(&cx, &mut Rng::with_seed(1));
        assert_eq!(asked(&mut repair), ["fetch n1"]);
        repair.handle_fetched(&cx, Esn(1), 0, None);
        assert_eq!(asked(&mut repair), ["fetch n2"]);
        repair.handle_fetched(&cx, Esn(1), 1, Some(block));
        assert_eq!(asked(&mut repair), ["store n1", "store n3"]);
        assert_eq!(repair.highest_wave(), 2, "n1 may have been told of the first placement when its copy seemed good");
        for (member, expected) in [(2, &[][..]), (0, &["amend n2"][..])] {
            repair.handle_stored(&cx, member, &stored(&entry, member, 2)).unwrap();
            assert_eq!(asked(&mut repair), expected, "a holder is told when all that it is told of is true");
        }
    }

    /// A shard that is asked again tells of what this recoverer has placed on it.
    #[test]
    fn placements_of_others_are_news_and_its_own_are_not() {
        let repair = Repair::new((PartitionUid(1), Epoch(3)), (Epoch(1), Esn(2)), &placed_by(1).2, 0);
        for (writer, is_news) in [(1, false), (2, true), (3, false)] {
            assert_eq!(repair.covers(Epoch(1), &placed_by(writer).2), !is_news, "e{writer}");
        }
    }

    /// Recovery has judged the epoch anew, and too few shards are there to plan anything.
    #[test]
    fn answers_to_an_earlier_attempt_prove_nothing() {
        let (entry, _, digest) = placed_by(1);
        let (usable, lost, settings) = (MemberSet::EMPTY, MemberSet::EMPTY, Settings::default());
        let cx = Context { now: Time::ZERO, entry: &entry, usable, lost, settings: &settings };
        let mut repair = repair(&digest, 3);
        repair.pump(&cx, &mut Rng::with_seed(1));
        repair.handle_stored(&cx, 0, &stored(&entry, 0, 3)).unwrap();
        assert!(!repair.is_done() && asked(&mut repair).is_empty());
    }
}
