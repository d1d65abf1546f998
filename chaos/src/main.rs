//! `dlog-chaos`: see the library.

use std::process::ExitCode;

use clap::Parser;
use dlog_chaos::Args;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    dlog_chaos::move_out(&args);
    let outcome = tokio::select! {
        outcome = dlog_chaos::play(args) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted: the nodes are killed".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("dlog-chaos: {why}");
            ExitCode::from(2)
        }
    }
}
