//! What commands print.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod timestamp;

use std::io::{self, Write};

use serde_json::Value;

use crate::failure::Failure;

/// Prints to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
