//! Numbers of bytes, with or without a unit.

use std::fmt;
use std::str::FromStr;

use super::{Setting, Shown};

/// A number of bytes. Written as such, or with a unit: `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 5] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// As a length in memory.
    ///
    /// # Panics
    /// On a machine whose memory is too small for it.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("lengths in memory are bounded by the setting's range")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.iter().find(|(_, len)| self.0 >= *len && self.0.is_multiple_of(*len));
        match unit {
            Some((name, len)) if *len > 1 => write!(f, "{}{name}", self.0 / len),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" => 1,
            name => Self::UNITS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).ok_or(())?.1,
        };
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).map(Self).ok_or(())
    }
}

impl Setting for ByteSize {
    const PLACEHOLDER: &'static str = "BYTES";

    fn read(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Integer(number) => u64::try_from(*number).ok().map(Self),
            _ => value.as_str().and_then(|text| text.trim().parse().ok()),
        }
        .ok_or_else(|| "a number of bytes, or one with a unit such as 64MiB or 1GiB, is expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown { text: self.to_string(), json: self.0.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::tests::{from_text, from_toml};

    #[test]
    fn bytes_are_written_with_or_without_a_unit() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(from_text::<ByteSize>(text), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(from_toml::<ByteSize>("5000"), Ok(ByteSize(5000)));
        for bad in ["", "MiB", "-1", "1.5GiB", "64MB", "99999999999TiB", "0x10"] {
            assert!(from_text::<ByteSize>(bad).unwrap_err().contains("64MiB"), "{bad}");
        }
        assert!(from_toml::<ByteSize>("-1").is_err() && from_toml::<ByteSize>("true").is_err());
        assert_eq!(ByteSize(3 << 20).to_string(), "3MiB");
        assert_eq!(ByteSize(1_048_588).to_string(), "1048588");
        assert_eq!(ByteSize(0).to_string(), "0");
    }
}
