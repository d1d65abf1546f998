//! Appends, and measures how long each acknowledgement takes.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use super::driver::Producer;
use super::pacer::Pacer;
use super::workload::{PlaceHash, Workload};
use crate::args::BenchAppendArgs;
use crate::commands::in_flight::InFlight;
use crate::failure::Failure;
use crate::output::progress;

/// How long is measured if nothing is said.
const SECONDS: u64 = 10;
/// Longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// What came of it.
#[derive(Debug)]
pub(super) struct Appended {
    /// Records that were measured; one per partition came before, unmeasured.
    pub(super) records: u64,
    pub(super) elapsed: Duration,
    /// From an append, or from when it was due, to its acknowledgement; in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Of all records of each partition.
    pub(super) acknowledged: Vec<PlaceHash>,
}

pub(super) struct AppendPhase<'a, P: Producer> {
    workload: &'a Workload,
    producer: P,
    records: Option<u64>,
    limit: Duration,
    rate: Option<u32>,
    /// Number of the next record.
    next: u64,
    record: Vec<u8>,
    /// With what is measured of each.
    in_flight: InFlight<Pending, P::Ack>,
    latency: Histogram<u64>,
    acknowledged: Vec<PlaceHash>,
    progress: ProgressBar,
}

#[derive(Debug)]
struct Pending {
    partition: u32,
    since: Instant,
}

impl<'a, P: Producer> AppendPhase<'a, P> {
    pub(super) fn new(args: &BenchAppendArgs, workload: &'a Workload, producer: P) -> Self {
        let latency_max = LATENCY_MAX.as_nanos() as u64;
        Self {
            workload,
            producer,
            records: args.records,
            limit: match args.records {
                Some(_) => Duration::MAX,
                None => Duration::from_secs(args.seconds.unwrap_or(SECONDS)),
            },
            rate: args.rate,
            next: 0,
            record: Vec::with_capacity(workload.record_len()),
            in_flight: InFlight::new(args.acks_inflight),
            latency: Histogram::new_with_bounds(1, latency_max, 3).expect("three digits can be kept"),
            acknowledged: vec![PlaceHash::default(); workload.partitions() as usize],
            progress: progress::bar(args.records, "appended"),
        }
    }

    pub(super) async fn run(mut self) -> Result<Appended, Failure> {
        self.warm_up().await?;
        let first = self.next;
        let started = Instant::now();
        match self.rate.map(Pacer::start) {
            None => self.as_fast_as_it_goes(started).await?,
            Some(pacer) => self.at_a_rate(started, pacer).await?,
        }
        let (records, elapsed) = (self.next - first, started.elapsed());
        self.progress.finish_and_clear();
        Ok(Appended { records, elapsed, latency: self.latency, acknowledged: self.acknowledged })
    }

    /// A record to each partition, so that neither connections nor first epochs are measured.
    async fn warm_up(&mut self) -> Result<(), Failure> {
        for _ in 0..self.workload.partitions() {
            while !self.in_flight.has_room() {
                self.in_flight.next_settled().await;
                self.settle()?;
            }
            self.append(Instant::now()).await?;
        }
        self.finish().await?;
        self.latency.reset();
        Ok(())
    }

    /// Whether another record is to be appended.
    fn goes_on(&self, started: Instant) -> bool {
        let measured = self.next - u64::from(self.workload.partitions());
        self.records.is_none_or(|records| measured < records) && started.elapsed() < self.limit
    }

    async fn as_fast_as_it_goes(&mut self, started: Instant) -> Result<(), Failure> {
        while self.goes_on(started) {
            if self.in_flight.has_room() {
                self.append(Instant::now()).await?;
            } else {
                self.in_flight.next_settled().await;
            }
            self.settle()?;
        }
        self.finish().await
    }

    async fn at_a_rate(&mut self, started: Instant, mut pacer: Pacer) -> Result<(), Failure> {
        let first = self.next;
        while self.goes_on(started) {
            let number = self.next - first;
            let has_room = self.in_flight.has_room();
            if has_room && number < pacer.due() {
                self.append(pacer.due_at(number)).await?;
            } else {
                tokio::select! {
                    biased;
                    () = self.in_flight.next_settled() => {}
                    () = pacer.next(), if has_room => {}
                }
            }
            self.settle()?;
        }
        self.finish().await
    }

    async fn append(&mut self, since: Instant) -> Result<(), Failure> {
        let partition = self.workload.partition_of(self.next);
        self.workload.write(self.next, &mut self.record);
        let ack = self.producer.append(partition, &self.record).await?;
        self.in_flight.push(ack, self.record.len(), Pending { partition, since });
        self.next += 1;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        while !self.in_flight.is_empty() {
            self.in_flight.next_settled().await;
            self.settle()?;
        }
        Ok(())
    }

    /// Takes the acknowledgements that are there.
    fn settle(&mut self) -> Result<(), Failure> {
        let mut now = None;
        while let Some(settled) = self.in_flight.pop_settled() {
            let Pending { partition, since } = settled.about;
            let place = P::place(settled.outcome);
            let place = place.map_err(|why| Failure::new(format!("a record was not acknowledged: {why}")))?;
            let latency = now.get_or_insert_with(Instant::now).saturating_duration_since(since);
            self.latency.saturating_record(latency.as_nanos() as u64);
            self.acknowledged[partition as usize].add(place);
        }
        if now.is_some() {
            self.progress.set_position(self.next - self.in_flight.len() as u64);
        }
        Ok(())
    }
}
