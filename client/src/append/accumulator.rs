//! Records that wait for the next batch. Those that wait at the same moment share one; nothing is delayed for it.

use std::collections::VecDeque;
use std::sync::Arc;

use dlog_proto::Time;
use dlog_proto::record::{BatchBuilder, NewRecord};
use dlog_proto::wire::Acks;

use super::ack::{Ack, BatchState};

/// A batch that takes no more records.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) builder: BatchBuilder,
    pub(super) state: Arc<BatchState>,
    /// Copies to wait for.
    pub(super) acks: Acks,
    /// What its records count against the window, in bytes.
    pub(super) counted: usize,
}

#[derive(Debug)]
pub(super) struct Accumulator {
    batch_len_max: usize,
    builder: BatchBuilder,
    state: Arc<BatchState>,
    acks: Acks,
    counted: usize,
    /// When the first record of the open batch came.
    pub(super) opened_at: Time,
    full: VecDeque<Closed>,
    /// Builders to use again.
    spare: Vec<BatchBuilder>,
}

/// Builders that are kept for use again.
const SPARE_MAX: usize = 8;

impl Accumulator {
    pub(super) fn new(batch_len_max: usize) -> Self {
        Self {
            batch_len_max,
            builder: BatchBuilder::new(4096),
            state: Arc::default(),
            acks: Acks::Quorum,
            counted: 0,
            opened_at: Time::ZERO,
            full: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.builder.is_empty()
    }

    /// Whether a batch waits that cannot take more.
    pub(super) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Adds a record; asks for the time only if it begins a batch. Says how long it is, encoded, and whether somebody should
    /// look: it is the first, or ends a batch. The records of a batch wait for the same copies.
    pub(super) fn push(
        &mut self,
        now: impl FnOnce() -> Time,
        acks: Acks,
        record: &NewRecord<'_>,
    ) -> (Ack, usize, bool) {
        let mut len = self.builder.encoded_len_of(record);
        let mut look = false;
        let has_room = self.builder.len_bytes() + len <= self.batch_len_max && self.acks == acks;
        if !self.builder.is_empty() && !has_room {
            self.close();
            len = self.builder.encoded_len_of(record);
            look = true;
        }
        if self.builder.is_empty() {
            (self.opened_at, self.acks) = (now(), acks);
            look = true;
        }
        let index = self.builder.append(record);
        self.counted += len;
        (Ack::new(self.state.clone(), index), len, look)
    }

    fn close(&mut self) {
        let builder = std::mem::replace(&mut self.builder, self.spare.pop().unwrap_or_else(|| BatchBuilder::new(4096)));
        let (state, counted) = (std::mem::take(&mut self.state), std::mem::take(&mut self.counted));
        self.full.push_back(Closed { builder, state, acks: self.acks, counted });
    }

    /// The next batch, the open one too.
    pub(super) fn take(&mut self) -> Option<Closed> {
        if self.full.is_empty() && !self.builder.is_empty() {
            self.close();
        }
        self.full.pop_front()
    }

    /// Takes back a builder whose batch was made.
    pub(super) fn recycle(&mut self, builder: BatchBuilder) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(builder);
        }
    }
}
