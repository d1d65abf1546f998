//! When records are due, at a rate that does not depend on how fast they are acknowledged.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// A thread that says when records are due: a timer of the runtime would be late by up to a millisecond.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    rate: u32,
    due: u64,
    ticks: mpsc::Receiver<u64>,
}

/// Ticks at most this often; at higher rates several records are due at once.
const TICK_MIN: Duration = Duration::from_micros(200);

impl Pacer {
    pub(super) fn start(rate: u32) -> Self {
        let start = Instant::now();
        // One tick waits at most: the next one says all that is due then.
        let (sender, ticks) = mpsc::channel(1);
        thread::spawn(move || {
            let mut number = 0;
            loop {
                let next = due_at(rate, number).max(start.elapsed() + TICK_MIN);
                thread::sleep(next.saturating_sub(start.elapsed()));
                number = due_by(rate, start.elapsed());
                if sender.blocking_send(number).is_err() {
                    return;
                }
            }
        });
        Self { start, rate, due: 0, ticks }
    }

    /// How many records are due so far.
    pub(super) fn due(&mut self) -> u64 {
        if let Ok(due) = self.ticks.try_recv() {
            self.due = due;
        }
        self.due
    }

    /// When a record is due, from 0.
    pub(super) fn due_at(&self, number: u64) -> Instant {
        self.start + due_at(self.rate, number)
    }

    /// Waits until more are due.
    pub(super) async fn next(&mut self) {
        if let Some(due) = self.ticks.recv().await {
            self.due = due;
        }
    }
}

fn due_at(rate: u32, number: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Records that are due once this time has passed: the first one is due at once.
fn due_by(rate: u32, elapsed: Duration) -> u64 {
    let number = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000 + 1;
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_at_equal_distances() {
        let ms = Duration::from_millis;
        assert_eq!([due_at(1000, 0), due_at(1000, 1), due_at(1000, 2500)], [ms(0), ms(1), ms(2500)]);
        assert_eq!([due_by(1000, ms(0)), due_by(1000, ms(1)), due_by(1000, ms(2500))], [1, 2, 2501]);
        assert_eq!(due_by(3, due_at(3, 7) + Duration::from_nanos(1)), 8);
    }

    #[tokio::test]
    async fn a_tick_never_says_less_than_is_due() {
        let mut pacer = Pacer::start(10_000);
        for _ in 0..5 {
            let before = pacer.due();
            pacer.next().await;
            assert!(pacer.due() > before);
            assert!(pacer.due_at(pacer.due - 1) <= Instant::now(), "what is due is due");
        }
    }
}
