//! What settings hold, and how each is read from a value that somebody gave and shown again.

mod byte_size;
mod cluster_nodes;
mod log;
mod roles;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use dlog_proto::transport::HostPort;
use dlog_proto::{Location, NodeId};

pub use byte_size::ByteSize;
pub use cluster_nodes::ClusterNodes;
pub(super) use cluster_nodes::{LOCAL_NODE_MAX, http_address, local_address};
pub use log::{LogFilter, LogFormat};

/// Something that a setting can hold. Variables and flags give strings; files may give numbers and lists as such.
pub(in crate::config) trait Setting: Sized {
    /// What stands for it in help.
    const PLACEHOLDER: &'static str;
    /// An error says what is expected.
    fn read(value: &toml::Value) -> Result<Self, String>;
    fn show(&self) -> Shown;
}

/// A value, for people and for programs.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Shown {
    /// Reads back as the same value.
    pub text: String,
    pub json: serde_json::Value,
}

impl Shown {
    fn text(value: &impl ToString) -> Self {
        let text = value.to_string();
        Self { json: text.clone().into(), text }
    }

    fn number(value: impl Into<serde_json::Value>) -> Self {
        let json = value.into();
        Self { text: json.to_string(), json }
    }
}

pub(in crate::config) fn read_within<T: Setting + PartialOrd>(
    value: &toml::Value,
    range: &RangeInclusive<T>,
) -> Result<T, String> {
    let expected = || format!("from {} to {} is expected", range.start().show().text, range.end().show().text);
    let value = T::read(value).map_err(|why| format!("{why}, {}", expected().replace(" is expected", "")))?;
    if range.contains(&value) { Ok(value) } else { Err(expected()) }
}

/// Reads what has a textual form. `expected` follows "is expected" in errors.
fn read_text<T: FromStr>(value: &toml::Value, expected: &str) -> Result<T, String> {
    value.as_str().and_then(|text| text.trim().parse().ok()).ok_or_else(|| format!("{expected} is expected"))
}

fn read_integer(value: &toml::Value) -> Option<u64> {
    match value {
        toml::Value::Integer(number) => u64::try_from(*number).ok(),
        toml::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The items of a list, which may be one string with commas.
fn read_list(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Array(items) => items.iter().map(read_item).collect(),
        _ => None,
    }
}

fn read_item(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl Setting for $type {
            const PLACEHOLDER: &'static str = "N";

            fn read(value: &toml::Value) -> Result<Self, String> {
                let number = read_integer(value).ok_or("a whole number is expected")?;
                Self::try_from(number).map_err(|_| format!("a number up to {} is expected", Self::MAX))
            }

            fn show(&self) -> Shown {
                Shown::number(*self)
            }
        }
    )+ };
}
integers!(u16, u32);

macro_rules! texts {
    ($($type:ty, $placeholder:literal, $expected:literal;)+) => { $(
        impl Setting for $type {
            const PLACEHOLDER: &'static str = $placeholder;

            fn read(value: &toml::Value) -> Result<Self, String> {
                read_text(value, $expected)
            }

            fn show(&self) -> Shown {
                Shown::text(self)
            }
        }
    )+ };
}
texts! {
    HostPort, "HOST:PORT", "an address such as localhost:9092, 10.0.0.1:9092 or [::1]:9092";
    Location, "PLACE", "a place such as region=eu,datacenter=fra1,rack=r7";
    LogFormat, "FORMAT", "human or json";
    LogFilter, "FILTER", "a level (error, warn, info, debug, trace, off) or a list such as info,dlog_sequencer=debug";
}

impl Setting for NodeId {
    const PLACEHOLDER: &'static str = "N";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let id = read_integer(value).and_then(|number| u16::try_from(number).ok()).filter(|id| *id > 0);
        id.map(Self).ok_or_else(|| "a number from 1 to 65535 is expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown::number(self.0)
    }
}

impl Setting for bool {
    const PLACEHOLDER: &'static str = "BOOL";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let text = || value.as_str().and_then(|text| text.trim().parse().ok());
        value.as_bool().or_else(text).ok_or_else(|| "true or false is expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown { text: self.to_string(), json: (*self).into() }
    }
}

impl Setting for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let path = value.as_str().filter(|path| !path.is_empty());
        path.map(Self::from).ok_or_else(|| "a path is expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown::text(&self.display())
    }
}

/// A time span in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl Setting for Millis {
    const PLACEHOLDER: &'static str = "MS";

    fn read(value: &toml::Value) -> Result<Self, String> {
        read_integer(value).map(Self).ok_or_else(|| "a whole number of milliseconds is expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown::number(self.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn from_text<T: Setting>(text: &str) -> Result<T, String> {
        T::read(&text.into())
    }

    pub(in crate::config) fn from_toml<T: Setting>(value: &str) -> Result<T, String> {
        let table: toml::Table = format!("v = {value}").parse().unwrap();
        T::read(&table["v"])
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for field in crate::config::FIELDS {
            let mut config = crate::config::Config::default();
            let shown = (field.show)(&config).text;
            (field.read)(&mut config, &shown.clone().into())
                .unwrap_or_else(|why| assert!(shown.is_empty(), "{}: {why}", field.key));
            assert_eq!(config, crate::config::Config::default(), "{}", field.key);
        }
    }

    #[test]
    fn numbers_are_read_from_text_and_numbers_only() {
        assert_eq!(from_text::<u16>(" 7 "), Ok(7));
        assert_eq!(from_toml::<u16>("7"), Ok(7));
        assert!(from_text::<u16>("70000").unwrap_err().contains("up to 65535"));
        assert!(from_toml::<u16>("1.5").unwrap_err().contains("whole number"));
        assert!(from_toml::<NodeId>("0").unwrap_err().contains("from 1 to 65535"));
        assert!(from_toml::<PathBuf>("5").is_err());
        let range = 1..=64;
        assert_eq!(read_within::<u16>(&5.into(), &range), Ok(5));
        assert_eq!(read_within::<u16>(&65.into(), &range), Err("from 1 to 64 is expected".to_owned()));
        assert_eq!(
            read_within::<u16>(&"many".into(), &range),
            Err("a whole number is expected, from 1 to 64".to_owned())
        );
    }
}
