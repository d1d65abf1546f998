//! The messages of the handshake as frames.

use bytes::Bytes;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::HandshakeError;
use super::messages::{Hello, Refused, RefusedCode, Welcome, check_text};
use crate::wire::{Frame, Payload};

const BODY_VERSION: u8 = 1;

/// The message kinds of the handshake; no other message has these numbers.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const REFUSED: u8 = 4;
}

/// [`Refused`] as it travels.
#[derive(Archive, Serialize, Deserialize)]
struct RefusedBody {
    code: u16,
    message: String,
}

fn encode<T>(kind: u8, message: &T) -> Frame
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let body = rkyv::to_bytes(message).expect("serialising to memory cannot fail");
    Frame { kind, body_version: BODY_VERSION, corr: 0, body: Bytes::copy_from_slice(&body), payload: Payload::empty() }
}

fn decode<T>(frame: &Frame) -> Result<T, HandshakeError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    rkyv::from_bytes::<T, rancor::Error>(&frame.body).map_err(|_| HandshakeError::Damaged)
}

pub(in crate::transport) fn decode_hello(frame: &Frame) -> Result<Hello, HandshakeError> {
    match (frame.kind, frame.body_version) {
        (kind::HELLO, BODY_VERSION) => decode::<Hello>(frame)?.check(),
        (kind, version) => Err(HandshakeError::Unexpected { kind, version }),
    }
}

pub(in crate::transport) fn encode_hello(hello: &Hello) -> Frame {
    encode(kind::HELLO, hello)
}

pub(in crate::transport) fn encode_answer(answer: &Result<Welcome, Refused>) -> Frame {
    match answer {
        Ok(welcome) => encode(kind::WELCOME, welcome),
        Err(refused) => {
            let body = RefusedBody { code: refused.code.to_u16(), message: refused.message.clone() };
            encode(kind::REFUSED, &body)
        }
    }
}

pub(super) fn decode_answer(frame: &Frame, hello: &Hello) -> Result<Result<Welcome, Refused>, HandshakeError> {
    match (frame.kind, frame.body_version) {
        (kind::WELCOME, BODY_VERSION) => decode::<Welcome>(frame)?.check(hello).map(Ok),
        (kind::REFUSED, BODY_VERSION) => {
            let body: RefusedBody = decode(frame)?;
            check_text(&body.message)?;
            Ok(Err(Refused::new(RefusedCode::from_u16(body.code), body.message)))
        }
        (kind, version) => Err(HandshakeError::Unexpected { kind, version }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::transport::handshake::TEXT_LEN_MAX;
    use crate::transport::lane::LaneClosed;
    use crate::wire::FrameError;
    use crate::{ClusterId, NodeId, ProcessId};

    pub(in super::super) fn hello() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 2,
            cluster: Some(ClusterId(0x0102)),
            node: Some(NodeId(3)),
            process: None,
            expect_node: Some(NodeId(4)),
            software: "dlog 0.1.0".to_owned(),
        }
    }

    pub(in super::super) fn welcome() -> Welcome {
        Welcome {
            protocol: 1,
            cluster: Some(ClusterId(0x0102)),
            node: NodeId(4),
            process: ProcessId(0x0506),
            cores: 8,
            software: "dlog 0.1.0".to_owned(),
        }
    }

    fn hex(frame: &Frame) -> String {
        frame.body.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bodies() {
        assert_eq!(
            hex(&encode_hello(&hello())),
            "646c6f6720302e312e3001000200010201000000000000000000000000000001030000000000000000000000000000000000000104008a000000caffffff"
        );
        assert_eq!(
            hex(&encode_answer(&Ok(welcome()))),
            "646c6f6720302e312e300100010201000000000000000000000000000004000605000000000000000000000000000008008a000000cfffffff"
        );
        assert_eq!(
            hex(&encode_answer(&Err(Refused::new(RefusedCode::OtherCluster, "no, go there")))),
            "6e6f2c20676f20746865726502008c000000f2ffffff"
        );
    }

    #[test]
    fn messages_survive_the_wire() {
        assert_eq!(decode_hello(&encode_hello(&hello())), Ok(hello()));
        let refused = Refused::new(RefusedCode::Other(77), "x");
        for answer in [Ok(welcome()), Err(refused)] {
            assert_eq!(decode_answer(&encode_answer(&answer), &hello()), Ok(answer));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let invalid = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            decode_hello(&encode_hello(&hello)).unwrap_err()
        };
        invalid(|hello| hello.protocol_min = 9);
        invalid(|hello| hello.node = Some(NodeId(0)));
        invalid(|hello| hello.software = "x".repeat(TEXT_LEN_MAX + 1));
        invalid(|hello| hello.software = "\u{1b}[2J".to_owned());
        let mut damaged = encode_hello(&hello());
        damaged.body.truncate(10);
        assert_eq!(decode_hello(&damaged), Err(HandshakeError::Damaged));
        let answered = encode_answer(&Ok(welcome()));
        assert!(matches!(decode_hello(&answered), Err(HandshakeError::Unexpected { kind: kind::WELCOME, .. })));
        let other_node = Welcome { node: NodeId(5), ..welcome() };
        assert!(decode_answer(&encode_answer(&Ok(other_node)), &hello()).is_err());
        assert_eq!(Refused::new(RefusedCode::Busy, "ä".repeat(TEXT_LEN_MAX)).message.len(), TEXT_LEN_MAX);
        assert!(HandshakeError::from(LaneClosed::Protocol(FrameError::Crc)).to_string().contains("damaged"));
    }

    #[test]
    fn garbage_never_panics() {
        let mut frame = encode_hello(&hello());
        let good = frame.body.to_vec();
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                frame.body = bytes.into();
                let _ = decode_hello(&frame);
            }
        }
    }
}
