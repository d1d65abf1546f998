//! ListOffsets: where a partition begins and ends, and where a time is.
//!
//! A time is looked for among the records' own times. Storage shards know when each block was made, which is later than its
//! records' times unless a producer's clock is ahead; so the search begins [`CLOCK_MARGIN_MS`] before that time and goes
//! on through batch headers, opening only the batch that has the answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dlog_client::{ClientError, Position, ReadBatch, ReadStep};
use dlog_metadata::state::LogInfo;
use dlog_proto::record::RecordBatch;
use dlog_proto::{Epoch, LogOffset, Lsn, PartitionUid, TimestampMs};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use tokio::time::timeout;

use crate::cluster::log_start;
use crate::fetch::{End, check_epoch, local_end};
use crate::gateway::Shared;

/// Times that mean a place.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
/// The versions from which on three of them may be asked for.
const MAX_TIMESTAMP_SINCE: i16 = 7;
const EARLIEST_LOCAL_SINCE: i16 = 8;
const LATEST_TIERED_SINCE: i16 = 9;

/// How far a producer's clock may be ahead of its sequencer's for a search by time to find its records for sure.
const CLOCK_MARGIN_MS: i64 = 60_000;
/// How long a search may take, if the client does not say.
const SEARCH_TIME: Duration = Duration::from_secs(30);

/// A place in a partition; −1 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    offset: i64,
    timestamp: i64,
    epoch: i32,
}

const NOWHERE: Found = Found { offset: -1, timestamp: -1, epoch: -1 };

pub(super) async fn handle(shared: Arc<Shared>, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let asked_ms = Some(request.timeout_ms).filter(|ms| version >= 10 && *ms > 0);
    let limit = asked_ms.map_or(SEARCH_TIME, |ms| Duration::from_millis(ms as u64).min(SEARCH_TIME));
    let mut seen = HashSet::new();
    let mut response = ListOffsetsResponse::default();
    for topic in request.topics {
        let mut result = ListOffsetsTopicResponse::default();
        for asked in &topic.partitions {
            let found = match seen.insert((topic.name.clone(), asked.partition_index)) {
                true => match timeout(limit, find(&shared, version, &topic.name, asked)).await {
                    Ok(found) => found,
                    Err(_) => Err(ResponseError::RequestTimedOut),
                },
                false => Err(ResponseError::InvalidRequest),
            };
            result.partitions.push(report(version, asked.partition_index, found));
        }
        result.name = topic.name;
        response.topics.push(result);
    }
    response
}

fn report(version: i16, index: i32, found: Result<Found, ResponseError>) -> ListOffsetsPartitionResponse {
    let mut report = ListOffsetsPartitionResponse::default();
    let Found { offset, timestamp, epoch } = found.unwrap_or(NOWHERE);
    (report.partition_index, report.offset, report.timestamp) = (index, offset, timestamp);
    if version >= 4 {
        report.leader_epoch = epoch;
    }
    report.error_code = found.err().map_or(0, |error| match error {
        // Older clients do not know the other one.
        ResponseError::OffsetNotAvailable if version < 5 => ResponseError::LeaderNotAvailable.code(),
        error => error.code(),
    });
    report
}

async fn find(
    shared: &Shared,
    version: i16,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> Result<Found, ResponseError> {
    let (info, uid, end) = local_end(shared, topic, asked.partition_index)?;
    check_epoch(asked.current_leader_epoch, end.epoch)?;
    let table = shared.broker.view().table(uid).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let at = |offset: u64| {
        let epoch = table.lsn_of(LogOffset(offset)).map_or(end.epoch, Lsn::epoch);
        Found { offset: offset as i64, timestamp: -1, epoch: epoch.0 as i32 }
    };
    let search = Search { shared, info: &info, index: asked.partition_index as u32, uid, end };
    match asked.timestamp {
        LATEST => Ok(at(end.high_watermark)),
        EARLIEST => Ok(at(log_start(&table).0)),
        MAX_TIMESTAMP if version >= MAX_TIMESTAMP_SINCE => search.max_timestamp(log_start(&table).0).await,
        // Nothing is tiered: what is there is local.
        EARLIEST_LOCAL if version >= EARLIEST_LOCAL_SINCE => Ok(at(log_start(&table).0)),
        LATEST_TIERED if version >= LATEST_TIERED_SINCE => Ok(NOWHERE),
        time if time >= 0 => search.time(time, log_start(&table).0).await,
        _ => Err(ResponseError::UnsupportedVersion),
    }
}

/// A search through the records of a partition.
struct Search<'a> {
    shared: &'a Shared,
    info: &'a LogInfo,
    index: u32,
    uid: PartitionUid,
    end: End,
}

/// The record with the highest timestamp among those before an offset.
#[derive(Debug, Clone, Copy)]
struct MaxSeen {
    next: u64,
    found: Found,
}

/// What was seen in searches for the highest timestamp, so that the next one goes on from there.
#[derive(Debug, Default)]
pub(crate) struct NewestSeen(Mutex<HashMap<PartitionUid, MaxSeen>>);

impl NewestSeen {
    /// Partitions that are remembered.
    const LEN_MAX: usize = 10_000;

    fn get(&self, partition: PartitionUid) -> Option<MaxSeen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    fn set(&self, partition: PartitionUid, seen: MaxSeen) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= Self::LEN_MAX {
            all.clear();
        }
        all.insert(partition, seen);
    }
}

impl Search<'_> {
    /// Shows batches from a place on to `visit`, until it breaks off or all that is released was seen.
    async fn walk(
        &self,
        from: Position,
        mut visit: impl FnMut(Lsn, u64, &RecordBatch) -> Result<bool, ResponseError>,
    ) -> Result<(), ResponseError> {
        let failed = |error: ClientError| {
            tracing::debug!(log = %self.info.log, partition = self.index, "kafka: a search by time failed: {error}");
            ResponseError::KafkaStorageError
        };
        let until = Some(Position::Lsn(self.end.released.next()));
        let opened = self.shared.client.reader(&self.info.log, self.index, from, until).await;
        let mut reader = opened.map_err(failed)?;
        while let Some(step) = reader.next_step().await.map_err(failed)? {
            if let ReadStep::Batch(ReadBatch { lsn, offset, batch, .. }) = step
                && !visit(lsn, offset.0, &batch)?
            {
                break;
            }
        }
        Ok(())
    }

    /// The first record at or after `time`.
    async fn time(&self, time: TimestampMs, start: u64) -> Result<Found, ResponseError> {
        let mut found = NOWHERE;
        let from = Position::Time(time.saturating_sub(CLOCK_MARGIN_MS).max(0));
        self.walk(from, |lsn, offset, batch| {
            if batch.header().max_timestamp_ms < time {
                return Ok(true);
            }
            let first = first_record(batch, start.saturating_sub(offset), |timestamp| timestamp >= time)?;
            if let Some((delta, timestamp)) = first {
                found = place(lsn.epoch(), offset + u64::from(delta), timestamp);
            }
            Ok(first.is_none())
        })
        .await?;
        Ok(found)
    }

    /// The first record that has the highest timestamp.
    async fn max_timestamp(&self, start: u64) -> Result<Found, ResponseError> {
        let seen = self.shared.newest_seen.get(self.uid);
        let seen =
            seen.filter(|seen| seen.next >= start && (seen.found == NOWHERE || seen.found.offset >= start as i64));
        let mut seen = seen.unwrap_or(MaxSeen { next: start, found: NOWHERE });
        if seen.next < self.end.high_watermark {
            let walked = self
                .walk(Position::Offset(LogOffset(seen.next)), |lsn, offset, batch| {
                    if batch.header().max_timestamp_ms > seen.found.timestamp
                        && let Some((delta, timestamp)) = newest_record(batch, start.saturating_sub(offset))?
                        && timestamp > seen.found.timestamp
                    {
                        seen.found = place(lsn.epoch(), offset + u64::from(delta), timestamp);
                    }
                    seen.next = offset + u64::from(batch.header().span());
                    Ok(true)
                })
                .await;
            self.shared.newest_seen.set(self.uid, seen);
            walked?;
        }
        Ok(seen.found)
    }
}

fn place(epoch: Epoch, offset: u64, timestamp: TimestampMs) -> Found {
    Found { offset: offset as i64, timestamp, epoch: epoch.0 as i32 }
}

/// The first record of a batch, `skip` of them left out, whose time is like that: its place in the batch, and its time.
fn first_record(
    batch: &RecordBatch,
    skip: u64,
    is_like: impl Fn(TimestampMs) -> bool,
) -> Result<Option<(u32, TimestampMs)>, ResponseError> {
    let mut times = times(batch)?;
    times
        .find(|time| time.is_err() || matches!(time, Ok((delta, t)) if u64::from(*delta) >= skip && is_like(*t)))
        .transpose()
}

/// The first record with the highest time in a batch, `skip` of them left out: its place in the batch, and its time.
fn newest_record(batch: &RecordBatch, skip: u64) -> Result<Option<(u32, TimestampMs)>, ResponseError> {
    let mut newest: Option<(u32, TimestampMs)> = None;
    for time in times(batch)? {
        let (delta, timestamp) = time?;
        if u64::from(delta) >= skip && newest.is_none_or(|(_, highest)| timestamp > highest) {
            newest = Some((delta, timestamp));
        }
    }
    Ok(newest)
}

/// Places and times of a batch's records.
fn times(
    batch: &RecordBatch,
) -> Result<impl Iterator<Item = Result<(u32, TimestampMs), ResponseError>>, ResponseError> {
    let records = batch.records().map_err(|_| ResponseError::CorruptMessage)?;
    Ok(records.map(|record| {
        let record = record.map_err(|_| ResponseError::CorruptMessage)?;
        Ok((record.offset_delta, record.timestamp_ms))
    }))
}
