//! A partition as people name it.

use std::fmt;
use std::str::FromStr;

use dlog_proto::{LogId, ParseError, PartitionId};

use super::not;

/// `namespace/name/P`; like a log's name, it may lack the namespace, and the number where a log has but one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionName {
    pub log: LogId,
    pub partition: Option<PartitionId>,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(partition) => write!(f, "{}/{partition}", self.log),
            None => self.log.fmt(f),
        }
    }
}

impl FromStr for PartitionName {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let error = || not(s, "a partition such as demo/first/0 (namespace/name/number)");
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match s.rsplit_once('/') {
            Some((log, number)) if is_number(number) => {
                let partition = Some(PartitionId(number.parse().map_err(|_| error())?));
                Ok(Self { log: log.parse()?, partition })
            }
            // Whoever types a number alone forgot the log.
            None if is_number(s) => Err(error()),
            _ => Ok(Self { log: s.parse().map_err(|_| error())?, partition: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_log_and_a_number() {
        for (text, shown) in [
            ("demo/first/0", "demo/first/0"),
            ("first/12", "default/first/12"),
            ("demo/first", "demo/first"),
            ("first", "default/first"),
        ] {
            assert_eq!(text.parse::<PartitionName>().unwrap().to_string(), shown);
        }
        for bad in ["", "0", "/0", "demo/first/", "demo/first/x", "demo/first/-1", "demo/first/+1", "a/b/c/0"] {
            assert!(bad.parse::<PartitionName>().is_err(), "{bad}");
        }
        assert!("demo/first/4294967296".parse::<PartitionName>().is_err());
    }
}
