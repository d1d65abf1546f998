//! The keys that a log's attributes may have besides replication, and what may stand under them. The names and meanings
//! are those of Kafka's topic configs, so that Kafka's tools can set them.

/// A key, and what it takes.
pub(crate) struct Known {
    pub(crate) key: &'static str,
    pub(crate) values: Values,
}

pub(crate) enum Values {
    Integer {
        min: i64,
        max: i64,
    },
    /// 0 to 1.
    Ratio,
    OneOf(&'static [&'static str]),
    /// One or more of these, separated by commas.
    SomeOf(&'static [&'static str]),
    Text,
}

pub(crate) fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.key == key)
}

impl Values {
    /// `Err` says what is expected.
    pub(crate) fn check(&self, value: &str) -> Result<(), String> {
        let ok = match self {
            Self::Integer { min, max } => value.parse().is_ok_and(|number: i64| (*min..=*max).contains(&number)),
            Self::Ratio => value.parse().is_ok_and(|number: f64| (0.0..=1.0).contains(&number)),
            Self::OneOf(names) => names.contains(&value),
            Self::SomeOf(names) => value.split(',').all(|part| names.contains(&part.trim())),
            Self::Text => true,
        };
        if ok { Ok(()) } else { Err(self.expected()) }
    }

    fn expected(&self) -> String {
        match self {
            Self::Integer { min, max: i64::MAX } => format!("a whole number from {min} is expected"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max} is expected"),
            Self::Ratio => "a number from 0 to 1 is expected".to_owned(),
            Self::OneOf(names) => format!("one of {} is expected", names.join(", ")),
            Self::SomeOf(names) => format!("one or more of {}, separated by commas, are expected", names.join(", ")),
            Self::Text => "text is expected".to_owned(),
        }
    }
}

const fn at_least(key: &'static str, min: i64) -> Known {
    Known { key, values: Values::Integer { min, max: i64::MAX } }
}

const fn within(key: &'static str, min: i64, max: i64) -> Known {
    Known { key, values: Values::Integer { min, max } }
}

const fn flag(key: &'static str) -> Known {
    Known { key, values: Values::OneOf(&["true", "false"]) }
}

const fn one_of(key: &'static str, names: &'static [&'static str]) -> Known {
    Known { key, values: Values::OneOf(names) }
}

const INT_MAX: i64 = i32::MAX as i64;

pub(crate) const KNOWN: &[Known] = &[
    Known { key: "cleanup.policy", values: Values::SomeOf(&["delete", "compact"]) },
    within("compression.gzip.level", -1, 9),
    within("compression.lz4.level", 1, 17),
    one_of("compression.type", &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
    within("compression.zstd.level", -131_072, 22),
    at_least("delete.retention.ms", 0),
    at_least("file.delete.delay.ms", 0),
    at_least("flush.messages", 1),
    at_least("flush.ms", 0),
    Known { key: "follower.replication.throttled.replicas", values: Values::Text },
    within("index.interval.bytes", 0, INT_MAX),
    Known { key: "leader.replication.throttled.replicas", values: Values::Text },
    at_least("local.retention.bytes", -2),
    at_least("local.retention.ms", -2),
    at_least("max.compaction.lag.ms", 1),
    within("max.message.bytes", 0, INT_MAX),
    at_least("message.timestamp.after.max.ms", 0),
    at_least("message.timestamp.before.max.ms", 0),
    one_of("message.timestamp.type", &["CreateTime", "LogAppendTime"]),
    Known { key: "min.cleanable.dirty.ratio", values: Values::Ratio },
    at_least("min.compaction.lag.ms", 0),
    within("min.insync.replicas", 1, INT_MAX),
    flag("preallocate"),
    flag("remote.log.copy.disable"),
    flag("remote.log.delete.on.disable"),
    flag("remote.storage.enable"),
    at_least("retention.bytes", -1),
    at_least("retention.ms", -1),
    within("segment.bytes", 14, INT_MAX),
    within("segment.index.bytes", 4, INT_MAX),
    at_least("segment.jitter.ms", 0),
    at_least("segment.ms", 1),
    flag("unclean.leader.election.enable"),
];
