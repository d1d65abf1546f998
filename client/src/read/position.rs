//! Where in a partition: by name, LSN, offset or time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::wire::{FindTime, Freshness, GetTail, Payload, ReadStatus, Tail, TimeFound};
use dlog_proto::{
    EpochEntry, EpochTable, LogId, LogOffset, Lsn, MemberSet, PartitionId, PartitionUid, Quorum, ShardRef, TimestampMs,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::directory::Directory;
use crate::error::ClientError;

/// How long a sequencer may be silent before it is asked for anew who it is.
const SEQUENCER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a shard may look for a time.
const SHARD_PATIENCE: Duration = Duration::from_secs(5);

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The first record that was not trimmed.
    Oldest,
    /// After the last record that was acknowledged.
    Newest,
    Lsn(Lsn),
    Offset(LogOffset),
    /// The first record that was stored at or after this time, in milliseconds since 1970.
    Time(TimestampMs),
}

/// A partition, and what is known of it.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) log: LogId,
    pub(crate) id: PartitionId,
    pub(crate) uid: PartitionUid,
}

impl Partition {
    /// The first LSN at this place.
    pub(crate) async fn locate(
        &self,
        directory: &Arc<Directory>,
        table: &EpochTable,
        position: Position,
    ) -> Result<Lsn, ClientError> {
        match position {
            Position::Oldest => Ok(table.oldest()),
            Position::Newest => Ok(self.tail(directory).await?.acked.next()),
            Position::Lsn(lsn) => Ok(lsn),
            Position::Offset(offset) => self.locate_offset(directory, table, offset).await,
            Position::Time(timestamp) => match self.find_time(directory, table, timestamp).await? {
                Some(lsn) => Ok(lsn),
                None => Ok(self.tail(directory).await?.acked.next()),
            },
        }
    }

    async fn locate_offset(
        &self,
        directory: &Arc<Directory>,
        table: &EpochTable,
        offset: LogOffset,
    ) -> Result<Lsn, ClientError> {
        let first = table.offset_of(table.oldest()).map_or(0, |first| first.0);
        let end = self.tail(directory).await?.next_offset.map_or(u64::MAX, |end| end.0);
        match table.lsn_of(offset) {
            Some(lsn) if (first..=end).contains(&offset.0) => Ok(lsn),
            _ => {
                let (log, partition) = (self.log.clone(), self.id);
                Err(ClientError::OffsetOutOfRange { log, partition, offset: offset.0, first, end })
            }
        }
    }

    /// Where the partition ends: everything that was acknowledged before the question lies before the answer.
    ///
    /// The metadata tier is asked first, linearizably, which epoch is the newest. What was acknowledged before was so in that epoch,
    /// by the sequencer that is then asked, or in an earlier one. So a sequencer that was cut off and does not know it is not believed.
    pub(crate) async fn tail(&self, directory: &Arc<Directory>) -> Result<Tail, ClientError> {
        directory
            .patiently("the partition's tail", || async {
                let none =
                    || ClientError::Lost(format!("{} partition {} has no live sequencer right now", self.log, self.id));
                let (epoch, sequencer) =
                    directory.sequencer_at(self.uid, Freshness::Linearizable).await?.ok_or_else(none)?;
                let ask = async {
                    let control = directory.control_of(&sequencer).await?;
                    control.ask::<_, Tail>(&GetTail { partition: self.uid }, Payload::empty()).await
                };
                let silent = |_| ClientError::Lost(format!("{} does not answer", sequencer.node));
                let (tail, _) = timeout(SEQUENCER_PATIENCE, ask).await.map_err(silent)??;
                // It still acts for an earlier epoch of its own, and does not know yet of others in between.
                if tail.acked.epoch() < epoch {
                    return Err(none());
                }
                Ok(tail)
            })
            .await
    }

    /// First LSN that was stored at or after `timestamp`, if there is one. Every shard of every epoch is asked; an f-majority of each
    /// epoch that has answered is enough, so nobody waits for the dead.
    async fn find_time(
        &self,
        directory: &Arc<Directory>,
        table: &EpochTable,
        timestamp: TimestampMs,
    ) -> Result<Option<Lsn>, ClientError> {
        let members = table.readable().flat_map(|e| (0..e.nodeset.len()).map(|m| e.nodeset.shard_ref(m)));
        let mut asked = JoinSet::new();
        for shard in members.collect::<BTreeSet<_>>() {
            let (directory, partition, from) = (directory.clone(), self.uid, table.oldest());
            asked.spawn(async move {
                let found = timeout(SHARD_PATIENCE, find_time_on(&directory, partition, shard, from, timestamp)).await;
                (shard, found.ok().and_then(Result::ok))
            });
        }
        let mut answers: BTreeMap<ShardRef, Option<Lsn>> = BTreeMap::new();
        while let Some(lacking) = table.readable().find(|entry| !answered(entry, &answers).1) {
            match asked.join_next().await {
                Some(Ok((shard, Some(found)))) => drop(answers.insert(shard, found)),
                Some(_) => {}
                None => {
                    let (answered, of) = (answered(lacking, &answers).0, lacking.nodeset.len());
                    return Err(ClientError::Lost(format!(
                        "only {answered} of {of} shards of {} answered",
                        lacking.epoch
                    )));
                }
            }
        }
        Ok(answers.into_values().flatten().min())
    }
}

/// How many of an epoch's shards have answered, and whether that is enough.
fn answered(entry: &EpochEntry, answers: &BTreeMap<ShardRef, Option<Lsn>>) -> (usize, bool) {
    let members = 0..entry.nodeset.len();
    let answered: MemberSet = members.filter(|m| answers.contains_key(&entry.nodeset.shard_ref(*m))).collect();
    (answered.len(), Quorum::new(&entry.nodeset, &entry.replication).is_f_majority(answered))
}

async fn find_time_on(
    directory: &Arc<Directory>,
    partition: PartitionUid,
    shard: ShardRef,
    from: Lsn,
    timestamp: TimestampMs,
) -> Result<Option<Lsn>, ClientError> {
    let node = directory.node(shard.shard.node).await?;
    let node = node.ok_or_else(|| ClientError::Lost(format!("{} is down", shard.shard.node)))?;
    let control = directory.control_of(&node).await?;
    let ShardRef { shard, incarnation } = shard;
    let find = FindTime { shard, incarnation, partition, from, timestamp };
    let (found, _) = control.ask::<_, TimeFound>(&find, Payload::empty()).await?;
    match found.status {
        ReadStatus::Ok => Ok(found.lsn),
        refused => Err(ClientError::Lost(format!("{shard}: {refused}"))),
    }
}
