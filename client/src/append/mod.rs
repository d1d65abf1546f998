//! Appending.

pub mod core;
