//! The index: where things lie in the log. Derived from it, never believed over it, rebuilt from it when it is gone.

pub(crate) mod digest;
pub mod key;
pub mod kv;
pub(crate) mod layered;
pub mod memory;
pub(crate) mod overlay;
mod purge;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub(crate) mod schema;
pub(crate) mod step;
pub(crate) mod transaction;
mod trim;
pub(crate) mod watched;
