//! The topics that a consumer's subscription names. To everybody else it is opaque, and Connect and others put something
//! else there: what is not understood names no topics.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};

/// The type of protocol whose metadata are subscriptions.
pub(super) const CONSUMER: &str = "consumer";
const TOPICS_MAX: i32 = 100_000;

/// `None` if it is no subscription.
pub(super) fn topics(metadata: &Bytes) -> Option<BTreeSet<String>> {
    let mut rest = metadata.clone();
    let _version = rest.try_get_i16().ok()?;
    let count = rest.try_get_i32().ok().filter(|count| (0..=TOPICS_MAX).contains(count))?;
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let len = usize::try_from(rest.try_get_i16().ok()?).ok()?;
        if len > rest.len() {
            return None;
        }
        topics.insert(String::from_utf8(rest.split_to(len).to_vec()).ok()?);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_read_and_garbage_is_not() {
        let subscription = b"\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff";
        let found = topics(&Bytes::from_static(subscription)).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "bc"]);
        for len in 0..13 {
            assert_eq!(topics(&Bytes::from_static(&subscription[..len])), None, "{len}");
        }
        assert_eq!(topics(&Bytes::from_static(b"\x00\x01\x7f\xff\xff\xff")), None);
    }
}
