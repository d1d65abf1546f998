//! `dlog segment …`: looks at a node's files.

mod dump;
mod inspect;
mod list;
mod shards;
#[cfg(test)]
mod tests;
mod verify;

use crate::args::SegmentCommand;
use crate::failure::{Failure, Outcome};

pub(crate) fn run(command: &SegmentCommand) -> Result<Outcome, Failure> {
    match command {
        SegmentCommand::List(args) => list::run(args),
        SegmentCommand::Inspect(args) => inspect::run(args),
        SegmentCommand::Verify(args) => verify::run(args),
        SegmentCommand::Dump(args) => dump::run(args),
    }
}
