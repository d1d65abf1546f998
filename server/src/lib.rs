//! DLog: a distributed, replicated log. This package is the process: settings, data directory, ports, the `dlog` command.

mod address;
pub mod banner;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod http;
pub mod logging;
mod node;
mod serve;
pub mod signals;

pub use serve::{ServeError, serve};
