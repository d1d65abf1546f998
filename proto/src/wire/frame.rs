//! Frames: how messages lie on a lane.
//!
//! ```text
//!  0  magic        u16  0xD106
//!  2  version      u8   of this header, 1
//!  3  kind         u8   which message, see `MessageKind`
//!  4  body_version u8   of that message's body
//!  5  flags        u8   low nibble: may be ignored when unknown; high nibble: must be understood
//!  6  header_len   u16  32; a later version may be longer
//!  8  body_len     u32
//! 12  payload_len  u32
//! 16  corr         u64  ties an answer to its question
//! 24  reserved     u32  0
//! 28  crc          u32  CRC-32 of bytes 0..28 and the body
//! 32  body              one rkyv archive
//! ..  payload           raw bytes with a checksum of their own where they outlive the connection
//! ```
//! All little-endian. Nothing of a frame is believed before its lengths are within [`FrameLimits`] and its CRC holds.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

/// Length of the header that this version writes.
pub const HEADER_LEN: usize = 32;
const MAGIC: u16 = 0xD106;
const VERSION: u8 = 1;
const CRITICAL_FLAGS: u8 = 0xF0;

/// How long a frame may be on a lane. Checked before anything is allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    pub body_len_max: u32,
    pub payload_len_max: u32,
}

impl FrameLimits {
    /// What every lane takes: a block of the largest size with room to spare.
    pub const DEFAULT: Self = Self { body_len_max: 4 << 20, payload_len_max: 36 << 20 };
}

/// Bytes that follow a message, in the pieces in which they were made. Passing them on copies nothing.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    chunks: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl Payload {
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// All bytes in one piece; copies only if there is more than one.
    pub fn into_contiguous(mut self) -> Bytes {
        if self.chunks.len() == 1 {
            return self.chunks.remove(0);
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.chunks.iter().for_each(|chunk| whole.put_slice(chunk));
        whole.freeze()
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        let mut payload = Self::empty();
        payload.push(chunk);
        payload
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(chunks: I) -> Self {
        let mut payload = Self::empty();
        chunks.into_iter().for_each(|chunk| payload.push(chunk));
        payload
    }
}

/// One message as it travels: typed by number, its body still an archive.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub body_version: u8,
    pub corr: u64,
    pub body: Bytes,
    pub payload: Payload,
}

/// Why bytes are not a frame. The lane they came on is closed: where the next frame would begin is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a DLog frame (it begins with {0:#06x}): does the peer speak another protocol?")]
    Magic(u16),
    #[error("frame version {found}, this process speaks {VERSION}: upgrade the older side")]
    Version { found: u8 },
    #[error("frame flags {0:#04x} are not understood: upgrade this side")]
    Flags(u8),
    #[error("frame header of {0} bytes, expected {HEADER_LEN} to 256")]
    HeaderLen(u16),
    #[error("frame {part} of {len} bytes is over the limit of {max}")]
    TooLong { part: &'static str, len: u32, max: u32 },
    #[error("frame checksum does not match: the bytes were damaged")]
    Crc,
}

impl Frame {
    /// Length on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len() + self.payload.len()
    }

    /// Appends header and body to `out`; the payload's chunks follow as they are.
    pub fn encode_head(&self, out: &mut BytesMut) {
        let start = out.len();
        out.reserve(HEADER_LEN + self.body.len());
        out.put_u16_le(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.kind);
        out.put_u8(self.body_version);
        out.put_u8(0);
        out.put_u16_le(HEADER_LEN as u16);
        out.put_u32_le(u32::try_from(self.body.len()).expect("bodies are bounded by FrameLimits"));
        out.put_u32_le(u32::try_from(self.payload.len()).expect("payloads are bounded by FrameLimits"));
        out.put_u64_le(self.corr);
        out.put_u32_le(0);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out[start..]);
        crc.update(&self.body);
        out.put_u32_le(crc.finalize());
        out.put_slice(&self.body);
    }
}

/// Takes frames out of the bytes of a lane.
#[derive(Debug)]
pub struct FrameDecoder {
    limits: FrameLimits,
    /// The frame at the front of the buffer, once its header and body are there and their checksum holds.
    checked: Option<Head>,
}

/// The part of a header that says what follows.
#[derive(Debug)]
struct Head {
    kind: u8,
    body_version: u8,
    header_len: usize,
    body_len: usize,
    payload_len: usize,
    corr: u64,
}

/// Memory is taken for a frame that is still arriving in steps of this length: what its header claims is not believed before
/// the bytes are there.
const RESERVE_LEN: usize = 1 << 20;

impl FrameDecoder {
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, checked: None }
    }

    /// Takes the next whole frame out of `buffer`. `Ok(None)` if more bytes are needed; then `buffer` has room reserved for
    /// more of the frame, so that a long payload is not moved with every piece that arrives.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.checked.is_none() {
            self.checked = self.check(buffer)?;
        }
        let Some(head) = &self.checked else { return Ok(None) };
        let whole = head.header_len + head.body_len + head.payload_len;
        if buffer.len() < whole {
            buffer.reserve((whole - buffer.len()).min(RESERVE_LEN.max(buffer.len())));
            return Ok(None);
        }
        let Some(head) = self.checked.take() else { return Ok(None) };
        let mut bytes = buffer.split_to(whole).freeze();
        bytes.advance(head.header_len);
        let body = bytes.split_to(head.body_len);
        let Head { kind, body_version, corr, .. } = head;
        Ok(Some(Frame { kind, body_version, corr, body, payload: bytes.into() }))
    }

    /// The head of the frame that `buffer` begins with, if it is there with its body and their checksum holds.
    fn check(&self, buffer: &[u8]) -> Result<Option<Head>, FrameError> {
        let Some(head) = self.head(buffer)? else { return Ok(None) };
        let Some(body) = buffer.get(head.header_len..head.header_len + head.body_len) else { return Ok(None) };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&buffer[..HEADER_LEN - 4]);
        crc.update(body);
        let stored = u32::from_le_bytes(buffer[HEADER_LEN - 4..HEADER_LEN].try_into().expect("four bytes"));
        if crc.finalize() == stored { Ok(Some(head)) } else { Err(FrameError::Crc) }
    }

    fn head(&self, buffer: &[u8]) -> Result<Option<Head>, FrameError> {
        // What can be told from the first bytes is told at once: a peer that speaks something else may never send more.
        if let [a, b, ..] = buffer {
            let magic = u16::from_le_bytes([*a, *b]);
            if magic != MAGIC {
                return Err(FrameError::Magic(magic));
            }
        }
        if buffer.len() < HEADER_LEN {
            return Ok(None);
        }
        let mut fields = &buffer[2..];
        let version = fields.get_u8();
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let kind = fields.get_u8();
        let body_version = fields.get_u8();
        let flags = fields.get_u8();
        if flags & CRITICAL_FLAGS != 0 {
            return Err(FrameError::Flags(flags));
        }
        let header_len = fields.get_u16_le();
        if !(HEADER_LEN..=256).contains(&usize::from(header_len)) {
            return Err(FrameError::HeaderLen(header_len));
        }
        let body_len = bounded("body", fields.get_u32_le(), self.limits.body_len_max)?;
        let payload_len = bounded("payload", fields.get_u32_le(), self.limits.payload_len_max)?;
        let corr = fields.get_u64_le();
        Ok(Some(Head { kind, body_version, header_len: header_len.into(), body_len, payload_len, corr }))
    }
}

fn bounded(part: &'static str, len: u32, max: u32) -> Result<usize, FrameError> {
    if len > max { Err(FrameError::TooLong { part, len, max }) } else { Ok(len as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(body: &[u8], payload: &[u8]) -> Frame {
        Frame {
            kind: 7,
            body_version: 2,
            corr: 99,
            body: Bytes::copy_from_slice(body),
            payload: Bytes::copy_from_slice(payload).into(),
        }
    }

    fn encode(frame: &Frame) -> BytesMut {
        let mut out = BytesMut::new();
        frame.encode_head(&mut out);
        frame.payload.chunks().iter().for_each(|chunk| out.put_slice(chunk));
        out
    }

    #[test]
    fn golden_header() {
        let hex: String = encode(&frame(b"ab", b"xyz")).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "06d1",
                "01",
                "07",
                "02",
                "00",
                "2000",
                "02000000",
                "03000000",
                "6300000000000000",
                "00000000",
                "d1899624",
                "6162",
                "78797a"
            )
        );
    }

    #[test]
    fn another_protocol_is_told_from_its_first_two_bytes() {
        let mut decoder = FrameDecoder::new(FrameLimits::DEFAULT);
        let error = decoder.decode(&mut BytesMut::from(&b"GET / HTTP/1.1"[..])).unwrap_err();
        assert_eq!(error, FrameError::Magic(u16::from_le_bytes(*b"GE")));
        assert!(decoder.decode(&mut BytesMut::from(&b"\x16\x03"[..])).is_err());
    }

    #[test]
    fn what_is_too_long_of_another_version_or_damaged_is_refused_before_it_is_believed() {
        let limits = FrameLimits { body_len_max: 8, payload_len_max: 8 };
        let refused = |mut bytes: BytesMut| FrameDecoder::new(limits).decode(&mut bytes).unwrap_err();
        let good = encode(&frame(b"body", b"payload"));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(refused(with(2, 9)), FrameError::Version { found: 9 });
        assert_eq!(refused(with(5, 0x10)), FrameError::Flags(0x10));
        assert_eq!(refused(with(6, 31)), FrameError::HeaderLen(31));
        assert_eq!(refused(with(8, 9)), FrameError::TooLong { part: "body", len: 9, max: 8 });
        assert_eq!(refused(with(15, 0xff)), FrameError::TooLong { part: "payload", len: 0xff00_0007, max: 8 });
        assert_eq!(refused(with(33, b'x')), FrameError::Crc);
        assert!(
            FrameDecoder::new(limits).decode(&mut with(5, 0x01)).is_err(),
            "a harmless flag is still under the checksum"
        );
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), step in 1usize..50,
        ) {
            let frames: Vec<_> = bodies.iter().map(|b| frame(b, &b.repeat(2))).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|f| encode(f).to_vec()).collect();
            let mut decoder = FrameDecoder::new(FrameLimits::DEFAULT);
            let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                buffer.put_slice(piece);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(decoded.len(), frames.len());
            for (found, sent) in decoded.iter().zip(&frames) {
                prop_assert_eq!((found.corr, &found.body), (sent.corr, &sent.body));
                prop_assert_eq!(found.payload.clone().into_contiguous(), sent.payload.clone().into_contiguous());
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = FrameDecoder::new(FrameLimits::DEFAULT);
            let _ = decoder.decode(&mut BytesMut::from(&bytes[..]));
            let mut framed = BytesMut::from(&[0x06, 0xd1, 1][..]);
            framed.put_slice(&bytes);
            let _ = FrameDecoder::new(FrameLimits::DEFAULT).decode(&mut framed);
        }
    }
}
