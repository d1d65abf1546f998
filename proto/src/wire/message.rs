//! Messages: what a frame's body means.
//!
//! The body of a frame is one rkyv archive of the message type, in the version that the frame names. It is always
//! validated (`bytecheck`) and copied out into plain values; no archived type leaves this module. The layout of each
//! version is pinned by golden bytes: to change a message is to add a version.

use bytes::Bytes;

use super::frame::{Frame, Payload};

/// Numbers of the messages on the wire. Fixed for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    Failed = 3,

    Append = 16,
    Appended = 17,

    Store = 32,
    Stored = 33,
    Amend = 34,
    Flushed = 35,
    Seal = 36,
    Sealed = 37,
    Release = 38,
    FetchBlock = 39,
    FetchedBlock = 40,
    ReadProducers = 41,
    ProducersRead = 42,

    StartRead = 48,
    ReadStarted = 49,
    ReadBlock = 50,
    ReadClaim = 51,
    DescribeBlock = 52,
    BlockDescribed = 53,
    FindTime = 54,
    TimeFound = 55,
    GetTail = 56,
    Tail = 57,

    Propose = 64,
    Proposed = 65,
    Query = 66,
    Answer = 67,
    Watch = 68,
    Change = 69,
    Heartbeat = 70,
    Liveness = 71,
    Raft = 72,
    RaftAnswer = 73,
}

/// Why a frame is not the message that was expected. The frame was whole, so the lane goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("expected {expected:?}, got a message of kind {found}")]
    Unexpected { expected: MessageKind, found: u8 },
    #[error("{kind:?} in version {found}, this process speaks {known}: upgrade the older side")]
    Version { kind: MessageKind, found: u8, known: u8 },
    #[error("{kind:?} does not hold together: {reason}")]
    Invalid { kind: MessageKind, reason: String },
}

/// Something that peers say to each other.
pub trait Message: Sized {
    const KIND: MessageKind;
    const VERSION: u8;

    /// This message as a frame, followed by `payload`.
    fn to_frame(&self, corr: u64, payload: Payload) -> Frame;

    /// Takes the message out of a frame, after validating all of it.
    fn from_frame(frame: &Frame) -> Result<Self, MessageError>;

    /// Whether `frame` is of this kind.
    fn is(frame: &Frame) -> bool {
        frame.kind == Self::KIND as u8
    }
}

/// What an archive cannot express: relations between fields. Bounds that follow from the frame's length need no check.
pub(super) trait Validate {
    fn validate(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

pub(super) fn check_head(frame: &Frame, kind: MessageKind, known: u8) -> Result<(), MessageError> {
    if frame.kind != kind as u8 {
        return Err(MessageError::Unexpected { expected: kind, found: frame.kind });
    }
    if frame.body_version != known {
        return Err(MessageError::Version { kind, found: frame.body_version, known });
    }
    Ok(())
}

pub(super) fn frame(kind: MessageKind, version: u8, corr: u64, body: Vec<u8>, payload: Payload) -> Frame {
    Frame { kind: kind as u8, body_version: version, corr, body: Bytes::from(body), payload }
}

/// Makes a [`Message`] of a type that derives rkyv's traits.
macro_rules! message {
    ($type:ident, $version:literal) => {
        impl $crate::wire::Message for $type {
            const KIND: $crate::wire::MessageKind = $crate::wire::MessageKind::$type;
            const VERSION: u8 = $version;

            fn to_frame(&self, corr: u64, payload: $crate::wire::Payload) -> $crate::wire::Frame {
                let body = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(self, Vec::new())
                    .expect("writing to memory does not fail");
                $crate::wire::message::frame(Self::KIND, Self::VERSION, corr, body, payload)
            }

            fn from_frame(frame: &$crate::wire::Frame) -> Result<Self, $crate::wire::MessageError> {
                $crate::wire::message::check_head(frame, Self::KIND, Self::VERSION)?;
                let invalid = |reason: String| $crate::wire::MessageError::Invalid { kind: Self::KIND, reason };
                let message = rkyv::from_bytes::<Self, rkyv::rancor::Error>(&frame.body)
                    .map_err(|error| invalid(error.to_string()))?;
                $crate::wire::message::Validate::validate(&message).map_err(|reason| invalid(reason.to_owned()))?;
                Ok(message)
            }
        }
    };
}
pub(super) use message;
