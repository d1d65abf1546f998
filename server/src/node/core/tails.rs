//! Where partitions end that are sequenced here, for those outside of the cores who want to hear of every change.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use dlog_proto::PartitionUid;
use dlog_proto::wire::Tail;
use tokio::sync::watch;

/// The tails of all cores of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tails(Arc<RwLock<HashMap<PartitionUid, watch::Receiver<Tail>>>>);

impl Tails {
    /// A partition's tail, now and as it changes. The channel closes when its sequencer goes.
    pub(crate) fn get(&self, partition: PartitionUid) -> Option<watch::Receiver<Tail>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }
}

/// One core's part of them.
#[derive(Debug)]
pub(super) struct OwnTails {
    all: Tails,
    own: HashMap<PartitionUid, watch::Sender<Tail>>,
    /// Partitions whose sequencers did something since they were last looked at.
    touched: BTreeSet<PartitionUid>,
}

impl OwnTails {
    pub(super) fn new(all: Tails) -> Self {
        Self { all, own: HashMap::new(), touched: BTreeSet::new() }
    }

    pub(super) fn touch(&mut self, partition: PartitionUid) {
        self.touched.insert(partition);
    }

    /// Tells what has changed.
    pub(super) fn tell(&mut self, tail_of: impl Fn(PartitionUid) -> Option<Tail>) {
        for partition in std::mem::take(&mut self.touched) {
            match (tail_of(partition), self.own.get(&partition)) {
                (Some(tail), Some(sender)) => {
                    sender.send_if_modified(|known| {
                        let changed = *known != tail;
                        *known = tail;
                        changed
                    });
                }
                (Some(tail), None) => {
                    let (sender, receiver) = watch::channel(tail);
                    self.own.insert(partition, sender);
                    self.all.0.write().unwrap_or_else(PoisonError::into_inner).insert(partition, receiver);
                }
                (None, Some(_)) => {
                    self.all.0.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
                    self.own.remove(&partition);
                }
                (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Epoch, Esn, LogOffset, Lsn};

    use super::*;

    fn tail(esn: u32) -> Tail {
        let at = Lsn::new(Epoch(1), Esn(esn));
        Tail { acked: at, released: Some(at), next_offset: Some(LogOffset(esn.into())) }
    }

    #[test]
    fn changes_are_told_once_and_a_sequencer_that_goes_closes_its_tail() {
        let (all, uid) = (Tails::default(), PartitionUid(7));
        let mut own = OwnTails::new(all.clone());
        own.touch(uid);
        own.tell(|_| Some(tail(1)));
        let mut heard = all.get(uid).unwrap();
        assert_eq!(*heard.borrow_and_update(), tail(1));
        own.touch(uid);
        own.tell(|_| Some(tail(1)));
        assert!(!heard.has_changed().unwrap(), "nothing is news");
        own.tell(|_| Some(tail(2)));
        assert!(!heard.has_changed().unwrap(), "it was not touched");
        own.touch(uid);
        own.tell(|_| Some(tail(2)));
        assert_eq!(*heard.borrow_and_update(), tail(2));
        own.touch(uid);
        own.tell(|_| None);
        assert!(all.get(uid).is_none() && heard.has_changed().is_err());
    }
}
