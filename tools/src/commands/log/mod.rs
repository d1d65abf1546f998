//! Logs: made, looked at, changed, deleted.

mod attributes;
mod confirm;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod trim;

use dlog_metadata::state::LogInfo;
use serde_json::{Map, Value, json};

/// `{"log": "demo/lines", "uid": 1, "partitions": 1, "created_ms": 0, "attributes": {"replication_factor": "1", …}}`
fn log_json(info: &LogInfo) -> Value {
    let attributes: Map<_, _> = info.attributes.entries().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "log": info.log.to_string(),
        "uid": info.uid.0,
        "partitions": info.partitions.len(),
        "created_ms": info.created_ms,
        "attributes": attributes,
    })
}

#[cfg(test)]
pub(super) mod testing {
    use std::collections::BTreeMap;

    use dlog_metadata::state::{LogAttributes, LogInfo, LogUid};
    use dlog_proto::PartitionUid;

    /// A log with two partitions.
    pub(in crate::commands) fn log() -> LogInfo {
        let mut attributes = LogAttributes::replicated(3);
        attributes.extra = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        LogInfo {
            uid: LogUid(7),
            log: "demo/lines".parse().unwrap(),
            attributes,
            partitions: vec![PartitionUid(11), PartitionUid(12)],
            created_ms: 1_769_860_800_000,
            config_version: 5,
        }
    }
}
