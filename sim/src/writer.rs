//! A simulated writer: one partition, the production append core, records that are numbered.

use std::collections::BTreeMap;
use std::time::Duration;

use dlog_client::append::core::{AppendCore, AppendSettings, Output};
use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use dlog_proto::wire::{Acks, AppendError, AppendOk};
use dlog_proto::{LogOffset, Lsn, NodeId, PartitionUid, Time};

use crate::context::Context;
use crate::history::{Fate, Payload};
use crate::message::{Lane, Message};
use crate::network::Address;
use crate::scenario::LogPlan;

/// How long an answer to who sequences a partition may take.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Writer {
    number: u16,
    pub partition: PartitionUid,
    acks: Acks,
    core: AppendCore,
    /// Retries are told from new records.
    idempotent: bool,
    stamp: ProducerStamp,
    producers: i64,
    next_payload: u64,
    /// Records still to be written.
    pub left: u64,
    /// Payloads of the batches that are on their way.
    sent: BTreeMap<u64, Vec<Payload>>,
    sequencer: Option<Address>,
    /// When it was asked who sequences the partition.
    asked_at: Option<Time>,
    round: u32,
    /// When the next batch is made.
    next_at: Time,
    pause_max: Duration,
}

impl Writer {
    pub(crate) fn new(number: u16, partition: PartitionUid, plan: &LogPlan) -> Self {
        let LogPlan { idempotent, acks, records: left, pause_max, .. } = *plan;
        Self {
            number,
            partition,
            acks,
            core: AppendCore::new(AppendSettings::default()),
            idempotent,
            stamp: ProducerStamp { id: i64::from(number) * 1000, epoch: 0, base_sequence: 0 },
            producers: 1,
            next_payload: 0,
            left,
            sent: BTreeMap::new(),
            sequencer: None,
            asked_at: None,
            round: 0,
            next_at: Time::ZERO,
            pause_max,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.core.is_idle()
    }

    /// Who it believes sequences its partition.
    pub(crate) fn sequencer(&self) -> Option<Address> {
        self.sequencer
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let next_batch = (self.left > 0 && self.core.wants_batch()).then_some(self.next_at);
        let asked = self.asked_at.map(|at| at + ANSWER_TIMEOUT);
        self.core.next_timeout().into_iter().chain(next_batch).chain(asked).min()
    }

    pub(crate) fn handle_wake(&mut self, cx: &mut Context<'_>) {
        self.core.handle_tick(cx.now);
        if self.asked_at.is_some_and(|at| at + ANSWER_TIMEOUT <= cx.now) {
            self.asked_at = None;
            self.core.handle_unreachable(cx.now, "nobody answered".to_owned());
        }
        while self.left > 0 && self.core.wants_batch() && self.next_at <= cx.now {
            self.make_batch(cx);
            let pause = cx.rng.workload.u64(0..self.pause_max.as_micros() as u64);
            self.next_at = cx.now + Duration::from_micros(pause);
        }
        self.drain(cx);
    }

    fn make_batch(&mut self, cx: &mut Context<'_>) {
        let count = cx.rng.workload.u64(1..=4).min(self.left);
        let mut builder = BatchBuilder::new(256);
        let mut payloads = Vec::new();
        for _ in 0..count {
            let payload = Payload { writer: self.number, number: self.next_payload };
            self.next_payload += 1;
            builder.append(&NewRecord::of_value(cx.now_ms, &payload.encode()));
            cx.history.of(self.partition).written.insert(payload, Fate::Unknown);
            payloads.push(payload);
        }
        self.left -= count;
        let producer = self.idempotent.then_some(self.stamp);
        self.stamp.base_sequence = self.stamp.sequence_after(count as u32);
        let bytes = builder.finish(BatchOptions { producer, ..BatchOptions::default() }).freeze();
        let batch = self.core.handle_batch(cx.now, bytes);
        self.sent.insert(batch, payloads);
    }

    fn drain(&mut self, cx: &mut Context<'_>) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Connect { hint } => {
                    self.sequencer = None;
                    match hint {
                        Some(node) => self.handle_sequencer(cx, Some(node)),
                        None => {
                            self.asked_at = Some(cx.now);
                            cx.send(Address::Metadata, Lane::Control, Message::WhoSequences(self.partition));
                        }
                    }
                }
                Output::Inquire => {
                    cx.send(Address::Metadata, Lane::Control, Message::WhoSequences(self.partition));
                }
                Output::Send { round, batch, bytes } => {
                    self.round = round;
                    let (partition, acks) = (self.partition, self.acks);
                    if let Some(to) = self.sequencer {
                        cx.send(to, Lane::Append(partition), Message::Append { partition, round, batch, acks, bytes });
                    }
                }
                Output::Done { batch, outcome } => self.handle_done(cx, batch, outcome.ok()),
            }
        }
    }

    fn handle_done(&mut self, cx: &mut Context<'_>, batch: u64, outcome: Option<AppendOk>) {
        let Some(payloads) = self.sent.remove(&batch) else { return };
        let Some(ok) = outcome else {
            if cx.calm {
                cx.violation("a calm client saw an error");
            }
            // What comes next is a new producer's, so that it is not taken for a continuation.
            self.stamp = ProducerStamp { id: self.stamp.id + 1, epoch: 0, base_sequence: 0 };
            self.producers += 1;
            return;
        };
        for (i, payload) in payloads.into_iter().enumerate() {
            let lsn = Lsn(ok.lsn.0 + i as u64);
            let history = cx.history.of(self.partition);
            if let Some(offset) = ok.offset {
                history.acked_offsets.insert(lsn, LogOffset(offset.0 + i as u64));
            }
            // One copy may be lost.
            if self.acks != Acks::One {
                history.written.insert(payload, Fate::Acknowledged(lsn));
            }
        }
    }

    /// The answer to who sequences the partition.
    pub(crate) fn handle_sequencer(&mut self, cx: &mut Context<'_>, node: Option<NodeId>) {
        if self.asked_at.take().is_none() && self.sequencer.is_some() {
            let moved = node.filter(|node| Some(Address::Server(node.0)) != self.sequencer);
            self.core.handle_inquired(cx.now, moved);
            return self.drain(cx);
        }
        match node.map(|node| Address::Server(node.0)) {
            Some(address) if (cx.is_up)(address) => {
                self.sequencer = Some(address);
                self.core.handle_connected(cx.now);
            }
            _ => self.core.handle_unreachable(cx.now, "nobody there".to_owned()),
        }
        self.drain(cx);
    }

    pub(crate) fn handle_appended(
        &mut self,
        cx: &mut Context<'_>,
        round: u32,
        batch: u64,
        outcome: Result<AppendOk, AppendError>,
    ) {
        self.core.handle_appended(cx.now, round, batch, outcome);
        self.drain(cx);
    }

    pub(crate) fn handle_link(&mut self, cx: &mut Context<'_>, peer: Address, up: bool) {
        if !up && self.sequencer == Some(peer) {
            self.core.handle_disconnected(cx.now, self.round, "the connection was lost".to_owned());
        }
        self.drain(cx);
    }
}
