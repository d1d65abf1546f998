//! Changes of groups as they are stored: the value of each record of the groups' log is one change.
//!
//! ```text
//! version u8 = 1 | the change, postcard's layout
//! ```
//! Reading all of a partition in order gives its state. Now and then the whole state is written as changes once more, and
//! what came before is trimmed. A record with an empty value changes nothing: a new coordinator appends one to find out where
//! its predecessor's end.

use dlog_proto::TimestampMs;
use serde::{Deserialize, Serialize};

use super::message::StoredOffset;

const VERSION: u8 = 1;

/// New variants go to the end: their numbers are their places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    SetGroup {
        group: String,
        value: StoredGroup,
    },
    /// And all of its offsets.
    RemoveGroup {
        group: String,
    },
    SetOffset {
        group: String,
        topic: String,
        partition: i32,
        value: StoredOffset,
    },
    RemoveOffset {
        group: String,
        topic: String,
        partition: i32,
    },
}

/// A generation of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredGroup {
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) generation: i32,
    pub(super) leader: Option<String>,
    pub(super) members: Vec<StoredMember>,
    /// Since when it has had no members.
    pub(super) empty_since_ms: Option<TimestampMs>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMember {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: u32,
    pub(super) rebalance_timeout_ms: u32,
    pub(super) protocols: Vec<(String, Vec<u8>)>,
    pub(super) assignment: Vec<u8>,
}

/// Why a stored change is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoredError {
    #[error("a change of version {0}, this node knows {VERSION}: upgrade it")]
    Version(u8),
    #[error("a change that does not hold together: {0}")]
    Malformed(postcard::Error),
}

impl Change {
    pub(super) fn encode(&self) -> Vec<u8> {
        let start = vec![VERSION];
        postcard::to_extend(self, start).expect("writing to memory does not fail")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, StoredError> {
        match bytes.split_first() {
            None => Ok(None),
            Some((&VERSION, change)) => postcard::from_bytes(change).map(Some).map_err(StoredError::Malformed),
            Some((&version, _)) => Err(StoredError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_fixed() {
        let value = StoredOffset {
            offset: 300,
            leader_epoch: -1,
            metadata: "m".to_owned(),
            committed_ms: 2,
            expires_ms: None,
            log_uid: 9,
        };
        let offset = Change::SetOffset { group: "g".to_owned(), topic: "t".to_owned(), partition: 1, value };
        let golden = [1, 2, 1, b'g', 1, b't', 2, 0xd8, 4, 1, 1, b'm', 4, 0, 9];
        assert_eq!(offset.encode(), golden);
        assert_eq!(Change::decode(&golden), Ok(Some(offset)));
        let member = StoredMember {
            id: "i".to_owned(),
            instance: Some("s".to_owned()),
            client_id: "c".to_owned(),
            client_host: "h".to_owned(),
            session_timeout_ms: 1,
            rebalance_timeout_ms: 2,
            protocols: vec![("p".to_owned(), vec![7])],
            assignment: vec![8],
        };
        let value = StoredGroup {
            protocol_type: Some("t".to_owned()),
            protocol: None,
            generation: 5,
            leader: None,
            members: vec![member],
            empty_since_ms: Some(1),
        };
        let group = Change::SetGroup { group: "g".to_owned(), value };
        let golden = [
            1, 0, 1, b'g', 1, 1, b't', 0, 10, 0, 1, 1, b'i', 1, 1, b's', 1, b'c', 1, b'h', 1, 2, 1, 1, b'p', 1, 7, 1,
            8, 1, 2,
        ];
        assert_eq!(group.encode(), golden);
        assert_eq!(Change::decode(&golden), Ok(Some(group)));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        assert_eq!(Change::decode(&[]), Ok(None));
        assert_eq!(Change::decode(&[2, 0]), Err(StoredError::Version(2)));
        assert!(matches!(Change::decode(&[1, 99]), Err(StoredError::Malformed(_))));
    }
}
