//! Several looks at the index that must see one state of it, without a lock that readers hold.
//!
//! A rewritten segment takes the place of the one before in a single batch, but a reader asks the index more than once: what
//! it found first could lead to the old file and what it finds next to the new one. A counter that is odd while a batch is
//! applied tells it, and it reads again. Everything that is looked at lies behind locks of its own: torn values cannot be
//! read, only values of different times.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering, wait};

/// How long a reader waits for a switch to be over, at a time.
const SWITCH_TIME: Duration = Duration::from_micros(100);

/// Odd while a switch goes on; never the same again.
#[derive(Debug, Default)]
pub(crate) struct Switches(AtomicU64);

impl Switches {
    /// Changes what rows say of blocks that readers may be about to look up. One at a time: the caller's duty.
    pub(crate) fn switch<T>(&self, change: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::SeqCst);
        let outcome = change();
        self.0.fetch_add(1, Ordering::SeqCst);
        outcome
    }

    /// Reads without such a change in between.
    pub(crate) fn steady<T, E>(&self, mut read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            let before = self.0.load(Ordering::SeqCst);
            if !before.is_multiple_of(2) {
                wait(SWITCH_TIME);
                continue;
            }
            let outcome = read();
            if self.0.load(Ordering::SeqCst) == before {
                return outcome;
            }
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, Mutex};

    #[test]
    fn two_looks_see_one_state() {
        loom::model(|| {
            let switches = Arc::new(Switches::default());
            let rows = Arc::new([Mutex::new(0), Mutex::new(0)]);
            let writer = {
                let (switches, rows) = (Arc::clone(&switches), Arc::clone(&rows));
                loom::thread::spawn(move || {
                    switches.switch(|| rows.iter().for_each(|row| *row.lock().unwrap() += 1));
                })
            };
            let look = || Ok::<_, ()>((*rows[0].lock().unwrap(), *rows[1].lock().unwrap()));
            let (first, second) = switches.steady(look).unwrap();
            assert_eq!(first, second);
            writer.join().unwrap();
            assert_eq!(switches.steady(look), Ok((1, 1)));
        });
    }
}
