//! An ordered map whose clone is cheap.
//!
//! The state machine is read by many while one writes it. Each reader gets a clone of the whole state, so the maps in
//! it share what did not change: entries lie in sorted chunks behind `Arc`s, a clone copies only the list of chunks,
//! and a write copies the one chunk it touches if somebody else still holds it. 100,000 entries are some 800 chunks: a
//! clone takes microseconds.
//!
//! INV-CHUNKS: keys ascend within and across chunks; no chunk is empty or longer than [`CHUNK_LEN_MAX`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const CHUNK_LEN_MAX: usize = 128;
/// Below this a chunk is joined with a neighbour.
const CHUNK_LEN_MIN: usize = CHUNK_LEN_MAX / 4;

type Chunk<K, V> = Vec<(K, V)>;

#[derive(Clone)]
pub(crate) struct SharedMap<K, V> {
    chunks: Vec<Arc<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The chunk in which `key` is or would be put. 0 if there is none.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).saturating_sub(1)
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunk_of(key);
        let at = self.chunks.get(chunk)?.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some((chunk, at))
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        Some(&self.chunks[chunk][at].1)
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_some()
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        Some(&mut Arc::make_mut(&mut self.chunks[chunk])[at].1)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let is_last = index + 1 == self.chunks.len();
        let Some(shared) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(shared);
        let at = match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => at,
        };
        self.len += 1;
        if chunk.len() < CHUNK_LEN_MAX {
            chunk.insert(at, (key, value));
        } else {
            // Keys that only grow fill their chunks: the new one starts a chunk. Others split theirs.
            let grows = is_last && at == chunk.len();
            let mut rest = if grows { Vec::new() } else { chunk.split_off(CHUNK_LEN_MAX / 2) };
            match at.checked_sub(chunk.len()) {
                Some(at) => rest.insert(at, (key, value)),
                None => chunk.insert(at, (key, value)),
            }
            self.chunks.insert(index + 1, Arc::new(rest));
        }
        None
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (index, at) = self.find(key)?;
        let chunk = Arc::make_mut(&mut self.chunks[index]);
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(index);
        } else if chunk.len() < CHUNK_LEN_MIN {
            self.join_with_next(if index + 1 < self.chunks.len() { index } else { index.saturating_sub(1) });
        }
        Some(value)
    }

    fn join_with_next(&mut self, index: usize) {
        if index + 1 < self.chunks.len() && self.chunks[index].len() + self.chunks[index + 1].len() <= CHUNK_LEN_MAX {
            let next = self.chunks.remove(index + 1);
            Arc::make_mut(&mut self.chunks[index]).extend(next.iter().cloned());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))
    }

    /// The entries from `key` on.
    pub(crate) fn iter_from<'a, Q: Ord + ?Sized>(&'a self, key: &'a Q) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: Borrow<Q>,
    {
        let chunks = self.chunks.get(self.chunk_of(key)..).unwrap_or_default();
        chunks.iter().flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v))).skip_while(move |(k, _)| (*k).borrow() < key)
    }

    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.chunks.first()?.first().map(|(k, v)| (k, v))
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Clone + PartialEq, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, K, V> Deserialize<'de> for SharedMap<K, V>
where
    K: Ord + Clone + Deserialize<'de>,
    V: Clone + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<K, V>(std::marker::PhantomData<(K, V)>);
        impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Visitor<'de> for Entries<K, V> {
            type Value = SharedMap<K, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = SharedMap::default();
                while let Some((key, value)) = access.next_entry()? {
                    if map.insert(key, value).is_some() {
                        return Err(serde::de::Error::custom("a key stands twice in a map"));
                    }
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u32, u32>, model: &BTreeMap<u32, u32>) {
        assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_LEN_MAX).contains(&chunk.len())), "INV-CHUNKS");
        assert!(map.iter().eq(model.iter()));
        assert_eq!((map.len(), map.first()), (model.len(), model.iter().next()));
    }

    #[test]
    fn growing_keys_fill_their_chunks() {
        let map: SharedMap<u32, u32> = (0..12_800).map(|i| (i, i)).collect();
        assert_eq!(map.chunks.len(), 100);
    }

    #[test]
    fn a_write_copies_one_chunk() {
        let mut map: SharedMap<u32, u32> = (0..12_800).map(|i| (i, i)).collect();
        let before = map.clone();
        *map.get_mut(&5000).unwrap() = 1;
        assert_eq!((before.get(&5000), map.get(&5000)), (Some(&5000), Some(&1)));
        let shared = map.chunks.iter().zip(&before.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, 99);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_btree_map(ops in prop::collection::vec((0u8..4, 0u32..600, any::<u32>()), 0..1500)) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            let mut old: Option<(SharedMap<u32, u32>, BTreeMap<u32, u32>)> = None;
            for (i, (op, key, value)) in ops.into_iter().enumerate() {
                match op {
                    0 | 1 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    2 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    _ => prop_assert!(map.iter_from(&key).eq(model.range(key..))),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                if i % 200 == 0 {
                    if let Some((map, model)) = &old {
                        check(map, model);
                    }
                    old = Some((map.clone(), model.clone()));
                }
            }
            check(&map, &model);
            let bytes = postcard::to_stdvec(&map).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&model).unwrap());
            prop_assert_eq!(postcard::from_bytes::<SharedMap<u32, u32>>(&bytes).unwrap(), map);
        }
    }
}
