//! What the sealed shards of an epoch know of it, and what follows: where it ends, and which blocks need repair.
//!
//! INV-END: an authoritative end is at or beyond every acknowledged record, and covers only blocks that some answer holds. Why:
//! an acknowledged block is on a write quorum, every f-majority meets it, and all before it are acknowledged too, so the run of
//! blocks that some answer holds does not break below it. The run starts at the highest mark, not at 0: what lies below may
//! be trimmed, or lost (traps C5, C6).
//!
//! Without an f-majority the run proves nothing: a missing block may have been acknowledged. Then the epoch ends at the highest
//! record that anybody holds, and readers are told of the loss in between (trap C5).
//!
//! INV-UNREADABLE: a copy that cannot be read is no copy, and who has one proves nothing about this epoch any more: the block may have
//! been acknowledged. So only what an f-majority of the others does not have is cut off. Without one the end goes behind it, and readers
//! are told of the loss: it is never called absent. And as it may be read after all, it is kept where readers and rebuilding look for
//! it: its holders become its copyset, and who else should have it is on record ([`Digest::given_up`]).
//!
//! INV-SETTLED: settled is the word of the epoch's own sequencer about its own placements. A recoverer that did not hear of it may have
//! placed some of those blocks anew, and died before it was done: no placement of them is whole any more. Whoever took part tells of
//! them still, as marks do not move under a seal; so those are repaired like others. (Not who knew before the seal that they are settled; but
//! the copies that were promised are there, and holders of other placements name them: see `repair`.) So are those that this recoverer itself had begun to
//! place anew before it heard that they are settled.

use std::collections::{BTreeMap, BTreeSet};

use dlog_proto::block::{Copyset, PlacementVersion};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{BlockSummary, EpochEnd, LostBefore, SealedEpoch};
use dlog_proto::{Authority, Epoch, EpochEntry, Esn, Lsn, MemberSet, Quorum, ShardId, Statuses};

/// A copy of a block, as a shard reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) version: PlacementVersion,
    pub(crate) copyset: Copyset,
}

/// A block that some answer holds.
#[derive(Debug, Clone)]
pub(crate) struct HeldBlock {
    pub(crate) first_esn: Esn,
    pub(crate) last_esn: Esn,
    pub(crate) crc: u32,
    /// By member of the epoch's nodeset.
    pub(crate) copies: BTreeMap<usize, Copy>,
}

impl HeldBlock {
    pub(crate) fn holders(&self) -> MemberSet {
        self.copies.keys().copied().collect()
    }

    pub(crate) fn newest(&self) -> Option<&Copy> {
        self.copies.values().max_by_key(|copy| copy.version)
    }

    /// The newest placement, if every member of its copyset has it.
    pub(crate) fn whole_copyset(&self, entry: &EpochEntry) -> Option<MemberSet> {
        let newest = self.newest()?;
        let members = entry.nodeset.set_of(newest.copyset.shards().iter().copied());
        let has = |m: usize| self.copies.get(&m).is_some_and(|copy| copy == newest);
        (members.len() == newest.copyset.shards().len() && members.iter().all(has)).then_some(members)
    }
}

/// All answers about one epoch.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    /// Members that answered.
    pub(crate) answered: MemberSet,
    /// Members that have nothing of the epoch any more.
    lost: MemberSet,
    /// Members whose silence about a block proves nothing: they lost data, or answered from a disk that did.
    statuses: Statuses,
    acked: Esn,
    settled: Esn,
    trim: Esn,
    known_end: Option<EpochEnd>,
    blocks: BTreeMap<Esn, HeldBlock>,
    conflict: Option<Esn>,
    /// Blocks of which no copy can be read.
    unreadable: Vec<HeldBlock>,
    /// First ESNs of blocks that this recoverer may have placed anew since the answers were given.
    touched: BTreeSet<Esn>,
}

impl Digest {
    /// `touched`: first ESNs of blocks that this recoverer may have begun to place anew.
    pub(crate) fn new(touched: BTreeSet<Esn>) -> Self {
        Self { touched, ..Self::default() }
    }

    /// Adds a member's answer. The blocks of one whose disk was lost since are gone; the rest of what it told is still true.
    pub(crate) fn add(&mut self, entry: &EpochEntry, member: usize, lost: LostBefore, trim: Lsn, answer: &SealedEpoch) {
        self.answered.insert(member);
        // Traps C2, C15: it may lack what it held when the epoch was already going on.
        if lost.concerns(entry) {
            self.statuses.under_replicated.insert(member);
        }
        self.acked = self.acked.max(answer.acked);
        self.settled = self.settled.max(answer.settled);
        if trim.epoch() == entry.epoch {
            self.trim = self.trim.max(trim.esn());
        }
        self.known_end = self.known_end.or(answer.known_end);
        if !self.lost.contains(member) {
            answer.blocks.iter().for_each(|summary| self.add_block(member, summary));
        }
    }

    /// Notes that a member's disk is gone for good. To be told before its answer.
    pub(crate) fn add_lost(&mut self, member: usize) {
        self.lost.insert(member);
        match bug(Bug::LostDiskIsEmpty) {
            true => self.statuses.authoritative_empty.insert(member),
            false => self.statuses.under_replicated.insert(member),
        };
    }

    /// Notes that these members have the block that begins here and cannot read it. To be told after all answers.
    pub(crate) fn add_unreadable(&mut self, first_esn: Esn, members: MemberSet) {
        let Some(mut block) = self.blocks.remove(&first_esn) else { return };
        if !bug(Bug::UnreadableIsAbsent) {
            members.iter().for_each(|member| self.statuses.under_replicated.insert(member));
        }
        if block.holders().is_subset_of(members) {
            self.unreadable.push(block);
        } else {
            block.copies.retain(|member, _| !members.contains(*member));
            self.blocks.insert(first_esn, block);
        }
    }

    fn add_block(&mut self, member: usize, summary: &BlockSummary) {
        let Some(copyset) = Copyset::new(summary.copyset.iter().map(|shard| ShardId::from_u32(*shard))) else { return };
        let last_esn = summary.first_esn.last_of(summary.span);
        let (first_esn, crc) = (summary.first_esn, summary.crc);
        let new = || HeldBlock { first_esn, last_esn, crc, copies: BTreeMap::new() };
        let block = self.blocks.entry(first_esn).or_insert_with(new);
        if (block.crc, block.last_esn) != (crc, last_esn) {
            self.conflict = Some(first_esn);
            return;
        }
        block.copies.insert(member, Copy { version: summary.version, copyset });
    }

    /// How much the answers prove.
    pub(crate) fn authority(&self, quorum: Quorum<'_>) -> Authority {
        if self.known_end.is_some() {
            return Authority::Complete;
        }
        quorum.answers(self.answered, self.statuses)
    }

    /// Whether an f-majority by the strict rule stands behind what the answers prove.
    pub(crate) fn is_strict(&self, quorum: Quorum<'_>) -> bool {
        match self.known_end {
            Some(end) => end.authoritative,
            None => quorum.is_strictly_authoritative(self.answered, self.statuses),
        }
    }

    /// Two shards hold different blocks at this ESN: must never happen.
    pub(crate) fn conflict(&self) -> Option<Esn> {
        self.conflict
    }

    /// Where the epoch ends.
    pub(crate) fn end(&self, authority: Authority) -> Esn {
        if let Some(end) = self.known_end {
            return end.last_esn;
        }
        let start = if bug(Bug::RunIgnoresAcked) { self.settled } else { self.acked.max(self.settled).max(self.trim) };
        if authority.is_authoritative() || bug(Bug::NonAuthoritativeCutsOff) {
            let mut end = start;
            while let Some(block) = self.block_with(end.next()) {
                end = block.last_esn;
            }
            end
        } else {
            let blocks = self.blocks.values().chain(&self.unreadable);
            blocks.map(|block| block.last_esn).max().unwrap_or(start).max(start)
        }
    }

    fn block_with(&self, esn: Esn) -> Option<&HeldBlock> {
        let (_, block) = self.blocks.range(..=esn).next_back()?;
        (block.last_esn >= esn).then_some(block)
    }

    /// Blocks that recovery has to look after: those up to `end` that nobody says are settled or trimmed, and settled ones that an earlier
    /// recoverer of `epoch` has placed anew (INV-SETTLED).
    pub(crate) fn unsettled(&self, epoch: Epoch, end: Esn) -> impl Iterator<Item = &HeldBlock> {
        self.blocks.values().filter(move |block| self.needs_care(block, epoch, end))
    }

    /// The same of those that nobody can read (INV-UNREADABLE).
    pub(crate) fn given_up(&self, epoch: Epoch, end: Esn) -> impl Iterator<Item = &HeldBlock> {
        self.unreadable.iter().filter(move |block| self.needs_care(block, epoch, end))
    }

    fn needs_care(&self, block: &HeldBlock, epoch: Epoch, end: Esn) -> bool {
        let is_placed_anew = self.touched.contains(&block.first_esn)
            || block.copies.values().any(|copy| copy.version.writer_epoch > epoch);
        let is_unsettled = block.first_esn > self.settled || (is_placed_anew && !bug(Bug::SettledNotRepaired));
        is_unsettled && block.last_esn > self.trim && block.last_esn <= end
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dlog_proto::{Durability, NodeId, ProcessId, QuorumConfig, Replication};

    use super::*;
    use crate::testing::nodeset;

    fn lost(cached: u64) -> LostBefore {
        LostBefore { cached, durable: 0 }
    }

    fn entry(nodes: u16, r: u8, w: u8, durability: Durability) -> EpochEntry {
        let quorum = QuorumConfig { replication_factor: r, write_quorum: w, read_quorum: r + 1 - w };
        EpochEntry {
            epoch: Epoch(1),
            sequencer: NodeId(1),
            process: ProcessId(1),
            nodeset: Arc::new(nodeset(1..=nodes)),
            replication: Arc::new(Replication { durability, ..Replication::new(quorum) }),
            base_offset: None,
            end: None,
            activated_at: 10,
        }
    }

    /// A block of two records on the given members, under one placement that names `copyset`.
    fn block(first: u32, copyset: &[u16]) -> BlockSummary {
        BlockSummary {
            first_esn: Esn(first),
            span: 2,
            crc: first,
            len: 100,
            version: PlacementVersion { writer_epoch: Epoch(1), wave: 1 },
            copyset: copyset.iter().map(|node| ShardId::new(*node, 0).to_u32()).collect(),
        }
    }

    fn answer(acked: u32, settled: u32, blocks: &[BlockSummary]) -> SealedEpoch {
        SealedEpoch {
            epoch: Epoch(1),
            acked: Esn(acked),
            settled: Esn(settled),
            known_end: None,
            blocks: blocks.to_vec(),
        }
    }

    #[test]
    fn the_run_ends_where_no_answer_holds_the_next_block() {
        let entry = entry(3, 3, 2, Durability::Sync);
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        let mut digest = Digest::default();
        let all = [1, 2, 3];
        digest.add(&entry, 0, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &all), block(7, &all)]));
        assert_eq!(digest.authority(quorum), Authority::None);
        digest.add(&entry, 1, lost(0), Lsn::ZERO, &answer(0, 0, &[block(3, &all)]));
        let authority = digest.authority(quorum);
        assert_eq!(authority, Authority::Incomplete);
        assert_eq!(digest.end(authority), Esn(4), "5 is held by nobody, so 7 was never acknowledged");
        assert_eq!(digest.end(Authority::NonAuthoritative), Esn(8), "without proof, nothing that is there is dropped");
        assert_eq!(digest.unsettled(entry.epoch, Esn(4)).count(), 2);
    }

    #[test]
    fn the_run_starts_at_the_highest_mark() {
        let entry = entry(3, 3, 2, Durability::Sync);
        for (acked, settled, trim) in [(4, 0, 0), (0, 4, 0), (0, 0, 4)] {
            let mut digest = Digest::default();
            let trim = Lsn::new(Epoch(1), Esn(trim));
            digest.add(&entry, 0, lost(0), trim, &answer(acked, settled, &[block(5, &[1])]));
            assert_eq!(digest.end(Authority::Incomplete), Esn(6));
        }
    }

    #[test]
    fn a_trim_point_inside_a_block_does_not_end_the_run() {
        let entry = entry(1, 1, 1, Durability::Sync);
        let mut digest = Digest::default();
        digest.add(&entry, 0, lost(0), Lsn::new(Epoch(1), Esn(3)), &answer(0, 0, &[block(3, &[1]), block(5, &[1])]));
        assert_eq!(digest.end(Authority::Incomplete), Esn(6));
    }

    #[test]
    fn a_shard_that_lost_its_write_cache_proves_nothing_for_older_epochs() {
        let cached = entry(3, 3, 2, Durability::WriteCache);
        let quorum = Quorum::new(&cached.nodeset, &cached.replication);
        let mut digest = Digest::default();
        digest.add(&cached, 0, lost(11), Lsn::ZERO, &answer(0, 0, &[]));
        digest.add(&cached, 2, lost(0), Lsn::ZERO, &answer(0, 0, &[]));
        assert_eq!(digest.authority(quorum), Authority::None, "member 1 may have what member 0 lost");
        digest.add(&cached, 1, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2])]));
        assert_eq!(digest.end(digest.authority(quorum)), Esn(2));

        let synced = entry(3, 3, 2, Durability::Sync);
        let mut digest = Digest::default();
        digest.add(&synced, 0, lost(11), Lsn::ZERO, &answer(0, 0, &[]));
        digest.add(&synced, 2, lost(0), Lsn::ZERO, &answer(0, 0, &[]));
        assert!(digest.authority(quorum).is_authoritative(), "what was acknowledged was synced");
    }

    #[test]
    fn a_known_end_needs_no_quorum() {
        let entry = entry(3, 3, 2, Durability::Sync);
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        let mut digest = Digest::default();
        let end = EpochEnd { epoch: Epoch(1), last_esn: Esn(9), authoritative: true };
        digest.add(&entry, 0, lost(0), Lsn::ZERO, &SealedEpoch { known_end: Some(end), ..answer(0, 0, &[]) });
        assert_eq!((digest.authority(quorum), digest.end(Authority::Complete)), (Authority::Complete, Esn(9)));
    }

    #[test]
    fn whole_copysets_need_no_repair() {
        let entry = entry(3, 2, 2, Durability::Sync);
        let mut digest = Digest::default();
        digest.add(&entry, 0, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2]), block(3, &[1, 3])]));
        digest.add(&entry, 1, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2])]));
        let whole: Vec<_> = digest.unsettled(entry.epoch, Esn(4)).map(|block| block.whole_copyset(&entry)).collect();
        assert_eq!(whole, [Some(MemberSet::first(2)), None]);
    }

    #[test]
    fn what_an_earlier_recoverer_placed_anew_is_not_settled() {
        let entry = entry(4, 2, 2, Durability::Sync);
        let version = PlacementVersion { writer_epoch: Epoch(2), wave: 1 };
        let mut digest = Digest::default();
        digest.add(&entry, 0, lost(0), Lsn::ZERO, &answer(0, 6, &[]));
        // Sealed before it heard of settled; then the recoverer of epoch 2 told it alone of its placement, and died.
        let anew = BlockSummary { version, ..block(3, &[2, 3]) };
        digest.add(&entry, 1, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2]), anew, block(5, &[1, 2])]));
        let unsettled: Vec<_> = digest.unsettled(entry.epoch, Esn(6)).map(|block| block.first_esn).collect();
        assert_eq!(unsettled, [Esn(3)]);
        digest.add(&entry, 2, lost(0), Lsn::new(Epoch(1), Esn(4)), &answer(0, 0, &[]));
        assert_eq!(digest.unsettled(entry.epoch, Esn(6)).count(), 0, "given up");
    }

    #[test]
    fn who_cannot_read_a_block_proves_nothing() {
        let entry = entry(3, 2, 2, Durability::Sync);
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        let digest = |answers: &[usize]| {
            let mut digest = Digest::default();
            digest.add(&entry, 0, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2]), block(3, &[1, 2])]));
            for member in answers {
                digest.add(&entry, *member, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1, 2])]));
            }
            digest.add_unreadable(Esn(3), MemberSet::from_iter([0]));
            digest
        };
        assert_eq!(digest(&[2]).authority(quorum), Authority::None, "member 1 may have it");
        let all = digest(&[1, 2]);
        let authority = all.authority(quorum);
        assert!(authority.is_authoritative(), "it was on one member only");
        assert_eq!((all.end(authority), all.unsettled(Epoch(1), Esn(4)).count()), (Esn(2), 1));
        let mut lossy = digest(&[1, 2]);
        lossy.add_lost(1);
        let authority = lossy.authority(quorum);
        assert_eq!((authority, lossy.end(authority)), (Authority::NonAuthoritative, Esn(4)), "the loss is told");
        let given_up: Vec<_> = lossy.given_up(Epoch(1), Esn(4)).map(|b| (b.first_esn, b.holders())).collect();
        assert_eq!(given_up, [(Esn(3), MemberSet::first(1))], "and where it would be is not forgotten");
    }

    #[test]
    fn different_blocks_at_one_place_are_noticed() {
        let entry = entry(2, 2, 1, Durability::Sync);
        let mut digest = Digest::default();
        digest.add(&entry, 0, lost(0), Lsn::ZERO, &answer(0, 0, &[block(1, &[1])]));
        digest.add(&entry, 1, lost(0), Lsn::ZERO, &answer(0, 0, &[BlockSummary { crc: 99, ..block(1, &[2]) }]));
        assert_eq!(digest.conflict(), Some(Esn(1)));
    }
}
