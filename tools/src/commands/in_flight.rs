//! Records that wait for their acknowledgement, in the order in which they were appended.

use std::collections::VecDeque;

use dlog_client::{Ack, AppendFailure, Appended};

/// The outcome of a record, to come.
pub(super) trait Acknowledgement {
    type Outcome;

    /// The outcome, if it is there already.
    fn now(&self) -> Option<Self::Outcome>;

    /// Waits until it is there.
    async fn settled(&mut self);
}

impl Acknowledgement for Ack {
    type Outcome = Result<Appended, AppendFailure>;

    fn now(&self) -> Option<Self::Outcome> {
        Self::now(self)
    }

    async fn settled(&mut self) {
        drop(self.await);
    }
}

/// Bytes of records that wait, at most. Smaller than an appender's window, so that appending never waits by itself: then
/// acknowledgements are seen as soon as they come.
const BYTES_MAX: usize = 16 << 20;
/// An appender's window that is never full.
pub(super) const WINDOW_BYTES: usize = 2 * BYTES_MAX;
/// What a record takes in the window besides its value, at least.
const OVERHEAD: usize = 32;

#[derive(Debug)]
pub(super) struct InFlight<T, A = Ack> {
    waiting: VecDeque<Waiting<T, A>>,
    bytes: usize,
    records_max: usize,
}

#[derive(Debug)]
struct Waiting<T, A> {
    ack: A,
    len: usize,
    about: T,
}

/// A record that has its outcome.
pub(super) struct Settled<T, O> {
    pub(super) about: T,
    /// Of the record, in bytes.
    pub(super) len: usize,
    pub(super) outcome: O,
}

impl<T, A: Acknowledgement> InFlight<T, A> {
    pub(super) fn new(records_max: u32) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, records_max: records_max as usize }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.records_max && self.bytes < BYTES_MAX
    }

    pub(super) fn push(&mut self, ack: A, len: usize, about: T) {
        self.bytes += len + OVERHEAD;
        self.waiting.push_back(Waiting { ack, len, about });
    }

    /// The next one in order.
    pub(super) fn oldest(&self) -> Option<&T> {
        self.waiting.front().map(|waiting| &waiting.about)
    }

    /// The next one in order, if it has its outcome.
    pub(super) fn pop_settled(&mut self) -> Option<Settled<T, A::Outcome>> {
        let outcome = self.waiting.front()?.ack.now()?;
        let Waiting { len, about, .. } = self.waiting.pop_front()?;
        self.bytes -= len + OVERHEAD;
        Some(Settled { about, len, outcome })
    }

    /// Waits until the next one in order has its outcome; for ever if none waits.
    pub(super) async fn next_settled(&mut self) {
        match self.waiting.front_mut() {
            Some(next) => next.ack.settled().await,
            None => std::future::pending().await,
        }
    }
}

impl<T> InFlight<T> {
    /// How many, the next one in order first, have failed in a way that makes `which` true.
    pub(super) fn failed(&self, which: impl Fn(&AppendFailure) -> bool) -> usize {
        let failed = |waiting: &&Waiting<T, Ack>| matches!(waiting.ack.now(), Some(Err(failure)) if which(&failure));
        self.waiting.iter().take_while(failed).count()
    }
}
