//! The clocks that shells hand to cores.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

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
        Some(at) => sleep(at.since(now())).await,
        None => std::future::pending().await,
    }
}

/// Ticks, the first at once. After a pause they do not catch up: the next comes a whole period after the one that was late.
pub fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
