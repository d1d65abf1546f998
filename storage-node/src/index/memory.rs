//! The index in memory, for simulations: knows what a crash may take from it.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kv::{Batch, Direction, Kv, KvError, KvStore, Visit};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Clones are the same map.
#[derive(Debug, Clone, Default)]
pub struct MemoryKv {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    map: Map,
    durable: Map,
    /// Batches since the last flush.
    unflushed: Vec<Batch>,
    broken: bool,
    set_aside: Vec<Map>,
}

impl MemoryKv {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine goes down: what was flushed is there, and some of the batches after it, none without those before it.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        let mut state = self.state();
        let batches = std::mem::take(&mut state.unflushed);
        let survive = rng.usize(..=batches.len());
        for batch in &batches[..survive] {
            apply(&mut state.durable, batch);
        }
        state.map = state.durable.clone();
    }

    /// An independent copy.
    pub fn fork(&self) -> Self {
        let state = self.state();
        let copy = State {
            map: state.map.clone(),
            durable: state.durable.clone(),
            unflushed: state.unflushed.clone(),
            broken: state.broken,
            set_aside: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// All pairs, in order.
    pub fn dump(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.state().map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// It is gone, as if somebody had removed the directory.
    pub fn lose(&self) {
        *self.state() = State::default();
    }

    /// It cannot be opened until it was set aside.
    pub fn damage(&self) {
        self.state().broken = true;
    }

    /// How many maps were set aside.
    pub fn set_aside_count(&self) -> usize {
        self.state().set_aside.len()
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => drop(map.insert(key.to_vec(), value.clone())),
            None => drop(map.remove(&key[..])),
        }
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.state().map.get(key).cloned())
    }

    fn scan(&self, range: Range<&[u8]>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KvError> {
        if range.start >= range.end {
            return Ok(());
        }
        // One entry at a time: the visitor may take long, and may ask the map something else.
        let (mut low, mut high) = (Bound::Included(range.start.to_vec()), Bound::Excluded(range.end.to_vec()));
        loop {
            let next = {
                let state = self.state();
                let mut entries = state.map.range::<Vec<u8>, _>((low.as_ref(), high.as_ref()));
                let entry = match direction {
                    Direction::Ascending => entries.next(),
                    Direction::Descending => entries.next_back(),
                };
                entry.map(|(key, value)| (key.clone(), value.clone()))
            };
            let Some((key, value)) = next else { return Ok(()) };
            if visit(&key, &value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Ascending => low = Bound::Excluded(key),
                Direction::Descending => high = Bound::Excluded(key),
            }
            if let (Bound::Excluded(low), Bound::Excluded(high)) = (&low, &high)
                && low >= high
            {
                return Ok(());
            }
        }
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        let mut state = self.state();
        apply(&mut state.map, batch);
        state.unflushed.push(batch.clone());
        Ok(())
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut state = self.state();
        for batch in std::mem::take(&mut state.unflushed) {
            apply(&mut state.durable, &batch);
        }
        Ok(())
    }
}

impl KvStore for MemoryKv {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        if self.state().broken {
            return Err(KvError("damaged on purpose".to_owned()));
        }
        Ok(Arc::new(self.clone()))
    }

    fn set_aside(&self) -> io::Result<()> {
        let mut state = self.state();
        let map = std::mem::take(&mut state.map);
        let mut set_aside = std::mem::take(&mut state.set_aside);
        if !map.is_empty() {
            set_aside.push(map);
        }
        *state = State { set_aside, ..State::default() };
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::index::kv::Key;
    use std::ops::ControlFlow;

    pub(crate) fn put(kv: &dyn Kv, pairs: &[(&[u8], Option<&[u8]>)]) {
        let changes = pairs.iter().map(|(key, value)| (Key::new(key).unwrap(), value.map(<[u8]>::to_vec))).collect();
        kv.apply(&Batch { changes }).unwrap();
    }

    pub(crate) fn keys(kv: &dyn Kv, range: Range<&[u8]>, direction: Direction, max: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        kv.scan(range, direction, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        keys
    }

    /// What every implementation must do.
    pub(crate) fn behaves_as_an_ordered_map(kv: &dyn Kv) {
        put(kv, &[(b"b", Some(b"2")), (b"a", Some(b"1")), (b"c", Some(b"3")), (b"d", Some(b"4"))]);
        put(kv, &[(b"c", None), (b"a", Some(b"5"))]);
        assert_eq!(kv.get(b"a").unwrap().unwrap(), b"5");
        assert_eq!(kv.get(b"c").unwrap(), None);
        assert_eq!(keys(kv, b"a"..b"d", Direction::Ascending, 9), [b"a", b"b"]);
        assert_eq!(keys(kv, b"a"..b"e", Direction::Descending, 9), [b"d", b"b", b"a"]);
        assert_eq!(keys(kv, b"aa"..b"d", Direction::Descending, 1), [b"b"]);
        assert!(keys(kv, b"d"..b"a", Direction::Ascending, 9).is_empty());
        assert!(keys(kv, b"e"..b"z", Direction::Descending, 9).is_empty());
    }

    #[test]
    fn it_is_an_ordered_map() {
        behaves_as_an_ordered_map(&MemoryKv::new());
    }

    #[test]
    fn a_crash_takes_batches_from_the_end() {
        let mut survivors = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let kv = MemoryKv::new();
            put(&kv, &[(b"a", Some(b"1"))]);
            kv.flush().unwrap();
            put(&kv, &[(b"b", Some(b"1"))]);
            put(&kv, &[(b"c", Some(b"1"))]);
            kv.crash(&mut fastrand::Rng::with_seed(seed));
            survivors.insert(keys(&kv, b"a"..b"z", Direction::Ascending, 9).concat());
        }
        assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [&b"a"[..], b"ab", b"abc"]);
    }
}
