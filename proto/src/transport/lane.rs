//! Lanes: ordered, reliable, long-lived streams of frames in both directions, one per purpose.
//!
//! Sending never waits: frames go to a queue that somebody drains. A caller whose volume is bounded elsewhere (by a window,
//! by one answer per question) just sends; any other calls [`LaneSender::ready`] first. Receiving is bounded by not
//! receiving: over QUIC nothing is read ahead of the consumer and flow control holds the peer back; inside a process the
//! sender's queue is all there is.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::connection::CloseReason;
use super::memory::End;
use super::queue::{Queue, TakeLimit};
use super::quic::FrameReader;
use crate::wire::{Frame, FrameError, FrameLimits};

/// What a lane is for. Its number is the lane's first word to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LaneKind {
    /// Handshake and single requests.
    Control = 1,
    Append = 2,
    Store = 3,
    Read = 4,
    Liveness = 5,
    Watch = 6,
    Raft = 7,
}

impl LaneKind {
    pub const ALL: [Self; 7] =
        [Self::Control, Self::Append, Self::Store, Self::Read, Self::Liveness, Self::Watch, Self::Raft];

    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Why the peer broke a lane off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortCode {
    /// What this side sent is not frames, or frames over the peer's limits.
    Protocol,
    /// The peer queued more than it may hold.
    Overrun,
    /// The peer does not know this kind of lane.
    UnknownKind,
    /// The peer gave up on delivering what it had queued.
    Abandoned,
    Other(u64),
}

impl AbortCode {
    pub(super) fn to_u32(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Overrun => 2,
            Self::UnknownKind => 3,
            Self::Abandoned => 4,
            Self::Other(code) => u32::try_from(code).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn from_u64(code: u64) -> Self {
        match code {
            1 => Self::Protocol,
            2 => Self::Overrun,
            3 => Self::UnknownKind,
            4 => Self::Abandoned,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for AbortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol => f.write_str("what this side sent was not acceptable as frames"),
            Self::Overrun => f.write_str("it queued more than a lane may hold"),
            Self::UnknownKind => f.write_str("it does not know this kind of lane, upgrade the older side"),
            Self::Abandoned => f.write_str("it gave up on delivering the rest"),
            Self::Other(code) => write!(f, "code {code}"),
        }
    }
}

/// Why a lane is over. Frames that were whole before the end are received first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneClosed {
    #[error("the peer closed the lane")]
    Finished,
    #[error("the lane was closed on this side")]
    Local,
    #[error("the connection is gone: {reason}")]
    ConnectionLost { reason: CloseReason },
    #[error("{0}")]
    Protocol(FrameError),
    #[error("the peer closed the lane in the middle of a frame")]
    Truncated,
    #[error("{queued_bytes} bytes are queued on a lane whose peer does not keep up: wait for ready() before sending")]
    Overrun { queued_bytes: usize },
    #[error("the peer broke the lane off: {code}")]
    Aborted { code: AbortCode },
}

/// Both directions of a lane. Dropping one direction closes that direction.
#[derive(Debug)]
pub struct Lane {
    pub tx: LaneSender,
    pub rx: LaneReceiver,
}

impl Lane {
    pub fn split(self) -> (LaneSender, LaneReceiver) {
        (self.tx, self.rx)
    }
}

/// Where frames go in. The lane is finished when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct LaneSender {
    last: Arc<LastSender>,
}

#[derive(Debug)]
struct LastSender {
    queue: Arc<Queue>,
    _end: Option<Arc<End>>,
}

impl Drop for LastSender {
    fn drop(&mut self) {
        self.queue.finish();
    }
}

impl LaneSender {
    pub(super) fn new(queue: Arc<Queue>, end: Option<Arc<End>>) -> Self {
        Self { last: Arc::new(LastSender { queue, _end: end }) }
    }

    /// Queues a frame; never waits. `Ok` says nothing about the peer.
    pub fn send(&self, frame: Frame) -> Result<(), LaneClosed> {
        self.last.queue.push(frame)
    }

    /// What is queued and not yet handed to the network (or taken by the peer in this process), in bytes of memory.
    pub fn queued_bytes(&self) -> usize {
        self.last.queue.queued_bytes()
    }

    /// Waits until less than the high-water mark is queued.
    pub async fn ready(&self) -> Result<(), LaneClosed> {
        self.last.queue.ready().await
    }

    /// The mark for [`ready`](Self::ready), 1 MiB if not set.
    pub fn set_high_water_bytes(&self, bytes: usize) {
        self.last.queue.set_high_water_bytes(bytes);
    }

    /// Takes no more frames; what is queued still goes out. [`closed`](Self::closed) tells when the peer has it.
    pub fn finish(&self) {
        self.last.queue.finish();
    }

    /// Waits until nothing can reach the peer on this lane any more. [`LaneClosed::Local`] means that after
    /// [`finish`](Self::finish) everything was delivered.
    pub async fn closed(&self) -> LaneClosed {
        self.last.queue.ended().await
    }
}

/// Where frames come out. A frame of a QUIC lane shares its bytes with others that arrived with it: copy what is kept for
/// long.
#[derive(Debug)]
pub struct LaneReceiver {
    source: Source,
    /// Received for [`recv`](Self::recv), not handed out yet.
    waiting: VecDeque<Frame>,
}

#[derive(Debug)]
enum Source {
    Quic(Box<FrameReader>),
    Memory(MemoryReader),
}

#[derive(Debug)]
struct MemoryReader {
    queue: Arc<Queue>,
    _end: Arc<End>,
}

/// How much [`LaneReceiver::recv_many`] hands out at a time.
pub(super) const RECEIVE_LIMIT: TakeLimit = TakeLimit { frames: 4096, bytes: 1 << 20 };

impl LaneReceiver {
    pub(super) fn quic(reader: FrameReader) -> Self {
        Self { source: Source::Quic(Box::new(reader)), waiting: VecDeque::new() }
    }

    pub(super) fn memory(queue: Arc<Queue>, end: Arc<End>) -> Self {
        Self { source: Source::Memory(MemoryReader { queue, _end: end }), waiting: VecDeque::new() }
    }

    /// Appends all frames that are ready to `out`, at least one, at most about 4096 or 1 MiB, and says how many.
    /// Cancel-safe.
    pub async fn recv_many(&mut self, out: &mut Vec<Frame>) -> Result<usize, LaneClosed> {
        if !self.waiting.is_empty() {
            let count = self.waiting.len();
            out.extend(self.waiting.drain(..));
            return Ok(count);
        }
        let before = out.len();
        match &mut self.source {
            Source::Quic(reader) => reader.read(out).await?,
            Source::Memory(reader) => reader.read(out).await?,
        }
        Ok(out.len() - before)
    }

    /// The next frame. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Frame, LaneClosed> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Ok(frame);
            }
            let mut batch = Vec::new();
            self.recv_many(&mut batch).await?;
            self.waiting = batch.into();
        }
    }

    /// Refuses longer frames than the [default](FrameLimits::DEFAULT) from here on. Frames that move inside a process are
    /// not measured again.
    pub fn set_frame_limits(&mut self, limits: FrameLimits) {
        match &mut self.source {
            Source::Quic(reader) => reader.set_limits(limits),
            Source::Memory(_) => {}
        }
    }
}

impl MemoryReader {
    async fn read(&self, out: &mut Vec<Frame>) -> Result<(), LaneClosed> {
        match self.queue.take(out, RECEIVE_LIMIT).await {
            Ok(bytes) => {
                self.queue.release(bytes);
                Ok(())
            }
            Err(end) => {
                if end == LaneClosed::Finished {
                    self.queue.complete();
                }
                Err(seen_by_receiver(end))
            }
        }
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.queue.fail(LaneClosed::Finished);
    }
}

/// What a sender did to itself, as its peer sees it: the same as over a network.
fn seen_by_receiver(end: LaneClosed) -> LaneClosed {
    match end {
        LaneClosed::Overrun { .. } => LaneClosed::Aborted { code: AbortCode::Overrun },
        LaneClosed::Protocol(_) => LaneClosed::Aborted { code: AbortCode::Protocol },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_fixed_numbers() {
        let numbers = LaneKind::ALL.map(|kind| kind as u8);
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7], "numbers are on the wire: never changed, only added");
        assert_eq!(LaneKind::from_u8(3), Some(LaneKind::Store));
        assert_eq!((LaneKind::from_u8(0), LaneKind::from_u8(8)), (None, None));
    }

    #[test]
    fn abort_codes_survive_the_wire() {
        for code in 0..10 {
            assert_eq!(u64::from(AbortCode::from_u64(code).to_u32()), code);
        }
    }
}
