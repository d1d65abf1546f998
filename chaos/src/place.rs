//! The built `dlog`, and the directory in which nodes keep their data and logs.

use std::path::{Path, PathBuf};

use clap::Args;
use tempfile::TempDir;

use crate::cluster::Plan;

/// Flags of all commands.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The built dlog
    #[arg(long, value_name = "PATH", default_value = "target/release/dlog")]
    pub(crate) dlog: PathBuf,
    /// Where nodes keep their data and logs: a new directory in it [default: the system's directory for temporary files]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Keep data and logs, however it ends
    #[arg(long)]
    pub(crate) keep: bool,
    /// More flags for each node, such as --node-flag=--log-level=debug
    #[arg(long = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) node_flags: Vec<String>,
}

/// A directory that is removed at the end, unless there is something in it to look at.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    dlog: PathBuf,
    flags: Vec<String>,
}

impl Place {
    pub(crate) fn make(args: &PlaceArgs) -> Result<Self, String> {
        let dlog = args.dlog.canonicalize().map_err(|error| {
            format!(
                "{}: {error}; build it with `cargo build --release -p dlog`, or name another with --dlog",
                args.dlog.display()
            )
        })?;
        let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let mut dir = tempfile::Builder::new()
            .prefix("dlog-chaos-")
            .tempdir_in(&parent)
            .map_err(|error| format!("no directory in {}: {error}", parent.display()))?;
        dir.disable_cleanup(args.keep);
        Ok(Self { dir, dlog, flags: args.node_flags.clone() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn plan(&self, nodes: usize) -> Plan {
        Plan {
            dlog: self.dlog.clone(),
            dir: self.path().to_owned(),
            nodes,
            flags: self.flags.clone(),
            flags_of: Vec::new(),
        }
    }

    /// What a part of the work keeps, beside that of others.
    pub(crate) fn plan_in(&self, part: &str, nodes: usize) -> Result<Plan, String> {
        let dir = self.path().join(part);
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Plan { dir, ..self.plan(nodes) })
    }

    /// Lets everything stay.
    pub(crate) fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}
