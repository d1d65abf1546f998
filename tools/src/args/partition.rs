//! A partition as people name it.

use std::fmt;
use std::str::FromStr;

use dlog_proto::{LogId, ParseError, PartitionId};

use super::not;

/// `namespace/name/P`; like a log's name, it may lack the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionName {
    pub log: LogId,
    pub partition: PartitionId,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.log, self.partition)
    }
}

impl FromStr for PartitionName {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let error = || not(s, "a partition such as demo/first/0 (namespace/name/number)");
        let (log, partition) = s.rsplit_once('/').ok_or_else(error)?;
        let digits = partition.bytes().all(|byte| byte.is_ascii_digit());
        let partition = partition.parse().ok().filter(|_| digits).map(PartitionId).ok_or_else(error)?;
        Ok(Self { log: log.parse()?, partition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_log_and_a_number() {
        for (text, shown) in [("demo/first/0", "demo/first/0"), ("first/12", "default/first/12")] {
            assert_eq!(text.parse::<PartitionName>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "0", "/0", "demo/first", "demo/first/", "demo/first/x", "demo/first/-1", "demo/first/+1", "a/b/c/0"]
        {
            assert!(bad.parse::<PartitionName>().is_err(), "{bad}");
        }
        assert!("demo/first/4294967296".parse::<PartitionName>().is_err());
    }
}
