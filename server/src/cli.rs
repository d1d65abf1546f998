//! The command line.

use clap::{Parser, Subcommand};

use crate::config::SettingFlags;

/// DLog: a distributed, replicated log.
///
/// Without a command it serves: one node with all roles, its data in ./dlog-data, clients on localhost:9092, HTTP on
/// localhost:9644. Settings come from --config FILE, then DLOG_… variables, then flags; `dlog config show` shows which
/// hold and why.
#[derive(Debug, Parser)]
#[command(name = "dlog", version, propagate_version = true, after_help = EXAMPLES, next_line_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub settings: SettingFlags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  dlog                                                     serve, alone
  dlog --node-id 1 --data-dir data1 --cluster-nodes 1,2,3  serve as the first of three on this machine
  dlog log create demo/first --partitions 1 --replication 1
  echo hello | dlog append demo/first
  dlog read demo/first --from oldest

`dlog COMMAND --help` shows more.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at this node's settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Client(dlog_tools::args::Command),
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings that hold with this file, these variables and these flags, and where each comes from.
    #[command(after_help = "\
Examples:
  dlog config show --config node.toml
  DLOG_NODE_ID=2 dlog config show --json")]
    Show {
        /// As JSON: {\"node_id\": {\"value\": 1, \"source\": \"default\"}, …}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Box<SettingFlags>,
    },
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Task {
    Serve(SettingFlags),
    ShowConfig { settings: SettingFlags, json: bool },
    Client(dlog_tools::args::Command),
}

impl Cli {
    /// An error if settings of a node are given to a command that has none.
    pub fn task(self) -> Result<Task, clap::Error> {
        match self.command {
            None => Ok(Task::Serve(self.settings)),
            Some(Command::Config(ConfigCommand::Show { json, settings })) => {
                Ok(Task::ShowConfig { settings: self.settings.and(*settings), json })
            }
            Some(Command::Client(command)) => match self.settings.first() {
                None => Ok(Task::Client(command)),
                Some(flag) => Err(misplaced(&flag)),
            },
        }
    }
}

fn misplaced(flag: &str) -> clap::Error {
    let message = format!(
        "{flag} is a setting of a node that serves; this command is for a client. Clients take --server, --ca and --timeout, \
         after the command\n"
    );
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn task(line: &str) -> Result<Task, String> {
        let parsed = Cli::try_parse_from(line.split_whitespace()).and_then(Cli::task);
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_serves() {
        assert!(matches!(task("dlog"), Ok(Task::Serve(_))));
        let Ok(Task::Serve(settings)) = task("dlog --node-id 2 --data-dir d2") else { panic!("it serves") };
        assert_eq!(settings.first().as_deref(), Some("--node-id"));
    }

    #[test]
    fn settings_may_stand_before_or_after_config_show() {
        let Ok(Task::ShowConfig { settings, json }) = task("dlog --weight 7 config show --json --shards 2") else {
            panic!("it shows settings")
        };
        let config = crate::config::load(settings, []).unwrap().config;
        assert_eq!((config.weight, config.shards, json), (7, 2, true));
    }

    #[test]
    fn a_nodes_settings_are_no_business_of_clients() {
        let error = task("dlog --node-id 2 log list").unwrap_err();
        assert!(error.contains("--node-id is a setting of a node that serves"), "{error}");
        assert!(matches!(task("dlog log list"), Ok(Task::Client(_))));
    }

    #[test]
    fn help_teaches() {
        let help = Cli::command().render_long_help().to_string();
        for part in ["Examples:", "dlog log create demo/first", "--cluster-nodes", "[variable: DLOG_LISTEN]", "append"]
        {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
    }
}
