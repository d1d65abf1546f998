//! How much may be read and written in the background.

use std::time::{Duration, Instant};

/// Bytes that are earned with time. What is not spent within a second is gone; a debt is paid off.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_per_second: u32,
    bytes: i64,
    earned_at: Instant,
}

impl Budget {
    pub(super) fn new(bytes_per_second: u32, now: Instant) -> Self {
        Self { bytes_per_second, bytes: 0, earned_at: now }
    }

    /// Gives the time since the last call.
    pub(super) fn earn(&mut self, now: Instant) -> Duration {
        let time = now.saturating_duration_since(self.earned_at);
        self.earned_at = now;
        let rate = i64::from(self.bytes_per_second);
        let earned = (rate as f64 * time.as_secs_f64().min(1.0)) as i64;
        self.bytes = (self.bytes + earned).min(rate);
        time
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.bytes -= bytes as i64;
    }

    pub(super) fn is_spent(&self) -> bool {
        self.bytes <= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_must_be_earned() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut budget = Budget::new(1000, begin);
        assert!(budget.is_spent());
        assert_eq!(budget.earn(at(100)), Duration::from_millis(100));
        budget.spend(500);
        budget.earn(at(400));
        assert!(budget.is_spent(), "100 earned, 500 spent, 300 earned");
        budget.earn(at(600));
        assert!(!budget.is_spent());
        budget.earn(at(99_000));
        budget.spend(1000);
        assert!(budget.is_spent(), "an hour of rest is not an hour of work at once");
        let mut none = Budget::new(0, begin);
        none.earn(at(5000));
        assert!(none.is_spent());
    }
}
