//! Positions: epochs, sequence numbers inside an epoch, LSNs, offsets.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};
use serde::{Deserialize as SerdeDeserialize, Serialize as SerdeSerialize};

use crate::ids::ParseError;

/// One reign of one sequencer over a partition, from 1; 0 stands for "none yet". Kafka's leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const ZERO: Self = Self(0);
    /// Kafka shows epochs as non-negative `i32`.
    pub const MAX: Self = Self(i32::MAX as u32);

    pub const fn next(self) -> Self {
        assert!(self.0 < Self::MAX.0, "epochs do not run out");
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// Sequence number of a record inside its epoch, from 1; 0 stands for "before the first record".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct Esn(pub u32);

impl Esn {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u32::MAX);

    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The last ESN of `span` records of which this is the first: `self + span − 1`.
    pub const fn last_of(self, span: u32) -> Self {
        Self(self.0.saturating_add(span).saturating_sub(1))
    }
}

impl fmt::Display for Esn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Log sequence number: epoch in the high 32 bits, ESN in the low ones, so that LSNs order as numbers. Shown as `e3n42`.
///
/// ```
/// use dlog_proto::{Epoch, Esn, Lsn};
/// let lsn: Lsn = "e3n42".parse()?;
/// assert_eq!((lsn.epoch(), lsn.esn()), (Epoch(3), Esn(42)));
/// assert!(lsn < Lsn::new(Epoch(4), Esn(1)));
/// # Ok::<(), dlog_proto::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything.
    pub const ZERO: Self = Self(0);
    /// The first LSN that a record can have.
    pub const FIRST: Self = Self::new(Epoch(1), Esn(1));
    pub const MAX: Self = Self(u64::MAX);

    pub const fn new(epoch: Epoch, esn: Esn) -> Self {
        Self((epoch.0 as u64) << 32 | esn.0 as u64)
    }

    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    pub const fn esn(self) -> Esn {
        Esn(self.0 as u32)
    }

    /// The next LSN of the same epoch.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}n{}", self.epoch().0, self.esn().0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (epoch, esn) = s.strip_prefix('e')?.split_once('n')?;
            // `u32::from_str` takes a sign; an LSN has none.
            let number =
                |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?;
            Some(Self::new(Epoch(number(epoch)?), Esn(number(esn)?)))
        };
        parse().ok_or_else(|| ParseError::new(s, "an LSN (an epoch and a number in it, such as e3n42)"))
    }
}

impl SerdeSerialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> SerdeDeserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(d).map(Self)
        }
    }
}

/// Dense position of a record in its partition, from 0: `epoch.base_offset + esn − 1`. Kafka's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct LogOffset(pub u64);

impl fmt::Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_lsns_are_refused() {
        for bad in ["", "e", "n", "e9n", "en9", "e1", "e1n1x", "e-1n1", "e+1n1", "E1N1", "e4294967296n1", "1", "e1n 1"]
        {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_end_at_their_last_record() {
        assert_eq!(Esn(5).last_of(1), Esn(5));
        assert_eq!(Esn(5).last_of(3), Esn(7));
        assert_eq!(Esn(5).last_of(0), Esn(4), "a span of none ends before it begins");
    }

    proptest! {
        #[test]
        fn lsns_survive_text_and_order_by_epoch_first(a: (u32, u32), b: (u32, u32)) {
            let lsn = |(e, n)| Lsn::new(Epoch(e), Esn(n));
            prop_assert_eq!(lsn(a).to_string().parse::<Lsn>().unwrap(), lsn(a));
            prop_assert_eq!(lsn(a).cmp(&lsn(b)), a.cmp(&b));
        }
    }
}
