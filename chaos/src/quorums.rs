//! `dlog-chaos quorums`: with how many nodes down appends go on, by rule and on real processes. Every row of the table in
//! docs/OPERATIONS.md is played: as many nodes are killed at once as appends can bear, then one more, when they must stand still; then nodes
//! come back one after the other until appends go on again.

use std::sync::Arc;
use std::time::Duration;

use dlog_client::{AppendOptions, Appender, Client};
use dlog_metadata::state::LogAttributes;
use dlog_proto::{LogId, PartitionId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, Plan};
use crate::place::{Place, PlaceArgs};
use crate::table::table;

const SERVE_PATIENCE: Duration = Duration::from_secs(30);
/// Within it an append is acknowledged when a cluster has just come up, or nodes have come back.
const RECOVERS: Duration = Duration::from_secs(20);
/// Within it an append is acknowledged where appends go on though nodes are down. They do within a second or two, also where nobody
/// says who is dead; less than it takes until a connection to a dead node is given up. The rest is for busy machines.
const GOES_ON: Duration = Duration::from_secs(5);
/// How long all nodes live before some are killed.
const SETTLED: Duration = Duration::from_secs(1);
/// How long records are written while nodes are down, and the pause between two.
const LOOKED_AT: Duration = Duration::from_millis(1500);
const PACE: Duration = Duration::from_millis(10);
/// So long an append is not acknowledged where they stand still.
const STANDS_STILL: Duration = Duration::from_secs(3);
/// Clusters at the same time: they mostly wait.
const AT_ONCE: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Only clusters of so many nodes
    #[arg(long)]
    nodes: Option<usize>,
}

/// A cluster and a log's replication; its nodeset is all nodes.
#[derive(Debug, Clone, Copy)]
struct Row {
    nodes: usize,
    replication: usize,
    write_quorum: usize,
}

const fn row(nodes: usize, replication: usize, write_quorum: usize) -> Row {
    Row { nodes, replication, write_quorum }
}

const ROWS: [Row; 10] = [
    row(3, 1, 1),
    row(3, 2, 2),
    row(3, 3, 2),
    row(3, 3, 3),
    row(4, 2, 2),
    row(4, 3, 2),
    row(5, 2, 2),
    row(5, 3, 2),
    row(5, 3, 3),
    row(5, 5, 3),
];

/// Which nodes go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    /// Any but the sequencer's.
    Others,
    /// The sequencer's first, so that another must take over.
    SequencerFirst,
}

const DOWN: [Down; 2] = [Down::Others, Down::SequencerFirst];

impl Row {
    fn name(self, down: Down) -> String {
        format!("{} nodes, R = {}, W = {}, {down:?}", self.nodes, self.replication, self.write_quorum)
    }

    /// The name of its directory.
    fn part(self, down: Down) -> String {
        format!("{}-{}-{}-{down:?}", self.nodes, self.replication, self.write_quorum)
    }

    fn cells(self, played: &[Played; 2]) -> [String; 9] {
        let [others, sequencer] = played.each_ref().map(|played| {
            let pause = format!("{:.2} s", played.pause.as_secs_f64());
            [played.bearable.to_string(), pause, played.resumed_with.to_string()]
        });
        let row = [self.nodes, self.replication, self.write_quorum].map(|number| number.to_string());
        let mut cells = row.into_iter().chain(others).chain(sequencer);
        std::array::from_fn(|_| cells.next().expect("three times three"))
    }

    /// Those who vote in the metadata tier and may be down.
    const fn voters_down(self) -> usize {
        if self.nodes >= 5 { 2 } else { (self.nodes - 1) / 2 }
    }

    /// How many nodes may be down.
    fn bearable(self, down: Down) -> usize {
        let write = self.nodes - self.write_quorum;
        match down {
            Down::Others => write,
            // Recovery of the old epoch lacks W − 1 shards at most, and the metadata tier must have a majority to give out the next.
            Down::SequencerFirst => write.min(self.write_quorum - 1).min(self.voters_down()),
        }
    }
}

/// What was seen.
#[derive(Debug)]
struct Played {
    bearable: usize,
    /// How long appends stood still with as many down.
    pause: Duration,
    /// With how many nodes down appends went on again, after one more than bearable.
    resumed_with: usize,
    wrong: Option<String>,
}

/// Whether all rows are as the rule says.
pub(crate) async fn run(args: &Args) -> Result<bool, String> {
    let mut place = Place::make(&args.place)?;
    println!("data and logs in {}", place.path().display());
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| args.nodes.is_none_or(|nodes| nodes == row.nodes)).collect();
    let outcome = play_all(&rows, &place).await.inspect_err(|_| place.keep())?;
    let headings =
        [">NODES", ">R", ">W", ">OTHERS DOWN", ">PAUSE", ">AGAIN WITH", ">SEQUENCER'S TOO", ">PAUSE ", ">AGAIN WITH "];
    let cells = rows.iter().zip(&outcome).map(|(row, played)| row.cells(played));
    println!("\n{}", table(headings, cells));
    let wrong = |(row, played): (&Row, &[Played; 2])| {
        let both = DOWN.into_iter().zip(played).map(|(down, played)| Some((row.name(down), played.wrong.clone()?)));
        both.flatten().map(|(name, what)| format!("{name}: {what}")).collect::<Vec<_>>()
    };
    let wrong: Vec<String> = rows.iter().zip(&outcome).flat_map(wrong).collect();
    if !wrong.is_empty() {
        place.keep();
        println!("WRONG:\n  {}\nlook at {}", wrong.join("\n  "), place.path().display());
    }
    Ok(wrong.is_empty())
}

/// What was seen of each row, one way and the other.
async fn play_all(rows: &[Row], place: &Place) -> Result<Vec<[Played; 2]>, String> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    for (at, row) in rows.iter().copied().enumerate() {
        for (of, down) in DOWN.into_iter().enumerate() {
            let plan = place.plan_in(&row.part(down), row.nodes)?;
            let turns = turns.clone();
            playing.spawn(async move {
                let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
                let dir = plan.dir.clone();
                let played = play(row, down, plan).await.map_err(|why| format!("{}: {why}", row.name(down)))?;
                println!("{}: {}", row.name(down), played.wrong.as_deref().unwrap_or("as it should be"));
                if played.wrong.is_none() {
                    // A few hundred MiB for each node.
                    std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
                }
                Ok::<_, String>((at, of, played))
            });
        }
    }
    let mut all: Vec<[Option<Played>; 2]> = rows.iter().map(|_| [None, None]).collect();
    while let Some(played) = playing.join_next().await {
        let (at, of, played) = played.map_err(|error| error.to_string())??;
        all[at][of] = Some(played);
    }
    all.into_iter()
        .map(|both| match both {
            [Some(others), Some(sequencer)] => Ok([others, sequencer]),
            _ => Err("a row was not played".to_owned()),
        })
        .collect()
}

async fn play(row: Row, down: Down, plan: Plan) -> Result<Played, String> {
    let cluster = Cluster::start_direct(plan).await;
    let mut cluster = cluster.map_err(|error| error.to_string())?;
    let client = cluster.client().map_err(|error| error.to_string())?;
    cluster.serves(&client, SERVE_PATIENCE).await?;
    let log: LogId = "chaos/quorum".parse().expect("a name");
    client.create_log(&log, 1, attributes(row)?).await.map_err(|error| error.to_string())?;
    let appender = client.appender(&log, AppendOptions::default()).await.map_err(|error| error.to_string())?;
    if goes_on(&appender, RECOVERS).await?.is_none() {
        return Err(format!("a new log is not written to: {}", trouble(&appender)));
    }
    let bearable = row.bearable(down);
    let mut victims = Vec::new();
    let mut pause = Duration::ZERO;
    for count in [bearable, bearable + 1] {
        cluster.revive().await.map_err(|error| error.to_string())?;
        cluster.serves(&client, SERVE_PATIENCE).await?;
        if goes_on(&appender, RECOVERS).await?.is_none() {
            return Err(format!("appends stand still though all nodes live: {}", trouble(&appender)));
        }
        // What nodes know of each other when no metadata leader is left is what they have heard by now.
        sleep(SETTLED).await;
        victims = choose(row, down, &client, &log).await?;
        if count > victims.len() {
            // Everybody but the sequencer may be gone.
            return Ok(Played { bearable, pause, resumed_with: bearable, wrong: None });
        }
        victims.truncate(count);
        for node in &victims {
            cluster.kill(*node, false).await.map_err(|error| error.to_string())?;
        }
        let is_bearable = count == bearable;
        let acknowledged = match is_bearable {
            true => keeps_going_on(&appender).await?,
            false => goes_on(&appender, STANDS_STILL).await?,
        };
        pause = pause.max(acknowledged.unwrap_or_default());
        if acknowledged.is_some() != is_bearable {
            let how = if is_bearable { "stand still" } else { "go on" };
            let wrong = Some(format!("appends {how} with {count} nodes down: {}", trouble(&appender)));
            return Ok(Played { bearable, pause, resumed_with: 0, wrong });
        }
    }
    while let Some(node) = victims.pop() {
        cluster.start_node(node).await.map_err(|error| error.to_string())?;
        if goes_on(&appender, RECOVERS).await?.is_some() {
            return Ok(Played { bearable, pause, resumed_with: victims.len(), wrong: None });
        }
    }
    let wrong = Some(format!("appends stand still though all nodes are back: {}", trouble(&appender)));
    Ok(Played { bearable, pause, resumed_with: 0, wrong })
}

fn attributes(row: Row) -> Result<LogAttributes, String> {
    let small = |number: usize| u8::try_from(number).map_err(|error| error.to_string());
    let mut attributes = LogAttributes::replicated(small(row.replication)?);
    let set = [("write_quorum", row.write_quorum), ("nodeset_size", row.nodes)];
    let set = set.into_iter().map(|(key, value)| (key.to_owned(), Some(value.to_string()))).collect();
    attributes.update(&set).map_err(|error| error.to_string())?;
    Ok(attributes)
}

/// Nodes in the order in which they go down.
async fn choose(row: Row, down: Down, client: &Client, log: &LogId) -> Result<Vec<usize>, String> {
    let table = client.epochs(log, PartitionId(0)).await.map_err(|error| error.to_string())?;
    let sequencer = usize::from(table.newest().ok_or("nobody sequences")?.sequencer.0);
    // Those who do not vote first: it is the log's quorum that is looked at.
    let others = (1..=row.nodes).rev().filter(|node| *node != sequencer);
    Ok(match down {
        Down::Others => others.collect(),
        Down::SequencerFirst => [sequencer].into_iter().chain(others).collect(),
    })
}

/// After how long a record is acknowledged, if it is in time.
async fn goes_on(appender: &Appender, patience: Duration) -> Result<Option<Duration>, String> {
    let began = Instant::now();
    let ack = appender.append("quorum").await.map_err(|error| error.to_string())?;
    match timeout(patience, ack).await {
        Ok(outcome) => outcome.map(|_| Some(began.elapsed())).map_err(|error| error.to_string()),
        Err(_) => Ok(None),
    }
}

/// The longest that a record takes while many are written, each after the one before, if all are in time.
async fn keeps_going_on(appender: &Appender) -> Result<Option<Duration>, String> {
    let until = Instant::now() + LOOKED_AT;
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        match goes_on(appender, GOES_ON).await? {
            Some(took) => longest = longest.max(took),
            None => return Ok(None),
        }
        sleep(PACE).await;
    }
    Ok(Some(longest))
}

fn trouble(appender: &Appender) -> String {
    appender.trouble(PartitionId(0)).unwrap_or_else(|| "no trouble is known".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_borne_follows_from_the_quorums() {
        let bearable =
            |nodes, r, w| (row(nodes, r, w).bearable(Down::Others), row(nodes, r, w).bearable(Down::SequencerFirst));
        assert_eq!(bearable(3, 1, 1), (2, 0), "no other copy proves where the epoch ended");
        assert_eq!(bearable(3, 3, 2), (1, 1));
        assert_eq!(bearable(3, 3, 3), (0, 0), "W is all there are");
        assert_eq!(bearable(5, 3, 2), (3, 1));
        assert_eq!(bearable(5, 5, 3), (2, 2));
    }
}
