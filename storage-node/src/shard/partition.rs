//! What a shard knows of one partition, and the rules by which it takes stores, amends, seals, ends and releases.

use std::collections::BTreeMap;

use dlog_proto::block::{BlockHeader, BlockKind, Placement};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{BlockSummary, EpochEnd, SealedEpoch, SealedState, StoreMode, StoreRefusal};
use dlog_proto::{Epoch, Esn, Lsn};

use crate::entry::{EntrySeq, EpochMarks, PartitionImage, PartitionMeta};

/// A block of an epoch whose end is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    span: u32,
    crc: u32,
    len: u32,
    placement: Placement,
    /// The entry that brought the newest placement, and with it or before it the block.
    seq: EntrySeq,
}

/// What becomes of a store or amend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// The block is to be written, perhaps again.
    Block,
    /// The block is here; its placement is to be written.
    Placement,
    /// Both are here already, since this entry.
    Known(EntrySeq),
}

/// A partition in memory.
#[derive(Debug)]
pub struct PartitionState {
    meta: PartitionMeta,
    released: Lsn,
    /// Up to where the metadata tier has let go; the trim point follows as far as is released.
    trim_wanted: Lsn,
    /// Up to where it may follow: what lies above is all that is known of its producers. Not kept: whoever releases tells it again.
    trim_limit: Lsn,
    /// Of epochs whose ends are not known. None is forgotten before its end is: blocks at or below `settled` are not listed any
    /// more, so that without the mark recovery would take them for never written.
    marks: BTreeMap<Epoch, EpochMarks>,
    /// Position of the newest producer snapshot: everything below it is in it.
    snapshot: Option<Lsn>,
    /// By first LSN: blocks of epochs whose ends are not known, above their settled marks.
    unsettled: BTreeMap<Lsn, Held>,
}

impl PartitionState {
    pub(super) fn new(meta: PartitionMeta) -> Self {
        let (marks, unsettled) = (BTreeMap::new(), BTreeMap::new());
        let (released, trim_wanted, trim_limit) = (Lsn::ZERO, Lsn::ZERO, Lsn::ZERO);
        Self { meta, released, trim_wanted, trim_limit, marks, snapshot: None, unsettled }
    }

    pub(super) fn from_image(image: PartitionImage) -> Self {
        let held = |block: crate::entry::HeldBlock| {
            let BlockHeader { span, crc, .. } = block.header;
            let len = block.header.block_len() as u32;
            (block.header.first_lsn(), Held { span, crc, len, placement: block.placement, seq: EntrySeq(0) })
        };
        let unsettled = image.unsettled.into_iter().map(held).collect();
        let marks = image.marks.epochs.into_iter().map(|marks| (marks.epoch, marks)).collect();
        // What was trimmed was released, though the mark may be lost.
        let released = image.marks.released.max(image.meta.trim);
        let (meta, trim_wanted, trim_limit) = (image.meta, Lsn::ZERO, Lsn::ZERO);
        Self { meta, released, trim_wanted, trim_limit, marks, snapshot: image.snapshot, unsettled }
    }

    pub fn meta(&self) -> &PartitionMeta {
        &self.meta
    }

    /// Last LSN that may be read here.
    pub fn released(&self) -> Lsn {
        self.released
    }

    fn settled_in(&self, epoch: Epoch) -> Esn {
        self.marks.get(&epoch).map_or(Esn::ZERO, |marks| marks.settled)
    }

    /// Up to where every record that may be read has all the copies that it will get: a shard that lacks one there was never
    /// meant to have it (trap C17).
    pub fn settled(&self) -> Lsn {
        let epoch = self.released.epoch();
        Lsn::new(epoch, self.settled_in(epoch)).min(self.released)
    }

    /// Whether somebody of this kind may write into `epoch`, up to `last_esn`.
    fn check(&self, mode: StoreMode, epoch: Epoch, last_esn: Esn) -> Result<(), StoreRefusal> {
        let seal = self.meta.seal;
        let sealed = match mode {
            StoreMode::Append => epoch < seal && !bug(Bug::SealSparesStores),
            StoreMode::Recovery { recoverer } => recoverer < seal && !bug(Bug::SealSparesRecoverers),
            StoreMode::Rebuild => false,
        };
        if sealed {
            return Err(StoreRefusal::Sealed(seal));
        }
        match self.meta.end_of(epoch) {
            Some(end) if last_esn > end.last_esn && !bug(Bug::EndSparesStores) => Err(StoreRefusal::BeyondEnd),
            // Only what is decided or settled is rebuilt.
            None if mode == StoreMode::Rebuild => Err(StoreRefusal::BeyondEnd),
            _ if self.meta.deleted => Err(StoreRefusal::BeyondEnd),
            _ => Ok(()),
        }
    }

    /// Takes a block, or says why not. `seq`: the number that its entry gets.
    pub(super) fn admit_store(
        &mut self,
        mode: StoreMode,
        header: &BlockHeader,
        placement: &Placement,
        seq: EntrySeq,
    ) -> Result<Admitted, StoreRefusal> {
        self.check(mode, header.epoch, header.last_esn())?;
        // Of a snapshot, too: whoever builds the index anew from the log finds them there.
        self.note_marks(mode, header.epoch, placement);
        if header.kind == BlockKind::ProducerSnapshot {
            self.snapshot = self.snapshot.max(Some(header.first_lsn()));
            return Ok(Admitted::Block);
        }
        if let Some(held) = self.overlapping(header) {
            return self.admit_again(mode, header, held, placement, seq);
        }
        if mode == StoreMode::Append && header.last_esn() <= self.settled_in(header.epoch) {
            return Err(StoreRefusal::Settled);
        }
        if header.last_lsn() <= self.meta.trim {
            // It comes late: nobody is told of it any more, so that nobody asks for it.
            return Ok(Admitted::Block);
        }
        let BlockHeader { span, crc, .. } = *header;
        let held = Held { span, crc, len: header.block_len() as u32, placement: placement.clone(), seq };
        self.unsettled.insert(header.first_lsn(), held);
        Ok(Admitted::Block)
    }

    /// First LSN of a held block that shares an LSN with this one.
    fn overlapping(&self, header: &BlockHeader) -> Option<Lsn> {
        let (first, held) = self.unsettled.range(..=header.last_lsn()).next_back()?;
        let last = Lsn::new(first.epoch(), first.esn().last_of(held.span));
        (last >= header.first_lsn()).then_some(*first)
    }

    fn admit_again(
        &mut self,
        mode: StoreMode,
        header: &BlockHeader,
        held: Lsn,
        placement: &Placement,
        seq: EntrySeq,
    ) -> Result<Admitted, StoreRefusal> {
        let known = &self.unsettled[&held];
        if held != header.first_lsn() || (known.span, known.crc) != (header.span, header.crc) {
            return Err(StoreRefusal::Conflict);
        }
        let admitted = self.admit_amend(mode, header.epoch, header.first_esn, placement, seq)?;
        // A recoverer sends the block itself only to whom it does not count among those that have it. Who has it all the same could not
        // read it: the copy is written anew, and read before the other.
        let is_repair = matches!(mode, StoreMode::Recovery { .. }) && admitted == Admitted::Placement;
        Ok(if is_repair { Admitted::Block } else { admitted })
    }

    /// Takes another placement for a block, or says why not.
    pub(super) fn admit_amend(
        &mut self,
        mode: StoreMode,
        epoch: Epoch,
        first_esn: Esn,
        placement: &Placement,
        seq: EntrySeq,
    ) -> Result<Admitted, StoreRefusal> {
        if !bug(Bug::SealSparesAmends) {
            self.check(mode, epoch, first_esn)?;
        }
        self.note_marks(mode, epoch, placement);
        let held = self.unsettled.get_mut(&Lsn::new(epoch, first_esn)).ok_or(StoreRefusal::NoPayload)?;
        let newer = placement.version > held.placement.version;
        // The newer one stays; whoever asks learns that the block is here. What an earlier process wrote may not be on the disk yet: it
        // counts when something written behind it is.
        if !newer && held.seq > EntrySeq(0) {
            return Ok(Admitted::Known(held.seq));
        }
        if newer {
            held.placement = placement.clone();
        }
        held.seq = seq;
        Ok(Admitted::Placement)
    }

    /// Marks that came with a placement. Those of sealed epochs stay as the seal's answer gave them: whoever sealed counts on
    /// finding here every block above them.
    fn note_marks(&mut self, mode: StoreMode, epoch: Epoch, placement: &Placement) {
        if mode == StoreMode::Append && (epoch >= self.meta.seal || bug(Bug::MarksMoveUnderSeal)) {
            self.raise(EpochMarks { epoch, acked: placement.acked, settled: placement.settled });
        }
    }

    fn raise(&mut self, marks: EpochMarks) {
        let EpochMarks { epoch, acked, settled } = marks;
        let known = self.marks.entry(epoch).or_insert_with(|| EpochMarks { epoch, ..EpochMarks::default() });
        known.acked = known.acked.max(acked);
        known.settled = known.settled.max(settled);
        let settled = known.settled;
        // Blocks end at marks, so whatever begins at or below one also ends there.
        while let Some((first, _)) = self.unsettled.range(Lsn::new(epoch, Esn(0))..=Lsn::new(epoch, settled)).next() {
            let first = *first;
            self.unsettled.remove(&first);
        }
    }

    /// Refuses epochs below `epoch` from now on. `Err` names a higher seal that is there already.
    pub(super) fn seal(&mut self, epoch: Epoch) -> Result<(), Epoch> {
        if epoch < self.meta.seal {
            return Err(self.meta.seal);
        }
        self.meta.seal = epoch;
        Ok(())
    }

    /// Learns where epochs ended, and gives up what lies beyond. Whether anything was new.
    pub(super) fn learn_ends(&mut self, ends: &[EpochEnd]) -> bool {
        let mut new = false;
        if bug(Bug::PurgeForgotten) {
            return false;
        }
        for end in ends.iter().filter(|end| end.epoch >= self.meta.trim.epoch()) {
            let at = match self.meta.ends.binary_search_by_key(&end.epoch, |e| e.epoch) {
                Ok(at) => {
                    assert_eq!(self.meta.ends[at].last_esn, end.last_esn, "an epoch ends once");
                    continue;
                }
                Err(at) => at,
            };
            self.meta.ends.insert(at, *end);
            // A known end implies the seal (trap C8).
            if !bug(Bug::EndSparesStores) {
                self.meta.seal = self.meta.seal.max(end.epoch.next());
            }
            self.unsettled.retain(|first, _| first.epoch() != end.epoch);
            self.marks.remove(&end.epoch);
            new = true;
        }
        new
    }

    /// Lets readers read up to here. The new mark, if it is one.
    pub(super) fn release(&mut self, released: Lsn, settled: Esn) -> Option<Lsn> {
        let epoch = released.epoch();
        let open = epoch >= self.meta.seal || bug(Bug::MarksMoveUnderSeal);
        if open && self.meta.end_of(epoch).is_none() {
            self.raise(EpochMarks { epoch, acked: released.esn(), settled });
        }
        if released <= self.released {
            return None;
        }
        self.released = released;
        Some(released)
    }

    /// Lets trims go up to here.
    pub(super) fn raise_trim_limit(&mut self, limit: Lsn) {
        self.trim_limit = self.trim_limit.max(limit);
    }

    /// Lets go of everything up to `upto`, as far as it is released and its producers are known without it. Whether the trim point
    /// moved.
    pub(super) fn trim(&mut self, upto: Lsn) -> bool {
        self.trim_wanted = self.trim_wanted.max(upto);
        let limit = if bug(Bug::TrimPassesReleased) { Lsn::MAX } else { self.released.min(self.trim_limit) };
        let trim = self.trim_wanted.min(limit);
        if trim <= self.meta.trim {
            return false;
        }
        self.meta.trim = trim;
        self.meta.ends.retain(|end| end.epoch >= trim.epoch());
        self.unsettled.retain(|first, held| Lsn::new(first.epoch(), first.esn().last_of(held.span)) > trim);
        true
    }

    /// Whether that is news to be kept: of a partition that was never here, nothing is.
    pub(super) fn delete(&mut self) -> bool {
        let unknown = self.meta == PartitionMeta::new(self.meta.partition)
            && self.marks.is_empty()
            && self.unsettled.is_empty()
            && self.released == Lsn::ZERO;
        if self.meta.deleted || unknown {
            return false;
        }
        self.meta.deleted = true;
        self.unsettled.clear();
        true
    }

    /// What a seal's answer says of these epochs.
    pub(super) fn sealed_state(&self, undecided: &[Epoch]) -> SealedState {
        let epochs = undecided.iter().map(|epoch| self.sealed_epoch(*epoch)).collect();
        SealedState { trim: self.meta.trim, epochs, snapshot: self.snapshot }
    }

    fn sealed_epoch(&self, epoch: Epoch) -> SealedEpoch {
        let EpochMarks { acked, settled, .. } = self.marks.get(&epoch).copied().unwrap_or_default();
        let in_epoch = self.unsettled.range(Lsn::new(epoch, Esn(0))..=Lsn::new(epoch, Esn::MAX));
        let summary = |(first, held): (&Lsn, &Held)| BlockSummary {
            first_esn: first.esn(),
            span: held.span,
            crc: held.crc,
            len: held.len,
            version: held.placement.version,
            copyset: held.placement.copyset.shards().iter().map(|shard| shard.to_u32()).collect(),
        };
        let blocks = in_epoch.map(summary).collect();
        SealedEpoch { epoch, acked, settled, known_end: self.meta.end_of(epoch), blocks }
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::block::{Copyset, PlacementVersion};
    use dlog_proto::{PartitionUid, ShardId};

    use super::*;

    const APPEND: StoreMode = StoreMode::Append;

    fn state() -> PartitionState {
        PartitionState::new(PartitionMeta::new(PartitionUid(1)))
    }

    fn header(epoch: u32, first_esn: u32, span: u32) -> BlockHeader {
        BlockHeader {
            kind: BlockKind::Records,
            partition: PartitionUid(1),
            epoch: Epoch(epoch),
            first_esn: Esn(first_esn),
            span,
            batch_count: 1,
            min_timestamp: 0,
            max_timestamp: 0,
            sequencer_timestamp: 0,
            body_len: 100,
            crc: epoch * 1000 + first_esn,
        }
    }

    fn placement(writer_epoch: u32, wave: u32, settled: u32) -> Placement {
        Placement {
            version: PlacementVersion { writer_epoch: Epoch(writer_epoch), wave },
            copyset: Copyset::new([ShardId::new(1, 0)]).unwrap(),
            acked: Esn(settled),
            settled: Esn(settled),
        }
    }

    fn end(epoch: u32, last_esn: u32) -> EpochEnd {
        EpochEnd { epoch: Epoch(epoch), last_esn: Esn(last_esn), authoritative: true }
    }

    fn store(
        state: &mut PartitionState,
        mode: StoreMode,
        h: &BlockHeader,
        wave: u32,
    ) -> Result<Admitted, StoreRefusal> {
        let writer = match mode {
            StoreMode::Recovery { recoverer } => recoverer.0,
            _ => h.epoch.0,
        };
        state.admit_store(mode, h, &placement(writer, wave, 0), EntrySeq(u64::from(wave)))
    }

    #[test]
    fn a_seal_stops_older_epochs_and_older_recoverers() {
        let mut state = state();
        assert_eq!(store(&mut state, APPEND, &header(1, 1, 2), 1), Ok(Admitted::Block));
        assert_eq!(state.seal(Epoch(3)), Ok(()));
        assert_eq!(state.seal(Epoch(2)), Err(Epoch(3)));
        assert_eq!(store(&mut state, APPEND, &header(2, 1, 1), 1), Err(StoreRefusal::Sealed(Epoch(3))));
        assert_eq!(
            store(&mut state, APPEND, &header(3, 1, 1), 1),
            Ok(Admitted::Block),
            "the sealing epoch itself writes"
        );
        let recovery = |recoverer| StoreMode::Recovery { recoverer: Epoch(recoverer) };
        assert_eq!(store(&mut state, recovery(2), &header(1, 3, 1), 1), Err(StoreRefusal::Sealed(Epoch(3))));
        assert_eq!(store(&mut state, recovery(3), &header(1, 3, 1), 1), Ok(Admitted::Block));
        // Trap C9: an amend obeys the seal like a store.
        let amended = state.admit_amend(APPEND, Epoch(1), Esn(1), &placement(1, 2, 0), EntrySeq(9));
        assert_eq!(amended, Err(StoreRefusal::Sealed(Epoch(3))));
    }

    #[test]
    fn beyond_a_known_end_nothing_is_taken_by_anybody() {
        let mut state = state();
        store(&mut state, APPEND, &header(1, 1, 4), 1).unwrap();
        store(&mut state, APPEND, &header(1, 5, 4), 1).unwrap();
        assert!(state.learn_ends(&[end(1, 4)]));
        assert!(!state.learn_ends(&[end(1, 4)]), "once is enough");
        assert_eq!(state.meta().seal, Epoch(2), "a known end implies the seal");
        for mode in [StoreMode::Recovery { recoverer: Epoch(9) }, StoreMode::Rebuild] {
            assert_eq!(store(&mut state, mode, &header(1, 5, 4), 2), Err(StoreRefusal::BeyondEnd));
        }
        assert_eq!(
            store(&mut state, StoreMode::Rebuild, &header(2, 1, 1), 1),
            Err(StoreRefusal::BeyondEnd),
            "undecided"
        );
        assert!(state.sealed_state(&[Epoch(1)]).epochs[0].blocks.is_empty());
    }

    #[test]
    fn a_block_is_written_once_and_the_newest_placement_wins() {
        let mut state = state();
        let block = header(1, 1, 2);
        assert_eq!(store(&mut state, APPEND, &block, 1), Ok(Admitted::Block));
        assert_eq!(store(&mut state, APPEND, &block, 1), Ok(Admitted::Known(EntrySeq(1))), "doubled");
        assert_eq!(store(&mut state, APPEND, &block, 3), Ok(Admitted::Placement));
        assert_eq!(store(&mut state, APPEND, &block, 2), Ok(Admitted::Known(EntrySeq(3))), "from the past");
        let other = BlockHeader { crc: 7, ..block };
        assert_eq!(store(&mut state, APPEND, &other, 4), Err(StoreRefusal::Conflict));
        assert_eq!(store(&mut state, APPEND, &header(1, 2, 5), 4), Err(StoreRefusal::Conflict), "shares an LSN");
        let amended = state.admit_amend(APPEND, Epoch(1), Esn(3), &placement(1, 2, 0), EntrySeq(9));
        assert_eq!(amended, Err(StoreRefusal::NoPayload));
    }

    #[test]
    fn what_is_settled_is_not_listed_and_not_stored_late() {
        let mut state = state();
        for first in [1, 3, 5] {
            store(&mut state, APPEND, &header(1, first, 2), 1).unwrap();
        }
        state.admit_store(APPEND, &header(1, 7, 2), &placement(1, 1, 4), EntrySeq(2)).unwrap();
        let sealed = state.sealed_state(&[Epoch(1), Epoch(2)]);
        let listed: Vec<_> = sealed.epochs[0].blocks.iter().map(|b| b.first_esn.0).collect();
        assert_eq!((listed, sealed.epochs[0].settled), (vec![5, 7], Esn(4)));
        assert_eq!(sealed.epochs[1].blocks, []);
        assert_eq!(store(&mut state, APPEND, &header(1, 3, 2), 1), Err(StoreRefusal::Settled));
    }

    #[test]
    fn trim_follows_what_is_released_and_never_passes_it() {
        let mut state = state();
        state.raise_trim_limit(Lsn::MAX);
        for first in [1, 3, 5] {
            store(&mut state, APPEND, &header(1, first, 2), 1).unwrap();
        }
        state.release(Lsn::new(Epoch(1), Esn(4)), Esn(0));
        assert!(state.trim(Lsn::new(Epoch(1), Esn(6))));
        assert_eq!(state.meta().trim, Lsn::new(Epoch(1), Esn(4)), "the rest is not released");
        assert_eq!(state.sealed_state(&[Epoch(1)]).epochs[0].blocks.len(), 1, "what is gone is not listed");
        assert!(!state.trim(Lsn::new(Epoch(1), Esn(2))), "it never goes back");
        state.release(Lsn::new(Epoch(1), Esn(6)), Esn(0));
        assert!(state.trim(Lsn::ZERO) && state.meta().trim == Lsn::new(Epoch(1), Esn(6)));
    }

    #[test]
    fn marks_of_sealed_epochs_stay_as_they_were_told() {
        let mut state = state();
        store(&mut state, APPEND, &header(1, 1, 2), 1).unwrap();
        state.seal(Epoch(2)).unwrap();
        assert_eq!(state.release(Lsn::new(Epoch(1), Esn(2)), Esn(2)), Some(Lsn::new(Epoch(1), Esn(2))));
        assert_eq!(state.sealed_state(&[Epoch(1)]).epochs[0].blocks.len(), 1);
        assert_eq!(state.release(Lsn::new(Epoch(1), Esn(1)), Esn(0)), None, "released never goes back");
    }
}
