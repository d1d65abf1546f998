//! What waits for the application: a queue that is bounded in bytes.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::core::Item;
use crate::error::ClientError;

/// What its room is counted in, in bytes.
const UNIT: usize = 1024;

type Read = Result<Item, ClientError>;

/// A queue with room for so many bytes of blocks; one that is longer waits until it has all of it.
pub(super) fn queue(bytes_max: usize) -> (AheadSender, AheadReceiver) {
    let (tx, rx) = mpsc::unbounded_channel();
    let units = bytes_max.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize)) as u32;
    let room = Arc::new(Semaphore::new(units as usize));
    (AheadSender { units, room: room.clone(), tx }, AheadReceiver { room, rx })
}

#[derive(Debug)]
pub(super) struct AheadSender {
    units: u32,
    room: Arc<Semaphore>,
    tx: mpsc::UnboundedSender<(Read, u32)>,
}

/// The reading side; when it is dropped, whoever waits for room hears of it.
#[derive(Debug)]
pub(super) struct AheadReceiver {
    room: Arc<Semaphore>,
    rx: mpsc::UnboundedReceiver<(Read, u32)>,
}

impl AheadSender {
    /// Waits until there is room. `Err` if nobody reads any more.
    pub(super) async fn send(&self, item: Item) -> Result<(), ()> {
        let len = match &item {
            Item::Block { block, .. } => block.bytes().len(),
            Item::Gap { .. } => 0,
        };
        let units = u32::try_from(len / UNIT + 1).unwrap_or(u32::MAX).min(self.units);
        self.room.acquire_many(units).await.map_err(drop)?.forget();
        self.tx.send((Ok(item), units)).map_err(drop)
    }

    /// Ends the queue with an error, which needs no room.
    pub(super) fn fail(&self, error: ClientError) {
        let _ = self.tx.send((Err(error), 0));
    }

    /// Returns when nobody reads any more.
    pub(super) async fn closed(&self) {
        self.tx.closed().await;
    }
}

impl AheadReceiver {
    /// The next one; `None` at the end. Whoever stops waiting loses nothing.
    pub(super) async fn recv(&mut self) -> Option<Read> {
        let (read, units) = self.rx.recv().await?;
        self.room.add_permits(units as usize);
        Some(read)
    }
}

impl Drop for AheadReceiver {
    fn drop(&mut self) {
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use dlog_proto::block::BlockBuilder;
    use dlog_proto::{Epoch, Esn, LogOffset, Lsn, PartitionUid};

    use super::*;

    fn block(len: usize) -> Item {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(1), Esn(1), 0);
        builder.push(&Bytes::from(vec![0; len]), 1, (0, 0));
        Item::Block { block: builder.finish(), from: Lsn::ZERO, base: LogOffset(0) }
    }

    fn poll_once<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn bytes_are_bounded_and_reading_makes_room() {
        let (tx, mut rx) = queue(64 << 10);
        assert_eq!(poll_once(tx.send(block(30 << 10))), Some(Ok(())));
        assert_eq!(poll_once(tx.send(block(30 << 10))), Some(Ok(())));
        assert_eq!(poll_once(tx.send(block(30 << 10))), None, "there is no room for a third");
        assert!(matches!(poll_once(rx.recv()), Some(Some(Ok(Item::Block { .. })))));
        assert_eq!(poll_once(tx.send(block(30 << 10))), Some(Ok(())));
    }

    #[test]
    fn a_block_longer_than_the_queue_passes_alone() {
        let (tx, mut rx) = queue(4 << 10);
        assert_eq!(poll_once(tx.send(block(100 << 10))), Some(Ok(())));
        assert_eq!(poll_once(tx.send(block(100))), None);
        assert!(poll_once(rx.recv()).is_some());
        assert_eq!(poll_once(tx.send(block(100))), Some(Ok(())));
    }

    #[test]
    fn who_waits_for_room_hears_that_nobody_reads() {
        let (tx, rx) = queue(1);
        assert_eq!(poll_once(tx.send(block(100))), Some(Ok(())));
        drop(rx);
        assert_eq!(poll_once(tx.send(block(100))), Some(Err(())));
    }
}
