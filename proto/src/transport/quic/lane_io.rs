//! Between a lane's frames and the bytes of a QUIC stream.
//!
//! A stream begins with a preamble that says which kind of lane it is; quinn shows a stream to the peer only once something is
//! written on it. Then frames follow until the stream is finished.
//!
//! Writing: one task per lane empties the queue. Heads and short payloads are gathered into pieces of up to
//! [`GATHERED_BYTES`]; long payload chunks are passed on as they are. quinn walks all unacknowledged pieces of a stream for
//! every packet, so a piece per message would cost quadratic time. Pieces are at most [`PIECE_BYTES_MAX`] long, since a piece
//! holds its place in the send window until its last byte is acknowledged.
//!
//! Reading: no task. The consumer reads the stream itself, so what it does not read stays with the peer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::runtime::Handle;

use super::close_reason;
use super::profile::SEND_WINDOW_BYTES;
use crate::transport::lane::{AbortCode, Lane, LaneClosed, LaneKind, LaneReceiver, LaneSender, RECEIVE_LIMIT};
use crate::transport::queue::{Queue, TakeLimit, cost};
use crate::wire::{Frame, FrameDecoder, FrameError, FrameLimits};

/// Heads and payload chunks shorter than [`OWN_PIECE_BYTES`] are copied together up to this length.
const GATHERED_BYTES: usize = 64 << 10;
/// A payload chunk at least this long is not copied.
const OWN_PIECE_BYTES: usize = 16 << 10;
const PIECE_BYTES_MAX: usize = 128 << 10;
/// How much the writer holds at a time.
const WRITE_LIMIT: TakeLimit = TakeLimit { frames: 4096, bytes: 256 << 10 };
/// Pieces read from quinn at a time; one is at most a packet.
const PIECES_READ: usize = 64;
/// Smallest buffer that frames are cut from.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long a finished lane goes on delivering what it has queued to a peer that does not read.
const LINGER: Duration = Duration::from_secs(30);

const _: () = assert!(PIECE_BYTES_MAX <= SEND_WINDOW_BYTES / 8, "or writing stalls on delayed acknowledgements");
const _: () = assert!(SEND_WINDOW_BYTES / OWN_PIECE_BYTES * 2 <= 256, "or walking the unacknowledged pieces is slow");

/// The first bytes of a stream.
pub(super) const PREAMBLE_LEN: usize = 4;
const PREAMBLE_MAGIC: [u8; 2] = *b"DL";
const PREAMBLE_VERSION: u8 = 1;

pub(super) fn preamble(kind: LaneKind) -> [u8; PREAMBLE_LEN] {
    [PREAMBLE_MAGIC[0], PREAMBLE_MAGIC[1], PREAMBLE_VERSION, kind as u8]
}

/// What is wrong with the beginning of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotALane {
    Magic([u8; 2]),
    Version(u8),
    Kind(u8),
    Incomplete,
}

impl NotALane {
    fn code(self) -> AbortCode {
        match self {
            Self::Kind(_) => AbortCode::UnknownKind,
            Self::Magic(_) | Self::Version(_) | Self::Incomplete => AbortCode::Protocol,
        }
    }
}

impl fmt::Display for NotALane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(bytes) => write!(f, "a stream that begins with {bytes:02x?} is not a lane"),
            Self::Version(version) => {
                write!(f, "a lane of version {version}, this process speaks {PREAMBLE_VERSION}: upgrade the older side")
            }
            Self::Kind(kind) => write!(f, "a lane of unknown kind {kind}: upgrade the older side"),
            Self::Incomplete => f.write_str("a stream that ended or stopped before it said what it is"),
        }
    }
}

pub(super) fn lane_kind([m0, m1, version, kind]: [u8; PREAMBLE_LEN]) -> Result<LaneKind, NotALane> {
    if [m0, m1] != PREAMBLE_MAGIC {
        return Err(NotALane::Magic([m0, m1]));
    }
    if version != PREAMBLE_VERSION {
        return Err(NotALane::Version(version));
    }
    LaneKind::from_u8(kind).ok_or(NotALane::Kind(kind))
}

pub(super) fn refuse(send: &mut SendStream, recv: &mut RecvStream, why: NotALane) {
    let code = VarInt::from_u32(why.code().to_u32());
    // Closed already: then the peer knows.
    let _ = send.reset(code);
    let _ = recv.stop(code);
}

/// Makes a lane of a stream. `preamble` is what is still to be said before the first frame.
pub(super) fn start(runtime: &Handle, send: SendStream, recv: RecvStream, preamble: &[u8]) -> Lane {
    let queue = Arc::new(Queue::new());
    let mut gathered = BytesMut::with_capacity(4096);
    gathered.put_slice(preamble);
    runtime.spawn(Writer { queue: Arc::clone(&queue), gathered, pieces: Vec::new() }.run(send));
    let reader = FrameReader {
        stream: recv,
        buffer: BytesMut::new(),
        decoder: FrameDecoder::new(FrameLimits::DEFAULT),
        pieces: vec![Bytes::new(); PIECES_READ],
        end: None,
        own_queue: Arc::clone(&queue),
    };
    Lane { tx: LaneSender::new(queue, None), rx: LaneReceiver::quic(reader) }
}

struct Writer {
    queue: Arc<Queue>,
    gathered: BytesMut,
    pieces: Vec<Bytes>,
}

impl Drop for Writer {
    /// Does nothing if the lane has ended; otherwise its runtime went down.
    fn drop(&mut self) {
        self.queue.fail(LaneClosed::Local);
    }
}

impl Writer {
    async fn run(mut self, mut stream: SendStream) {
        let queue = Arc::clone(&self.queue);
        let stopped = stream.stopped();
        let end = tokio::select! {
            biased;
            end = self.write_all(&mut stream) => end,
            stopped = stopped => stop_reason(stopped),
            () = lingered(&queue) => LaneClosed::Aborted { code: AbortCode::Abandoned },
        };
        match end {
            LaneClosed::Finished => {
                // The stream holds the connection until the peer has everything.
                let delivered = stream.finish().is_ok() && matches!(stream.stopped().await, Ok(None));
                if delivered { queue.complete() } else { queue.fail(LaneClosed::Finished) }
            }
            end => {
                if let Some(code) = abort_code(&end) {
                    // Closed already: then the peer knows.
                    let _ = stream.reset(VarInt::from_u32(code.to_u32()));
                }
                queue.fail(end);
            }
        }
    }

    /// Writes until there is no more, or no use.
    async fn write_all(&mut self, stream: &mut SendStream) -> LaneClosed {
        let mut frames = Vec::new();
        let mut bytes = 0;
        loop {
            self.gathered.reserve(bytes.min(GATHERED_BYTES));
            self.pieces_of(frames.drain(..));
            for piece in self.pieces.drain(..) {
                if let Err(error) = stream.write_chunk(piece).await {
                    return write_error(error);
                }
            }
            self.queue.release(bytes);
            bytes = match self.queue.take(&mut frames, WRITE_LIMIT).await {
                Ok(bytes) => bytes,
                Err(end) => return end,
            };
        }
    }

    /// Turns frames, and what is gathered already, into pieces for quinn.
    fn pieces_of(&mut self, frames: impl Iterator<Item = Frame>) {
        for frame in frames {
            frame.encode_head(&mut self.gathered);
            for chunk in frame.payload.chunks() {
                if chunk.len() < OWN_PIECE_BYTES {
                    self.gathered.put_slice(chunk);
                } else {
                    self.flush_gathered();
                    push_split(&mut self.pieces, chunk.clone());
                }
            }
            if self.gathered.len() >= GATHERED_BYTES {
                self.flush_gathered();
            }
        }
        self.flush_gathered();
    }

    fn flush_gathered(&mut self) {
        if !self.gathered.is_empty() {
            push_split(&mut self.pieces, self.gathered.split().freeze());
        }
    }
}

fn push_split(pieces: &mut Vec<Bytes>, mut bytes: Bytes) {
    while bytes.len() > PIECE_BYTES_MAX {
        pieces.push(bytes.split_to(PIECE_BYTES_MAX));
    }
    pieces.push(bytes);
}

async fn lingered(queue: &Queue) {
    queue.finished().await;
    tokio::time::sleep(LINGER).await;
}

fn write_error(error: WriteError) -> LaneClosed {
    match error {
        WriteError::Stopped(code) => stop_reason(Ok(Some(code))),
        WriteError::ConnectionLost(error) => LaneClosed::ConnectionLost { reason: close_reason(&error) },
        WriteError::ClosedStream | WriteError::ZeroRttRejected => LaneClosed::Local,
    }
}

fn stop_reason(stopped: Result<Option<VarInt>, StoppedError>) -> LaneClosed {
    match stopped {
        Ok(Some(code)) if code.into_inner() == 0 => LaneClosed::Finished,
        Ok(Some(code)) => LaneClosed::Aborted { code: AbortCode::from_u64(code.into_inner()) },
        Ok(None) | Err(StoppedError::ZeroRttRejected) => LaneClosed::Local,
        Err(StoppedError::ConnectionLost(error)) => LaneClosed::ConnectionLost { reason: close_reason(&error) },
    }
}

/// What the peer is told, if this end of a lane is news to it.
fn abort_code(end: &LaneClosed) -> Option<AbortCode> {
    match end {
        LaneClosed::Protocol(_) | LaneClosed::Truncated => Some(AbortCode::Protocol),
        LaneClosed::Overrun { .. } => Some(AbortCode::Overrun),
        LaneClosed::Aborted { code: AbortCode::Abandoned } => Some(AbortCode::Abandoned),
        LaneClosed::Finished | LaneClosed::Local | LaneClosed::ConnectionLost { .. } | LaneClosed::Aborted { .. } => {
            None
        }
    }
}

/// Takes frames out of a stream.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    /// Empty between reads.
    pieces: Vec<Bytes>,
    end: Option<LaneClosed>,
    /// The other direction of the lane: it fails when this one turns out not to be frames.
    own_queue: Arc<Queue>,
}

impl FrameReader {
    pub(crate) fn set_limits(&mut self, limits: FrameLimits) {
        self.decoder = FrameDecoder::new(limits);
    }

    /// Appends at least one frame to `out`. Cancel-safe: between two awaits all bytes are in the buffer.
    pub(crate) async fn read(&mut self, out: &mut Vec<Frame>) -> Result<(), LaneClosed> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let before = out.len();
        let mut end = None;
        while out.len() == before && end.is_none() {
            end = match self.decode(out) {
                Err(error) => Some(self.protocol_error(error)),
                Ok(()) if out.len() > before => break,
                Ok(()) => match self.stream.read_chunks(&mut self.pieces).await {
                    Ok(Some(count)) => self.buffer_pieces(count, out).err().map(|error| self.protocol_error(error)),
                    Ok(None) if self.buffer.is_empty() => Some(LaneClosed::Finished),
                    Ok(None) => Some(LaneClosed::Truncated),
                    Err(error) => Some(read_error(error)),
                },
            };
        }
        self.end = end;
        match &self.end {
            Some(end) if out.len() == before => Err(end.clone()),
            _ => Ok(()),
        }
    }

    /// Appends pieces to the buffer and moves whole frames to `out`. The first piece may end one frame and begin the next:
    /// decoding at that point makes room for all of a long frame, so that it is copied once.
    fn buffer_pieces(&mut self, count: usize, out: &mut Vec<Frame>) -> Result<(), FrameError> {
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut left_bytes: usize = pieces[..count].iter().map(Bytes::len).sum();
        let mut result = Ok(());
        for (index, piece) in pieces[..count].iter_mut().enumerate() {
            if index == 1 {
                result = self.decode(out);
            }
            let piece = std::mem::take(piece);
            if self.buffer.capacity() - self.buffer.len() < piece.len() {
                self.buffer.reserve(left_bytes.max(READ_BUFFER_BYTES));
            }
            left_bytes -= piece.len();
            self.buffer.put_slice(&piece);
        }
        self.pieces = pieces;
        result.and_then(|()| self.decode(out))
    }

    /// Moves whole frames from the buffer to `out`, about as many as one receive hands out.
    fn decode(&mut self, out: &mut Vec<Frame>) -> Result<(), FrameError> {
        let (before, mut bytes) = (out.len(), 0);
        while out.len() - before < RECEIVE_LIMIT.frames && bytes < RECEIVE_LIMIT.bytes {
            let Some(frame) = self.decoder.decode(&mut self.buffer)? else { break };
            bytes += cost(&frame);
            out.push(frame);
        }
        Ok(())
    }

    fn protocol_error(&mut self, error: FrameError) -> LaneClosed {
        let end = LaneClosed::Protocol(error);
        // Closed already: then the peer knows.
        let _ = self.stream.stop(VarInt::from_u32(AbortCode::Protocol.to_u32()));
        self.own_queue.fail(end.clone());
        end
    }
}

fn read_error(error: ReadError) -> LaneClosed {
    match error {
        ReadError::Reset(code) => LaneClosed::Aborted { code: AbortCode::from_u64(code.into_inner()) },
        ReadError::ConnectionLost(error) => LaneClosed::ConnectionLost { reason: close_reason(&error) },
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => LaneClosed::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_preamble() {
        assert_eq!(preamble(LaneKind::Store), [0x44, 0x4c, 1, 3]);
        assert_eq!(lane_kind(preamble(LaneKind::Raft)), Ok(LaneKind::Raft));
        assert_eq!(lane_kind(*b"GET "), Err(NotALane::Magic(*b"GE")));
        assert_eq!(lane_kind(*b"DL\x02\x01"), Err(NotALane::Version(2)));
        assert_eq!(lane_kind(*b"DL\x01\x63"), Err(NotALane::Kind(0x63)));
    }

    fn pieces_of(frames: Vec<Frame>) -> Vec<usize> {
        let mut writer = Writer { queue: Arc::new(Queue::new()), gathered: BytesMut::new(), pieces: Vec::new() };
        writer.pieces_of(frames.into_iter());
        let pieces: Vec<_> = writer.pieces.iter().map(Bytes::len).collect();
        assert!(pieces.iter().all(|&piece| (1..=PIECE_BYTES_MAX).contains(&piece)));
        pieces
    }

    #[test]
    fn small_frames_are_gathered_and_long_payloads_are_not_copied() {
        let frame = |payload_len: usize| Frame {
            kind: 1,
            body_version: 1,
            corr: 0,
            body: Bytes::from_static(b"body"),
            payload: Bytes::from(vec![0; payload_len]).into(),
        };
        assert_eq!(pieces_of((0..1000).map(|_| frame(64)).collect()).len(), 2);
        let long = 300 << 10;
        assert_eq!(
            pieces_of(vec![frame(10), frame(long), frame(10)]),
            [2 * 36 + 10, PIECE_BYTES_MAX, PIECE_BYTES_MAX, long - 2 * PIECE_BYTES_MAX, 36 + 10]
        );
        let huge_body = Frame { body: vec![0; 1 << 20].into(), ..frame(0) };
        assert_eq!(pieces_of(vec![huge_body]).len(), 9);
        assert!(pieces_of(Vec::new()).is_empty());
    }
}
