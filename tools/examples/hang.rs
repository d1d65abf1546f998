use clap::Parser;
#[derive(Parser)]
struct Cli { #[command(subcommand)] command: dlog_tools::args::Command }
fn main() -> std::process::ExitCode { dlog_tools::run(Cli::parse().command) }
