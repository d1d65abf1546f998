//! Real nodes, killed, stopped and cut off while clients write and read; and whether what the clients saw keeps
//! what docs/CONSISTENCY.md promises. See docs/CHAOS.md.

mod checker;
mod cluster;
mod failover;
mod held;
mod history;
mod machines;
mod nemesis;
mod net;
mod place;
mod ports;
mod quorums;
mod run;
mod table;
mod verdict;
mod workload;

use std::ffi::OsStr;
use std::path::Path;

use clap::{Parser, Subcommand};

/// Runs real DLog nodes on this machine, gets them into trouble, and judges what their clients saw.
#[derive(Debug, Parser)]
#[command(
    name = "dlog-chaos",
    version,
    after_help = "Examples:\n  dlog-chaos run --dlog target/release/dlog --seconds 60\n  dlog-chaos failover --dlog target/release/dlog --kills 100\n  dlog-chaos quorums --dlog target/release/dlog\nSee docs/CHAOS.md."
)]
pub struct Args {
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

/// Begins this program anew where nodes can have machines of their own, if that is wanted and the system lets it. To be called
/// before anything else.
pub fn move_out(args: &Args) {
    if let Command::Run(run) = &args.command
        && run.wants_machines()
        && !machines::has_moved()
    {
        println!("all nodes on one machine: {}", machines::move_out());
    }
}

/// Does what the command line says. Whether all is well; what was seen is printed. `Err`: it could not be done.
pub async fn play(args: Args) -> Result<bool, String> {
    match args.command {
        Command::Run(args) => run::run(&args).await,
        Command::Failover(args) => failover::run(&args).await,
        Command::Quorums(args) => quorums::run(&args).await,
    }
}

/// A run with troubles of every sort, as short as that goes: for tests.
const SHORT_RUN: [&str; 13] = [
    "dlog-chaos",
    "run",
    "--seed=80",
    "--seconds=12",
    "--nodes=3",
    "--partitions=2",
    "--writers=2",
    "--rate=100",
    "--replication=3",
    "--write-quorum=2",
    "--read-quorum=2",
    "--readers=1",
    "--dlog",
];

/// A short run of this `dlog`; as [`play`].
pub async fn play_shortly(dlog: &Path) -> Result<bool, String> {
    let words = SHORT_RUN.iter().map(OsStr::new).chain([dlog.as_os_str()]);
    play(Args::try_parse_from(words).map_err(|error| error.to_string())?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_run_has_troubles_of_every_sort() {
        let Ok(Args { command: Command::Run(args) }) = Args::try_parse_from(SHORT_RUN.iter().chain(&["dlog"])) else {
            panic!("a command line")
        };
        let seed = args.seed.expect("it is given");
        let told: String = args.troubles(seed).iter().map(|trouble| format!("{trouble}\n")).collect();
        let disks = ["disk does not answer,", "ms after every"];
        for words in ["is killed", "stands still", "cut off", "arrive", "ms late", "is lost"].into_iter().chain(disks) {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
