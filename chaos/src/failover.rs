//! `dlog-chaos failover`: how long appends stand still when a process is killed (kill −9), as the one who appends sees it. Nodes
//! reach each other directly.

mod many;
mod repeated;

use std::time::Duration;

use serde::Serialize;

use crate::place::{Place, PlaceArgs};
use crate::table::table;

/// Nodes, until they serve.
const SERVE_PATIENCE: Duration = Duration::from_secs(60);
/// Until somebody else has taken over.
const FAILOVER_PATIENCE: Duration = Duration::from_secs(30);
const NODES: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Kills of each kind
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Appends per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Instead: how long until so many partitions, all on the node that is killed, are written to again
    #[arg(long)]
    partitions: Option<u32>,
    /// Print a JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Victim {
    /// The node that sequences; the metadata tier is led by another.
    Sequencer,
    /// The node that sequences and leads the metadata tier.
    SequencerAndLeader,
    /// The node that sequences many partitions.
    SequencerOfMany,
}

impl Victim {
    const fn words(self) -> &'static str {
        match self {
            Self::Sequencer => "the sequencer's node",
            Self::SequencerAndLeader => "the sequencer's node, which leads the metadata tier",
            Self::SequencerOfMany => "the sequencer's node, until all partitions are written",
        }
    }

    /// What the slowest in a hundred may take.
    const fn goal(self) -> Duration {
        match self {
            Self::Sequencer => Duration::from_millis(300),
            Self::SequencerAndLeader => Duration::from_secs(1),
            Self::SequencerOfMany => Duration::from_secs(3),
        }
    }
}

/// From kills to first acknowledged appends in later epochs.
#[derive(Debug, Serialize)]
struct Measured {
    killed: Victim,
    partitions: usize,
    times: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    goal_ms: f64,
    all_ms: Vec<f64>,
}

impl Measured {
    /// `goal` is for the 99th percentile of repeated kills, and for all of many partitions.
    fn of(killed: Victim, partitions: usize, mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
        // Nearest rank.
        let share =
            |percent: usize| all.get((all.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or_default();
        let max = all.last().copied().unwrap_or_default();
        Self {
            killed,
            partitions,
            times: all.len(),
            p50_ms: ms(share(50)),
            p99_ms: ms(share(99)),
            max_ms: ms(max),
            goal_ms: ms(killed.goal()),
            all_ms: all.iter().copied().map(ms).collect(),
        }
    }

    fn is_met(&self) -> bool {
        let counts = if self.killed == Victim::SequencerOfMany { self.max_ms } else { self.p99_ms };
        self.times > 0 && counts < self.goal_ms
    }

    fn row(&self) -> [String; 7] {
        let ms = |ms: f64| format!("{ms:.0}");
        let met = if self.is_met() { "yes" } else { "NO" };
        [
            self.killed.words().to_owned(),
            self.times.to_string(),
            ms(self.p50_ms),
            ms(self.p99_ms),
            ms(self.max_ms),
            ms(self.goal_ms),
            met.to_owned(),
        ]
    }
}

/// Whether the goals are met.
pub(crate) async fn run(args: &Args) -> Result<bool, String> {
    let mut place = Place::make(&args.place)?;
    eprintln!("data and logs in {}", place.path().display());
    let outcome = match args.partitions {
        Some(partitions) => many::measure(&place, partitions as usize).await.map(|measured| vec![measured]),
        None => repeated::measure(&place, args.kills, args.rate).await,
    };
    let all = outcome.inspect_err(|_| {
        place.keep();
        eprintln!("look at {}", place.path().display());
    })?;
    if args.json {
        let lines = all.iter().map(|measured| serde_json::to_string(measured).map_err(|error| error.to_string()));
        lines.collect::<Result<Vec<_>, _>>()?.iter().for_each(|line| println!("{line}"));
    } else {
        let headings = ["KILLED", ">TIMES", ">P50 MS", ">P99 MS", ">MAX MS", ">GOAL MS", "MET"];
        println!("{}", table(headings, all.iter().map(Measured::row)));
    }
    Ok(all.iter().all(Measured::is_met))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let all = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured::of(Victim::Sequencer, 1, all);
        assert_eq!((measured.p50_ms, measured.p99_ms, measured.max_ms), (50.0, 99.0, 100.0));
        assert!(measured.is_met());
        let slow = Measured::of(Victim::Sequencer, 1, vec![Duration::from_millis(300)]);
        assert!(!slow.is_met() && slow.p50_ms == 300.0);
        assert!(!Measured::of(Victim::Sequencer, 1, Vec::new()).is_met(), "nothing was measured");
    }
}
