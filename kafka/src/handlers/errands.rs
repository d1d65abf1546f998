//! Changes of topics: clients say how long they wait for them, and what was begun goes on, whether they still wait or not.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::topics::Refused;

/// Changes that are under way; more wait for them.
const AT_ONCE: usize = 1024;
/// Longest wait, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// When a client that waits for so long, in milliseconds, is to be answered. One that says 0 or less does not wait.
pub(super) fn deadline(timeout_ms: i32) -> Instant {
    Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).min(WAIT_MAX)
}

/// What is done for the clients of a node.
#[derive(Debug)]
pub(crate) struct Errands(Arc<Semaphore>);

impl Default for Errands {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// Something that was begun.
pub(super) struct Errand<T> {
    task: JoinHandle<Result<T, Refused>>,
    deadline: Instant,
}

impl Errands {
    /// Begins `work` now, or when there is room, if that is before the deadline. It is done to its end then.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Refused>> + Send + 'static,
    ) -> Errand<T> {
        let room = self.0.clone();
        let task = tokio::spawn(async move {
            match timeout_at(deadline, room.acquire_owned()).await {
                Ok(Ok(_permit)) => work.await,
                _ => Err(late("too much is under way, and this was not begun")),
            }
        });
        Errand { task, deadline }
    }
}

impl<T> Errand<T> {
    /// What came of it, or REQUEST_TIMED_OUT at the deadline.
    pub(super) async fn outcome(self) -> Result<T, Refused> {
        match timeout_at(self.deadline, self.task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(late("it was broken off")),
            Err(_) => Err(late("it is not done in the time that was given, and goes on")),
        }
    }
}

fn late(why: &str) -> Refused {
    (ResponseError::RequestTimedOut, why.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_takes_too_long_is_answered_in_time_and_goes_on() {
        let errands = Errands::default();
        for timeout_ms in [-1, 0, 30] {
            let (done, is_done) = oneshot::channel();
            let work = async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                done.send(()).unwrap();
                Ok(7)
            };
            let begun = Instant::now();
            let late = errands.begin(deadline(timeout_ms), work).outcome().await.unwrap_err();
            assert_eq!(late.0, ResponseError::RequestTimedOut);
            assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
            is_done.await.expect("it was done to its end");
        }
        assert_eq!(errands.begin(deadline(10_000), async { Ok(7) }).outcome().await, Ok(7));
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_under_way() {
        let errands = Errands::default();
        let never = || std::future::pending::<Result<(), Refused>>();
        let _all: Vec<_> = (0..AT_ONCE).map(|_| errands.begin(deadline(60_000), never())).collect();
        tokio::task::yield_now().await;
        let begun = errands.begin(deadline(30), async { panic!("there is no room") });
        let outcome: Result<(), Refused> = begun.outcome().await;
        assert_eq!(outcome.unwrap_err().0, ResponseError::RequestTimedOut);
    }
}
