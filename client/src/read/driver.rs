//! The shell around a [`ReaderCore`]: one task per reader, and one per open stream that hands on what arrives.

use std::collections::HashMap;
use std::sync::Arc;

use dlog_proto::block::Block;
use dlog_proto::clock::{now, sleep_until};
use dlog_proto::transport::{LaneKind, LaneSender};
use dlog_proto::wire::{Frame, Freshness, Message, Payload, ReadBlock, ReadClaim, ReadStarted, StartRead};
use dlog_proto::{EpochTable, PartitionUid, ShardRef};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::ahead::{self, AheadReceiver, AheadSender};
use super::core::{Output, ReaderCore};
use crate::directory::Directory;
use crate::error::ClientError;

/// What a reader's task is told.
enum Event {
    Opened { shard: ShardRef, stream: u64, tx: LaneSender },
    Frames { shard: ShardRef, stream: u64, frames: Vec<Frame> },
    Closed { shard: ShardRef, stream: u64 },
    Table(Result<EpochTable, ClientError>),
}

/// A stream to a shard.
struct Stream {
    number: u64,
    /// Once it is open.
    tx: Option<LaneSender>,
    /// What to say first.
    request: StartRead,
    /// Lets the stream's task read on.
    go_on: Arc<Notify>,
    /// The task waits to be let.
    waiting: bool,
    task: AbortHandle,
}

pub(super) struct Driver {
    partition: PartitionUid,
    directory: Arc<Directory>,
    core: ReaderCore,
    streams: HashMap<ShardRef, Stream>,
    next_stream: u64,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    items: AheadSender,
}

impl Driver {
    /// Starts the task of a reader. What it reads comes out of the channel; the channel ends where the reader does.
    pub(super) fn start(directory: Arc<Directory>, partition: PartitionUid, core: ReaderCore) -> AheadReceiver {
        // Every stream has at most one batch in the inbox, so it is bounded by their number.
        let (events, inbox) = mpsc::unbounded_channel();
        let (items, read) = ahead::queue(core.settings().ahead_bytes_max);
        let streams = HashMap::new();
        let driver = Self { partition, directory, core, streams, next_stream: 0, events, inbox, items };
        tokio::spawn(driver.run());
        read
    }

    async fn run(mut self) {
        self.core.handle_tick(now());
        loop {
            if self.carry_out().await.is_err() {
                break;
            }
            let timeout = self.core.next_timeout();
            let closed = self.items.closed();
            tokio::select! {
                Some(event) = self.inbox.recv() => self.handle(event),
                () = sleep_until(timeout) => self.core.handle_tick(now()),
                () = closed => break,
            }
        }
        self.streams.drain().for_each(|(_, stream)| stream.task.abort());
    }

    /// Does what the core wants done. `Err` if the reader is at its end, or nobody reads any more.
    async fn carry_out(&mut self) -> Result<(), ()> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Start { to, request } => self.start_stream(to, request),
                Output::Close(shard) => self.close_stream(shard),
                Output::WantTable => self.want_table(),
                Output::Item(item) => self.items.send(item).await?,
                Output::Done => return Err(()),
            }
        }
        for (shard, stream) in &mut self.streams {
            if stream.waiting && self.core.wants(*shard) {
                stream.waiting = false;
                stream.go_on.notify_one();
            }
        }
        Ok(())
    }

    fn start_stream(&mut self, shard: ShardRef, request: StartRead) {
        if let Some(stream) = self.streams.get_mut(&shard) {
            stream.request = request;
            if let Some(tx) = &stream.tx {
                let _ = tx.send(stream.request.to_frame(0, Payload::empty()));
            }
            return;
        }
        self.next_stream += 1;
        let (number, go_on) = (self.next_stream, Arc::new(Notify::new()));
        let reading = read_stream(self.directory.clone(), shard, number, self.events.clone(), go_on.clone());
        let task = tokio::spawn(reading).abort_handle();
        self.streams.insert(shard, Stream { number, tx: None, request, go_on, waiting: false, task });
    }

    fn close_stream(&mut self, shard: ShardRef) {
        if let Some(stream) = self.streams.remove(&shard) {
            stream.task.abort();
        }
    }

    fn want_table(&self) {
        let (directory, partition, events) = (self.directory.clone(), self.partition, self.events.clone());
        tokio::spawn(async move {
            let table = directory.table(partition, Freshness::Local).await;
            let _ = events.send(Event::Table(table));
        });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Opened { shard, stream, tx } => {
                if let Some(current) = self.streams.get_mut(&shard).filter(|s| s.number == stream) {
                    let _ = tx.send(current.request.to_frame(0, Payload::empty()));
                    current.tx = Some(tx);
                }
            }
            Event::Frames { shard, stream, frames } => {
                let Some(current) = self.streams.get_mut(&shard).filter(|s| s.number == stream) else { return };
                current.waiting = true;
                if frames.into_iter().any(|frame| self.handle_frame(shard, frame).is_err()) {
                    self.lose_stream(shard);
                }
            }
            Event::Closed { shard, stream } => {
                if self.streams.get(&shard).is_some_and(|s| s.number == stream) {
                    self.lose_stream(shard);
                }
            }
            Event::Table(Ok(table)) => self.core.handle_table(now(), table),
            // It is asked for again, unless there is nothing to ask for.
            Event::Table(Err(error)) if error.is_not_found() => {
                self.items.fail(error);
            }
            Event::Table(Err(_)) => {}
        }
    }

    fn lose_stream(&mut self, shard: ShardRef) {
        self.close_stream(shard);
        self.core.handle_closed(now(), shard);
    }

    fn handle_frame(&mut self, shard: ShardRef, frame: Frame) -> Result<(), ()> {
        if ReadBlock::is(&frame) {
            let message = ReadBlock::from_frame(&frame).map_err(drop)?;
            // Whoever sends a damaged block is not believed any further.
            let block = Block::decode(frame.payload).map_err(drop)?;
            self.core.handle_block(now(), shard, &message, block);
        } else if ReadClaim::is(&frame) {
            self.core.handle_claim(now(), shard, &ReadClaim::from_frame(&frame).map_err(drop)?);
        } else {
            self.core.handle_started(now(), shard, &ReadStarted::from_frame(&frame).map_err(drop)?);
        }
        Ok(())
    }
}

/// Reads one stream: a batch of frames at a time, and no more before the reader wants it.
async fn read_stream(
    directory: Arc<Directory>,
    shard: ShardRef,
    stream: u64,
    events: mpsc::UnboundedSender<Event>,
    go_on: Arc<Notify>,
) {
    let opened = async {
        let connection = directory.data_of_shard(shard.shard).await?;
        Ok::<_, ClientError>(connection.open_lane(LaneKind::Read).await?)
    };
    if let Ok(lane) = opened.await {
        let (tx, mut rx) = lane.split();
        let _ = events.send(Event::Opened { shard, stream, tx });
        let mut frames = Vec::new();
        while rx.recv_many(&mut frames).await.is_ok() {
            let frames = std::mem::take(&mut frames);
            if events.send(Event::Frames { shard, stream, frames }).is_err() {
                return;
            }
            go_on.notified().await;
        }
    }
    let _ = events.send(Event::Closed { shard, stream });
}
