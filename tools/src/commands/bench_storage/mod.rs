//! `dlog bench storage`: a shard's engine against the disk that it is on, in one run.

mod cache;
mod figures;
mod million;
mod restart;
mod shard;
mod sync;

use std::path::Path;

use self::figures::Figures;
use crate::args::BenchStorageArgs;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Whatever goes wrong ends the benchmark.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

pub(crate) fn run(args: &BenchStorageArgs) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot measure in {}: {error}", args.dir.display()));
    if let Some(partitions) = args.write_until_killed {
        return restart::write_until_killed(&args.dir, args.gib, partitions).map_err(|error| failed(&error));
    }
    let dir = tempfile::Builder::new().prefix("dlog-bench-storage-").tempdir_in(&args.dir);
    let dir = dir.map_err(|error| failed(&error))?;
    let figures = measure(args, dir.path()).map_err(|error| failed(&error))?;
    if args.output.json { print_json(&figures.to_json()) } else { print(&figures.into_text()) }
}

fn measure(args: &BenchStorageArgs, dir: &Path) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let wanted = |part: &str| args.only.as_ref().is_none_or(|only| only == part);
    if wanted("sync") {
        sync::measure(dir, &mut figures)?;
    }
    if wanted("cache") {
        cache::measure(dir, &mut figures)?;
    }
    if wanted("restart") {
        restart::measure(dir, args.gib, &mut figures)?;
    }
    if wanted("million") {
        million::measure(dir, &mut figures)?;
    }
    Ok(figures)
}
