//! The `dlog` command.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use dlog::cli::{Cli, Task};
use dlog::config::{self, Config, SettingFlags};
use dlog::logging;
use dlog_proto::bugs::{Bug, bug};
use tokio::runtime;

/// Built with the simulator's bugs it is not: the feature makes this no constant.
const _: () = assert!(!bug(Bug::AckBelowQuorum), "no bug is put in on purpose");

/// What is asked for makes no sense; the same as clap's.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let task = Cli::try_parse().and_then(Cli::task).unwrap_or_else(|error| error.exit());
    let done = match task {
        Task::Serve(settings) => effective(settings).and_then(|effective| serve(effective.config)),
        Task::ShowConfig { settings, json } => effective(settings).and_then(|effective| show(&effective, json)),
        Task::Client(command) => return dlog_tools::run(command),
    };
    done.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

fn fail(code: u8, error: &impl Display) -> ExitCode {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(code)
}

fn effective(settings: SettingFlags) -> Result<config::Effective, ExitCode> {
    config::load(settings, std::env::vars_os()).map_err(|errors| {
        for error in &errors.0 {
            fail(USAGE, error);
        }
        ExitCode::from(USAGE)
    })
}

fn show(effective: &config::Effective, json: bool) -> Result<(), ExitCode> {
    let text = if json { format!("{:#}\n", effective.to_json()) } else { effective.to_table() };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| fail(1, &format_args!("cannot print the settings: {error}"))),
    }
}

fn serve(config: Config) -> Result<(), ExitCode> {
    logging::init(config.log_format, &config.log_level).map_err(|error| fail(1, &error))?;
    // The control plane: Raft, HTTP, admin. Records move on threads of their own.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build();
    let runtime = runtime.map_err(|error| fail(1, &format_args!("cannot start threads: {error}")))?;
    runtime.block_on(dlog::serve(config)).map_err(|error| fail(1, &error))
}
