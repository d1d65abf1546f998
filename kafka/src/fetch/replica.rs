//! Where a partition ends, as a node knows that keeps copies of it and does not lead it (KIP-392).
//!
//! Two things tell: the released mark of its own shards, which its sequencer sends them, and the epoch table, since what is
//! decided may be read. Both may lag behind the leader, and neither is ever ahead of it: INV-READ-RELEASED holds here as it
//! does for native readers, who go by the same two.

use dlog_proto::{EpochEntry, EpochTable, Esn, LogOffset, Lsn, PartitionUid};

use super::{Changes, End};
use crate::broker::Broker;
use crate::cluster::Cluster;

/// Where a partition ends that has copies here; `None` if this node is no replica of it. What moves that end is waited for
/// with `changes`; whether the view does, too, is what `needs_view` says.
pub(crate) fn replica_end(
    cluster: &Cluster,
    broker: &dyn Broker,
    partition: PartitionUid,
    changes: &mut Changes,
    needs_view: &mut bool,
) -> Option<End> {
    if !cluster.replicas(partition).in_sync.contains(&broker.node()) {
        return None;
    }
    let table = cluster.view.table(partition)?;
    let mut mark = broker.released(partition)?;
    let released = *mark.borrow_and_update();
    changes.add(mark);
    // Shards hear of a new epoch's records before this node hears where it begins.
    *needs_view |= released != Lsn::ZERO && placed(&table, released).is_none();
    known_end(&table, released)
}

/// `None` as long as it is not known where any epoch begins.
fn known_end(table: &EpochTable, released: Lsn) -> Option<End> {
    let newest = table.newest()?;
    // An epoch's base is known once all before it are decided.
    let begun = table.epochs.iter().rev().find(|entry| entry.base_offset.is_some())?;
    let decided = at(begun, begun.end.map_or(Esn::ZERO, |end| end.last_esn))?;
    let (LogOffset(high_watermark), released) = placed(table, released).into_iter().chain([decided]).max()?;
    Some(End { epoch: newest.epoch, high_watermark, released })
}

/// A mark, and the offset after it. It never passes a decided end: without a quorum an end may have been decided below
/// what somebody had released.
fn placed(table: &EpochTable, mark: Lsn) -> Option<(LogOffset, Lsn)> {
    let entry = table.epoch(mark.epoch())?;
    let decided = entry.end.map_or(Esn::MAX, |end| end.last_esn);
    at(entry, mark.esn().min(decided))
}

fn at(entry: &EpochEntry, last: Esn) -> Option<(LogOffset, Lsn)> {
    let LogOffset(base) = entry.base_offset?;
    Some((LogOffset(base + u64::from(last.0)), Lsn::new(entry.epoch, last)))
}

#[cfg(test)]
mod tests {
    use dlog_proto::Epoch;

    use super::super::tests::{based_entry, table_of};
    use super::*;

    fn end(table: &EpochTable, epoch: u32, esn: u32) -> (u32, u64, Lsn) {
        let End { epoch, high_watermark, released } = known_end(table, Lsn::new(Epoch(epoch), Esn(esn))).unwrap();
        (epoch.0, high_watermark, released)
    }

    fn lsn(epoch: u32, esn: u32) -> Lsn {
        Lsn::new(Epoch(epoch), Esn(esn))
    }

    #[test]
    fn a_replica_goes_by_what_its_shards_and_the_table_know() {
        // Epochs 1 and 3 have 10 and 5 records; where 4 ends, and 6 begins, is not known yet.
        let table = table_of(vec![
            based_entry(1, Some(0), Some(10)),
            based_entry(3, Some(10), Some(5)),
            based_entry(4, Some(15), None),
            based_entry(6, None, None),
        ]);
        assert_eq!(end(&table, 4, 7), (6, 22, lsn(4, 7)), "what is released");
        assert_eq!(end(&table, 0, 0), (6, 15, lsn(4, 0)), "shards that have said nothing: what is decided");
        assert_eq!(end(&table, 3, 2), (6, 15, lsn(4, 0)), "shards that lag");
        assert_eq!(end(&table, 6, 2), (6, 15, lsn(4, 0)), "a mark that has no offset yet");
    }

    #[test]
    fn a_mark_never_passes_a_decided_end() {
        let table = table_of(vec![based_entry(1, Some(0), Some(10))]);
        assert_eq!(end(&table, 1, 12), (1, 10, lsn(1, 10)));
        let table = table_of(vec![based_entry(1, Some(0), Some(10)), based_entry(2, Some(10), None)]);
        assert_eq!(end(&table, 1, 12), (2, 10, lsn(2, 0)));
        assert_eq!(known_end(&table_of(Vec::new()), lsn(1, 1)), None);
        assert_eq!(known_end(&table_of(vec![based_entry(2, None, None)]), lsn(2, 1)), None);
    }
}
