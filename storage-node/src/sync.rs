//! What threads hand over by, without locks: the standard library's, or those of loom, which tries all orders.

#[cfg(not(feature = "loom"))]
mod of_std {
    pub(crate) use std::sync::Mutex;
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// Waits a little for another thread.
    pub(crate) fn wait(time: std::time::Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(feature = "loom")]
mod of_loom {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(crate) fn wait(_: std::time::Duration) {
        loom::thread::yield_now();
    }
}

#[cfg(feature = "loom")]
pub(crate) use of_loom::*;
#[cfg(not(feature = "loom"))]
pub(crate) use of_std::*;
