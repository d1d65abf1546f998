//! Waiting for any of many partitions to move.

use std::pin::Pin;
use std::task::Poll;

use dlog_proto::wire::Tail;
use tokio::sync::watch;

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Changes of tails that were looked at: whichever comes first.
#[derive(Default)]
pub(crate) struct Changes {
    waiting: Vec<Change>,
}

impl Changes {
    /// Waits for this one too. What the receiver has seen is no change; that its sequencer goes is one.
    pub(crate) fn add(&mut self, mut tail: watch::Receiver<Tail>) {
        self.waiting.push(Box::pin(async move { drop(tail.changed().await) }));
    }

    /// Resolves with the first change; never, if there is nothing to wait for.
    pub(crate) async fn first(mut self) {
        std::future::poll_fn(|context| {
            match self.waiting.iter_mut().any(|change| change.as_mut().poll(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}
