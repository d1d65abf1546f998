//! Monotonic clocks that do not run at the same speed.

use dlog_proto::Time;

/// A server's clock: true time, faster or slower by so many thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    drift: i64,
}

impl Clock {
    pub(crate) fn new(drift: i64) -> Self {
        assert!(drift.abs() < 1000, "a clock goes forward");
        Self { drift }
    }

    fn speed(self) -> u128 {
        1000u64.saturating_add_signed(self.drift).into()
    }

    /// What it shows.
    pub(crate) fn at(self, now: Time) -> Time {
        Time((u128::from(now.0) * self.speed() / 1000) as u64)
    }

    /// When it shows `local`, or has passed it.
    pub(crate) fn when(self, local: Time) -> Time {
        Time(u64::try_from((u128::from(local.0) * 1000).div_ceil(self.speed())).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_wakes_when_a_clock_shows_a_time_is_not_too_early() {
        for drift in [-50, -7, 0, 3, 50] {
            let clock = Clock::new(drift);
            for local in [0, 1, 999, 1_000_000_007, u64::MAX / 2] {
                let woken = clock.at(clock.when(Time(local)));
                assert!((local..=local + 1).contains(&woken.0), "{drift} {local}: {woken:?}");
            }
        }
    }
}
