//! Work that many ask for at once and that is done once for all who wait.

use tokio::sync::{mpsc, oneshot};

/// A question is answered by a round that begins after it was asked; who comes while one is under way waits for the
/// next.
pub(super) struct Rounds<T> {
    queue: mpsc::Sender<oneshot::Sender<T>>,
}

pub(super) type Waiting<T> = mpsc::Receiver<oneshot::Sender<T>>;

/// Those who may wait before more are held back.
const WAITING_MAX: usize = 1024;

impl<T: Clone> Rounds<T> {
    pub(super) fn new() -> (Self, Waiting<T>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue }, waiting)
    }

    /// `None` if nobody serves any more.
    pub(super) async fn ask(&self) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        self.queue.send(answer).await.ok()?;
        wait.await.ok()
    }
}

/// Serves rounds for ever.
pub(super) async fn serve<T: Clone, F: Future<Output = T>>(mut waiting: Waiting<T>, mut round: impl FnMut() -> F) {
    let mut served = Vec::new();
    while waiting.recv_many(&mut served, WAITING_MAX).await > 0 {
        let answer = round().await;
        served.drain(..).for_each(|waiter| drop(waiter.send(answer.clone())));
    }
}
