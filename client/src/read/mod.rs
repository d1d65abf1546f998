//! Reading a partition.

pub mod core;
