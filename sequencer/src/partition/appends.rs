//! What a partition takes: each append is checked, waits if it depends on a past that is not known yet, is recognised if it was taken
//! before, and is answered once.
//!
//! INV-DEDUP: a retry is answered with the first answer only if that batch is acknowledged or its epoch decided (trap C11), and not if
//! it lies beyond the end.

use std::mem;

use bytes::{Bytes, BytesMut};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::producer::{Admission, ProducerBatch, StoredBatch};
use dlog_proto::record::{self, BatchError, BatchHeader, NO_TIMESTAMP};
use dlog_proto::wire::{Acks, AppendError, AppendOk};
use dlog_proto::{Esn, Lsn, Time, TimestampMs};

use super::{PartitionSequencer, Past, Succession};
use crate::appender::Refusal;
use crate::in_flight::Waiter;
use crate::output::{NewEpochReason, Output, Token};

/// An append as it arrives.
#[derive(Debug)]
pub struct AppendRequest {
    pub token: Token,
    pub acks: Acks,
    /// Answer with the offset, even if that means waiting.
    pub with_offset: bool,
    /// The records get the time at which the epoch takes them instead of their producer's.
    pub append_time: bool,
    /// One record batch; validated here.
    pub batch: Bytes,
}

/// An append that depends on the past.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: AppendRequest,
    header: BatchHeader,
    pub(super) until: Time,
}

impl PartitionSequencer {
    /// Takes an append. The answer comes as [`Output::Reply`].
    pub fn handle_append(&mut self, now: Time, now_ms: TimestampMs, request: AppendRequest) {
        self.now_ms = self.now_ms.max(now_ms);
        if self.preempted_by.is_some() {
            return self.refuse(request.token, AppendError::NotSequencer { node: None, epoch: self.epoch });
        }
        let header = match record::check_produced(&request.batch, &self.settings.batch_limits, now_ms) {
            Ok(header) => header,
            Err(error) => return self.refuse(request.token, append_error(error)),
        };
        let depends = request.with_offset || header.last_sequence().is_some();
        let queue = !self.waiting.is_empty() || !(matches!(self.past, Past::Ready) || bug(Bug::DedupDoesNotWait));
        if depends && queue || self.succession != Succession::None {
            return self.wait(now, request, header);
        }
        if let Some(request) = self.admit(now, request, &header) {
            self.wait(now, request, header);
        }
    }

    fn wait(&mut self, now: Time, request: AppendRequest, header: BatchHeader) {
        if self.waiting_bytes + request.batch.len() > self.settings.recovery_wait_bytes_max {
            return self.refuse(request.token, self.recovering());
        }
        self.waiting_bytes += request.batch.len();
        self.waiting.push_back(Waiting { request, header, until: now + self.settings.recovery_wait });
    }

    fn recovering(&self) -> AppendError {
        let reason = match &self.past {
            Past::Recovering(recovery) => recovery.waits_for(),
            Past::ReadingProducers(_) => "what producers wrote is being read back".to_owned(),
            Past::Ready => "a new epoch is being activated".to_owned(),
        };
        AppendError::Recovering { reason, retry_after_ms: 100 }
    }

    /// Takes a batch whose past is known, or does not matter. Gives it back if it has to wait for a new epoch.
    fn admit(&mut self, now: Time, request: AppendRequest, header: &BatchHeader) -> Option<AppendRequest> {
        let Some(batch) = producer_batch(header) else { return self.append(request, header).err() };
        match self.producers.admit(&batch) {
            Admission::New => match self.append(request, header) {
                Ok(Some(esn)) => {
                    let lsn = Lsn::new(self.epoch, esn);
                    self.producers.note(&batch, lsn, self.now_ms);
                    self.snapshots.note(lsn);
                }
                Ok(None) => {}
                Err(request) => return Some(request),
            },
            Admission::Duplicate(stored) => self.answer_duplicate(now, &request, stored),
            Admission::OutOfOrder { expected } => {
                let (producer, found) = (batch.producer, batch.first_sequence);
                self.refuse(request.token, AppendError::OutOfOrder { producer, expected, found });
            }
            Admission::Fenced { current } => {
                self.refuse(request.token, AppendError::Fenced { producer: batch.producer, current });
            }
            Admission::Unknown => {
                self.refuse(request.token, AppendError::UnknownProducer { producer: batch.producer });
            }
        }
        None
    }

    /// Hands a batch to the epoch. Its first ESN, unless it was refused; the batch itself, if the epoch is full.
    fn append(&mut self, request: AppendRequest, header: &BatchHeader) -> Result<Option<Esn>, AppendRequest> {
        let (token, acks) = (request.token, request.acks);
        let produced = (header.base_timestamp_ms.min(header.max_timestamp_ms), header.max_timestamp_ms);
        // Stamped only here: what had to wait may go to a new epoch, and is checked there as what a producer sent.
        let (batch, timestamps, append_time) = match request.append_time {
            true => (with_append_time(&request.batch, self.now_ms), (self.now_ms, self.now_ms), self.now_ms),
            false => (request.batch.clone(), produced, NO_TIMESTAMP),
        };
        let waiter = |esn| Some(Waiter { token, acks, esn, append_time, duplicate: false });
        let len = batch.len() as u64;
        match self.appender.handle_append(batch, header.span(), timestamps, waiter) {
            Ok(esn) => {
                self.snapshots.add_bytes(len);
                Ok(Some(esn))
            }
            Err(Refusal::EpochFull) if header.span() > self.settings.esn_max.0 => {
                let reason = format!("it has {} records, and an epoch takes {}", header.span(), self.settings.esn_max);
                self.refuse(token, AppendError::Invalid { reason });
                Ok(None)
            }
            Err(Refusal::EpochFull) => {
                self.succession = Succession::Draining(NewEpochReason::EpochFull);
                Err(request)
            }
            Err(refusal @ Refusal::Overloaded) => {
                self.refuse(token, refusal.into());
                Ok(None)
            }
        }
    }

    /// INV-DEDUP: a batch of this epoch that is still on its way answers when it is acknowledged.
    fn answer_duplicate(&mut self, now: Time, request: &AppendRequest, stored: StoredBatch) {
        let (token, acks, esn) = (request.token, request.acks, stored.lsn.esn());
        let append_time = if request.append_time { stored.timestamp } else { NO_TIMESTAMP };
        if stored.lsn.epoch() == self.epoch {
            let waiter = Waiter { token, acks, esn, append_time, duplicate: true };
            if !bug(Bug::DuplicateAnsweredEarly) {
                if self.appender.join(waiter) {
                    return;
                }
                assert!(esn <= self.appender.acked() || acks == Acks::One, "what is not on its way is acknowledged");
            }
        }
        if stored.lsn.epoch() == self.epoch {
            return self.done(now, Waiter { token, acks, esn, append_time, duplicate: true });
        }
        let offset = self.table.offset_of(stored.lsn);
        let ok = AppendOk { lsn: stored.lsn, offset, append_time, duplicate: true };
        self.out.push_back(Output::Reply { token, outcome: Ok(ok) });
    }

    pub(super) fn done(&mut self, now: Time, waiter: Waiter) {
        if !self.may_acknowledge(now) {
            return self.unleased.push_back(waiter);
        }
        let lsn = Lsn::new(self.epoch, waiter.esn);
        let offset = self.table.offset_of(lsn);
        let ok = AppendOk { lsn, offset, append_time: waiter.append_time, duplicate: waiter.duplicate };
        self.out.push_back(Output::Reply { token: waiter.token, outcome: Ok(ok) });
    }

    pub(super) fn refuse(&mut self, token: Token, error: AppendError) {
        self.out.push_back(Output::Reply { token, outcome: Err(error) });
    }

    pub(super) fn take_waiting(&mut self, now: Time) {
        loop {
            let goes_on = matches!(self.past, Past::Ready) && self.succession == Succession::None;
            let Some(Waiting { request, header, until }) = self.waiting.pop_front_if(|w| goes_on || w.until <= now)
            else {
                return;
            };
            let len = request.batch.len();
            if !goes_on {
                let error = self.recovering();
                self.refuse(request.token, error);
            } else if let Some(request) = self.admit(now, request, &header) {
                self.waiting.push_front(Waiting { request, header, until });
                return;
            }
            self.waiting_bytes -= len;
        }
    }

    /// Appends that wait for a new epoch, in order, for the sequencer that replaces this one.
    pub fn take_waiting_appends(&mut self) -> Vec<AppendRequest> {
        self.waiting_bytes = 0;
        mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.request).collect()
    }
}

/// The batch with the time at which it was appended.
fn with_append_time(batch: &[u8], now_ms: TimestampMs) -> Bytes {
    let mut stamped = BytesMut::from(batch);
    record::set_append_time(&mut stamped, now_ms);
    stamped.freeze()
}

fn producer_batch(header: &BatchHeader) -> Option<ProducerBatch> {
    let (producer, last_sequence) = (header.producer?, header.last_sequence()?);
    let (epoch, first_sequence) = (producer.epoch, producer.base_sequence);
    Some(ProducerBatch { producer: producer.id, epoch, first_sequence, last_sequence })
}

fn append_error(error: BatchError) -> AppendError {
    match error {
        BatchError::Crc { .. } => AppendError::Corrupt,
        BatchError::TooLarge { len, max } => AppendError::TooLarge { len: len as u32, max: max as u32 },
        other => AppendError::Invalid { reason: other.to_string() },
    }
}
