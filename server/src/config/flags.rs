//! Settings from the command line: a flag for each, made from the list of settings.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::environment::CONFIG_VARIABLE;
use super::load::{Given, Origin};
use super::{Config, FIELDS, Field};

/// What the command line says of a node's settings.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags {
    pub(super) config_file: Option<PathBuf>,
    pub(super) given: Vec<Given>,
}

impl SettingFlags {
    /// The first flag that was given, for commands that take none of them.
    pub fn first(&self) -> Option<String> {
        let config = self.config_file.as_ref().map(|_| "--config".to_owned());
        config.or_else(|| self.given.first().map(|given| given.origin.to_string()))
    }

    /// These, and what `more` says besides or instead.
    pub fn and(mut self, more: Self) -> Self {
        self.config_file = more.config_file.or(self.config_file);
        self.given.extend(more.given);
        self
    }
}

const CONFIG: &str = "config";

fn heading(field: &Field) -> &'static str {
    match field.section {
        None => "Node",
        Some("write_cache") => "Write cache",
        Some("tls") => "TLS",
        Some("limits") => "Limits",
        Some("kafka") => "Kafka",
        Some("metadata") => "Metadata tier",
        Some(section) => unreachable!("section {section} has a heading"),
    }
}

fn arg(field: &'static Field) -> Arg {
    // As clap prints its own.
    let about = field.about().trim_end_matches('.');
    let default = match field.derived {
        Some(from) => from.to_owned(),
        None => (field.show)(&Config::default()).text,
    };
    let default = if default.is_empty() { default } else { format!("\n[default: {default}]") };
    Arg::new(field.key)
        .long(field.flag())
        .value_name(field.placeholder)
        .help(about)
        .long_help(format!("{about}{default}\n[variable: {}]", field.variable()))
        .help_heading(heading(field))
        .allow_hyphen_values(true)
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with settings; variables and flags weigh more")
            .long_help(format!(
                "TOML file with settings; variables and flags weigh more.\n[variable: {CONFIG_VARIABLE}]"
            ))
            .help_heading("Node");
        command.arg(config).args(FIELDS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FIELDS.iter().filter_map(|field| {
            let value: &String = matches.get_one(field.key)?;
            Some(Given { field, value: value.as_str().into(), origin: Origin::Flag(field.flag()) })
        });
        Ok(Self { config_file: matches.get_one(CONFIG).cloned(), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn flags(args: &[&str]) -> SettingFlags {
        let command = SettingFlags::augment_args(Command::new("dlog").no_binary_name(true));
        SettingFlags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    #[test]
    fn every_setting_has_a_flag() {
        let flags = flags(&["--config", "d.toml", "--node-id", "2", "--limits-block-bytes=2MiB"]);
        assert_eq!(flags.config_file, Some("d.toml".into()));
        let given: Vec<_> = flags.given.iter().map(|given| (given.field.key, given.origin.to_string())).collect();
        assert_eq!(
            given,
            [("node_id", "--node-id".to_owned()), ("limits.block_bytes", "--limits-block-bytes".to_owned())]
        );
        assert_eq!(flags.first().as_deref(), Some("--config"));
        assert_eq!(SettingFlags::default().first(), None);
    }

    #[test]
    fn help_names_default_and_variable() {
        let mut command = SettingFlags::augment_args(Command::new("dlog"));
        let help = command.render_long_help().to_string();
        assert!(help.contains("--segment-bytes <BYTES>") && help.contains("[default: 1GiB]"), "{help}");
        assert!(help.contains("[variable: DLOG_SEGMENT_BYTES]") && help.contains("Metadata tier:"), "{help}");
        command.debug_assert();
    }
}
