//! Names of things: nodes, shards, logs, partitions.
//!
//! Every number that could be taken for another has a type of its own. All of them are shown the way users type
//! them: `n1`, `n1s0`, `namespace/name`.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};
use serde::{Deserialize as SerdeDeserialize, Serialize as SerdeSerialize};

/// What is wrong with a name or number that somebody typed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{input}' is not {expected}")]
pub struct ParseError {
    pub input: String,
    pub expected: &'static str,
}

impl ParseError {
    pub(crate) fn new(input: &str, expected: &'static str) -> Self {
        // What is echoed back is bounded: the input may be anything.
        let input = input.chars().take(80).collect();
        Self { input, expected }
    }
}

/// A node of the cluster, from 1. Given by the operator (`--node-id`), never reused while its data exists. Shown as `n1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let digits = s.strip_prefix('n').unwrap_or(s);
        match digits.parse::<u16>() {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(ParseError::new(s, "a node id (a number from 1 to 65535)")),
        }
    }
}

/// One directory (one disk, one writer thread) of a storage node. Shown as `n1s0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
pub struct ShardId {
    pub node: NodeId,
    /// Index of the shard inside its node, from 0.
    pub shard: u16,
}

impl ShardId {
    pub const fn new(node: u16, shard: u16) -> Self {
        Self { node: NodeId(node), shard }
    }

    /// Both numbers in one, for fixed layouts: node in the high 16 bits.
    pub const fn to_u32(self) -> u32 {
        (self.node.0 as u32) << 16 | self.shard as u32
    }

    pub const fn from_u32(value: u32) -> Self {
        Self { node: NodeId((value >> 16) as u16), shard: value as u16 }
    }
}

impl ShardId {
    /// The data core that has it, on a node with so many: sequencers and readers connect to that one.
    pub fn core(self, cores: u16) -> u16 {
        self.shard % cores.max(1)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s{}", self.node, self.shard)
    }
}

impl FromStr for ShardId {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let err = || ParseError::new(s, "a shard id such as n1s0");
        let (node, shard) = s.strip_prefix('n').and_then(|rest| rest.split_once('s')).ok_or_else(err)?;
        let node = node.parse().ok().filter(|n| *n > 0).ok_or_else(err)?;
        Ok(Self::new(node, shard.parse().map_err(|_| err())?))
    }
}

/// Which disk stands behind a [`ShardId`]. Given by the metadata tier when a disk is formatted; a wiped disk is a new
/// shard, so that its emptiness is never taken for the old one's answer (trap C4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u32);

/// A shard, and the disk behind it that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
pub struct ShardRef {
    pub shard: ShardId,
    pub incarnation: Incarnation,
}

/// A partition, cluster-wide. Never reused, not even when a log is deleted and made again under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct PartitionUid(pub u64);

impl PartitionUid {
    /// The data core that sequences it, on a node with so many: clients connect to that one.
    pub fn core(self, cores: u16) -> u16 {
        (self.0 % u64::from(cores.max(1))) as u16
    }
}

impl fmt::Display for PartitionUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// A partition inside its log, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A cluster: 128 random bits, given out when it starts for the first time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// One start of one process: 128 random bits. Two starts of a node are two processes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u128);

/// Identifies a command through all its retries: the process that made it and a counter. A restarted process has another
/// [`ProcessId`], so it can never repeat an old one's request and be taken for its owner (trap C16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Archive, Serialize, Deserialize)]
#[derive(SerdeSerialize, SerdeDeserialize)]
pub struct RequestId {
    pub process: ProcessId,
    pub counter: u64,
}

macro_rules! hex_id {
    ($type:ident, $expected:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:032x})"), self.0)
            }
        }
        impl FromStr for $type {
            type Err = ParseError;
            fn from_str(s: &str) -> Result<Self, ParseError> {
                match u128::from_str_radix(s, 16) {
                    Ok(id) if s.len() == 32 => Ok(Self(id)),
                    _ => Err(ParseError::new(s, $expected)),
                }
            }
        }
        impl $type {
            /// A new random id, from the operating system's generator.
            ///
            /// # Panics
            /// If the operating system has no random numbers to give: nothing can be made safely then.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
                Self(u128::from_le_bytes(bytes))
            }
        }
    };
}
hex_id!(ClusterId, "a cluster id (32 hexadecimal digits)");
hex_id!(ProcessId, "a process id (32 hexadecimal digits)");

impl SerdeSerialize for ClusterId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u128(self.0) }
    }
}

impl<'de> SerdeDeserialize<'de> for ClusterId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            u128::deserialize(d).map(Self)
        }
    }
}

/// The name of a log: `namespace/name`.
///
/// Both parts are 1 to 120 characters of `a-z A-Z 0-9 . _ -` and neither is `.` or `..`: whatever is a legal Kafka topic
/// name is a legal log name. A name without a namespace is in `default`.
///
/// ```
/// use dlog_proto::LogId;
/// let log: LogId = "demo/lines".parse()?;
/// assert_eq!((log.namespace(), log.name()), ("demo", "lines"));
/// assert_eq!("lines".parse::<LogId>()?.to_string(), "default/lines");
/// assert!("demo/li nes".parse::<LogId>().is_err());
/// # Ok::<(), dlog_proto::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    namespace: String,
    name: String,
}

/// The namespace of a log that is named without one.
pub const DEFAULT_NAMESPACE: &str = "default";

impl LogId {
    /// Longest namespace or name, in bytes. Kafka's limit for a topic (249) holds both and the dot between them.
    pub const PART_LEN_MAX: usize = 120;

    pub fn new(namespace: &str, name: &str) -> Result<Self, ParseError> {
        let legal = |part: &str| {
            !part.is_empty()
                && part.len() <= Self::PART_LEN_MAX
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if legal(namespace) && legal(name) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            Err(ParseError::new(
                &format!("{namespace}/{name}"),
                "a log name (namespace/name, each 1 to 120 of a-z A-Z 0-9 . _ -)",
            ))
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

impl FromStr for LogId {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new(DEFAULT_NAMESPACE, s),
        }
    }
}

impl SerdeSerialize for LogId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> SerdeDeserialize<'de> for LogId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_they_are_typed() {
        assert_eq!("n3".parse::<NodeId>().unwrap().to_string(), "n3");
        assert_eq!("3".parse::<NodeId>().unwrap(), NodeId(3));
        assert_eq!("n12s4".parse::<ShardId>().unwrap(), ShardId::new(12, 4));
        assert_eq!(ShardId::from_u32(ShardId::new(65535, 7).to_u32()), ShardId::new(65535, 7));
        let cluster = ClusterId(0xab);
        assert_eq!(cluster.to_string().parse::<ClusterId>().unwrap(), cluster);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for bad in ["", "0", "n0", "n65536", "nx", "-1"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
        for bad in ["", "n1", "s0", "n1s", "n0s0", "n1s65536", "1s0"] {
            assert!(bad.parse::<ShardId>().is_err(), "{bad}");
        }
        for bad in ["", "/", "a/", "/b", "a/b/c", "a/..", "ä/b", "a b"] {
            assert!(bad.parse::<LogId>().is_err(), "{bad}");
        }
        let long = "x".repeat(LogId::PART_LEN_MAX);
        assert!(LogId::new("a", &long).is_ok());
        let err = LogId::new("a", &format!("{long}x")).unwrap_err();
        assert!(err.to_string().len() < 200, "an error never echoes an unbounded input");
    }
}
