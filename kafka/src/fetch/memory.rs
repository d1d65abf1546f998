//! Memory for records on their way to consumers: of all connections together no more than so many bytes.
//!
//! It is taken before records are read, and given back when the answer is written. When there is little left, answers get
//! shorter; when there is none, a Fetch waits for it as long as it would have waited for records.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What is counted in, in bytes.
const UNIT: usize = 1024;

/// A part of it; given back when dropped.
#[derive(Debug)]
pub(crate) struct FetchMemory {
    permit: OwnedSemaphorePermit,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct FetchMemories {
    units: Arc<Semaphore>,
    all: usize,
}

impl FetchMemories {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let all = (bytes_max / UNIT).clamp(1, u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(all)), all }
    }

    /// Memory for `wanted` bytes, or for at least `least` if there is not as much. `None` if there is none until `deadline`.
    pub(crate) async fn take(&self, wanted: usize, least: usize, deadline: Instant) -> Option<FetchMemory> {
        let units = |bytes: usize| bytes.div_ceil(UNIT).clamp(1, self.all);
        let (wanted, least) = (units(wanted), units(least.min(wanted)));
        let there = wanted.min(self.units.available_permits()).max(least);
        if let Ok(permit) = self.units.clone().try_acquire_many_owned(there as u32) {
            return Some(FetchMemory { permit });
        }
        let permit = timeout_at(deadline, self.units.clone().acquire_many_owned(least as u32)).await;
        permit.ok()?.ok().map(|permit| FetchMemory { permit })
    }
}

impl FetchMemory {
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT
    }

    pub(crate) fn merge(&mut self, more: Self) {
        self.permit.merge(more.permit);
    }

    /// Gives back what is not needed for `bytes`. If it was less, it stays as it is.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let spare = self.permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop(self.permit.split(spare));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KIB: usize = 1024;

    #[tokio::test]
    async fn what_is_scarce_is_shared_and_waited_for() {
        let all = FetchMemories::new(100 * KIB);
        let soon = || Instant::now() + Duration::from_millis(30);
        let mut first = all.take(70 * KIB, 10 * KIB, soon()).await.unwrap();
        let second = all.take(70 * KIB, 10 * KIB, soon()).await.unwrap();
        assert_eq!((first.bytes(), second.bytes()), (70 * KIB, 30 * KIB), "what is left");
        assert!(all.take(1, 1, soon()).await.is_none(), "there is none");
        first.shrink(50 * KIB);
        let third = all.take(70 * KIB, 10 * KIB, soon()).await.unwrap();
        assert_eq!(third.bytes(), 20 * KIB);
        first.shrink(60 * KIB);
        assert_eq!(first.bytes(), 50 * KIB, "it does not grow");
        let waits = all.take(70 * KIB, 10 * KIB, Instant::now() + Duration::from_secs(60));
        let (_, waited) = tokio::join!(async { drop(second) }, waits);
        assert!(waited.is_some_and(|waited| waited.bytes() >= 10 * KIB), "it comes back");
        drop((first, third));
        let huge = all.take(usize::MAX, usize::MAX, soon()).await.unwrap();
        assert_eq!(huge.bytes(), 100 * KIB, "never more than there is");
    }
}
