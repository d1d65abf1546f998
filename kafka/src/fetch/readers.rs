//! Reading for consumers: from the shards of this node if they have the records, which in a small cluster they do, or else
//! through a stream of the native client.
//!
//! Streams stay open, so that a consumer's next Fetch goes on where its last one ended.
//! A stream is known by its partition and the offset that it gives next. A Fetch takes it out, reads, and puts it back
//! under the new offset; whoever asks for the same offset meanwhile gets a stream of its own. Streams that nobody comes
//! back for are closed, the oldest first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dlog_client::{Client, ClientError, GapReason, Position, ReadStep, Reader, ReaderSettings};
use dlog_proto::{LogId, Lsn, PartitionUid};
use tokio::time::{Instant, timeout_at};

use super::batch::{self, Batch};
use crate::broker::Broker;

/// Open streams that nobody reads from at the moment, and what each may hold: what is read ahead, and what waits for blocks
/// before it. To that come a block per shard, and what QUIC has received, which is bounded by connection.
const IDLE_MAX: usize = 64;
const AHEAD_BYTES_MAX: usize = 1 << 20;
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// After so many requests a stream makes room for another look at the shards of this node.
const TURNS_MAX: u32 = 32;
/// Soon, because what is sent to a stream that nobody reads takes the room of others on the same connection.
const IDLE_TIME: Duration = Duration::from_secs(5);

const _: () =
    assert!(IDLE_MAX * (AHEAD_BYTES_MAX + BUFFER_BYTES_MAX) <= 128 << 20, "what idle streams hold is bounded");

type StreamKey = (PartitionUid, u64);

/// A stream, and a batch of it that did not fit the last answer.
struct Stream {
    reader: Reader,
    /// Offset that comes next.
    next: u64,
    held: Option<Batch>,
    turns_left: u32,
}

struct Idle<S> {
    streams: HashMap<StreamKey, (u64, Instant, S)>,
    /// By when they were put back.
    order: BTreeMap<u64, StreamKey>,
    count: u64,
}

/// The open streams of a node.
pub(crate) struct Readers {
    broker: Arc<dyn Broker>,
    client: Client,
    idle: Mutex<Idle<Stream>>,
}

/// What to read.
#[derive(Debug, Clone)]
pub(crate) struct ReadRequest {
    pub(crate) log: LogId,
    pub(crate) index: u32,
    pub(crate) partition: PartitionUid,
    pub(crate) offset: u64,
    /// The LSN of the record with that offset.
    pub(crate) from: Lsn,
    /// Last LSN of its epoch that may be read, if this node knows.
    pub(crate) local_upto: Option<Lsn>,
    /// Offset to stop at.
    pub(crate) until: u64,
    pub(crate) max_bytes: usize,
    /// The first batch comes even if it is longer than `max_bytes`.
    pub(crate) at_least_one: bool,
    /// When to come back with what there is.
    pub(crate) deadline: Instant,
}

impl Readers {
    pub(crate) fn new(broker: Arc<dyn Broker>, client: Client) -> Self {
        Self { broker, client, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Idle<Stream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes streams that nobody came back for.
    pub(crate) fn expire(&self) {
        self.idle().expire(Instant::now());
    }

    /// Reads batches from the one that holds `offset` on.
    pub(crate) async fn read(&self, request: &ReadRequest) -> Result<Vec<Batch>, ClientError> {
        let kept = self.idle().take((request.partition, request.offset));
        if kept.is_none()
            && let Some(batches) = self.read_here(request).await
        {
            return Ok(batches);
        }
        self.read_elsewhere(request, kept).await
    }

    /// From the shards of this node: nothing is kept for it between two requests. `None` if they do not have what comes
    /// next.
    async fn read_here(&self, request: &ReadRequest) -> Option<Vec<Batch>> {
        let upto = request.local_upto?;
        let blocks = self.broker.local_blocks(request.partition, request.from, upto, request.max_bytes.max(1)).await;
        if blocks.is_empty() {
            return None;
        }
        let mut taken = Taken::new(request);
        let mut blocks_len = 0;
        for block in &blocks {
            blocks_len += block.bytes().len();
            let batches = batch::of_block(block, request.from, request.offset);
            let batches =
                batches.inspect_err(|error| tracing::error!(at = %block.header().first_lsn(), "kafka: {error}"));
            if batches.ok()?.into_iter().any(|batch| taken.take(batch).is_err()) {
                break;
            }
        }
        Some(unshared(taken.batches, taken.bytes, blocks_len))
    }

    /// Through the native client, from wherever the records are.
    async fn read_elsewhere(&self, request: &ReadRequest, kept: Option<Stream>) -> Result<Vec<Batch>, ClientError> {
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let from = Position::Lsn(request.from);
                let opening = self.client.reader_with(&request.log, request.index, from, None, bounds());
                let Ok(reader) = timeout_at(request.deadline, opening).await else { return Ok(Vec::new()) };
                Stream { reader: reader?, next: request.offset, held: None, turns_left: TURNS_MAX }
            }
        };
        let batches = stream.read(request).await?;
        stream.turns_left -= 1;
        if stream.turns_left > 0 {
            self.idle().put(Instant::now(), (request.partition, stream.next), stream);
        }
        Ok(batches)
    }
}

/// A batch keeps its whole block in memory: the few that are taken of long ones are copied.
fn unshared(batches: Vec<Batch>, len: usize, blocks_len: usize) -> Vec<Batch> {
    if 2 * len >= blocks_len { batches } else { batches.into_iter().map(Batch::copied).collect() }
}

fn bounds() -> ReaderSettings {
    ReaderSettings { ahead_bytes_max: AHEAD_BYTES_MAX, buffer_bytes_max: BUFFER_BYTES_MAX, ..ReaderSettings::default() }
}

/// What goes into an answer.
struct Taken<'a> {
    request: &'a ReadRequest,
    batches: Vec<Batch>,
    bytes: usize,
}

impl<'a> Taken<'a> {
    fn new(request: &'a ReadRequest) -> Self {
        Self { request, batches: Vec::new(), bytes: 0 }
    }

    /// Takes a batch, or gives it back if it is too much.
    fn take(&mut self, batch: Batch) -> Result<(), Batch> {
        let bytes = self.bytes + batch.len();
        let fits = bytes <= self.request.max_bytes || self.batches.is_empty() && self.request.at_least_one;
        if !fits || batch.offset >= self.request.until {
            return Err(batch);
        }
        self.bytes = bytes;
        self.batches.push(batch);
        Ok(())
    }
}

impl Stream {
    async fn read(&mut self, request: &ReadRequest) -> Result<Vec<Batch>, ClientError> {
        let mut taken = Taken::new(request);
        while self.next < request.until {
            let Some(batch) = self.step(request.deadline).await? else { break };
            let next = batch.next_offset;
            match taken.take(batch) {
                Ok(()) => self.next = next,
                Err(batch) => {
                    self.held = Some(batch);
                    break;
                }
            }
        }
        Ok(taken.batches)
    }

    /// The next batch, if it comes in time. Gaps are passed over: the offsets in them have no records to show.
    async fn step(&mut self, deadline: Instant) -> Result<Option<Batch>, ClientError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            match timeout_at(deadline, self.reader.next_step()).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(ReadStep::Batch(read)))) => return Ok(Some(read.into())),
                Ok(Ok(None)) => return Err(ClientError::Closed),
                Ok(Ok(Some(ReadStep::Gap { to, reason: GapReason::DataLoss, .. }))) => {
                    tracing::error!(upto = %to, "kafka: records were lost; their offsets are skipped");
                }
                Ok(Ok(Some(ReadStep::Gap { .. }))) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

impl<S> Default for Idle<S> {
    fn default() -> Self {
        Self { streams: HashMap::new(), order: BTreeMap::new(), count: 0 }
    }
}

impl<S> Idle<S> {
    fn take(&mut self, key: StreamKey) -> Option<S> {
        let (place, _, stream) = self.streams.remove(&key)?;
        self.order.remove(&place);
        Some(stream)
    }

    fn put(&mut self, now: Instant, key: StreamKey, stream: S) {
        self.take(key);
        self.count += 1;
        self.order.insert(self.count, key);
        self.streams.insert(key, (self.count, now, stream));
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            let stale = self.streams.get(oldest).is_some_and(|(_, put, _)| *put + IDLE_TIME < now);
            if !stale && self.streams.len() <= IDLE_MAX {
                break;
            }
            let oldest = *oldest;
            self.take(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::block::BlockBuilder;
    use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord};
    use dlog_proto::{Epoch, Esn};

    use super::*;

    /// A consumer that takes little of much keeps little: 10,000 partitions of a few bytes each are not 10,000 blocks.
    #[test]
    fn a_few_batches_of_a_long_block_do_not_keep_it_in_memory() {
        let mut batch = BatchBuilder::new(128);
        batch.append(&NewRecord::of_value(1, b"v"));
        let batch = batch.finish(BatchOptions::default()).freeze();
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), Esn(1), 5);
        (0..10).for_each(|_| builder.push(&batch, 1, (1, 1)));
        let block = builder.finish();
        for (count, shares) in [(10, true), (6, true), (2, false)] {
            let mut batches = batch::of_block(&block, Lsn::new(Epoch(1), Esn(1)), 0).unwrap();
            batches.truncate(count);
            let len = batches.iter().map(Batch::len).sum();
            let lies_at = |batch: &Batch| batch.pieces()[1].as_ptr();
            let before = lies_at(&batches[0]);
            let taken = unshared(batches, len, block.bytes().len());
            assert_eq!((taken.len(), lies_at(&taken[0]) == before), (count, shares), "{count} of 10");
        }
    }

    fn key(offset: u64) -> StreamKey {
        (PartitionUid(1), offset)
    }

    #[test]
    fn a_stream_is_found_under_the_offset_that_it_gives_next_and_by_one_only() {
        let mut idle = Idle::default();
        idle.put(Instant::now(), key(5), "five");
        assert_eq!((idle.take(key(4)), idle.take(key(5)), idle.take(key(5))), (None, Some("five"), None));
    }

    #[test]
    fn the_oldest_streams_make_room() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        (0..2 * IDLE_MAX as u64).for_each(|offset| idle.put(now, key(offset), offset));
        assert_eq!((idle.streams.len(), idle.order.len()), (IDLE_MAX, IDLE_MAX));
        assert_eq!(
            (idle.take(key(IDLE_MAX as u64 - 1)), idle.take(key(IDLE_MAX as u64))),
            (None, Some(IDLE_MAX as u64))
        );
    }

    #[test]
    fn streams_that_nobody_comes_back_for_are_closed() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        idle.put(now, key(1), ());
        idle.put(now + IDLE_TIME, key(2), ());
        idle.expire(now + IDLE_TIME + Duration::from_millis(1));
        assert_eq!((idle.take(key(1)), idle.take(key(2))), (None, Some(())));
    }
}
