//! Reads several partitions at once, into one place.

use std::sync::Arc;

use dlog_client::{Client, ClientError, Position, ReadStep};
use dlog_proto::{LogId, Lsn};
use tokio::sync::{Semaphore, mpsc};

/// Steps that were read and wait for being used.
const STEPS_AHEAD: usize = 16;
/// Partitions that are read at once, unless all of them are followed: each holds some megabytes.
const AT_ONCE: usize = 16;

/// What is to be read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) partition: u32,
    pub(super) from: Lsn,
    /// The first LSN that is not read any more; without it there is no end.
    pub(super) until: Option<Lsn>,
}

#[derive(Debug)]
pub(super) enum Event {
    /// What comes next in a partition.
    Step(u32, ReadStep),
    /// A partition is read to its end.
    Ended,
    Failed(u32, ClientError),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// Starts reading. What is read comes out of the channel: each partition in order, and ended by [`Event::Ended`].
pub(super) fn start(client: &Client, log: &LogId, ranges: &[Range]) -> mpsc::Receiver<Event> {
    let (events, read) = mpsc::channel(STEPS_AHEAD);
    let at_once = if ranges.iter().any(|range| range.until.is_none()) { ranges.len() } else { AT_ONCE };
    let turns = Arc::new(Semaphore::new(at_once));
    for range in ranges {
        let (client, log, range, events, turns) = (client.clone(), log.clone(), *range, events.clone(), turns.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = turns.acquire().await;
            let end = match forward(&client, &log, range, &events).await {
                Ok(()) => Event::Ended,
                Err(error) => Event::Failed(range.partition, error),
            };
            // If nobody reads any more, nobody minds.
            let _ = events.send(end).await;
        });
    }
    read
}

/// As [`start`], without an end but Ctrl-C.
pub(super) fn follow(client: &Client, log: &LogId, ranges: &[Range]) -> mpsc::Receiver<Event> {
    let (events, read) = mpsc::channel(STEPS_AHEAD);
    let mut steps = start(client, log, ranges);
    tokio::spawn(async move {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let event = tokio::select! {
                biased;
                _ = &mut interrupted => Event::Interrupted,
                Some(event) = steps.recv() => event,
                else => return,
            };
            let last = matches!(event, Event::Interrupted);
            if events.send(event).await.is_err() || last {
                return;
            }
        }
    });
    read
}

async fn forward(client: &Client, log: &LogId, range: Range, events: &mpsc::Sender<Event>) -> Result<(), ClientError> {
    let until = range.until.map(Position::Lsn);
    let mut reader = client.reader(log, range.partition, Position::Lsn(range.from), until).await?;
    while let Some(step) = reader.next_step().await? {
        if events.send(Event::Step(range.partition, step)).await.is_err() {
            break;
        }
    }
    Ok(())
}
