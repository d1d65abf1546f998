//! `dlog-chaos run`: set up, trouble, calm, verdict. It ends by itself, whatever nodes do: every phase has its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use dlog_client::{Client, Position};
use dlog_metadata::state::LogAttributes;
use dlog_proto::{LogId, Lsn};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::Cluster;
use crate::held::Held;
use crate::history::Outcome;
use crate::machines::{self, Machines};
use crate::nemesis::{self, Kind, Trouble, What};
use crate::net::{self, Network};
use crate::place::{Place, PlaceArgs};
use crate::verdict::Verdict;
use crate::workload::{Follower, Phase, Shared, TailAsker, Writer};

/// Nodes, after trouble or at the start, until they serve.
const SERVE_PATIENCE: Duration = Duration::from_secs(30);
/// What was appended, until it is acknowledged; the whole, until it is read; readers, until they are at the end.
const CALM_PATIENCE: Duration = Duration::from_secs(30);
/// How long writers go on after the trouble.
const AFTERMATH: Duration = Duration::from_secs(2);
const WATCH_EVERY: Duration = Duration::from_millis(100);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How often it is asked who leads the metadata tier, and how long the answer may take.
const LEADER_EVERY: Duration = Duration::from_millis(200);
/// Said of a node in trouble. Every node sequences some partitions, so theirs go with it.
const LEADS: &str = " (it leads the metadata tier)";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Length of the phase of trouble
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Partitions of the log
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: u32,
    /// Writers; every second one gives up on a record after 1.5 s
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,
    /// Readers per partition
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=16))]
    readers: u32,
    /// Records per second of each writer
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Copies of each record [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "R")]
    replication: Option<u8>,
    /// Copies before an acknowledgement [default: more than half]
    #[arg(long, value_name = "W")]
    write_quorum: Option<u8>,
    /// Answers that recovery and readers need less than the strict rule says: availability before consistency [default: strict]
    #[arg(long, value_name = "ANSWERS")]
    read_quorum: Option<u8>,
    /// Acknowledge from memory: durability write_cache
    #[arg(long)]
    write_cache: bool,
    /// What troubles are drawn from [default: a new one]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Kinds of trouble, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    troubles: Vec<Kind>,
    /// More nodes in trouble at once than the cluster can bear: appends stand still, but nothing may be lost
    #[arg(long)]
    harsh: bool,
    /// All nodes on one machine [default: each in a network namespace, where the system lets users have some]
    #[arg(long)]
    one_machine: bool,
}

impl Args {
    pub(crate) fn wants_machines(&self) -> bool {
        !self.one_machine
    }

    fn replication(&self) -> u8 {
        self.replication.unwrap_or_else(|| self.nodes.min(3))
    }

    fn write_quorum(&self) -> u8 {
        self.write_quorum.unwrap_or_else(|| self.replication() / 2 + 1)
    }

    /// Of R shards; R − W + 1 by the strict rule.
    fn read_quorum(&self) -> u8 {
        self.read_quorum.unwrap_or_else(|| (self.replication() + 1).saturating_sub(self.write_quorum()))
    }

    /// Whether acknowledged records may be lost.
    fn prefers_availability(&self) -> bool {
        self.read_quorum() + self.write_quorum() <= self.replication()
    }

    /// Nodes that may be away while appends go on after a failover: what recovery can do without (W − 1 by the strict rule), and less
    /// than half of the voters.
    fn nodes_at_once(&self) -> usize {
        if self.harsh {
            return self.nodes.into();
        }
        let voters = if self.nodes >= 5 { 5 } else { self.nodes.min(3) };
        usize::from(self.replication().saturating_sub(self.read_quorum()).min((voters.max(1) - 1) / 2))
    }

    fn attributes(&self) -> Result<LogAttributes, String> {
        let mut attributes = LogAttributes::replicated(self.replication());
        let durability = if self.write_cache { "write_cache" } else { "sync" };
        let set = [
            ("write_quorum", self.write_quorum().to_string()),
            ("read_quorum", self.read_quorum().to_string()),
            ("durability", durability.to_owned()),
        ];
        let set = set.into_iter().map(|(key, value)| (key.to_owned(), Some(value))).collect();
        attributes.update(&set).map_err(|error| error.to_string())?;
        Ok(attributes)
    }

    fn plan(&self) -> nemesis::Plan {
        let all = Kind::value_variants().to_vec();
        let mut kinds = if self.troubles.is_empty() { all } else { self.troubles.clone() };
        if !machines::has_moved() && !net::tells_nodes_apart() {
            println!("it cannot be told here which node sends what: nodes are not cut off from each other");
            kinds.retain(|kind| !kind.needs_owners());
        }
        let length = Duration::from_secs(self.seconds);
        nemesis::Plan { nodes: self.nodes.into(), at_once: self.nodes_at_once(), kinds, length }
    }

    pub(crate) fn troubles(&self, seed: u64) -> Vec<Trouble> {
        nemesis::draw(&self.plan(), &mut fastrand::Rng::with_seed(seed))
    }

    /// The command that does the same again.
    fn command(&self, seed: u64) -> String {
        let mut command = format!(
            "dlog-chaos run --dlog {} --seed {seed} --seconds {} --nodes {} --partitions {} --writers {} --readers {} --rate {} \
             --replication {} --write-quorum {} --read-quorum {}",
            self.place.dlog.display(),
            self.seconds,
            self.nodes,
            self.partitions,
            self.writers,
            self.readers,
            self.rate,
            self.replication(),
            self.write_quorum(),
            self.read_quorum()
        );
        let kinds: Vec<_> = self.troubles.iter().filter_map(Kind::to_possible_value).collect();
        if !kinds.is_empty() {
            let names: Vec<_> = kinds.iter().map(clap::builder::PossibleValue::get_name).collect();
            command += &format!(" --troubles {}", names.join(","));
        }
        let set = [
            (self.write_cache, " --write-cache"),
            (self.harsh, " --harsh"),
            (!machines::has_moved(), " --one-machine"),
        ];
        for (set, flag) in set {
            command += if set { flag } else { "" };
        }
        command
    }
}

/// Looks who leads the metadata tier, until the end.
async fn follow_leader(client: Client, shared: Arc<Shared>, leader: Arc<AtomicU64>) {
    let mut phase = shared.phase.subscribe();
    let follow = async {
        loop {
            let heard = timeout(LEADER_EVERY, client.cluster_linearizable()).await.ok().and_then(Result::ok);
            let heard = heard.and_then(|cluster| cluster.leader).map_or(0, |node| u64::from(node.0));
            leader.store(heard, Ordering::Relaxed);
            sleep(LEADER_EVERY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        _ = phase.wait_for(|phase| *phase == Phase::End) => {}
    }
}

/// What lasts until it is taken back.
enum Fault {
    /// By its number.
    Net(u64),
    Disk(Held),
}

/// Whether all is well.
pub(crate) async fn run(args: &Args) -> Result<bool, String> {
    let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let mut place = Place::make(&args.place)?;
    println!("seed {seed}; data and logs in {}", place.path().display());
    let mut run = match Run::set_up(args, seed, &place).await {
        Ok(run) => run,
        Err(why) => {
            place.keep();
            return Err(format!("the cluster was not set up: {why}; look at {}", place.path().display()));
        }
    };
    run.trouble(args, seed).await;
    run.calm().await;
    let verdict = run.judge(args, seed).await?;
    if !verdict {
        place.keep();
    }
    Ok(verdict)
}

struct Run {
    cluster: Cluster,
    client: Client,
    shared: Arc<Shared>,
    writers: JoinSet<Result<(), String>>,
    readers: JoinSet<()>,
    /// Who leads the metadata tier, as far as was heard; 0 if nobody does.
    leader: Arc<AtomicU64>,
    /// Of each reader that follows: its partition, and how far it is.
    reached: Vec<(u32, Arc<AtomicU64>)>,
    next_progress: Instant,
    /// What was done, in words.
    done: Vec<String>,
    /// What went wrong besides what the checker finds.
    failures: Vec<String>,
}

impl Run {
    async fn set_up(args: &Args, seed: u64, place: &Place) -> Result<Self, String> {
        let nodes = usize::from(args.nodes);
        let network = Network::new(nodes, seed);
        let plan = place.plan(nodes);
        let machines = match args.wants_machines() && machines::has_moved() {
            true => Some(Machines::make(nodes, &plan.dlog, &plan.dir).await?),
            false => None,
        };
        println!(
            "each node in {}",
            if machines.is_some() { "a network namespace" } else { "a process of this machine" }
        );
        let cluster = Cluster::start_behind(plan, network, machines).await;
        let mut cluster = cluster.map_err(|error| error.to_string())?;
        let client = cluster.client().map_err(|error| error.to_string())?;
        cluster.serves(&client, SERVE_PATIENCE).await?;
        let log: LogId = "chaos/log".parse().expect("a name");
        let created = client.create_log(&log, args.partitions, args.attributes()?).await;
        created.map_err(|error| error.to_string())?;
        let shared = Shared::new(log, args.partitions, seed);
        let mut run = Self {
            cluster,
            client,
            shared,
            writers: JoinSet::new(),
            readers: JoinSet::new(),
            leader: Arc::new(AtomicU64::new(0)),
            reached: Vec::new(),
            next_progress: Instant::now() + PROGRESS_EVERY,
            done: Vec::new(),
            failures: Vec::new(),
        };
        run.start_clients(args).map_err(|error| error.to_string())?;
        Ok(run)
    }

    /// Each with connections of its own.
    fn start_clients(&mut self, args: &Args) -> Result<(), dlog_client::OpenError> {
        let pace = Duration::from_secs(1) / args.rate;
        for number in 0..args.writers {
            let (shared, client) = (self.shared.clone(), self.cluster.client()?);
            self.writers.spawn(Writer { number, shared, client, pace, is_impatient: number % 2 == 1 }.run());
        }
        for number in 0..args.readers * args.partitions {
            let (shared, client, reached) = (self.shared.clone(), self.cluster.client()?, Arc::new(AtomicU64::new(0)));
            let partition = number % args.partitions;
            self.reached.push((partition, reached.clone()));
            self.readers.spawn(Follower { number, partition, shared, client, reached }.run());
        }
        for number in 1000..1002 {
            let (shared, client) = (self.shared.clone(), self.cluster.client()?);
            self.readers.spawn(TailAsker { number, shared, client }.run());
        }
        self.readers.spawn(follow_leader(self.cluster.client()?, self.shared.clone(), self.leader.clone()));
        Ok(())
    }

    fn say(&mut self, what: &str) {
        let line = format!("{:>10}  {what}", self.shared.now().to_string());
        println!("{line}");
        self.done.push(line);
    }

    fn fail(&mut self, what: String) {
        self.say(&format!("WRONG: {what}"));
        self.failures.push(what);
    }

    /// Troubles begin and end at their times.
    async fn trouble(&mut self, args: &Args, seed: u64) {
        let mut troubles = args.troubles(seed);
        let is_of_disk = |trouble: &Trouble| matches!(trouble.what, What::Disk(_));
        if troubles.iter().any(is_of_disk)
            && let Err(why) = Held::is_possible()
        {
            self.say(&format!("disks stay as they are, for threads cannot be held here: {why}"));
            troubles.retain(|trouble| !is_of_disk(trouble));
        }
        let mut steps: Vec<(Duration, usize, bool)> = Vec::new();
        for (i, trouble) in troubles.iter().enumerate() {
            steps.extend([(trouble.from, i, true), (trouble.until, i, false)]);
        }
        steps.sort();
        let began = Instant::now();
        let mut faults: Vec<_> = troubles.iter().map(|_| None).collect();
        for (at, i, begins) in steps {
            self.watch_until(began + at).await;
            let outcome = if begins {
                self.begin(&troubles[i], &mut faults[i]).await
            } else {
                self.end(&troubles[i], faults[i].take()).await
            };
            if let Err(error) = outcome {
                self.fail(format!("{}: {error}", troubles[i]));
            }
        }
        self.watch_until(began + Duration::from_secs(args.seconds)).await;
    }

    async fn begin(&mut self, trouble: &Trouble, fault: &mut Option<Fault>) -> std::io::Result<()> {
        let node = trouble.node;
        let leads = self.leader.load(Ordering::Relaxed) == node as u64;
        self.say(&format!("{trouble}{}", if leads { LEADS } else { "" }));
        match &trouble.what {
            What::Kill { silently } => self.cluster.kill(node, *silently).await,
            What::Stop => self.cluster.set_stopped(node, true),
            What::Restart => {
                let status = self.cluster.terminate(node).await?;
                if let Some(status) = status.filter(|status| !status.success()) {
                    self.fail(format!("n{node} was to stop in order and did not ({status})"));
                }
                self.cluster.start_node(node).await
            }
            What::Disk(pace) => {
                *fault = self.cluster.hold_disk(node, *pace)?.map(Fault::Disk);
                Ok(())
            }
            What::Net { fault: net, links, .. } => {
                *fault = self.cluster.network().map(|network| Fault::Net(network.add(*net, links.clone())));
                Ok(())
            }
        }
    }

    async fn end(&mut self, trouble: &Trouble, fault: Option<Fault>) -> std::io::Result<()> {
        match fault {
            Some(Fault::Disk(held)) => drop(held),
            Some(Fault::Net(number)) => self.cluster.network().into_iter().for_each(|network| network.remove(number)),
            None => {}
        }
        match &trouble.what {
            What::Kill { .. } if !self.cluster.is_running(trouble.node) => self.cluster.start_node(trouble.node).await,
            What::Stop => self.cluster.set_stopped(trouble.node, false),
            What::Kill { .. } | What::Restart | What::Disk(_) | What::Net { .. } => Ok(()),
        }
    }

    /// Waits, and looks whether processes end by themselves.
    async fn watch_until(&mut self, until: Instant) {
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + WATCH_EVERY)).await;
            self.watch();
            if Instant::now() >= self.next_progress {
                self.next_progress = Instant::now() + PROGRESS_EVERY;
                let progress = self.progress();
                println!("{:>10}  … {progress}", self.shared.now().to_string());
            }
        }
    }

    fn watch(&mut self) {
        for (node, status) in self.cluster.ended_by_themselves() {
            self.fail(format!("n{node} has ended by itself ({status}): see {}", self.cluster.log_file(node).display()));
        }
        while let Some(ended) = self.writers.try_join_next() {
            let why = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(panic) => panic.to_string(),
            };
            self.fail(why);
        }
    }

    fn progress(&self) -> String {
        let history = self.shared.history();
        let acknowledged = history.appends.iter().filter(|a| matches!(a.outcome, Outcome::Acknowledged { .. })).count();
        let (appended, all) = (history.appends.len(), history.events());
        format!("{appended} appended, {acknowledged} acknowledged, {} read", all - appended - history.tails.len())
    }

    /// Trouble is over: everything must be written and read.
    async fn calm(&mut self) {
        self.say("calm");
        if let Err(error) = self.cluster.revive().await {
            self.fail(error.to_string());
        }
        let client = self.client.clone();
        if let Err(why) = self.cluster.serves(&client, SERVE_PATIENCE).await {
            self.fail(why);
        }
        self.watch_until(Instant::now() + AFTERMATH).await;
        self.shared.phase.send_replace(Phase::Drain);
        self.drain_writers().await;
        for partition in 0..self.shared.partitions {
            if let Err(why) = self.read_whole(partition).await {
                self.fail(format!("partition {partition} cannot be read: {why}"));
            }
        }
        self.wait_for_readers().await;
        self.watch();
        self.shared.phase.send_replace(Phase::End);
        let all = async { while self.readers.join_next().await.is_some() {} };
        if timeout(CALM_PATIENCE, all).await.is_err() {
            self.fail("readers do not end".to_owned());
        }
    }

    async fn drain_writers(&mut self) {
        let deadline = Instant::now() + CALM_PATIENCE;
        while !self.writers.is_empty() && Instant::now() < deadline {
            sleep(WATCH_EVERY).await;
            self.watch();
        }
        if self.writers.is_empty() {
            return;
        }
        let pending: Vec<String> = {
            let history = self.shared.history();
            let pending = history.appends.iter().filter(|append| append.outcome == Outcome::Pending);
            pending.map(|append| format!("{} appended at {}", append.record, append.invoked)).collect()
        };
        let first = pending.first().cloned().unwrap_or_default();
        let patience = CALM_PATIENCE.as_secs();
        self.fail(format!(
            "{} records have no outcome after {patience} s of calm; the first is {first}",
            pending.len()
        ));
        self.writers.abort_all();
    }

    async fn read_whole(&self, partition: u32) -> Result<(), String> {
        let Shared { log, .. } = &*self.shared;
        let reading = async {
            let end = self.client.find(log, partition, Position::Newest).await?;
            self.shared.read_between(&self.client, (u32::MAX, partition), Lsn::FIRST, end).await
        };
        match timeout(CALM_PATIENCE, reading).await {
            Ok(Ok(whole)) => {
                self.shared.history().whole.push(whole);
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it takes longer than {} s", CALM_PATIENCE.as_secs())),
        }
    }

    async fn wait_for_readers(&mut self) {
        let last = |partition: u32| {
            let history = self.shared.history();
            let whole = history.whole.iter().find(|whole| whole.partition == partition);
            whole.and_then(|whole| whole.seen.last()).map_or(0, |last| last.lsn.0)
        };
        let due: Vec<_> =
            self.reached.iter().map(|(partition, at)| (*partition, at.clone(), last(*partition))).collect();
        let deadline = Instant::now() + CALM_PATIENCE;
        for (partition, reached, last) in due {
            while reached.load(Ordering::Relaxed) < last && Instant::now() < deadline {
                sleep(WATCH_EVERY).await;
            }
            let reached = reached.load(Ordering::Relaxed);
            if reached < last {
                let (reached, last) = (Lsn(reached), Lsn(last));
                self.fail(format!("a reader of partition {partition} is at {reached}, and does not come to {last}"));
            }
        }
    }

    async fn judge(mut self, args: &Args, seed: u64) -> Result<bool, String> {
        let tables = async {
            let info = self.client.log(&self.shared.log).await?;
            self.client.tables(&info).await
        };
        let tables = timeout(CALM_PATIENCE, tables).await.ok().and_then(Result::ok).unwrap_or_default();
        let verdict = Verdict {
            failures: std::mem::take(&mut self.failures),
            done: std::mem::take(&mut self.done),
            tables,
            may_give_up: args.prefers_availability(),
            command: args.command(seed),
        };
        verdict.show(&mut self.shared.history(), &self.cluster)
    }
}
