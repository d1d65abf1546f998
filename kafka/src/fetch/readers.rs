//! Streams that are open, so that a consumer's next Fetch goes on where its last one ended.
//!
//! A stream is known by its partition and the offset that it gives next. A Fetch takes it out, reads, and puts it back
//! under the new offset; whoever asks for the same offset meanwhile gets a stream of its own. Streams that nobody comes
//! back for are closed, the oldest first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dlog_client::{Client, ClientError, GapReason, Position, ReadStep, Reader};
use dlog_proto::record::{self, HEADER_LEN, RecordBatch};
use dlog_proto::{LogId, Lsn, PartitionUid};
use tokio::time::{Instant, timeout_at};

/// Open streams that nobody reads from at the moment. Each may hold a few blocks that were sent ahead.
const IDLE_MAX: usize = 512;
const IDLE_TIME: Duration = Duration::from_secs(30);

type StreamKey = (PartitionUid, u64);

/// A stream, and a batch of it that did not fit the last answer.
struct Stream {
    reader: Reader,
    /// Offset that comes next.
    next: u64,
    held: Option<Batch>,
}

/// A batch where it stands in its partition.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    pub(crate) batch: RecordBatch,
}

impl Batch {
    fn next_offset(&self) -> u64 {
        self.offset + u64::from(self.batch.header().span())
    }

    /// Its bytes with the offset and epoch that readers know it by: a header of its own, and the records as they lie.
    pub(crate) fn pieces(&self) -> [Bytes; 2] {
        let bytes = self.batch.bytes();
        let mut header = BytesMut::from(&bytes[..HEADER_LEN]);
        record::stamp(&mut header, self.offset, self.lsn.epoch().0);
        [header.freeze(), bytes.slice(HEADER_LEN..)]
    }
}

#[derive(Default)]
struct Idle {
    streams: HashMap<StreamKey, (u64, Instant, Stream)>,
    /// By when they were put back.
    order: BTreeMap<u64, StreamKey>,
    count: u64,
}

/// The open streams of a node.
pub(crate) struct Readers {
    client: Client,
    idle: Mutex<Idle>,
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
    /// Offset to stop at.
    pub(crate) until: u64,
    pub(crate) max_bytes: usize,
    /// The first batch comes even if it is longer than `max_bytes`.
    pub(crate) at_least_one: bool,
    /// When to come back with what there is.
    pub(crate) deadline: Instant,
}

impl Readers {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes streams that nobody came back for.
    pub(crate) fn expire(&self) {
        self.idle().expire(Instant::now());
    }

    /// Reads batches from the one that holds `offset` on.
    pub(crate) async fn read(&self, request: &ReadRequest) -> Result<Vec<Batch>, ClientError> {
        let kept = self.idle().take((request.partition, request.offset));
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let opening = self.client.reader(&request.log, request.index, Position::Lsn(request.from), None);
                let Ok(reader) = timeout_at(request.deadline, opening).await else { return Ok(Vec::new()) };
                Stream { reader: reader?, next: request.offset, held: None }
            }
        };
        let batches = stream.read(request).await?;
        self.idle().put(request.partition, stream);
        Ok(batches)
    }
}

impl Stream {
    async fn read(&mut self, request: &ReadRequest) -> Result<Vec<Batch>, ClientError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while self.next < request.until {
            let Some(batch) = self.step(request.deadline).await? else { break };
            let len = batch.batch.bytes().len();
            let fits = bytes + len <= request.max_bytes || batches.is_empty() && request.at_least_one;
            if !fits || batch.offset >= request.until {
                self.held = Some(batch);
                break;
            }
            bytes += len;
            self.next = batch.next_offset();
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The next batch, if it comes in time. Gaps are passed over: the offsets in them have no records to show.
    async fn step(&mut self, deadline: Instant) -> Result<Option<Batch>, ClientError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            match timeout_at(deadline, self.reader.next_step()).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(ReadStep::Batch(read)))) => {
                    return Ok(Some(Batch { lsn: read.lsn, offset: read.offset.0, batch: read.batch }));
                }
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

impl Idle {
    fn take(&mut self, key: StreamKey) -> Option<Stream> {
        let (place, _, stream) = self.streams.remove(&key)?;
        self.order.remove(&place);
        Some(stream)
    }

    fn put(&mut self, partition: PartitionUid, stream: Stream) {
        let (key, now) = ((partition, stream.next), Instant::now());
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
