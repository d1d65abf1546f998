//! The queue between a lane's senders and whatever takes its frames away: the writer of a QUIC stream, or, inside a process,
//! the peer's receiver itself.
//!
//! States: open → finished (no more is taken in, what is there still goes out) → ended. It can also end at once, with
//! different news for the two sides. Invariants: `bytes` counts everything pushed and not yet released, at most
//! [`QUEUE_BYTES_MAX`]; after the end nothing is pushed; the first end stays.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lane::LaneClosed;
use crate::wire::{Frame, FrameError, FrameLimits};

/// Where [`ready`](Queue::ready) starts to wait, unless set otherwise.
pub(super) const HIGH_WATER_BYTES: usize = 1 << 20;
/// More than this is never held: a lane whose sender does not wait and whose peer does not read is failed.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Room for this many frames is kept when the queue runs empty; a burst's is given back.
const KEPT_FRAMES: usize = 1 << 14;

const _: () = assert!(
    QUEUE_BYTES_MAX > (FrameLimits::DEFAULT.body_len_max + FrameLimits::DEFAULT.payload_len_max) as usize,
    "one legal frame must always fit into an empty queue"
);

/// How much is taken at a time: whatever is ready, but at most about this.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakeLimit {
    pub frames: usize,
    pub bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// One permit: there is something for the one receiver.
    readable: Notify,
    /// Below high water again, finished, or ended.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    high_water_bytes: usize,
    finished: bool,
    sender_end: Option<LaneClosed>,
    receiver_end: Option<LaneClosed>,
}

/// What a frame costs in memory, not on the wire: thousands of empty frames are not free.
pub(super) fn cost(frame: &Frame) -> usize {
    size_of::<Frame>() + frame.body.len() + frame.payload.len()
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                frames: VecDeque::new(),
                bytes: 0,
                high_water_bytes: HIGH_WATER_BYTES,
                finished: false,
                sender_end: None,
                receiver_end: None,
            }),
            readable: Notify::new(),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a lane's queue")
    }

    pub(super) fn push(&self, frame: Frame) -> Result<(), LaneClosed> {
        let cost = cost(&frame);
        let mut state = self.lock();
        if let Some(end) = &state.sender_end {
            return Err(end.clone());
        }
        if state.finished {
            return Err(LaneClosed::Local);
        }
        let refused = match too_long(&frame) {
            Some(error) => Some(LaneClosed::Protocol(error)),
            None if state.bytes + cost > QUEUE_BYTES_MAX => Some(LaneClosed::Overrun { queued_bytes: state.bytes }),
            None => None,
        };
        if let Some(end) = refused {
            self.end(state, end.clone(), end.clone(), Rest::Dropped);
            return Err(end);
        }
        state.bytes += cost;
        state.frames.push_back(frame);
        let was_empty = state.frames.len() == 1;
        drop(state);
        if was_empty {
            self.readable.notify_one();
        }
        Ok(())
    }

    /// Moves what is there to `out` and says what it costs; waits if there is nothing. Cancel-safe. The cost stays counted
    /// until it is given to [`release`](Self::release).
    pub(super) async fn take(&self, out: &mut Vec<Frame>, limit: TakeLimit) -> Result<usize, LaneClosed> {
        loop {
            if let Some(taken) = self.try_take(out, limit)? {
                return Ok(taken);
            }
            self.readable.notified().await;
        }
    }

    fn try_take(&self, out: &mut Vec<Frame>, limit: TakeLimit) -> Result<Option<usize>, LaneClosed> {
        let mut state = self.lock();
        if state.frames.is_empty() {
            return match &state.receiver_end {
                Some(end) => Err(end.clone()),
                None if state.finished => Err(LaneClosed::Finished),
                None => Ok(None),
            };
        }
        let (mut count, mut bytes) = (0, 0);
        for frame in state.frames.iter().take(limit.frames) {
            bytes += cost(frame);
            count += 1;
            if bytes >= limit.bytes {
                break;
            }
        }
        out.extend(state.frames.drain(..count));
        if state.frames.is_empty() && state.frames.capacity() > KEPT_FRAMES {
            state.frames = VecDeque::new();
        }
        Ok(Some(bytes))
    }

    /// What was taken has gone on its way.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        let was_full = state.bytes >= state.high_water_bytes;
        state.bytes = state.bytes.saturating_sub(bytes);
        let is_full = state.bytes >= state.high_water_bytes;
        drop(state);
        if was_full && !is_full {
            self.changed.notify_waiters();
        }
    }

    /// Nothing more will be pushed; what is there still goes out.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.readable.notify_one();
        self.changed.notify_waiters();
    }

    /// Everything went out after [`finish`](Self::finish).
    pub(super) fn complete(&self) {
        self.end(self.lock(), LaneClosed::Local, LaneClosed::Finished, Rest::Dropped);
    }

    /// Ends the lane; what is queued is dropped.
    pub(super) fn fail(&self, end: LaneClosed) {
        self.end(self.lock(), end.clone(), end, Rest::Dropped);
    }

    /// Ends the lane with news for each side; the receiver still gets what is queued, and after a finish nothing is amiss.
    pub(super) fn close(&self, sender_end: LaneClosed, receiver_end: LaneClosed) {
        let state = self.lock();
        let receiver_end = if state.finished { LaneClosed::Finished } else { receiver_end };
        self.end(state, sender_end, receiver_end, Rest::Delivered);
    }

    fn end(&self, mut state: MutexGuard<'_, State>, sender_end: LaneClosed, receiver_end: LaneClosed, rest: Rest) {
        if state.sender_end.is_none() {
            state.sender_end = Some(sender_end);
            state.receiver_end = Some(receiver_end);
        }
        let dropped = match rest {
            Rest::Dropped => {
                state.bytes = 0;
                std::mem::take(&mut state.frames)
            }
            Rest::Delivered => VecDeque::new(),
        };
        drop(state);
        drop(dropped);
        self.readable.notify_one();
        self.changed.notify_waiters();
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn set_high_water_bytes(&self, bytes: usize) {
        self.lock().high_water_bytes = bytes.max(1);
        self.changed.notify_waiters();
    }

    /// Waits until less than the high-water mark is queued.
    pub(super) async fn ready(&self) -> Result<(), LaneClosed> {
        self.wait_until(|state| match &state.sender_end {
            Some(end) => Some(Err(end.clone())),
            None if state.finished => Some(Err(LaneClosed::Local)),
            None => (state.bytes < state.high_water_bytes).then_some(Ok(())),
        })
        .await
    }

    /// Waits until nothing more will be pushed.
    pub(super) async fn finished(&self) {
        self.wait_until(|state| state.finished.then_some(())).await;
    }

    /// Waits for the end, as the senders see it.
    pub(super) async fn ended(&self) -> LaneClosed {
        self.wait_until(|state| state.sender_end.clone()).await
    }

    async fn wait_until<T>(&self, answer: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that a change after the look is not missed.
            changed.as_mut().enable();
            if let Some(answer) = answer(&self.lock()) {
                return answer;
            }
            changed.await;
        }
    }
}

#[derive(Clone, Copy)]
enum Rest {
    Delivered,
    Dropped,
}

/// What the peer would refuse is refused here, where the caller can be found.
fn too_long(frame: &Frame) -> Option<FrameError> {
    let limits = FrameLimits::DEFAULT;
    let over = |part, len: usize, max: u32| {
        (len > max as usize).then(|| FrameError::TooLong { part, len: u32::try_from(len).unwrap_or(u32::MAX), max })
    };
    over("body", frame.body.len(), limits.body_len_max)
        .or_else(|| over("payload", frame.payload.len(), limits.payload_len_max))
}
