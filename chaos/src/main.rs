//! `dlog-chaos`: real nodes, killed, stopped and cut off while clients write and read; and whether what the clients saw keeps
//! what docs/CONSISTENCY.md promises. See docs/CHAOS.md.

mod checker;
mod cluster;
mod failover;
mod history;
mod nemesis;
mod net;
mod place;
mod ports;
mod quorums;
mod run;
mod table;
mod verdict;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs real DLog nodes on this machine, gets them into trouble, and judges what their clients saw.
#[derive(Debug, Parser)]
#[command(
    name = "dlog-chaos",
    version,
    after_help = "Examples:\n  dlog-chaos run --dlog target/release/dlog --seconds 60\n  dlog-chaos failover --dlog target/release/dlog --kills 100\n  dlog-chaos quorums --dlog target/release/dlog\nSee docs/CHAOS.md."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Troubles drawn from a seed, writers and readers at work, and a verdict over what they saw
    Run(run::Args),
    /// How long appends stand still when a sequencer's process is killed
    Failover(failover::Args),
    /// With how many nodes down appends go on
    Quorums(quorums::Args),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let outcome = async {
        match Args::parse().command {
            Command::Run(args) => run::run(&args).await,
            Command::Failover(args) => failover::run(&args).await,
            Command::Quorums(args) => quorums::run(&args).await,
        }
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
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
