//! How far a segment's file was written at least once.
//!
//! Two threads write to it: the log, from front to back, and ahead of it one that writes zeros. Zeros must never land on
//! what the log wrote. The log *claims* a range before it writes to it; zeros are written under a lock, behind what is
//! claimed, and a claim that goes beyond what is filled waits for the lock: then no zeros are under way.

use std::io;
use std::sync::PoisonError;

use crate::sync::{AtomicU32, Mutex, Ordering};

#[derive(Debug)]
pub(crate) struct Filled {
    upto: AtomicU32,
    filling: Mutex<()>,
}

impl Filled {
    /// Everything below `upto` was written before.
    pub(crate) fn new(upto: u32) -> Self {
        Self { upto: AtomicU32::new(upto), filling: Mutex::new(()) }
    }

    /// Whether less than up to `upto` was written or filled.
    pub(crate) fn is_below(&self, upto: u32) -> bool {
        self.upto.load(Ordering::Acquire) < upto
    }

    /// Must come before a write up to `end`: from now on no zeros are written below it.
    pub(crate) fn claim(&self, end: u32) {
        if self.is_below(end) {
            let _no_zeros_are_under_way = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
            self.upto.fetch_max(end.next_multiple_of(4096), Ordering::AcqRel);
        }
    }

    /// Fills the next `step_len` bytes, at most up to `upto`: `zero` writes zeros at a place, so many. `false` if all is
    /// filled.
    pub(crate) fn fill_step(
        &self,
        upto: u32,
        step_len: u32,
        zero: impl FnOnce(u32, u32) -> io::Result<()>,
    ) -> io::Result<bool> {
        let _one_at_a_time = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.upto.load(Ordering::Acquire);
        if at >= upto {
            return Ok(false);
        }
        let step = step_len.min(upto - at);
        zero(at, step)?;
        self.upto.store(at + step, Ordering::Release);
        Ok(true)
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    const PAGE: u32 = 4096;

    #[test]
    fn zeros_never_land_on_what_was_written() {
        loom::model(|| {
            let filled = Arc::new(Filled::new(0));
            // A cell per page; loom fails if two threads write one at the same time.
            let pages = Arc::new([UnsafeCell::new(9), UnsafeCell::new(9)]);
            let put = |pages: &[UnsafeCell<u8>; 2], page: usize, value| {
                // SAFETY: that nobody else writes the page now is what loom checks.
                pages[page].with_mut(|page| unsafe { *page = value });
            };
            let filler = {
                let (filled, pages) = (Arc::clone(&filled), Arc::clone(&pages));
                loom::thread::spawn(move || {
                    let zero = |at: u32, len| {
                        assert_eq!(len, PAGE);
                        put(&pages, (at / PAGE) as usize, 0);
                        Ok(())
                    };
                    while filled.fill_step(2 * PAGE, PAGE, zero).unwrap() {}
                })
            };
            for page in 0..2 {
                // Not the whole page: the rest of it is not filled with zeros any more.
                filled.claim(page * PAGE + 100);
                put(&pages, page as usize, 1);
            }
            filler.join().unwrap();
            // SAFETY: the other thread is done.
            assert_eq!([0, 1].map(|page| pages[page].with(|page| unsafe { *page })), [1, 1]);
        });
    }
}
