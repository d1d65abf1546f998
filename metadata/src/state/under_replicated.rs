//! What of a partition lacks copies: per epoch and shard, ranges of records that the shard should have and has not.
//!
//! On record before a settled mark moves over them (trap C12), until they are rebuilt. A range may say too much, never
//! too little: where a shard collects more than [`RANGES_MAX`] ranges, the two closest become one.
//!
//! INV-UR-RANGES: a shard's ranges in an epoch ascend, do not touch, and at most the last is open.

use std::collections::BTreeMap;

use dlog_proto::{Epoch, Esn, Incarnation, Lsn, ShardId};
use serde::{Deserialize, Serialize};

/// Ranges that are kept apart per epoch and shard.
pub(super) const RANGES_MAX: usize = 16;

/// Records that a shard lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MissingRange {
    pub from: Esn,
    /// `None`: all that come, until told otherwise.
    pub to: Option<Esn>,
}

impl MissingRange {
    fn last(&self) -> Esn {
        self.to.unwrap_or(Esn::MAX)
    }

    /// What is left of it after `from` to `to` are taken out.
    fn without(self, from: Esn, to: Esn) -> impl Iterator<Item = Self> {
        let before = (self.from < from).then(|| Self { from: self.from, to: Some(self.last().min(from.prev())) });
        let after = (self.last() > to).then(|| Self { from: self.from.max(to.next()), to: self.to });
        before.into_iter().chain(after)
    }
}

/// A shard in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MissingAt {
    pub epoch: Epoch,
    pub shard: ShardId,
    pub incarnation: Incarnation,
}

/// A partition's under-replicated records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnderReplicated(BTreeMap<MissingAt, Vec<MissingRange>>);

impl UnderReplicated {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&MissingAt, &[MissingRange])> {
        self.0.iter().map(|(at, ranges)| (at, ranges.as_slice()))
    }

    /// The shard lacks `from` to `to`.
    pub(super) fn add(&mut self, at: MissingAt, range: MissingRange) {
        let ranges = self.0.entry(at).or_default();
        ranges.push(range);
        normalize(ranges);
    }

    /// The shard has all that comes after `to`.
    pub(super) fn close(&mut self, at: MissingAt, to: Esn) {
        self.change(at, |ranges| {
            if let Some(open) = ranges.last_mut().filter(|range| range.to.is_none()) {
                open.to = Some(to);
            }
            ranges.retain(|range| range.last() >= range.from && range.last() > Esn::ZERO);
        });
    }

    /// Copies of `from` to `to` were made.
    pub(super) fn repaired(&mut self, at: MissingAt, from: Esn, to: Esn) {
        self.change(at, |ranges| *ranges = ranges.drain(..).flat_map(|range| range.without(from, to)).collect());
    }

    /// The epoch ends at `last`: nothing beyond can be missing.
    pub(super) fn end_epoch(&mut self, epoch: Epoch, last: Esn) {
        let cut = |ranges: &mut Vec<MissingRange>| {
            ranges.retain(|range| range.from <= last);
            ranges.iter_mut().for_each(|range| range.to = Some(range.last().min(last)));
        };
        self.retain(|at, ranges| {
            if at.epoch == epoch {
                cut(ranges);
            }
        });
    }

    /// Nothing up to `upto` is needed any more.
    pub(super) fn trim(&mut self, upto: Lsn) {
        self.retain(|at, ranges| {
            if at.epoch < upto.epoch() {
                ranges.clear();
            } else if at.epoch == upto.epoch() {
                ranges.retain(|range| range.last() > upto.esn());
                ranges.iter_mut().for_each(|range| range.from = range.from.max(upto.esn().next()));
            }
        });
    }

    fn change(&mut self, at: MissingAt, change: impl FnOnce(&mut Vec<MissingRange>)) {
        if let Some(ranges) = self.0.get_mut(&at) {
            change(ranges);
            normalize(ranges);
            if ranges.is_empty() {
                self.0.remove(&at);
            }
        }
    }

    fn retain(&mut self, change: impl Fn(&MissingAt, &mut Vec<MissingRange>)) {
        self.0.retain(|at, ranges| {
            change(at, ranges);
            !ranges.is_empty()
        });
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let apart = |pair: &[MissingRange]| pair[0].to.is_some_and(|to| to.next() < pair[1].from);
        let holds = |ranges: &Vec<MissingRange>| {
            let sound = ranges.iter().all(|range| range.from > Esn::ZERO && range.from <= range.last());
            sound && (1..=RANGES_MAX).contains(&ranges.len()) && ranges.windows(2).all(apart)
        };
        if self.0.values().all(holds) { Ok(()) } else { Err("INV-UR-RANGES") }
    }
}

/// Sorts ranges, joins those that touch, and the closest ones while there are too many.
fn normalize(ranges: &mut Vec<MissingRange>) {
    ranges.sort_unstable_by_key(|range| (range.from, range.last()));
    ranges.dedup_by(|next, kept| {
        let touch = next.from <= kept.last().next();
        if touch && next.last() > kept.last() {
            kept.to = next.to;
        }
        touch
    });
    while ranges.len() > RANGES_MAX {
        let gap = |i: &usize| ranges[i + 1].from.0 - ranges[*i].last().0;
        let closest = (0..ranges.len() - 1).min_by_key(gap).expect("more than one range");
        ranges[closest].to = ranges[closest + 1].to;
        ranges.remove(closest + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const AT: MissingAt = MissingAt { epoch: Epoch(2), shard: ShardId::new(1, 0), incarnation: Incarnation(1) };

    fn range(from: u32, to: Option<u32>) -> MissingRange {
        MissingRange { from: Esn(from), to: to.map(Esn) }
    }

    fn ranges(missing: &UnderReplicated) -> Vec<(u32, Option<u32>)> {
        missing.check().unwrap();
        missing.0.values().flatten().map(|r| (r.from.0, r.to.map(|to| to.0))).collect()
    }

    #[test]
    fn a_shard_goes_away_comes_back_and_is_repaired() {
        let mut missing = UnderReplicated::default();
        missing.add(AT, range(5, None));
        missing.add(AT, range(9, None));
        assert_eq!(ranges(&missing), [(5, None)], "one open range per epoch and shard");
        missing.close(AT, Esn(20));
        missing.add(AT, range(30, None));
        missing.repaired(AT, Esn(8), Esn(10));
        assert_eq!(ranges(&missing), [(5, Some(7)), (11, Some(20)), (30, None)]);
        missing.end_epoch(Epoch(2), Esn(35));
        assert_eq!(ranges(&missing), [(5, Some(7)), (11, Some(20)), (30, Some(35))]);
        missing.trim(Lsn::new(Epoch(2), Esn(15)));
        assert_eq!(ranges(&missing), [(16, Some(20)), (30, Some(35))]);
        missing.trim(Lsn::new(Epoch(3), Esn(0)));
        assert!(missing.is_empty());
    }

    #[test]
    fn closing_before_anything_was_missed_leaves_nothing() {
        let mut missing = UnderReplicated::default();
        missing.add(AT, range(5, None));
        missing.close(AT, Esn(4));
        assert!(missing.is_empty());
    }

    proptest! {
        #[test]
        fn never_says_too_little(ops in prop::collection::vec((0u8..3, 1u32..400, 0u32..30), 0..60)) {
            let (mut missing, mut model) = (UnderReplicated::default(), BTreeSet::new());
            for (op, from, len) in ops {
                let to = from + len;
                if op < 2 {
                    missing.add(AT, range(from, Some(to)));
                    model.extend(from..=to);
                } else {
                    missing.repaired(AT, Esn(from), Esn(to));
                    model.retain(|esn| !(from..=to).contains(esn));
                }
                let said = ranges(&missing);
                let says = |esn: &u32| said.iter().any(|(from, to)| (*from..=to.unwrap()).contains(esn));
                prop_assert!(model.iter().all(says));
            }
        }
    }
}
