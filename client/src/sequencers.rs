//! Who sequences which partition, asked for many partitions at once.
//!
//! When a node dies, all that it sequenced is looked for at the same moment. So whoever asks while rounds of questions are under way waits
//! for the next, which asks for all who wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dlog_metadata::state::BATCH_LEN_MAX;
use dlog_proto::wire::Freshness;
use dlog_proto::{Epoch, PartitionUid};
use tokio::sync::oneshot;

use crate::directory::NodeAddress;
use crate::error::ClientError;

/// Rounds under way at the same time, of each kind: a server that is slow to answer holds up those who asked with it only.
const ROUNDS_MAX: usize = 4;

/// The newest epoch of a partition that a server knows of, and the node that sequences it, if it lives.
pub(crate) type Found = Result<Option<(Epoch, NodeAddress)>, ClientError>;

/// Who waits for the next round. What fails is told to each.
#[derive(Debug, Default)]
pub(crate) struct Sequencers {
    local: Mutex<Asking>,
    /// A metadata tier without a leader holds up only those who ask it.
    linearizable: Mutex<Asking>,
}

#[derive(Debug, Default)]
struct Asking {
    waiting: Vec<(PartitionUid, oneshot::Sender<Found>)>,
    rounds: usize,
}

/// All who are answered by one question.
#[derive(Debug)]
pub(crate) struct Round(Vec<(PartitionUid, oneshot::Sender<Found>)>);

impl Sequencers {
    fn of(&self, freshness: Freshness) -> MutexGuard<'_, Asking> {
        let asking = match freshness {
            Freshness::Local => &self.local,
            // That covers any revision.
            Freshness::Linearizable | Freshness::AtLeast(_) => &self.linearizable,
        };
        asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a round; and whether the caller is to see to it that [`Self::next_round`] is called until there is none.
    pub(crate) fn ask(&self, partition: PartitionUid, freshness: Freshness) -> (oneshot::Receiver<Found>, bool) {
        let (answer, answered) = oneshot::channel();
        let mut asking = self.of(freshness);
        asking.waiting.push((partition, answer));
        let begins = asking.rounds < ROUNDS_MAX;
        asking.rounds += usize::from(begins);
        (answered, begins)
    }

    /// Those who wait; none, and one round less, if nobody does.
    pub(crate) fn next_round(&self, freshness: Freshness) -> Option<Round> {
        let mut asking = self.of(freshness);
        // Whoever has given up needs no answer.
        asking.waiting.retain(|(_, answer)| !answer.is_closed());
        if asking.waiting.is_empty() {
            asking.rounds -= 1;
            return None;
        }
        let count = asking.waiting.len().min(BATCH_LEN_MAX);
        Some(Round(asking.waiting.drain(..count).collect()))
    }
}

impl Round {
    /// Each once, ascending.
    pub(crate) fn partitions(&self) -> Vec<PartitionUid> {
        let mut partitions: Vec<_> = self.0.iter().map(|(partition, _)| *partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// Answers each. Whoever waited may have given up.
    pub(crate) fn answer(self, find: impl Fn(PartitionUid) -> Found) {
        self.0.into_iter().for_each(|(partition, answer)| drop(answer.send(find(partition))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Freshness = Freshness::Local;

    fn ask(sequencers: &Sequencers, partition: u64) -> (oneshot::Receiver<Found>, bool) {
        sequencers.ask(PartitionUid(partition), FRESH)
    }

    fn uids(partitions: &[u64]) -> Vec<PartitionUid> {
        partitions.iter().copied().map(PartitionUid).collect()
    }

    #[test]
    fn who_comes_while_rounds_are_under_way_waits_for_the_next() {
        let sequencers = Sequencers::default();
        let firsts: Vec<_> = (0..ROUNDS_MAX as u64).map(|p| ask(&sequencers, p)).collect();
        assert!(firsts.iter().all(|(_, begins)| *begins));
        let round = sequencers.next_round(FRESH).expect("all who wait");
        assert_eq!(round.partitions(), uids(&[0, 1, 2, 3]));
        let (mut waits, begins) = ask(&sequencers, 7);
        assert!(!begins, "enough are under way");
        round.answer(|partition| Err(ClientError::PartitionGone(partition)));
        for (partition, (answered, _)) in firsts.into_iter().enumerate() {
            let answer = answered.blocking_recv().expect("everybody is answered");
            assert!(matches!(answer, Err(ClientError::PartitionGone(uid)) if uid.0 == partition as u64));
        }
        assert!(waits.try_recv().is_err(), "it came after the question");
        let round = sequencers.next_round(FRESH).expect("the one who came later");
        assert_eq!(round.partitions(), uids(&[7]));
        round.answer(|_| Ok(None));
        assert!(matches!(waits.try_recv(), Ok(Ok(None))));
        for _ in 0..ROUNDS_MAX {
            assert!(sequencers.next_round(FRESH).is_none());
        }
        assert!(ask(&sequencers, 1).1, "somebody has to begin again");
    }

    #[test]
    fn a_round_asks_for_as_much_as_a_question_may() {
        let sequencers = Sequencers::default();
        let all = (0..2 * BATCH_LEN_MAX as u64 + 1).map(|p| ask(&sequencers, p).0);
        let mut all: Vec<_> = all.collect();
        all.remove(0);
        let sizes: Vec<_> = std::iter::from_fn(|| sequencers.next_round(FRESH)).map(|r| r.partitions().len()).collect();
        assert_eq!(sizes, [BATCH_LEN_MAX; 2], "nobody asks for who has given up");
    }

    #[test]
    fn certain_and_local_answers_do_not_wait_for_each_other() {
        let sequencers = Sequencers::default();
        let certain: Vec<_> =
            (0..=ROUNDS_MAX as u64).map(|p| sequencers.ask(PartitionUid(p), Freshness::Linearizable)).collect();
        assert!(!certain.last().expect("several").1);
        let (_answered, begins) = ask(&sequencers, 1);
        assert!(begins);
        assert_eq!(sequencers.next_round(FRESH).map(|round| round.partitions()), Some(uids(&[1])));
    }
}
