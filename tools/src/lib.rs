//! What the `dlog` command does besides serving.

// They panic where nobody listens any more.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
mod commands;
mod failure;
mod output;

use std::process::ExitCode;

use tokio::runtime;

use crate::args::Command;
use crate::failure::{Failure, Outcome};

/// Does what a client's command line asks for. The exit code is 0 if it was done, 1 if not, 2 if the command line makes no
/// sense, 3 if it was done but records are lost that should have been read.
pub fn run(command: Command) -> ExitCode {
    // The command itself has the main thread to itself, where it may block on a pipe; the connections have the worker.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).thread_name("client").enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("cannot start threads: {error}")).report(),
    };
    let done = runtime.block_on(Box::pin(commands::run(command)));
    // Whatever is still under way has nobody any more who would hear of it.
    runtime.shutdown_background();
    match done {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::DataLoss) => ExitCode::from(failure::DATA_LOSS),
        Err(failure) => failure.report(),
    }
}
