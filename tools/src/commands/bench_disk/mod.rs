//! `dlog bench disk`: how a disk is best written to.

mod advice;
mod method;
mod plot;

use std::time::Duration;

use serde_json::{Value, json};

use self::method::{Measured, Method};
use crate::args::BenchDiskArgs;
use crate::failure::Failure;
use crate::output::human::duration;
use crate::output::progress::bar;
use crate::output::table::Columns;
use crate::output::{print, print_json};

/// Lengths of what is written at once and then synced.
const GROUPS: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Each cell is measured so often, in turns with all others: a disk is not the same from one minute to the next.
const ROUNDS: u32 = 3;

/// What was measured, by method and length.
#[derive(Debug)]
pub(super) struct Results {
    cells: Vec<(Method, [Option<Measured>; GROUPS.len()])>,
}

impl Results {
    fn get(&self, method: Method, group_len: usize) -> Option<&Measured> {
        let at = GROUPS.iter().position(|len| *len == group_len)?;
        self.cells.iter().find(|(known, _)| *known == method)?.1[at].as_ref()
    }
}

pub(crate) fn run(args: &BenchDiskArgs) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot measure {}: {error}", args.dir.display()));
    let dir = tempfile::Builder::new().prefix("dlog-bench-disk-").tempdir_in(&args.dir).map_err(failed)?;
    let results = measure(args, dir.path()).map_err(failed)?;
    let advice = advice::of(&results);
    if args.output.json {
        return print_json(&to_json(args, &results, &advice));
    }
    let lines: String = advice.iter().map(|line| format!("- {line}\n")).collect();
    print(&format!("{}\n{}\n{lines}", to_text(&results), plot::rates(&results)))
}

fn measure(args: &BenchDiskArgs, dir: &std::path::Path) -> std::io::Result<Results> {
    let cells = (Method::ALL.len() * GROUPS.len()) as u32 * ROUNDS;
    let time = Duration::from_secs(args.seconds) / cells;
    let progress = bar(Some(cells.into()), "measuring");
    let mut results = Results { cells: Method::ALL.map(|method| (method, [const { None }; GROUPS.len()])).into() };
    for _ in 0..ROUNDS {
        for (method, cells) in &mut results.cells {
            for (group_len, cell) in GROUPS.iter().zip(cells) {
                if let Some(measured) = method.measure(dir, args.file_mib << 20, *group_len, time)? {
                    cell.get_or_insert_default().add(&measured);
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    Ok(results)
}

fn group_name(len: usize) -> String {
    if len < 1 << 20 { format!("{} KiB", len >> 10) } else { format!("{} MiB", len >> 20) }
}

fn to_text(results: &Results) -> String {
    let headings = [">4 KiB", ">16 KiB", ">64 KiB", ">256 KiB", ">1 MiB", ">4 MiB"];
    let [a, b, c, d, e, f] = headings;
    let mut times = Columns::new(["WRITE AND SYNC, p50 / p99", a, b, c, d, e, f]);
    let mut rates = Columns::new(["MB/s", a, b, c, d, e, f]);
    for (method, cells) in &results.cells {
        let show = |what: fn(&Measured) -> String| {
            cells.each_ref().map(|cell| cell.as_ref().map_or_else(|| "-".to_owned(), what))
        };
        let row = |[a, b, c, d, e, f]: [String; GROUPS.len()]| [method.name().to_owned(), a, b, c, d, e, f];
        times.row(row(show(|m| format!("{} / {}", duration(m.percentile(50)), duration(m.percentile(99))))));
        rates.row(row(show(|m| format!("{:.0}", m.rate()))));
    }
    format!("{}\n{}", times.into_text(), rates.into_text())
}

fn to_json(args: &BenchDiskArgs, results: &Results, advice: &[String]) -> Value {
    let cells = results.cells.iter().flat_map(|(method, cells)| {
        GROUPS.iter().zip(cells).filter_map(|(group_len, cell)| {
            let cell = cell.as_ref()?;
            Some(json!({
                "method": method.name(),
                "group_bytes": group_len,
                "p50_us": cell.percentile(50).as_micros() as u64,
                "p99_us": cell.percentile(99).as_micros() as u64,
                "mb_per_second": cell.rate(),
                "groups": cell.count(),
            }))
        })
    });
    json!({ "dir": args.dir.display().to_string(), "cells": cells.collect::<Vec<_>>(), "advice": advice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OutputArgs;

    #[test]
    fn every_method_is_measured_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let output = OutputArgs { json: true };
        let args = BenchDiskArgs { dir: dir.path().to_owned(), seconds: 1, file_mib: 16, output };
        let results = measure(&args, dir.path()).unwrap();
        let plain = results.get(Method::PwriteRecycled, 64 << 10).unwrap();
        assert!(plain.rate() > 0.0 && plain.percentile(50) <= plain.percentile(99));
        let text = to_text(&results);
        assert!(Method::ALL.iter().all(|method| text.contains(method.name())), "{text}");
        assert!(plot::rates(&results).contains('█'));
        assert!(!advice::of(&results).is_empty());
        let json = to_json(&args, &results, &[]);
        assert!(json["cells"].as_array().unwrap().len() >= 6 * GROUPS.len(), "O_DIRECT may not be there");
    }
}
