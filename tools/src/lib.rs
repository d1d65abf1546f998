//! What the `dlog` command does besides serving.

pub mod args;

use std::process::ExitCode;

/// Does what a client's command line asks for; the exit code says whether it was done.
pub fn run(_command: args::Command) -> ExitCode {
    eprintln!("error: this build of dlog only serves; it has no commands for clients");
    ExitCode::FAILURE
}
