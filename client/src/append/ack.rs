//! Acknowledgements: one per record, kept per batch.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use dlog_proto::wire::AppendOk;
use dlog_proto::{LogOffset, Lsn};

use super::core::AppendFailure;

/// Where a record stands: acknowledged, durable at the level its log asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Appended {
    pub lsn: Lsn,
    /// Known unless earlier epochs of the partition are still being recovered.
    pub offset: Option<LogOffset>,
    /// A retry found it stored already.
    pub duplicate: bool,
}

/// What becomes of a batch; shared by the records in it.
#[derive(Debug, Default)]
pub(super) struct BatchState {
    outcome: OnceLock<Result<AppendOk, AppendFailure>>,
    wakers: Mutex<Vec<Waker>>,
}

impl BatchState {
    pub(super) fn complete(&self, outcome: Result<AppendOk, AppendFailure>) {
        self.outcome.set(outcome).expect("a batch has one outcome");
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(Waker::wake);
    }

    fn appended(&self, index: u32) -> Option<Result<Appended, AppendFailure>> {
        let of_record = |ok: &AppendOk| Appended {
            lsn: Lsn(ok.lsn.0 + u64::from(index)),
            offset: ok.offset.map(|offset| LogOffset(offset.0 + u64::from(index))),
            duplicate: ok.duplicate,
        };
        Some(self.outcome.get()?.as_ref().map(of_record).map_err(Clone::clone))
    }
}

/// The acknowledgement of one record, to be awaited. Records of a partition are acknowledged in the order in which they were
/// appended.
#[derive(Debug, Clone)]
#[must_use = "a record is safe only when its acknowledgement says so"]
pub struct Ack {
    batch: Arc<BatchState>,
    index: u32,
}

impl Ack {
    pub(super) fn new(batch: Arc<BatchState>, index: u32) -> Self {
        Self { batch, index }
    }

    /// The outcome, if it is there already.
    pub fn now(&self) -> Option<Result<Appended, AppendFailure>> {
        self.batch.appended(self.index)
    }
}

impl Future for Ack {
    type Output = Result<Appended, AppendFailure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.now() {
            return Poll::Ready(outcome);
        }
        let mut wakers = self.batch.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have completed before the lock was ours; after this, whoever completes it finds the waker.
        if let Some(outcome) = self.now() {
            return Poll::Ready(outcome);
        }
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
