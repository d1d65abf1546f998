//! The verdict of a run, and what is needed to look into it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use dlog_proto::EpochTable;

use crate::checker::{self, Findings, Promise, given_up};
use crate::cluster::Cluster;
use crate::history::{History, Outcome};
use crate::net::Count;
use crate::net::fault::Link;
use crate::table::table;

/// Troubles that are told again at the end.
const LAST_TROUBLES: usize = 12;
/// Lines of nodes' logs that are told.
const LINES_MAX: usize = 5;
/// What a node's log must not say.
const ALARMS: [&str; 3] =
    ["panicked at", "has another block where this one belongs", "data that was durable is damaged"];

pub(crate) struct Verdict {
    /// What went wrong besides what the checker finds.
    pub(crate) failures: Vec<String>,
    /// What was done, in words.
    pub(crate) done: Vec<String>,
    pub(crate) tables: Vec<EpochTable>,
    /// The log prefers availability.
    pub(crate) may_give_up: bool,
    /// That does the same again.
    pub(crate) command: String,
}

impl Verdict {
    /// Prints it. Whether all is well.
    pub(crate) fn show(mut self, history: &mut History, cluster: &Cluster) -> Result<bool, String> {
        let given_up = self.may_give_up.then(|| given_up::set_aside(history, &self.tables));
        let findings = checker::check(history);
        self.failures.extend(alarms(cluster));
        if !self.may_give_up {
            self.failures.extend(self.tables.iter().filter_map(decided_without_authority));
        }
        println!("\n{}", summary(history, &self.tables));
        given_up.iter().for_each(|given_up| println!("{given_up}"));
        println!("{}", network(cluster));
        let broken = |promise: Promise| match findings.count(promise) {
            0 => "yes".to_owned(),
            times => format!("BROKEN {times} TIMES"),
        };
        let mut rows: Vec<[String; 2]> = Promise::ALL.iter().map(|p| [p.to_string(), broken(*p)]).collect();
        let lives =
            if self.failures.is_empty() { "yes".to_owned() } else { format!("{} TIMES NOT", self.failures.len()) };
        rows.push(["nodes live, everything is written and read".to_owned(), lives]);
        println!("{}", table(["PROMISE", "KEPT"], rows));
        if findings.is_clean() && self.failures.is_empty() {
            println!("all is well");
            return Ok(true);
        }
        self.show_evidence(&findings, history, cluster)
            .map_err(|error| format!("the evidence cannot be written: {error}"))?;
        Ok(false)
    }

    fn show_evidence(&self, findings: &Findings, history: &History, cluster: &Cluster) -> io::Result<()> {
        println!("FAILED:");
        findings.violations.iter().for_each(|violation| println!("  {}: {}", violation.promise, violation.what));
        self.failures.iter().for_each(|failure| println!("  {failure}"));
        println!("\nwhat was done last:");
        let skipped = self.done.len().saturating_sub(LAST_TROUBLES);
        self.done[skipped..].iter().for_each(|line| println!("{line}"));
        let files = self.write_files(history, cluster)?;
        println!("\nlook at:");
        files.iter().for_each(|file| println!("  {}", file.display()));
        (1..=cluster.len()).for_each(|node| println!("  {}", cluster.log_file(node).display()));
        println!("the nodes' data is beside their logs: `dlog segment list --help`\nagain: {}", self.command);
        Ok(())
    }

    /// The history, what was done, and the epoch tables.
    fn write_files(&self, history: &History, cluster: &Cluster) -> io::Result<[PathBuf; 3]> {
        let files = ["history.jsonl", "troubles.txt", "epochs.txt"].map(|name| cluster.dir().join(name));
        let mut file = BufWriter::new(File::create(&files[0])?);
        history.write(&mut file)?;
        file.flush()?;
        std::fs::write(&files[1], self.done.join("\n") + "\n")?;
        std::fs::write(&files[2], self.tables.iter().map(epochs).collect::<String>())?;
        Ok(files)
    }
}

fn summary(history: &History, tables: &[EpochTable]) -> String {
    let count = |is: fn(&Outcome) -> bool| history.appends.iter().filter(|append| is(&append.outcome)).count();
    let acknowledged = count(|outcome| matches!(outcome, Outcome::Acknowledged { .. }));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown { .. } | Outcome::Pending));
    let refused = count(|outcome| matches!(outcome, Outcome::Refused { .. } | Outcome::NotSent { .. }));
    let read: usize = history.readings.iter().map(|reading| reading.seen.len()).sum();
    let stored: usize = history.whole.iter().map(|whole| whole.seen.len()).sum();
    let epochs: u32 = tables.iter().filter_map(|table| table.newest()).map(|newest| newest.epoch.0).sum();
    format!(
        "{} appended: {acknowledged} acknowledged, {unknown} without an answer, {refused} not taken; {stored} stored\n{read} read in {} \
         readings; {} questions for the tail; {epochs} epochs of {} partitions",
        history.appends.len(),
        history.readings.len(),
        history.tails.len(),
        tables.len()
    )
}

fn network(cluster: &Cluster) -> String {
    let counts = cluster.network().map(|network| network.counts()).unwrap_or_default();
    let row = |((from, to), count): &(Link, Count)| {
        [format!("{from} to {to}"), count.passed.to_string(), count.lost.to_string()]
    };
    table(["DATAGRAMS", ">PASSED", ">LOST"], counts.iter().map(row))
}

fn epochs(table: &EpochTable) -> String {
    let mut text = format!("{}, trimmed to {}\n", table.partition, table.trim);
    for entry in &table.epochs {
        let or = |known: Option<String>| known.unwrap_or_else(|| "-".to_owned());
        let base = or(entry.base_offset.map(|base| base.0.to_string()));
        let end = or(entry.end.map(|end| format!("{end:?}")));
        text += &format!("  {} by {}, base offset {base}, end {end}\n", entry.epoch, entry.sequencer);
    }
    text
}

/// No disk is ever lost, so there is no reason for one.
fn decided_without_authority(table: &EpochTable) -> Option<String> {
    let entry = table.epochs.iter().find(|entry| entry.end.is_some_and(|end| !end.authoritative))?;
    Some(format!("the end of {} of partition {} was decided without authority", entry.epoch, table.partition))
}

/// Lines that no node should write.
fn alarms(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for node in 1..=cluster.len() {
        let log = std::fs::read_to_string(cluster.log_file(node)).unwrap_or_default();
        let lines = log.lines().filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)));
        found.extend(lines.take(LINES_MAX).map(|line| format!("n{node} says: {line}")));
    }
    found
}
