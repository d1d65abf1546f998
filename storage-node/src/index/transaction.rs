//! Reads of the index that see what is about to be written to it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kv::{Batch, Direction, Key, Kv, KvError};
use super::schema::Row;

/// Changes on top of a map, until they are applied together.
pub(crate) struct Transaction<'k> {
    kv: &'k dyn Kv,
    changes: BTreeMap<Key, Option<Vec<u8>>>,
}

impl<'k> Transaction<'k> {
    pub(crate) fn new(kv: &'k dyn Kv) -> Self {
        Self { kv, changes: BTreeMap::new() }
    }

    pub(crate) fn get<R: Row>(&self, key: &Key) -> Result<Option<R>, KvError> {
        match self.changes.get(key) {
            Some(changed) => changed.as_deref().map(R::decode).transpose(),
            None => self.kv.get(key)?.as_deref().map(R::decode).transpose(),
        }
    }

    pub(crate) fn put<R: Row>(&mut self, key: Key, row: &R) {
        self.changes.insert(key, Some(row.encode()));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.changes.insert(key, None);
    }

    /// All rows of `range`, ascending.
    pub(crate) fn rows<R: Row>(&self, range: &Range<Key>) -> Result<Vec<(Key, R)>, KvError> {
        let mut rows: BTreeMap<Key, R> = scan(self.kv, range, Direction::Ascending, usize::MAX)?.into_iter().collect();
        for (key, changed) in self.changes.range(range.clone()) {
            match changed {
                Some(value) => drop(rows.insert(*key, R::decode(value)?)),
                None => drop(rows.remove(key)),
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// The first rows of `range` as they are stored: changes are not seen.
    pub(crate) fn stored<R: Row>(&self, range: &Range<Key>, max: usize) -> Result<Vec<(Key, R)>, KvError> {
        scan(self.kv, range, Direction::Ascending, max)
    }

    /// The last row of `range`.
    pub(crate) fn last_row<R: Row>(&self, range: &Range<Key>) -> Result<Option<(Key, R)>, KvError> {
        let mut end = range.end;
        loop {
            let range = range.start..end;
            let stored = scan::<R>(self.kv, &range, Direction::Descending, 1)?.pop();
            let changed = self.changes.range(range).next_back();
            match (stored, changed) {
                (Some((key, row)), Some((changed, _))) if key > *changed => return Ok(Some((key, row))),
                (_, Some((key, Some(value)))) => return Ok(Some((*key, R::decode(value)?))),
                (_, Some((key, None))) => end = *key,
                (stored, None) => return Ok(stored),
            }
        }
    }

    pub(crate) fn into_batch(self) -> Batch {
        Batch { changes: self.changes.into_iter().collect() }
    }
}

/// Up to `max` rows of `range`.
pub(crate) fn scan<R: Row>(
    kv: &dyn Kv,
    range: &Range<Key>,
    direction: Direction,
    max: usize,
) -> Result<Vec<(Key, R)>, KvError> {
    let mut rows = Vec::new();
    let mut damaged = None;
    kv.scan(&range.start..&range.end, direction, &mut |key, value| {
        match (Key::new(key), R::decode(value)) {
            (Some(key), Ok(row)) => rows.push((key, row)),
            (None, _) => damaged = Some(KvError(format!("a key of {} bytes", key.len()))),
            (_, Err(error)) => damaged = Some(error),
        }
        if damaged.is_some() || rows.len() >= max {
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(rows), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryKv;
    use crate::index::schema::{LossRow, Table};
    use crate::segment::{Position, SegmentId};

    fn key(offset: u32) -> Key {
        Table::Loss.place(Position::new(SegmentId(1), offset))
    }

    #[test]
    fn what_was_changed_is_seen_over_what_is_stored() {
        let kv = MemoryKv::new();
        let mut first = Transaction::new(&kv);
        (1..5).for_each(|n| first.put(key(n), &LossRow { end: n }));
        kv.apply(&first.into_batch()).unwrap();

        let mut changes = Transaction::new(&kv);
        changes.delete(key(4));
        changes.put(key(2), &LossRow { end: 20 });
        changes.put(key(3), &LossRow { end: 30 });
        let all = Table::Loss.all();
        let ends: Vec<u32> = changes.rows::<LossRow>(&all).unwrap().iter().map(|(_, row)| row.end).collect();
        assert_eq!(ends, [1, 20, 30]);
        assert_eq!(changes.get::<LossRow>(&key(4)).unwrap(), None);
        assert_eq!(changes.get::<LossRow>(&key(1)).unwrap(), Some(LossRow { end: 1 }));
        assert_eq!(changes.last_row::<LossRow>(&all).unwrap().unwrap().1.end, 30);
        (2..4).for_each(|n| changes.delete(key(n)));
        assert_eq!(changes.last_row::<LossRow>(&all).unwrap().unwrap().1.end, 1);
        changes.delete(key(1));
        assert_eq!(changes.last_row::<LossRow>(&all).unwrap(), None);
        kv.apply(&changes.into_batch()).unwrap();
        assert!(Transaction::new(&kv).rows::<LossRow>(&all).unwrap().is_empty());
    }
}
