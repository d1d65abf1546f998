//! What is done to a cluster, and when: drawn from a seed before the run begins, so that a seed can be repeated. Pure.
//!
//! At most as many nodes are in trouble at once as the cluster is to bear, plus one slow or lossy link at a time, which takes
//! nobody's service away for good. Everything ends by itself.

#![deny(clippy::disallowed_methods)]

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use crate::held::Pace;
use crate::net::End;
use crate::net::fault::{Fault, Link};

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// kill -9; started again later.
    Kill,
    /// The same, without the kernel telling others that the port is closed, as when a machine loses power.
    Vanish,
    /// SIGTERM; started again at once.
    Restart,
    /// SIGSTOP, and SIGCONT later.
    Stop,
    /// Nothing goes to or from other nodes; clients reach it.
    Isolate,
    /// Nothing goes to or from anybody.
    CutOff,
    /// Nothing that it sends arrives.
    Mute,
    /// Nothing arrives at it.
    Deaf,
    /// Nothing goes between two nodes.
    Part,
    /// Everything to and from it comes late, and in another order.
    Delay,
    /// Some of what goes to and from it does not arrive, some comes twice.
    Loss,
    /// Its disk does not answer for a while, again and again.
    SlowDisk,
    /// Its disk does not answer.
    HungDisk,
}

impl Kind {
    /// How often each is drawn, relative to the others.
    const fn weight(self) -> u32 {
        match self {
            Self::Kill => 5,
            Self::Stop => 4,
            Self::Isolate | Self::Delay | Self::Loss | Self::SlowDisk => 3,
            Self::HungDisk | Self::Vanish | Self::Restart | Self::CutOff | Self::Mute | Self::Deaf | Self::Part => 2,
        }
    }

    /// Whether the node still does its work, only worse.
    const fn is_soft(self) -> bool {
        matches!(self, Self::Delay | Self::Loss | Self::SlowDisk)
    }

    /// Whether nodes must be told apart by what they send.
    pub(crate) const fn needs_owners(self) -> bool {
        matches!(self, Self::Isolate | Self::Part)
    }
}

/// One trouble.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trouble {
    /// Since the beginning of the phase of trouble.
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) node: usize,
    pub(crate) what: What,
}

/// What is done to a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Kill { silently: bool },
    Restart,
    Stop,
    Disk(Pace),
    Net { fault: Fault, links: Vec<Link>, words: String },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, lasts) = (self.node, (self.until - self.from).as_secs_f64());
        match &self.what {
            What::Kill { silently: false } => write!(f, "n{node} is killed, and started again {lasts:.2} s later"),
            What::Kill { silently: true } => write!(f, "n{node} vanishes, and is started again {lasts:.2} s later"),
            What::Restart => write!(f, "n{node} is stopped in order, and started again"),
            What::Stop => write!(f, "n{node} stands still for {lasts:.2} s"),
            What::Disk(pace) => write!(f, "n{node}'s disk {pace}, for {lasts:.2} s"),
            What::Net { words, .. } => write!(f, "{words}, for {lasts:.2} s"),
        }
    }
}

/// What may be drawn.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// Nodes that may be in trouble at once.
    pub(crate) at_once: usize,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) length: Duration,
}

/// Draws all troubles of a run, in the order in which they begin.
pub(crate) fn draw(plan: &Plan, rng: &mut fastrand::Rng) -> Vec<Trouble> {
    let (soft, hard): (Vec<Kind>, Vec<Kind>) = plan.kinds.iter().partition(|kind| kind.is_soft());
    let mut troubles = Vec::new();
    // Each line of troubles is a sequence; lines overlap each other.
    for _ in 0..plan.at_once.min(plan.nodes) {
        draw_line(plan, &hard, rng, &mut troubles);
    }
    draw_line(plan, &soft, rng, &mut troubles);
    troubles.sort_by_key(|trouble: &Trouble| trouble.from);
    troubles
}

fn draw_line(plan: &Plan, kinds: &[Kind], rng: &mut fastrand::Rng, troubles: &mut Vec<Trouble>) {
    let mut at = Duration::ZERO;
    if kinds.is_empty() {
        return;
    }
    loop {
        let from = at + between(0.2, 3.0, rng);
        let until = from + between(0.05, 5.0, rng);
        if until > plan.length {
            return;
        }
        let kind = draw_kind(kinds, rng);
        let is_free = |node: &usize| {
            let others =
                troubles.iter().filter(|other| other.node == *node && other.until >= from && other.from <= until);
            kind.is_soft() || !others.into_iter().any(|other| !other.what.is_soft())
        };
        let free: Vec<usize> = (1..=plan.nodes).filter(is_free).collect();
        if let Some(node) = rng.choice(free) {
            troubles.push(Trouble { from, until, node, what: What::draw(kind, node, plan.nodes, rng) });
        }
        at = until;
    }
}

/// Short ones are as frequent as long ones, by their order of magnitude.
fn between(min: f64, max: f64, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_secs_f64(min * (max / min).powf(rng.f64()))
}

fn draw_kind(kinds: &[Kind], rng: &mut fastrand::Rng) -> Kind {
    let mut drawn = rng.u32(0..kinds.iter().map(|kind| kind.weight()).sum());
    for kind in kinds {
        match drawn.checked_sub(kind.weight()) {
            Some(rest) => drawn = rest,
            None => return *kind,
        }
    }
    unreachable!("less than the sum of all weights was drawn")
}

impl What {
    fn is_soft(&self) -> bool {
        matches!(self, Self::Disk(Pace::Slow { .. })) || matches!(self, Self::Net { fault, .. } if !fault.cut)
    }

    fn draw(kind: Kind, node: usize, nodes: usize, rng: &mut fastrand::Rng) -> Self {
        let others: Vec<End> = (1..=nodes).filter(|other| *other != node).map(End::Node).collect();
        let all: Vec<End> = others.iter().copied().chain([End::Clients]).collect();
        let me = End::Node(node);
        let out = |to: &[End]| to.iter().map(|to| (me, *to)).collect::<Vec<_>>();
        let into = |from: &[End]| from.iter().map(|from| (*from, me)).collect::<Vec<_>>();
        let both = |ends: &[End]| [out(ends), into(ends)].concat();
        let cut = |links, words| Self::Net { fault: Fault::CUT, links, words };
        match kind {
            Kind::Kill => Self::Kill { silently: false },
            Kind::Vanish => Self::Kill { silently: true },
            Kind::Restart => Self::Restart,
            Kind::Stop => Self::Stop,
            Kind::HungDisk => Self::Disk(Pace::Hung),
            Kind::SlowDisk => Self::Disk(Pace::Slow { held: between(0.01, 0.3, rng), free: between(0.005, 0.05, rng) }),
            Kind::Isolate => cut(both(&others), format!("n{node} is cut off from the other nodes")),
            Kind::CutOff => cut(both(&all), format!("n{node} is cut off from everybody")),
            Kind::Mute => cut(out(&all), format!("nothing that n{node} sends arrives")),
            Kind::Deaf => cut(into(&all), format!("nothing arrives at n{node}")),
            Kind::Part => {
                let other = rng.choice(others).unwrap_or(me);
                cut(both(&[other]), format!("n{node} and {other} are cut off from each other"))
            }
            Kind::Delay => {
                let (delay, jitter) = (between(0.001, 0.1, rng), between(0.001, 0.05, rng));
                let words = format!(
                    "what n{node} sends and gets comes {} to {} ms late",
                    delay.as_millis(),
                    (delay + jitter).as_millis()
                );
                Self::Net { fault: Fault { delay, jitter, ..Fault::default() }, links: both(&all), words }
            }
            Kind::Loss => {
                let (loss, twice) = (between(0.01, 0.3, rng).as_secs_f64(), between(0.001, 0.05, rng).as_secs_f64());
                let (lost, doubled) = (loss * 100.0, twice * 100.0);
                let words = format!("of what n{node} sends and gets {lost:.0} % is lost, {doubled:.1} % comes twice");
                Self::Net { fault: Fault { loss, twice, ..Fault::default() }, links: both(&all), words }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: usize, at_once: usize) -> Plan {
        Plan { nodes, at_once, kinds: Kind::value_variants().to_vec(), length: Duration::from_secs(120) }
    }

    fn drawn(plan: &Plan, seed: u64) -> Vec<Trouble> {
        draw(plan, &mut fastrand::Rng::with_seed(seed))
    }

    /// Nodes that are in hard trouble at the moment when this one begins.
    fn in_trouble(troubles: &[Trouble], at: Duration) -> Vec<usize> {
        let now = troubles.iter().filter(|t| t.from <= at && at < t.until && !t.what.is_soft());
        now.map(|trouble| trouble.node).collect()
    }

    #[test]
    fn no_more_nodes_are_in_trouble_than_may_be() {
        for seed in 0..200 {
            for (nodes, at_once) in [(3, 1), (5, 2), (3, 3)] {
                let troubles = drawn(&plan(nodes, at_once), seed);
                for trouble in &troubles {
                    let mut nodes = in_trouble(&troubles, trouble.from);
                    let count = nodes.len();
                    nodes.sort_unstable();
                    nodes.dedup();
                    assert!(count <= at_once && nodes.len() == count, "seed {seed}: {troubles:#?}");
                }
            }
        }
    }

    #[test]
    fn everything_happens_and_ends() {
        let mut texts = String::new();
        for seed in 0..50 {
            let plan = plan(3, 1);
            let troubles = drawn(&plan, seed);
            assert!(troubles.iter().all(|t| t.from < t.until && t.until <= plan.length));
            assert!(troubles.is_sorted_by_key(|trouble| trouble.from));
            assert_eq!(troubles, drawn(&plan, seed), "the same seed is the same run");
            troubles.iter().for_each(|trouble| texts.push_str(&trouble.to_string()));
        }
        for words in ["killed", "vanishes", "in order", "stands still", "other nodes", "everybody", "late", "is lost"] {
            assert!(texts.contains(words), "{words}");
        }
        for words in
            ["that n1 sends arrives", "arrives at n2", "from each other", "ms after every", "disk does not answer,"]
        {
            assert!(texts.contains(words), "{words}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_drawn() {
        let plan = Plan { kinds: vec![Kind::Stop], ..plan(3, 1) };
        let troubles = drawn(&plan, 1);
        assert!(troubles.len() > 5 && troubles.iter().all(|trouble| trouble.what == What::Stop));
    }
}
