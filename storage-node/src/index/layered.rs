//! A map over another that stays as it is.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, PoisonError, RwLock};

use super::kv::{Batch, Direction, Kv, KvError, Visit};

/// Changes are kept in memory.
#[derive(Debug)]
pub(crate) struct Layered {
    below: Arc<dyn Kv>,
    changes: RwLock<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl Layered {
    pub(crate) fn new(below: Arc<dyn Kv>) -> Self {
        Self { below, changes: RwLock::default() }
    }
}

impl Kv for Layered {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.changes.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, range: Range<&[u8]>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KvError> {
        if range.start >= range.end {
            return Ok(());
        }
        // A copy: the visitor may ask the map something else.
        let mut changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = {
            let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
            let changed = changes
                .range::<[u8], _>((std::ops::Bound::Included(range.start), std::ops::Bound::Excluded(range.end)));
            changed.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        if direction == Direction::Ascending {
            changes.reverse();
        }
        // Those that come next stand last.
        let comes_before = |a: &[u8], b: &[u8]| if direction == Direction::Ascending { a < b } else { a > b };
        let mut stopped = false;
        self.below.scan(range, direction, &mut |key, value| {
            while let Some((changed, new)) = changes.pop_if(|(changed, _)| !comes_before(key, changed)) {
                let replaces = changed == key;
                if let Some(new) = &new
                    && visit(&changed, new).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if replaces {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        while !stopped && let Some((key, value)) = changes.pop() {
            stopped = value.is_some_and(|value| visit(&key, &value).is_break());
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in &batch.changes {
            changes.insert(key.to_vec(), value.clone());
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), KvError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryKv;
    use crate::index::memory::tests::{behaves_as_an_ordered_map, keys, put};

    #[test]
    fn it_is_an_ordered_map() {
        behaves_as_an_ordered_map(&Layered::new(Arc::new(MemoryKv::new())));
    }

    #[test]
    fn it_covers_what_is_below_and_leaves_it_as_it_is() {
        let below = MemoryKv::new();
        put(&below, &[(b"a", Some(b"1")), (b"c", Some(b"1")), (b"e", Some(b"1")), (b"g", Some(b"1"))]);
        let before = below.dump();
        let kv = Layered::new(Arc::new(below.clone()));
        put(&kv, &[(b"b", Some(b"2")), (b"c", Some(b"2")), (b"e", None), (b"h", Some(b"2"))]);
        assert_eq!(keys(&kv, b"a"..b"z", Direction::Ascending, 9), [b"a", b"b", b"c", b"g", b"h"]);
        assert_eq!(keys(&kv, b"a"..b"z", Direction::Descending, 9), [b"h", b"g", b"c", b"b", b"a"]);
        assert_eq!(keys(&kv, b"b"..b"z", Direction::Ascending, 2), [b"b", b"c"]);
        assert_eq!((kv.get(b"c").unwrap().unwrap(), kv.get(b"e").unwrap()), (b"2".to_vec(), None));
        assert_eq!(below.dump(), before);
    }
}
