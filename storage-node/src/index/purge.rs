//! What a partition entry takes from the index at once: what lies beyond ends.

use dlog_proto::wire::EpochEnd;
use dlog_proto::{Esn, Lsn, PartitionUid};

use super::kv::{Key, KvError};
use super::schema::{AmendRow, LateRow, RunRow, Table};
use super::step::{Step, is_beyond, lsn_of};
use super::trim::is_trimmed;
use crate::entry::{Fate, PartitionMeta};
use crate::segment::Position;

impl Step<'_> {
    /// Applies a partition's newest entry.
    pub(super) fn meta(&mut self, at: Position, meta: &PartitionMeta) -> Result<(), KvError> {
        let partition = meta.partition;
        let row = self.partition(partition)?;
        row.meta_at = Some(at);
        let old = std::mem::replace(&mut row.meta, meta.clone());
        if meta.trim > old.trim || meta.deleted && !old.deleted {
            self.changes.put(Table::Trimmed.partition(partition), &());
            self.trim_quarantined(partition, if meta.deleted { Lsn::MAX } else { meta.trim })?;
        }
        if meta.deleted {
            let snapshot = self.partition(partition)?.snapshot.take();
            return self.drop_snapshot(snapshot);
        }
        for end in meta.ends.iter().filter(|end| old.end_of(end.epoch) != Some(**end)) {
            self.purge(partition, *end)?;
        }
        Ok(())
    }

    /// Removes what lies beyond an end; keeps it aside if the decision was not authoritative. A run that reaches beyond it
    /// stays as it is, because some of its blocks are data: who reads it leaves the others out.
    fn purge(&mut self, partition: PartitionUid, end: EpochEnd) -> Result<(), KvError> {
        let last = Lsn::new(end.epoch, end.last_esn);
        let beyond = |table: Table| table.blocks(partition, Lsn(last.0 + 1), Lsn::new(end.epoch, Esn::MAX));
        if end.last_esn < Esn::MAX {
            if !end.authoritative {
                self.quarantine_straddler(partition, last)?;
            }
            for (key, run) in self.changes.rows::<RunRow>(&beyond(Table::Run))? {
                self.changes.delete(key);
                self.drop_beyond(partition, &key, run, end)?;
            }
            for (key, late) in self.changes.rows::<LateRow>(&beyond(Table::Late))? {
                self.changes.delete(key);
                self.drop_beyond(partition, &key, late.to_run_row(), end)?;
            }
            for (key, amend) in self.changes.rows::<AmendRow>(&beyond(Table::Amend))? {
                self.changes.delete(key);
                self.segment(amend.segment)?.drop_amend();
            }
        }
        let row = self.partition(partition)?;
        let snapshot = row.snapshot.take_if(|at| is_beyond(&row.meta, at.lsn));
        self.drop_snapshot(snapshot)
    }

    /// Lists the part of a run that lies beyond `last` as kept aside. Its bytes count where the run stands.
    fn quarantine_straddler(&mut self, partition: PartitionUid, last: Lsn) -> Result<(), KvError> {
        let upto_end = Table::Run.blocks(partition, Lsn::new(last.epoch(), Esn::ZERO), last);
        if let Some((_, run)) = self.changes.last_row::<RunRow>(&upto_end)?.filter(|(_, run)| run.last_esn > last.esn())
        {
            self.changes.put(Table::Quarantine.block(partition, Lsn(last.0 + 1)), &RunRow { bytes: 0, ..run });
        }
        Ok(())
    }

    fn drop_beyond(&mut self, partition: PartitionUid, key: &Key, run: RunRow, end: EpochEnd) -> Result<(), KvError> {
        self.drop_data(partition, &run)?;
        let trim = self.partition(partition)?.meta.trim;
        if !end.authoritative && !is_trimmed(key, &run, trim) {
            self.add_run(partition, lsn_of(key), run, Fate::Quarantined)?;
        }
        Ok(())
    }

    /// Counts a run out.
    pub(super) fn drop_data(&mut self, partition: PartitionUid, run: &RunRow) -> Result<(), KvError> {
        self.segment(run.segment)?.drop_bytes(u64::from(run.bytes));
        let row = self.partition(partition)?;
        row.bytes = row.bytes.saturating_sub(run.bytes.into());
        row.blocks = row.blocks.saturating_sub(run.blocks.into());
        Ok(())
    }
}
