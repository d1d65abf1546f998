//! Appending to one partition: batches on their way to its sequencer, in order, until each is acknowledged.
//!
//! INV-APPEND-ONCE: batches are sent in the order in which they were made; at most [`WINDOW`] are on their way, which is as many
//! as the sequencer remembers of a producer. Whatever happens to a connection or a sequencer, all that is not acknowledged is
//! sent again, the oldest first, with the same producer id and sequence numbers, so that the sequencer can tell.
//!
//! A *round* is one attempt to get everything through one connection. An answer that says "again" ends the round: what comes for
//! an older round than the current one is ignored, because it will be answered again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::producer::WINDOW;
use dlog_proto::wire::{AppendError, AppendOk, Retry};
use dlog_proto::{NodeId, Time};

/// Times of an appender.
#[derive(Debug, Clone)]
pub struct AppendSettings {
    /// How long a batch may take from when it is made until it is acknowledged; then it fails.
    pub delivery_timeout: Duration,
    /// How long a batch may be on its way without an answer before somebody is asked who the sequencer is; doubles up to the
    /// maximum while the answer is the same and nothing is acknowledged.
    pub doubt_min: Duration,
    pub doubt_max: Duration,
    /// How long a batch may be on its way without an answer before everything is sent again.
    pub answer_timeout: Duration,
    /// Pause before the next round; doubles up to the maximum while rounds fail.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for AppendSettings {
    fn default() -> Self {
        Self {
            delivery_timeout: Duration::from_secs(120),
            doubt_min: Duration::from_millis(50),
            doubt_max: Duration::from_millis(400),
            answer_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(80),
        }
    }
}

/// What an appender wants done.
#[derive(Debug)]
pub enum Output {
    /// Find out which node sequences the partition and connect to it; `hint` if somebody said so. The answer comes through
    /// [`AppendCore::handle_connected`] or [`AppendCore::handle_unreachable`].
    Connect {
        hint: Option<NodeId>,
    },
    /// The sequencer is silent: find out whether another one has taken over. The answer comes through
    /// [`AppendCore::handle_inquired`].
    Inquire,
    /// Send this batch on the current connection.
    Send {
        round: u32,
        batch: u64,
        bytes: Bytes,
    },
    Done {
        batch: u64,
        outcome: Result<AppendOk, AppendFailure>,
    },
}

/// Why a batch was given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendFailure {
    #[error(transparent)]
    Refused(#[from] AppendError),
    #[error("not acknowledged within {:.1} s (last trouble: {last}); it may or may not have been stored", .after.as_secs_f64())]
    TimedOut { after: Duration, last: String },
    #[error("not sent within {:.1} s (last trouble: {last}), so it is not stored", .after.as_secs_f64())]
    NotSent { after: Duration, last: String },
    #[error("the producer's earlier batch failed, so this one was given up; it may or may not have been stored")]
    Behind,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    bytes: Bytes,
    made_at: Time,
    /// Sent in the current round, and when.
    sent_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// Nothing to send yet.
    Idle,
    Connecting,
    Connected,
    /// The next round begins at this time.
    Pausing {
        until: Time,
        hint: Option<NodeId>,
    },
}

/// Whether the sequencer on the other end is still the one.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// The last sign of it, or of somebody who knows.
    since: Time,
    patience: Duration,
    /// Somebody was asked and has not answered.
    asked: bool,
}

#[derive(Debug)]
pub struct AppendCore {
    settings: AppendSettings,
    connection: Connection,
    round: u32,
    backoff: Duration,
    batches: VecDeque<Batch>,
    next_number: u64,
    doubt: Doubt,
    /// The last thing that went wrong, for a person.
    trouble: String,
    trouble_is_new: bool,
    out: VecDeque<Output>,
}

impl AppendCore {
    pub fn new(settings: AppendSettings) -> Self {
        let backoff = settings.backoff_min;
        let doubt = Doubt { since: Time::ZERO, patience: settings.doubt_min, asked: false };
        Self {
            settings,
            connection: Connection::Idle,
            round: 0,
            backoff,
            batches: VecDeque::new(),
            next_number: 0,
            doubt,
            trouble: "none".to_owned(),
            trouble_is_new: false,
            out: VecDeque::new(),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// What went wrong, for a person, if something did since this was last asked.
    pub fn poll_trouble(&mut self) -> Option<&str> {
        std::mem::take(&mut self.trouble_is_new).then_some(self.trouble.as_str())
    }

    /// Whether another batch may be made: more records then share one while the window is full.
    pub fn wants_batch(&self) -> bool {
        self.batches.len() < WINDOW
    }

    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes a batch; its outcome comes under the number returned. Numbers count from 0.
    ///
    /// # Panics
    /// If the window is full.
    pub fn handle_batch(&mut self, now: Time, bytes: Bytes) -> u64 {
        assert!(self.wants_batch(), "at most {WINDOW} batches are on their way");
        let number = self.next_number;
        self.next_number += 1;
        self.batches.push_back(Batch { number, bytes, made_at: now, sent_at: None });
        match self.connection {
            Connection::Idle => self.connect(None),
            Connection::Connected => {
                if self.batches.len() == 1 {
                    self.doubt.since = now;
                }
                self.send(now);
            }
            Connection::Connecting | Connection::Pausing { .. } => {}
        }
        number
    }

    /// A connection to the partition's sequencer is there.
    pub fn handle_connected(&mut self, now: Time) {
        if self.connection == Connection::Connecting {
            self.connection = Connection::Connected;
            self.round += 1;
            (self.doubt.asked, self.doubt.since) = (false, now);
            self.send(now);
        }
    }

    /// What came of an [`Output::Inquire`]: the node that has taken over, if one has.
    pub fn handle_inquired(&mut self, now: Time, moved_to: Option<NodeId>) {
        if !std::mem::take(&mut self.doubt.asked) || self.connection != Connection::Connected {
            return;
        }
        match moved_to {
            Some(node) => self.handle_moved(now, node),
            None => {
                self.doubt.since = now;
                self.doubt.patience = (self.doubt.patience * 2).min(self.settings.doubt_max);
            }
        }
    }

    /// No connection to the partition's sequencer is to be had right now.
    pub fn handle_unreachable(&mut self, now: Time, why: String) {
        if self.connection == Connection::Connecting {
            self.pause(now, why, None, Duration::ZERO);
        }
    }

    /// The partition is gone for good.
    pub fn handle_gone(&mut self) {
        self.fail_from(0, AppendError::UnknownPartition);
        self.connection = Connection::Idle;
    }

    /// The connection of this round is gone.
    pub fn handle_disconnected(&mut self, now: Time, round: u32, why: String) {
        if self.connection == Connection::Connected && round == self.round {
            self.pause(now, why, None, Duration::ZERO);
        }
    }

    /// Another node sequences the partition now.
    pub fn handle_moved(&mut self, now: Time, to: NodeId) {
        if self.connection == Connection::Connected {
            self.end_round();
            self.doubt.patience = self.settings.doubt_min;
            self.connection = Connection::Pausing { until: now, hint: Some(to) };
            self.handle_tick(now);
        }
    }

    pub fn handle_appended(&mut self, now: Time, round: u32, batch: u64, outcome: Result<AppendOk, AppendError>) {
        if round != self.round || self.connection != Connection::Connected {
            return self.handle_late(batch, outcome);
        }
        self.doubt.since = now;
        let Ok(at) = self.batches.binary_search_by_key(&batch, |b| b.number) else { return };
        match outcome {
            Ok(ok) => {
                self.backoff = self.settings.backoff_min;
                self.doubt.patience = self.settings.doubt_min;
                self.finish(at, Ok(ok));
                self.send(now);
            }
            Err(error) => match self.retry(at, &error) {
                Retry::Elsewhere { hint } => self.pause(now, error.to_string(), hint, Duration::ZERO),
                Retry::After { ms } => {
                    self.pause(now, error.to_string(), None, Duration::from_millis(u64::from(ms)));
                }
                Retry::Never => self.fail_from(at, error),
            },
        }
    }

    /// An answer of an earlier round. That the oldest batch is stored is true whenever it is said; without it, a producer whose batches do
    /// not all fit into the sequencer's window would send the first of them again for ever. Everything else is asked again.
    fn handle_late(&mut self, batch: u64, outcome: Result<AppendOk, AppendError>) {
        if let (Ok(ok), Some(first)) = (outcome, self.batches.front())
            && first.number == batch
        {
            self.finish(0, Ok(ok));
        }
    }

    /// A batch that is out of order because one before it is still to be sent again is no error.
    fn retry(&self, at: usize, error: &AppendError) -> Retry {
        match error {
            AppendError::OutOfOrder { .. } if at > 0 => Retry::After { ms: 0 },
            _ => error.retry(),
        }
    }

    /// A batch will never be taken. Those behind it carry later sequence numbers, so they cannot be either.
    fn fail_from(&mut self, at: usize, error: AppendError) {
        if self.batches.len() > at {
            self.finish(at, Err(error.into()));
        }
        while self.batches.len() > at {
            self.finish(at, Err(AppendFailure::Behind));
        }
    }

    fn finish(&mut self, at: usize, outcome: Result<AppendOk, AppendFailure>) {
        let batch = self.batches.remove(at).expect("it was found there");
        self.out.push_back(Output::Done { batch: batch.number, outcome });
    }

    fn connect(&mut self, hint: Option<NodeId>) {
        self.connection = Connection::Connecting;
        self.out.push_back(Output::Connect { hint });
    }

    fn end_round(&mut self) {
        self.round += 1;
        if !bug(Bug::AppendNotResent) {
            self.batches.iter_mut().for_each(|batch| batch.sent_at = None);
        }
    }

    fn pause(&mut self, now: Time, why: String, hint: Option<NodeId>, at_least: Duration) {
        (self.trouble, self.trouble_is_new) = (why, true);
        self.end_round();
        // Whoever names the right node saves us the wait, once.
        let pause =
            if hint.is_some() && self.backoff == self.settings.backoff_min { Duration::ZERO } else { self.backoff };
        self.backoff = (self.backoff * 2).min(self.settings.backoff_max);
        self.connection = Connection::Pausing { until: now + pause.max(at_least), hint };
    }

    /// INV-APPEND-ONCE: everything that is not sent yet, the oldest first.
    fn send(&mut self, now: Time) {
        for batch in self.batches.iter_mut().filter(|batch| batch.sent_at.is_none()) {
            batch.sent_at = Some(now);
            self.out.push_back(Output::Send { round: self.round, batch: batch.number, bytes: batch.bytes.clone() });
        }
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Time) {
        let overdue = |b: &Batch| b.made_at + self.settings.delivery_timeout <= now;
        if self.batches.front().is_some_and(overdue) {
            let (after, last) = (self.settings.delivery_timeout, self.trouble.clone());
            self.finish(0, Err(AppendFailure::TimedOut { after, last }));
            while !self.batches.is_empty() {
                self.finish(0, Err(AppendFailure::Behind));
            }
        }
        match self.connection {
            Connection::Pausing { .. } | Connection::Connected if self.batches.is_empty() => {
                if matches!(self.connection, Connection::Pausing { .. }) {
                    self.connection = Connection::Idle;
                }
            }
            Connection::Pausing { until, hint } if until <= now => self.connect(hint),
            Connection::Connected => {
                let silent = |b: &Batch| b.sent_at.is_some_and(|at| at + self.settings.answer_timeout <= now);
                if self.batches.front().is_some_and(silent) {
                    let why = "the sequencer does not answer".to_owned();
                    self.pause(now, why, None, Duration::ZERO);
                } else if !self.doubt.asked && self.doubt.since + self.doubt.patience <= now {
                    self.doubt.asked = true;
                    self.out.push_back(Output::Inquire);
                }
            }
            _ => {}
        }
    }

    pub fn next_timeout(&self) -> Option<Time> {
        let first = self.batches.front()?;
        let delivery = first.made_at + self.settings.delivery_timeout;
        let next = match self.connection {
            Connection::Pausing { until, .. } => until,
            Connection::Connected => {
                let silent = first.sent_at.map_or(Time::MAX, |at| at + self.settings.answer_timeout);
                let doubt = if self.doubt.asked { Time::MAX } else { self.doubt.since + self.doubt.patience };
                silent.min(doubt)
            }
            Connection::Idle | Connection::Connecting => Time::MAX,
        };
        Some(delivery.min(next))
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Epoch, Esn, Lsn};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ok(esn: u32) -> Result<AppendOk, AppendError> {
        Ok(AppendOk { lsn: Lsn::new(Epoch(1), Esn(esn)), offset: None, append_time: -1, duplicate: false })
    }

    fn outputs(core: &mut AppendCore) -> Vec<String> {
        std::iter::from_fn(|| core.poll_output())
            .map(|output| match output {
                Output::Connect { hint } => format!("connect {hint:?}"),
                Output::Inquire => "inquire".to_owned(),
                Output::Send { round, batch, .. } => format!("send {batch} round {round}"),
                Output::Done { batch, outcome: Ok(ok) } => format!("done {batch} {}", ok.lsn),
                Output::Done { batch, outcome: Err(error) } => format!("failed {batch}: {error}"),
            })
            .collect()
    }

    fn connected(batches: usize) -> AppendCore {
        let mut core = AppendCore::new(AppendSettings::default());
        for _ in 0..batches {
            core.handle_batch(Time::ZERO, Bytes::from_static(b"batch"));
        }
        core.handle_connected(Time::ZERO);
        outputs(&mut core);
        core
    }

    #[test]
    fn batches_are_pipelined_and_acknowledged() {
        let mut core = AppendCore::new(AppendSettings::default());
        core.handle_batch(Time::ZERO, Bytes::new());
        core.handle_batch(Time::ZERO, Bytes::new());
        assert_eq!(outputs(&mut core), ["connect None"]);
        core.handle_connected(Time::ZERO);
        assert_eq!(outputs(&mut core), ["send 0 round 1", "send 1 round 1"]);
        core.handle_appended(Time::ZERO, 1, 0, ok(1));
        assert_eq!(outputs(&mut core), ["done 0 e1n1"]);
        for _ in 0..WINDOW - 1 {
            core.handle_batch(Time::ZERO, Bytes::new());
        }
        assert!(!core.wants_batch());
    }

    #[test]
    fn everything_unacknowledged_is_sent_again_in_order() {
        let mut core = connected(3);
        core.handle_appended(Time::ZERO, 1, 0, ok(1));
        let gone = AppendError::Preempted { node: Some(NodeId(2)), epoch: Epoch(2) };
        core.handle_appended(Time::ZERO, 1, 1, Err(gone));
        core.handle_appended(Time::ZERO, 1, 2, ok(3));
        core.handle_tick(Time::ZERO);
        assert_eq!(
            outputs(&mut core),
            ["done 0 e1n1", "connect Some(NodeId(2))"],
            "answers of an old round are ignored"
        );
        core.handle_connected(Time::ZERO);
        assert_eq!(outputs(&mut core), ["send 1 round 3", "send 2 round 3"]);
    }

    #[test]
    fn the_oldest_batch_is_acknowledged_even_if_a_later_one_was_refused_before() {
        let mut core = connected(2);
        core.handle_appended(Time::ZERO, 1, 1, Err(AppendError::Overloaded { retry_after_ms: 20 }));
        core.handle_appended(Time::ZERO, 1, 0, ok(1));
        assert_eq!(outputs(&mut core), ["done 0 e1n1"], "or it would be stored again");
    }

    #[test]
    fn out_of_order_behind_a_refused_batch_is_no_error() {
        let mut core = connected(2);
        let out_of_order = || AppendError::OutOfOrder { producer: 1, expected: 0, found: 1 };
        core.handle_appended(Time::ZERO, 1, 1, Err(out_of_order()));
        core.handle_tick(Time::ZERO + 5 * MS);
        core.handle_connected(Time::ZERO);
        assert_eq!(outputs(&mut core), ["connect None", "send 0 round 3", "send 1 round 3"]);
        core.handle_appended(Time::ZERO, 3, 0, Err(out_of_order()));
        let failed = outputs(&mut core);
        assert!(failed[0].starts_with("failed 0: sequence 1 where 0 is next"), "{failed:?}");
        assert!(failed[1].contains("earlier batch failed"), "{failed:?}");
    }

    #[test]
    fn a_silent_sequencer_is_looked_for_elsewhere() {
        let mut core = connected(1);
        let AppendSettings { doubt_min, answer_timeout, .. } = AppendSettings::default();
        let mut now = core.next_timeout().unwrap();
        assert_eq!(now, Time::ZERO + doubt_min);
        core.handle_tick(now);
        assert_eq!(outputs(&mut core), ["inquire"]);
        core.handle_inquired(now, None);
        let next = core.next_timeout().unwrap();
        assert_eq!(next.since(now), doubt_min * 2, "it is still the one: less and less doubt");
        core.handle_tick(next);
        assert_eq!(outputs(&mut core), ["inquire"]);
        core.handle_inquired(next, Some(NodeId(2)));
        assert_eq!(outputs(&mut core), ["connect Some(NodeId(2))"]);
        core.handle_connected(next);
        assert_eq!(outputs(&mut core), ["send 0 round 3"]);

        now = next + answer_timeout;
        core.handle_tick(now);
        let pause_over = core.next_timeout().unwrap();
        core.handle_tick(pause_over);
        assert_eq!(outputs(&mut core), ["connect None"], "a connection may be dead without anybody knowing");
    }

    #[test]
    fn a_sequencer_that_refuses_is_doubted_less_and_less() {
        let mut core = connected(1);
        let AppendSettings { doubt_min, doubt_max, .. } = AppendSettings::default();
        let (mut now, mut doubts) = (Time::ZERO, Vec::new());
        while doubts.len() < 6 {
            let asked = core.next_timeout().unwrap();
            doubts.push(asked.since(now));
            core.handle_tick(asked);
            assert_eq!(outputs(&mut core), ["inquire"]);
            core.handle_inquired(asked, None);
            // It says that it is not ready yet: the batch is sent again.
            let why = AppendError::Recovering { reason: String::new(), retry_after_ms: 1 };
            core.handle_appended(asked, core.round, 0, Err(why));
            now = core.next_timeout().unwrap();
            core.handle_tick(now);
            core.handle_connected(now);
            outputs(&mut core);
        }
        assert_eq!((doubts[0], doubts[1], doubts[5]), (doubt_min, doubt_min * 2, doubt_max));
        core.handle_appended(now, core.round, 0, ok(1));
        core.handle_batch(now, Bytes::new());
        assert_eq!(core.next_timeout(), Some(now + doubt_min), "it acknowledges again");
    }

    #[test]
    fn nothing_waits_for_a_partition_that_is_gone() {
        let mut core = connected(2);
        core.handle_disconnected(Time::ZERO, 1, "gone".to_owned());
        core.handle_tick(Time::ZERO + 5 * MS);
        assert_eq!(outputs(&mut core), ["connect None"]);
        core.handle_gone();
        let failed = outputs(&mut core);
        assert!(failed[0].contains("no such partition") && failed[1].contains("failed 1"), "{failed:?}");
        assert!(core.is_idle() && core.next_timeout().is_none());
    }

    #[test]
    fn an_answer_takes_all_doubt_away() {
        let mut core = connected(2);
        let doubt = AppendSettings::default().doubt_min;
        core.handle_appended(Time::ZERO + doubt / 2, 1, 0, ok(1));
        core.handle_tick(Time::ZERO + doubt);
        assert_eq!(outputs(&mut core), ["done 0 e1n1"]);
        core.handle_inquired(Time::ZERO + doubt, Some(NodeId(2)));
        assert_eq!(outputs(&mut core), [""; 0], "nobody was asked");
    }

    #[test]
    fn pauses_grow_while_nothing_gets_through() {
        let mut core = connected(1);
        let mut now = Time::ZERO;
        let mut pauses = Vec::new();
        core.handle_disconnected(now, 1, "gone".to_owned());
        for _ in 0..10 {
            let until = core.next_timeout().unwrap();
            pauses.push(until.since(now));
            now = until;
            core.handle_tick(now);
            core.handle_unreachable(now, "nobody there".to_owned());
        }
        assert_eq!((pauses[0], pauses[1], pauses[9]), (5 * MS, 10 * MS, 80 * MS));
    }

    #[test]
    fn a_batch_that_never_gets_through_fails_with_what_was_wrong() {
        let mut core = connected(2);
        assert_eq!(core.poll_trouble(), None);
        core.handle_disconnected(Time::ZERO, 1, "no route to n1".to_owned());
        assert_eq!([core.poll_trouble().map(str::len), core.poll_trouble().map(str::len)], [Some(14), None], "once");
        outputs(&mut core);
        core.handle_tick(Time::ZERO + Duration::from_secs(121));
        let failed = outputs(&mut core);
        assert!(failed[0].contains("no route to n1") && failed[0].contains("may or may not"), "{failed:?}");
        assert!(core.is_idle());
    }
}
