//! What was measured, and what it should be.

use serde_json::{Value, json};

use crate::output::table::Columns;

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
}

#[derive(Debug, Default)]
pub(super) struct Figures(Vec<Figure>);

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn show(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {}", number(least)),
            Self::AtMost(most) => format!("≤ {}", number(most)),
        }
    }
}

/// Three digits that count, and all of those before the point.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => crate::output::human::count(value.round() as u64),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Figures {
    pub(super) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { name: name.into(), value, unit, target: None });
    }

    pub(super) fn check(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        self.0.push(Figure { name: name.into(), value, unit, target: Some(target) });
    }

    pub(super) fn into_text(self) -> String {
        let mut rows = Columns::new(["WHAT", ">FIGURE", "UNIT", "SHOULD BE", ""]);
        for Figure { name, value, unit, target } in self.0 {
            let met = target.map_or("", |target| if target.is_met(value) { "yes" } else { "NO" });
            let target = target.map_or_else(String::new, Target::show);
            rows.row([name, number(value), unit.to_owned(), target, met.to_owned()]);
        }
        rows.into_text()
    }

    pub(super) fn to_json(&self) -> Value {
        let figure = |figure: &Figure| {
            json!({
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "target": figure.target.map(Target::show),
                "met": figure.target.map(|target| target.is_met(figure.value)),
            })
        };
        json!({ "figures": self.0.iter().map(figure).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_held_against_their_targets() {
        let mut figures = Figures::default();
        figures.check("syncs against the disk", 83.4, "%", Target::AtLeast(80.0));
        figures.check("amplification", 1.203, "", Target::AtMost(1.1));
        figures.add("appends", 1_234_567.0, "/s");
        assert_eq!(figures.to_json()["figures"][1]["met"], json!(false));
        let text = figures.into_text();
        let line = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line(1), "syncs against the disk 83.4 % ≥ 80.0 yes");
        assert_eq!(line(2), "amplification 1.20 ≤ 1.10 NO");
        assert_eq!(line(3), "appends 1,234,567 /s");
    }
}
