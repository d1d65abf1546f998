//! Values of which many entries share a few: each is kept once, under a small number, for as long as somebody uses it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::shared_map::SharedMap;

/// Numbers are never reused, so that replicas agree on them whatever they loaded from a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Interned<T> {
    slots: SharedMap<u32, Slot<T>>,
    /// The numbers of the values with a fingerprint; more than one only if fingerprints collide.
    by_fingerprint: SharedMap<u64, Vec<u32>>,
    next: u32,
}

#[derive(Debug)]
struct Slot<T> {
    value: Arc<T>,
    uses: u32,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), uses: self.uses }
    }
}

/// What a snapshot keeps of it: who uses what follows from the users.
#[derive(Serialize, Deserialize)]
pub(crate) struct InternedImage<T> {
    next: u32,
    values: Vec<(u32, Arc<T>)>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { slots: SharedMap::default(), by_fingerprint: SharedMap::default(), next: 0 }
    }
}

impl<T: Serialize + PartialEq> Interned<T> {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<T>> {
        self.slots.get(&number).map(|slot| &slot.value)
    }

    pub(crate) fn uses(&self, number: u32) -> u32 {
        self.slots.get(&number).map_or(0, |slot| slot.uses)
    }

    /// The number of `value`, with one use more.
    pub(crate) fn acquire(&mut self, value: T) -> u32 {
        self.acquire_shared(fingerprint(&value), &Arc::new(value))
    }

    /// As [`Self::acquire`], for a value whose fingerprint is known.
    pub(crate) fn acquire_shared(&mut self, fingerprint: u64, value: &Arc<T>) -> u32 {
        let is_same = |known: &Arc<T>| Arc::ptr_eq(known, value) || known == value;
        let numbers = self.by_fingerprint.get(&fingerprint).into_iter().flatten().copied();
        let same = numbers.into_iter().find(|number| self.get(*number).is_some_and(is_same));
        if let Some(number) = same {
            self.acquire_again(number);
            return number;
        }
        let number = self.next;
        self.next = number.checked_add(1).expect("fewer than 2^32 different values over a cluster's life");
        self.add(number, fingerprint, value.clone(), 1);
        number
    }

    fn add(&mut self, number: u32, fingerprint: u64, value: Arc<T>, uses: u32) {
        self.slots.insert(number, Slot { value, uses });
        match self.by_fingerprint.get_mut(&fingerprint) {
            Some(numbers) => numbers.push(number),
            None => drop(self.by_fingerprint.insert(fingerprint, vec![number])),
        }
    }

    /// One use more of a value that is there.
    pub(crate) fn acquire_again(&mut self, number: u32) {
        self.slots.get_mut(&number).expect("an interned value that is in use").uses += 1;
    }

    /// One use less; the value goes with its last use.
    pub(crate) fn release(&mut self, number: u32) {
        let slot = self.slots.get_mut(&number).expect("an interned value that is in use");
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let slot = self.slots.remove(&number).expect("found above");
        let fingerprint = fingerprint(&*slot.value);
        if let Some(numbers) = self.by_fingerprint.get_mut(&fingerprint) {
            numbers.retain(|n| *n != number);
            if numbers.is_empty() {
                self.by_fingerprint.remove(&fingerprint);
            }
        }
    }

    pub(crate) fn image(&self) -> InternedImage<T> {
        let values = self.slots.iter().map(|(number, slot)| (*number, slot.value.clone())).collect();
        InternedImage { next: self.next, values }
    }

    /// Takes the values of a snapshot. Uses are to be counted again with [`Self::acquire_again`], and values without
    /// any dropped by nobody: a snapshot has none.
    pub(crate) fn from_image(image: InternedImage<T>) -> Result<Self, &'static str> {
        let mut interned = Self { next: image.next, ..Self::default() };
        for (number, value) in image.values {
            if number >= image.next || interned.slots.contains_key(&number) {
                return Err("an interned value has a number that was not given out, or twice");
            }
            interned.add(number, fingerprint(&*value), value, 0);
        }
        Ok(interned)
    }

    /// The numbers in use, for checks.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|(number, _)| *number)
    }
}

/// By which values are found.
pub(crate) fn fingerprint<T: Serialize>(value: &T) -> u64 {
    xxh3_64(&postcard::to_stdvec(value).expect("plain values are written to memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_go_with_their_last_use() {
        let mut names = Interned::default();
        let (a, b, again) =
            (names.acquire("a".to_owned()), names.acquire("b".to_owned()), names.acquire("a".to_owned()));
        assert_eq!((a, b, again, names.len(), names.uses(a)), (0, 1, 0, 2, 2));
        names.release(a);
        assert_eq!(names.get(a).unwrap().as_str(), "a");
        names.release(a);
        assert_eq!((names.get(a), names.len(), names.by_fingerprint.len()), (None, 1, 1));
        assert_eq!(names.acquire("a".to_owned()), 2, "numbers are not reused");
        let mut loaded = Interned::from_image(names.image()).unwrap();
        loaded.acquire_again(1);
        assert_eq!((loaded.acquire("b".to_owned()), loaded.acquire("c".to_owned())), (1, 3));
    }
}
