//! Keys of the index.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

/// An encoded key, see [`schema`](super::schema): up to [`LEN_MAX`](Self::LEN_MAX) bytes.
///
/// Keys sort as their bytes do. They are compared as numbers, because the index compares them dozens of times for every run
/// that it takes up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Zeros behind the key's end.
    bytes: [u8; Self::LEN_MAX],
    len: u8,
}

impl Key {
    pub const LEN_MAX: usize = 24;

    /// `None` if it is longer than keys are.
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { bytes, len: key.len() as u8 })
    }

    /// This key, and more of it.
    ///
    /// # Panics
    /// If it becomes longer than keys are.
    pub(crate) fn and(mut self, more: &[u8]) -> Self {
        let at = usize::from(self.len);
        self.bytes[at..at + more.len()].copy_from_slice(more);
        self.len += more.len() as u8;
        self
    }

    fn words(&self) -> [u64; 3] {
        let (words, _) = self.bytes.as_chunks::<8>();
        [0, 1, 2].map(|at| u64::from_be_bytes(words[at]))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.words().cmp(&other.words()).then(self.len.cmp(&other.len))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_its_bytes() {
        let key = Key::new(b"r").unwrap().and(&7u64.to_be_bytes());
        assert_eq!(&key[..], b"r\0\0\0\0\0\0\0\x07");
        assert_eq!(Key::new(&[1; 24]).unwrap().len(), 24);
        assert_eq!(Key::new(&[1; 25]), None);
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_bytes_do(
            a in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..=24),
            b in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..=24),
            shared in 0usize..=24,
        ) {
            let mut b = b;
            let shared = shared.min(a.len()).min(b.len());
            b[..shared].copy_from_slice(&a[..shared]);
            let (key_a, key_b) = (Key::new(&a).unwrap(), Key::new(&b).unwrap());
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(key_a == key_b, a == b);
        }
    }
}
