//! The clocks that shells hand to cores.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Time, TimestampMs};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Monotonic time since the first call in this process.
pub fn now() -> Time {
    Time(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Wall-clock time.
pub fn now_ms() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    TimestampMs::try_from(since.as_millis()).unwrap_or(TimestampMs::MAX)
}

/// Sleeps until `at`; for ever if there is no such time.
pub async fn sleep_until(at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now())).await,
        None => std::future::pending().await,
    }
}
