//! What a user may set about a log.
//!
//! Replication has fields of its own; everything else is kept as text under its key, checked when it is set and read by
//! typed accessors. Keys that start with `x.` belong to users; any other unknown key is refused by name, so that a
//! misspelt `retention.sm` does not keep records for ever in silence.

use std::collections::BTreeMap;

use dlog_proto::{Durability, Nodeset, QuorumConfig, Replication, Scope};
use serde::{Deserialize, Serialize};

use super::known_keys::{KNOWN, known};

/// The attributes of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAttributes {
    pub replication: Replication,
    /// Shards per nodeset; see [`crate::placement::default_nodeset_size`] for what stands for `None`.
    pub nodeset_size: Option<u8>,
    /// Everything else, by key.
    pub extra: BTreeMap<String, String>,
}

/// Why an attribute cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AttributeError {
    #[error("there is no attribute '{key}'; known are {}, and any key that starts with 'x.'", all_keys())]
    Unknown { key: String },
    #[error("attribute {key} cannot be '{value}': {expected}")]
    Value { key: String, value: String, expected: String },
    #[error("attribute replication_factor has no default and cannot be removed")]
    Required,
    #[error("a log has at most {max} attributes besides its replication, not {count}", max = LogAttributes::EXTRA_MAX)]
    TooMany { count: u32 },
    #[error(
        "an attribute's key has at most {} bytes and its value {}; '{key}' has {key_len} and {value_len}",
        LogAttributes::KEY_LEN_MAX,
        LogAttributes::VALUE_LEN_MAX
    )]
    TooLong { key: String, key_len: u32, value_len: u32 },
}

fn all_keys() -> String {
    LogAttributes::keys().collect::<Vec<_>>().join(", ")
}

/// The keys under which replication is set, in the order in which several are applied: what others follow comes first.
const REPLICATION_KEYS: [&str; 6] =
    ["replication_factor", "write_quorum", "read_quorum", "replicate_across", "nodeset_size", "durability"];

/// Input that is echoed back is bounded.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn bad_value(key: &str, value: &str, expected: impl Into<String>) -> AttributeError {
    AttributeError::Value { key: short(key), value: short(value), expected: expected.into() }
}

impl LogAttributes {
    pub const EXTRA_MAX: usize = 64;
    pub const KEY_LEN_MAX: usize = 120;
    pub const VALUE_LEN_MAX: usize = 1024;

    pub fn new(replication: Replication) -> Self {
        Self { replication, nodeset_size: None, extra: BTreeMap::new() }
    }

    /// All keys that have a meaning; users have those that start with `x.` besides.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        REPLICATION_KEYS.into_iter().chain(KNOWN.iter().map(|known| known.key))
    }

    /// `replication_factor` copies, acknowledged by a majority, each on another node.
    pub fn replicated(replication_factor: u8) -> Self {
        Self::new(Replication::new(QuorumConfig::majority(replication_factor)))
    }

    /// Sets attributes (`None` takes one back to its default) and checks the whole. Nothing changes if it returns an
    /// error.
    pub fn update(&mut self, changes: &BTreeMap<String, Option<String>>) -> Result<(), AttributeError> {
        let mut updated = self.clone();
        for key in REPLICATION_KEYS {
            if let Some(value) = changes.get(key) {
                updated.set_replication(key, value.as_deref())?;
            }
        }
        for (key, value) in changes.iter().filter(|(key, _)| !REPLICATION_KEYS.contains(&key.as_str())) {
            match value {
                Some(value) => {
                    check_extra(key, value)?;
                    updated.extra.insert(key.clone(), value.clone());
                }
                None if is_extra_key(key) => drop(updated.extra.remove(key)),
                None => return Err(AttributeError::Unknown { key: short(key) }),
            }
        }
        updated.validate()?;
        *self = updated;
        Ok(())
    }

    /// The text under a key, replication included.
    pub fn get(&self, key: &str) -> Option<String> {
        let Replication { quorum, across, durability } = &self.replication;
        let across = || across.iter().map(|(scope, count)| format!("{scope}:{count}")).collect::<Vec<_>>().join(",");
        match key {
            "replication_factor" => Some(quorum.replication_factor.to_string()),
            "write_quorum" => Some(quorum.write_quorum.to_string()),
            "read_quorum" => Some(quorum.read_quorum.to_string()),
            "replicate_across" => Some(across()),
            "nodeset_size" => self.nodeset_size.map(|size| size.to_string()),
            "durability" => Some(durability_name(*durability).to_owned()),
            _ => self.extra.get(key).cloned(),
        }
    }

    /// All that is set, as text: replication first.
    pub fn entries(&self) -> impl Iterator<Item = (&str, String)> {
        let replication = REPLICATION_KEYS.into_iter().filter_map(|key| Some((key, self.get(key)?)));
        replication.chain(self.extra.iter().map(|(key, value)| (key.as_str(), value.clone())))
    }

    fn set_replication(&mut self, key: &str, value: Option<&str>) -> Result<(), AttributeError> {
        let number =
            |value: &str| value.parse::<u8>().map_err(|_| bad_value(key, value, "a number from 1 is expected"));
        let quorum = self.replication.quorum;
        match (key, value) {
            ("replication_factor", None) => return Err(AttributeError::Required),
            ("replication_factor", Some(value)) => self.set_factor(number(value)?),
            ("write_quorum", value) => {
                let majority = QuorumConfig::majority(quorum.replication_factor).write_quorum;
                self.set_write_quorum(value.map_or(Ok(majority), number)?);
            }
            ("read_quorum", value) => {
                let strict = strict_read_quorum(quorum);
                self.replication.quorum.read_quorum = value.map_or(Ok(strict), number)?;
            }
            ("replicate_across", value) => {
                let across = BTreeMap::from([(Scope::Node, quorum.replication_factor)]);
                self.replication.across = across;
                self.replication.across.extend(value.map(parse_across).transpose()?.unwrap_or_default());
            }
            ("nodeset_size", value) => self.nodeset_size = value.map(number).transpose()?,
            ("durability", value) => {
                let durability = [Durability::Sync, Durability::WriteCache];
                let named = |name: &str| durability.into_iter().find(|d| durability_name(*d) == name);
                let parse = |name: &str| named(name).ok_or_else(|| bad_value(key, name, "sync or write_cache"));
                self.replication.durability = value.map_or(Ok(Durability::Sync), parse)?;
            }
            _ => unreachable!("one of REPLICATION_KEYS"),
        }
        Ok(())
    }

    /// What was derived from the old factor follows the new one.
    fn set_factor(&mut self, factor: u8) {
        let quorum = &mut self.replication.quorum;
        let old = *quorum;
        quorum.replication_factor = factor;
        if old == QuorumConfig::majority(old.replication_factor) {
            *quorum = QuorumConfig::majority(factor);
        } else if old.read_quorum == strict_read_quorum(old) {
            quorum.read_quorum = strict_read_quorum(*quorum);
        }
        let nodes = self.replication.across.get_mut(&Scope::Node);
        if let Some(nodes) = nodes.filter(|nodes| **nodes == old.replication_factor) {
            *nodes = factor;
        }
    }

    fn set_write_quorum(&mut self, write_quorum: u8) {
        let quorum = &mut self.replication.quorum;
        let was_strict = quorum.read_quorum == strict_read_quorum(*quorum);
        quorum.write_quorum = write_quorum;
        if was_strict {
            quorum.read_quorum = strict_read_quorum(*quorum);
        }
    }

    /// Checks everything: attributes may come from anywhere.
    pub fn validate(&self) -> Result<(), AttributeError> {
        if let Err(error) = self.replication.validate() {
            let value = self.get("replication_factor").unwrap_or_default();
            return Err(bad_value("replication_factor", &value, error.to_string()));
        }
        let sizes = self.replication.quorum.replication_factor..=Nodeset::LEN_MAX as u8;
        if let Some(size) = self.nodeset_size.filter(|size| !sizes.contains(size)) {
            let expected = format!("{} (the replication factor) to {} shards", sizes.start(), sizes.end());
            return Err(bad_value("nodeset_size", &size.to_string(), expected));
        }
        if self.extra.len() > Self::EXTRA_MAX {
            return Err(AttributeError::TooMany { count: self.extra.len() as u32 });
        }
        self.extra.iter().try_for_each(|(key, value)| check_extra(key, value))
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.extra.get(key)?.parse().ok()
    }

    /// How long records are kept; `None` is for ever, as is a negative number.
    pub fn retention_ms(&self) -> Option<u64> {
        self.number("retention.ms").and_then(|ms| u64::try_from(ms).ok())
    }

    /// How many bytes of a partition are kept; `None` is all, as is a negative number.
    pub fn retention_bytes(&self) -> Option<u64> {
        self.number("retention.bytes").and_then(|bytes| u64::try_from(bytes).ok())
    }

    /// How long a record batch may be.
    pub fn max_message_bytes(&self) -> Option<u32> {
        self.number("max.message.bytes").and_then(|bytes| u32::try_from(bytes).ok())
    }

    /// Whether only the newest record of each key need be kept.
    pub fn is_compacted(&self) -> bool {
        self.extra.get("cleanup.policy").is_some_and(|policy| policy.split(',').any(|p| p.trim() == "compact"))
    }

    /// Whether records bear the sequencer's time instead of their producer's.
    pub fn is_log_append_time(&self) -> bool {
        self.extra.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime")
    }
}

/// The smallest read quorum that always meets the write quorum.
fn strict_read_quorum(quorum: QuorumConfig) -> u8 {
    quorum.replication_factor.saturating_add(1).saturating_sub(quorum.write_quorum).max(1)
}

const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Sync => "sync",
        Durability::WriteCache => "write_cache",
    }
}

/// `rack:2,node:3`
fn parse_across(value: &str) -> Result<BTreeMap<Scope, u8>, AttributeError> {
    let expected = "scopes with counts such as rack:2,node:3 (scopes: node, rack, row, datacenter, region)";
    let err = || bad_value("replicate_across", value, expected);
    let parse = |part: &str| {
        let (scope, count) = part.trim().split_once(':').ok_or_else(err)?;
        Ok((scope.parse().map_err(|_| err())?, count.parse().map_err(|_| err())?))
    };
    value.split(',').filter(|part| !part.trim().is_empty()).map(parse).collect()
}

fn is_extra_key(key: &str) -> bool {
    key.strip_prefix("x.").is_some_and(|rest| !rest.is_empty()) || known(key).is_some()
}

fn check_extra(key: &str, value: &str) -> Result<(), AttributeError> {
    if key.len() > LogAttributes::KEY_LEN_MAX || value.len() > LogAttributes::VALUE_LEN_MAX {
        let (key_len, value_len) = (key.len() as u32, value.len() as u32);
        return Err(AttributeError::TooLong { key: short(key), key_len, value_len });
    }
    if !is_extra_key(key) {
        return Err(AttributeError::Unknown { key: short(key) });
    }
    match known(key) {
        Some(known) => known.values.check(value).map_err(|expected| bad_value(key, value, expected)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(attributes: &LogAttributes, changes: &[(&str, Option<&str>)]) -> Result<LogAttributes, AttributeError> {
        let mut attributes = attributes.clone();
        let owned = |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(str::to_owned));
        attributes.update(&changes.iter().map(owned).collect())?;
        Ok(attributes)
    }

    #[test]
    fn what_is_derived_follows_and_what_is_set_stays() {
        let three = LogAttributes::replicated(3);
        let five = changed(&three, &[("replication_factor", Some("5"))]).unwrap();
        assert_eq!(five, LogAttributes::replicated(5));
        let strong = changed(&three, &[("replication_factor", Some("5")), ("write_quorum", Some("5"))]).unwrap();
        assert_eq!(strong.replication.quorum, QuorumConfig::strong(5));
        let back = changed(&strong, &[("write_quorum", None), ("replication_factor", Some("3"))]).unwrap();
        assert_eq!(back, three);
        let careful = changed(&three, &[("read_quorum", Some("3"))]).unwrap();
        assert_eq!(changed(&careful, &[("write_quorum", Some("3"))]).unwrap().replication.quorum.read_quorum, 3);
        assert_eq!(changed(&careful, &[("read_quorum", None)]).unwrap(), three);
    }

    #[test]
    fn text_goes_in_and_comes_out() {
        let changes = [
            ("replicate_across", Some("rack:2, datacenter:2")),
            ("durability", Some("write_cache")),
            ("nodeset_size", Some("9")),
            ("retention.ms", Some("1000")),
            ("retention.bytes", Some("-1")),
            ("cleanup.policy", Some("compact,delete")),
            ("x.owner", Some("billing")),
        ];
        let attributes = changed(&LogAttributes::replicated(3), &changes).unwrap();
        assert_eq!(attributes.get("replicate_across").unwrap(), "node:3,rack:2,datacenter:2");
        assert_eq!(attributes.get("durability").unwrap(), "write_cache");
        assert_eq!((attributes.retention_ms(), attributes.retention_bytes()), (Some(1000), None));
        assert!(attributes.is_compacted() && !attributes.is_log_append_time());
        let entries: BTreeMap<_, _> = attributes.entries().map(|(k, v)| (k.to_owned(), Some(v))).collect();
        let mut again = LogAttributes::replicated(1);
        again.update(&entries).unwrap();
        assert_eq!(again, attributes, "what is shown can be set");
    }

    #[test]
    fn nonsense_is_refused_by_name_and_changes_nothing() {
        let attributes = LogAttributes::replicated(3);
        let err = |key, value| changed(&attributes, &[(key, value)]).unwrap_err().to_string();
        assert!(err("retention.sm", Some("1")).starts_with("there is no attribute 'retention.sm'; known are rep"));
        assert!(err("retention.sm", None).contains("retention.ms"));
        assert!(err("x.", Some("1")).contains("'x.'"));
        assert!(err("retention.ms", Some("soon")).contains("cannot be 'soon'"));
        assert!(err("replication_factor", Some("17")).contains("1 to 16, not 17"));
        assert!(err("replication_factor", None).contains("no default"));
        assert!(err("write_quorum", Some("4")).contains("write quorum must be 1 to the replication (3), not 4"));
        assert!(err("replicate_across", Some("planet:2")).contains("rack:2,node:3"));
        assert!(err("replicate_across", Some("rack:9")).contains("3 copies cannot be spread across 9 racks"));
        assert!(err("nodeset_size", Some("2")).contains("3 (the replication factor) to 127"));
        assert!(err("durability", Some("maybe")).contains("sync or write_cache"));
        let long = "x".repeat(2000);
        assert!(err("x.a", Some(&long)).len() < 400 && err(&long, Some("")).len() < 400);
        let many: Vec<_> = (0..65).map(|i| format!("x.{i}")).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), Some("1"))).collect();
        assert!(changed(&attributes, &many).unwrap_err().to_string().contains("at most 64 attributes"));
    }
}
