//! Topic configs as Kafka knows them, and log attributes.
//!
//! They are the same keys. Those that mean something here are acted on; the others are checked, kept and shown.

use std::collections::BTreeMap;

use dlog_metadata::state::LogAttributes;
use dlog_proto::QuorumConfig;
use kafka_protocol::ResponseError;

use crate::settings::Settings;

/// Where a value comes from, in Kafka's numbers.
pub(crate) const SOURCE_TOPIC: i8 = 1;
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// What a value is, in Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigType {
    Boolean = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

struct Known {
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    doc: &'static str,
}

const fn known(name: &'static str, kind: ConfigType, default: &'static str, doc: &'static str) -> Known {
    Known { name, kind, default, doc }
}

const KEPT: &str = "Kept and shown; nothing here depends on it.";
const LONG_MAX: &str = "9223372036854775807";

use ConfigType::{Boolean, Double, Int, List, Long, Text};

/// All of Kafka's topic configs, by name.
const KNOWN: &[Known] = &[
    known("cleanup.policy", List, "delete", "What becomes of old records. Only 'delete': compaction is not supported."),
    known("compression.gzip.level", Int, "-1", KEPT),
    known("compression.lz4.level", Int, "9", KEPT),
    known(
        "compression.type",
        Text,
        "producer",
        "Batches are kept as their producers compress them, whatever this says.",
    ),
    known("compression.zstd.level", Int, "3", KEPT),
    known("delete.retention.ms", Long, "86400000", KEPT),
    known("file.delete.delay.ms", Long, "60000", KEPT),
    known("flush.messages", Long, LONG_MAX, KEPT),
    known("flush.ms", Long, LONG_MAX, KEPT),
    known("follower.replication.throttled.replicas", List, "", KEPT),
    known("index.interval.bytes", Int, "4096", KEPT),
    known("leader.replication.throttled.replicas", List, "", KEPT),
    known("local.retention.bytes", Long, "-2", KEPT),
    known("local.retention.ms", Long, "-2", KEPT),
    known("max.compaction.lag.ms", Long, LONG_MAX, KEPT),
    known("max.message.bytes", Int, "1048588", "Longest record batch, in bytes as its producer sends it."),
    known(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        "How far ahead of the broker's clock a record's time may be.",
    ),
    known(
        "message.timestamp.before.max.ms",
        Long,
        LONG_MAX,
        "How far behind the broker's clock a record's time may be.",
    ),
    known("message.timestamp.type", Text, "CreateTime", "Whether records have their producer's time or the log's."),
    known("min.cleanable.dirty.ratio", Double, "0.5", KEPT),
    known("min.compaction.lag.ms", Long, "0", KEPT),
    known(
        "min.insync.replicas",
        Int,
        "1",
        "Copies to wait for with acks=all. A majority of the replication factor is waited for at least.",
    ),
    known("preallocate", Boolean, "false", KEPT),
    known("remote.log.copy.disable", Boolean, "false", KEPT),
    known("remote.log.delete.on.disable", Boolean, "false", KEPT),
    known("remote.storage.enable", Boolean, "false", KEPT),
    known("retention.bytes", Long, "-1", "How many bytes of a partition are kept; -1 is all."),
    known("retention.ms", Long, "-1", "How long records are kept; -1 is for ever."),
    known("segment.bytes", Int, "1073741824", KEPT),
    known("segment.index.bytes", Int, "10485760", KEPT),
    known("segment.jitter.ms", Long, "0", KEPT),
    known("segment.ms", Long, "604800000", KEPT),
    known("unclean.leader.election.enable", Boolean, "false", KEPT),
];

/// A config as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) source: i8,
    pub(crate) kind: i8,
    pub(crate) doc: &'static str,
    /// What it would be if it were not set.
    pub(crate) default: Option<String>,
}

type Refused = (ResponseError, String);

fn invalid(why: impl Into<String>) -> Refused {
    (ResponseError::InvalidConfig, why.into())
}

/// The attributes of a new topic.
pub(crate) fn attributes<'a>(
    factor: u8,
    set: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<LogAttributes, Refused> {
    let mut changes = BTreeMap::new();
    for (name, value) in set {
        let value = value.ok_or_else(|| invalid(format!("'{name}' has no value")))?;
        if changes.insert(name.to_owned(), Some(value.to_owned())).is_some() {
            return Err(invalid(format!("'{name}' is set twice")));
        }
    }
    let mut attributes = LogAttributes::replicated(factor);
    let changes = checked(&attributes, changes)?;
    attributes.update(&changes).map_err(|error| invalid(error.to_string()))?;
    Ok(attributes)
}

/// Checks changes of configs, and adds what follows from them for the log.
pub(crate) fn checked(
    attributes: &LogAttributes,
    mut changes: BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<String, Option<String>>, Refused> {
    for (name, value) in &changes {
        if !(KNOWN.iter().any(|known| known.name == name) || name.starts_with("x.")) {
            return Err(invalid(format!("there is no topic config '{}'", name.chars().take(80).collect::<String>())));
        }
        let value = value.as_deref().unwrap_or_default();
        if name == "cleanup.policy" && value.split(',').any(|policy| policy.trim() == "compact") {
            return Err(invalid("cleanup.policy=compact is not supported: only 'delete' is"));
        }
    }
    if let Some(min) = changes.get("min.insync.replicas") {
        let quorum = write_quorum(attributes.replication.quorum.replication_factor, min.as_deref())?;
        changes.insert("write_quorum".to_owned(), quorum);
    }
    Ok(changes)
}

/// A write quorum for this `min.insync.replicas`: no less than a majority, because Kafka's acks=all waits for all replicas
/// that are in sync, and a smaller quorum would promise less than it does.
fn write_quorum(factor: u8, min: Option<&str>) -> Result<Option<String>, Refused> {
    let Some(min) = min else { return Ok(None) };
    let number = min.parse::<u8>().ok().filter(|min| (1..=factor).contains(min));
    let number = number.ok_or_else(|| {
        invalid(format!("min.insync.replicas is 1 to the replication factor ({factor}), not '{min}'"))
    })?;
    Ok(Some(number.max(QuorumConfig::majority(factor).write_quorum).to_string()))
}

/// All configs of a topic.
pub(crate) fn topic_values(attributes: &LogAttributes, settings: &Settings) -> Vec<Value> {
    let of_known = KNOWN.iter().map(|known| {
        let default = match known.name {
            "max.message.bytes" => settings.message_len_max.to_string(),
            "message.timestamp.after.max.ms" => settings.timestamp_after_max_ms.to_string(),
            "min.insync.replicas" => attributes.replication.quorum.write_quorum.to_string(),
            _ => known.default.to_owned(),
        };
        let set = attributes.get(known.name);
        Value {
            name: known.name.to_owned(),
            source: if set.is_some() { SOURCE_TOPIC } else { SOURCE_DEFAULT },
            value: set.unwrap_or_else(|| default.clone()),
            kind: known.kind as i8,
            doc: known.doc,
            default: Some(default),
        }
    });
    let own = attributes.extra.iter().filter(|(name, _)| KNOWN.iter().all(|known| known.name != *name));
    let own = own.map(|(name, value)| Value {
        name: name.clone(),
        value: value.clone(),
        source: SOURCE_TOPIC,
        kind: Text as i8,
        doc: "Set by a user of the log.",
        default: None,
    });
    of_known.chain(own).collect()
}

/// The gateway's settings under the names of Kafka's broker configs.
pub(crate) fn broker_values(settings: &Settings) -> Vec<Value> {
    let group = &settings.group;
    let values = [
        ("auto.create.topics.enable", Boolean, settings.auto_create_topics.to_string()),
        ("connections.max.idle.ms", Long, settings.connection_idle.as_millis().to_string()),
        ("default.replication.factor", Int, settings.replication_factor_default.to_string()),
        ("fetch.max.bytes", Int, settings.fetch_bytes_max.to_string()),
        ("group.initial.rebalance.delay.ms", Int, group.initial_rebalance_delay.as_millis().to_string()),
        ("group.max.session.timeout.ms", Int, group.session_timeout_max.as_millis().to_string()),
        ("group.max.size", Int, group.members_max.to_string()),
        ("group.min.session.timeout.ms", Int, group.session_timeout_min.as_millis().to_string()),
        ("log.message.timestamp.after.max.ms", Long, settings.timestamp_after_max_ms.to_string()),
        ("max.connections", Int, settings.connections_max.to_string()),
        ("max.connections.per.ip", Int, settings.connections_per_ip_max.to_string()),
        ("max.incremental.fetch.session.cache.slots", Int, settings.fetch_sessions_max.to_string()),
        ("message.max.bytes", Int, settings.message_len_max.to_string()),
        ("num.partitions", Int, settings.partitions_default.to_string()),
        ("offset.metadata.max.bytes", Int, group.metadata_len_max.to_string()),
        ("offsets.retention.minutes", Int, (group.offsets_retention.as_secs() / 60).to_string()),
        ("socket.request.max.bytes", Int, settings.request_len_max.to_string()),
    ];
    let value = |(name, kind, value): (&str, ConfigType, String)| Value {
        name: name.to_owned(),
        value,
        source: SOURCE_STATIC_BROKER,
        kind: kind as i8,
        doc: "Set where the node is configured.",
        default: None,
    };
    values.map(value).to_vec()
}

/// Whether a config is a list, which can be added to.
pub(crate) fn is_list(name: &str) -> bool {
    KNOWN.iter().any(|known| known.name == name && known.kind == List)
}

/// The value of a topic config, set or not.
pub(crate) fn effective(attributes: &LogAttributes, name: &str) -> String {
    let default = || KNOWN.iter().find(|known| known.name == name).map_or("", |known| known.default).to_owned();
    attributes.get(name).unwrap_or_else(default)
}

/// How far behind and ahead a record's time may be.
pub(crate) fn timestamp_limits(attributes: &LogAttributes, after_default: u64) -> (Option<u64>, Option<u64>) {
    if attributes.is_log_append_time() {
        return (None, None);
    }
    let number = |name: &str| attributes.extra.get(name).and_then(|value| value.parse::<u64>().ok());
    let limited = |ms: u64| (ms < i64::MAX as u64).then_some(ms);
    let before = number("message.timestamp.before.max.ms").and_then(limited);
    (before, limited(number("message.timestamp.after.max.ms").unwrap_or(after_default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(factor: u8, set: &[(&str, &str)]) -> Result<LogAttributes, Refused> {
        attributes(factor, set.iter().map(|(name, value)| (*name, Some(*value))))
    }

    #[test]
    fn what_is_set_is_shown_and_can_be_set_again() {
        let made = made(3, &[("retention.ms", "1000"), ("min.insync.replicas", "3"), ("x.owner", "me")]).unwrap();
        assert_eq!((made.retention_ms(), made.replication.quorum.write_quorum), (Some(1000), 3));
        let shown = topic_values(&made, &Settings::default());
        let find = |name: &str| shown.iter().find(|value| value.name == name).unwrap();
        assert_eq!((find("retention.ms").value.as_str(), find("retention.ms").source), ("1000", SOURCE_TOPIC));
        assert_eq!((find("segment.ms").value.as_str(), find("segment.ms").source), ("604800000", SOURCE_DEFAULT));
        assert_eq!(find("x.owner").value, "me");
        let all: Vec<_> = shown.iter().map(|value| (value.name.as_str(), value.value.as_str())).collect();
        attributes(3, all.iter().map(|(name, value)| (*name, Some(*value)))).expect("what is shown can be set");
    }

    #[test]
    fn nonsense_and_compaction_are_refused_by_name() {
        let why = |set: &[(&str, &str)]| made(3, set).unwrap_err().1;
        assert!(why(&[("cleanup.policy", "compact")]).contains("compact is not supported"));
        assert!(why(&[("cleanup.policy", "delete,compact")]).contains("compact is not supported"));
        assert!(why(&[("retention.sm", "1")]).contains("'retention.sm'"));
        assert!(why(&[("retention.ms", "soon")]).contains("'soon'"));
        assert!(why(&[("min.insync.replicas", "4")]).contains("1 to the replication factor (3)"));
        assert!(why(&[("write_quorum", "1")]).contains("write_quorum"), "not a Kafka config");
    }

    #[test]
    fn a_small_min_insync_does_not_weaken_the_quorum() {
        assert_eq!(made(3, &[("min.insync.replicas", "1")]).unwrap().replication.quorum.write_quorum, 2);
        assert_eq!(made(5, &[("min.insync.replicas", "4")]).unwrap().replication.quorum.write_quorum, 4);
    }

    #[test]
    fn clocks_are_limited_as_the_topic_says() {
        let limits = |set: &[(&str, &str)]| timestamp_limits(&made(1, set).unwrap(), 3_600_000);
        assert_eq!(limits(&[]), (None, Some(3_600_000)));
        let both = [("message.timestamp.before.max.ms", "5"), ("message.timestamp.after.max.ms", LONG_MAX)];
        assert_eq!(limits(&both), (Some(5), None));
        assert_eq!(limits(&[("message.timestamp.type", "LogAppendTime")]), (None, None));
    }
}
