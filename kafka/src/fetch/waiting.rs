//! Waiting for any of many partitions to move.

use std::pin::Pin;
use std::task::Poll;

use tokio::sync::watch;

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Changes of tails, marks and views that were looked at: whichever comes first.
#[derive(Default)]
pub(crate) struct Changes {
    waiting: Vec<Change>,
}

impl Changes {
    /// Waits for this one too. What the receiver has seen is no change; that nobody tells any more is one, as when a
    /// sequencer goes.
    pub(crate) fn add<T: Send + Sync + 'static>(&mut self, mut told: watch::Receiver<T>) {
        self.waiting.push(Box::pin(async move { drop(told.changed().await) }));
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
