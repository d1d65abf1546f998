//! What commands print.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod timestamp;

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::Value;

use crate::failure::Failure;

/// Prints to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Tells the user something besides the output. If nobody hears it, that is no reason to stop.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{what}");
}

pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
