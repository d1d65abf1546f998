//! A line that moves, if somebody looks.

use std::fmt;
use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::human::count;

const TOWARDS: &str = "{msg} {wide_bar} {human_pos}/{human_len} ({rate}/s)";
const COUNTING: &str = "{msg} {human_pos} ({rate}/s)";

/// A bar towards a known number, or a counter without one. Shows nothing where standard error is not a terminal.
pub(crate) fn bar(total: Option<u64>, what: &str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = if total.is_some() { TOWARDS } else { COUNTING };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    bar.with_style(style.with_key("rate", rate)).with_message(what.to_owned())
}

fn rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // A bar that cannot be drawn is no reason to stop.
    let _ = out.write_str(&count(state.per_sec() as u64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        for template in [TOWARDS, COUNTING] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
