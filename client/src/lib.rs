//! DLog's client: append, read, find, trim and admin calls.

pub mod append;
pub mod read;
