//! Bars.

use std::fmt::Write;

use super::{GROUPS, Results, group_name};

const WIDTH: f64 = 50.0;

/// Rates by length of a group, as bars of one scale.
pub(super) fn rates(results: &Results) -> String {
    let all = results.cells.iter().flat_map(|(_, cells)| cells.iter().flatten());
    let most = all.map(super::Measured::rate).fold(0.0, f64::max);
    let mut text = String::new();
    for (at, len) in GROUPS.iter().enumerate() {
        writeln!(text, "{}", group_name(*len)).expect("a string takes all");
        for (method, cells) in &results.cells {
            let Some(rate) = cells[at].as_ref().map(super::Measured::rate) else { continue };
            let bar = "█".repeat((rate / most * WIDTH).round() as usize);
            writeln!(text, "  {:<36} {bar} {rate:.0} MB/s", method.name()).expect("a string takes all");
        }
    }
    text
}
