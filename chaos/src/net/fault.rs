//! What is wrong with links, and what becomes of a datagram.

#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;
use std::time::Duration;

use super::End;

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Fault {
    /// Nothing arrives.
    pub(crate) cut: bool,
    /// Share of datagrams that do not arrive.
    pub(crate) loss: f64,
    /// Share of datagrams that arrive twice.
    pub(crate) twice: f64,
    /// How late each arrives at least.
    pub(crate) delay: Duration,
    /// How much later at most; datagrams overtake each other by it.
    pub(crate) jitter: Duration,
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Arrives { after: Duration, again: Option<Duration> },
}

impl Fault {
    pub(crate) const CUT: Self =
        Self { cut: true, loss: 0.0, twice: 0.0, delay: Duration::ZERO, jitter: Duration::ZERO };

    pub(crate) fn fate(&self, rng: &mut fastrand::Rng) -> Fate {
        if self.cut || self.loss > 0.0 && rng.f64() < self.loss {
            return Fate::Lost;
        }
        let again = self.twice > 0.0 && rng.f64() < self.twice;
        Fate::Arrives { after: self.after(rng), again: again.then(|| self.after(rng)) }
    }

    fn after(&self, rng: &mut fastrand::Rng) -> Duration {
        if self.jitter.is_zero() { self.delay } else { self.delay + self.jitter.mul_f64(rng.f64()) }
    }

    /// Both at once.
    fn and(&self, other: &Self) -> Self {
        let either = |a: f64, b: f64| 1.0 - (1.0 - a) * (1.0 - b);
        Self {
            cut: self.cut || other.cut,
            loss: either(self.loss, other.loss),
            twice: either(self.twice, other.twice),
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
        }
    }
}

/// From an end to another.
pub(crate) type Link = (End, End);

/// All faults that there are now.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<(u64, Fault, Vec<Link>)>,
    last_number: u64,
    /// What follows from it, per link.
    links: HashMap<Link, Fault>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault, links: Vec<Link>) -> u64 {
        self.last_number += 1;
        self.active.push((self.last_number, fault, links));
        self.combine();
        self.last_number
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.active.retain(|(active, ..)| *active != number);
        self.combine();
    }

    pub(crate) fn clear(&mut self) {
        self.active.clear();
        self.links.clear();
    }

    pub(crate) fn of(&self, from: End, to: End) -> Fault {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    fn combine(&mut self) {
        self.links.clear();
        for (_, fault, links) in &self.active {
            for link in links {
                let combined = self.links.entry(*link).or_default();
                *combined = combined.and(fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn faults_add_up_and_go_away() {
        let (out, back) = ((End::Node(1), End::Node(2)), (End::Node(2), End::Node(1)));
        let mut faults = Faults::default();
        let slow = faults.add(Fault { delay: 5 * MS, loss: 0.5, ..Fault::default() }, vec![out, back]);
        let worse = faults.add(Fault { delay: 2 * MS, loss: 0.5, ..Fault::default() }, vec![out]);
        assert_eq!(faults.of(out.0, out.1), Fault { delay: 7 * MS, loss: 0.75, ..Fault::default() });
        assert_eq!(faults.of(back.0, back.1).loss, 0.5);
        assert_eq!(faults.of(End::Clients, End::Node(1)), Fault::default());
        faults.remove(slow);
        assert_eq!((faults.of(out.0, out.1).delay, faults.of(back.0, back.1)), (2 * MS, Fault::default()));
        faults.remove(worse);
        faults.add(Fault::CUT, vec![out]);
        assert!(faults.of(out.0, out.1).cut);
        faults.clear();
        assert_eq!(faults.of(out.0, out.1), Fault::default());
    }

    #[test]
    fn datagrams_meet_the_shares() {
        let mut rng = fastrand::Rng::with_seed(7);
        let fault = Fault { loss: 0.2, twice: 0.1, delay: MS, jitter: 4 * MS, cut: false };
        let fates: Vec<_> = (0..10_000).map(|_| fault.fate(&mut rng)).collect();
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let twice = fates.iter().filter(|fate| matches!(fate, Fate::Arrives { again: Some(_), .. })).count();
        assert!((1800..2200).contains(&lost) && (700..900).contains(&twice), "{lost} {twice}");
        let in_bounds = |fate: &Fate| match fate {
            Fate::Lost => true,
            Fate::Arrives { after, .. } => (MS..=5 * MS).contains(after),
        };
        assert!(fates.iter().all(in_bounds));
        assert_eq!(Fault::CUT.fate(&mut rng), Fate::Lost);
        assert_eq!(Fault::default().fate(&mut rng), Fate::Arrives { after: Duration::ZERO, again: None });
    }
}
