//! The answer to a request that cannot be granted.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{Validate, message};

/// What went wrong, as something the asker can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ErrorCode {
    /// The request makes no sense; asking again will not help.
    Invalid = 1,
    /// What it names does not exist.
    NotFound = 2,
    /// What it would make is there already.
    Exists = 3,
    /// This node cannot tell right now; ask again, here or elsewhere.
    Unavailable = 4,
    /// Too much at once; ask again after the delay.
    Overloaded = 5,
    /// This side does not know the message or its version.
    Unsupported = 6,
    /// Not enough nodes or shards for what is asked.
    NotEnoughNodes = 7,
    /// The asker is not, or no longer, who may ask this.
    Stale = 8,
    /// This node has a fault of its own; its log says more.
    Internal = 9,
}

impl ErrorCode {
    /// Whether the same request may succeed later.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Overloaded | Self::Internal)
    }
}

/// The answer to a request that cannot be granted: what happened, to what, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    pub code: ErrorCode,
    /// For a person; at most [`Failed::MESSAGE_LEN_MAX`] bytes.
    pub message: String,
    /// When to ask again, in milliseconds, where the code is transient; 0 leaves it to the asker.
    pub retry_after_ms: u32,
}

impl Failed {
    pub const MESSAGE_LEN_MAX: usize = 2048;

    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MESSAGE_LEN_MAX {
            let end = (0..=Self::MESSAGE_LEN_MAX).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
        }
        Self { code, message, retry_after_ms: 0 }
    }

    #[must_use]
    pub fn retry_after_ms(mut self, ms: u32) -> Self {
        self.retry_after_ms = ms;
        self
    }
}

impl Validate for Failed {}
message!(Failed, 1);
