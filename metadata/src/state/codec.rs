//! Commands, answers, queries and snapshots as bytes: a version, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this process writes, and the only one it reads.
const VERSION: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("nothing to decode")]
    Empty,
    #[error("encoded in version {0}, this process knows {VERSION}: upgrade the older side")]
    Version(u8),
    #[error("does not hold together: {0}")]
    Invalid(String),
    #[error("{0} bytes follow after the end")]
    Trailing(usize),
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("plain values are written to memory")
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|error| CodecError::Invalid(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::{Command, Query, QueryAnswer, Response, State};

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 1..300), small in any::<bool>()) {
            bytes[0] = VERSION;
            if small {
                // Small numbers are lengths and variants that exist.
                bytes[1..].iter_mut().for_each(|byte| *byte %= 12);
            }
            let _ = decode::<Command>(&bytes);
            let _ = decode::<Response>(&bytes);
            let _ = decode::<Query>(&bytes);
            let _ = decode::<QueryAnswer>(&bytes);
            let _ = State::from_snapshot(&bytes);
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let bytes = encode(&(7u32, "text"));
        assert_eq!(decode::<(u32, String)>(&bytes), Ok((7, "text".to_owned())));
        assert_eq!(decode::<(u32, String)>(&[]), Err(CodecError::Empty));
        assert_eq!(decode::<(u32, String)>(&[9, 0]), Err(CodecError::Version(9)));
        assert!(matches!(decode::<(u32, String)>(&bytes[..4]), Err(CodecError::Invalid(_))));
        assert_eq!(decode::<(u32, String)>(&[&bytes[..], &[0]].concat()), Err(CodecError::Trailing(1)));
        // A length that lies does not allocate what it says.
        assert!(decode::<Vec<u64>>(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
