//! OffsetForLeaderEpoch: where epochs end, straight from the epoch table.

use std::sync::Arc;

use dlog_proto::{Epoch, EpochTable};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::cluster::log_start;
use crate::fetch::{End, check_epoch, local_end};
use crate::gateway::Shared;

pub(super) async fn handle(shared: Arc<Shared>, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in request.topics {
        let mut result = OffsetForLeaderTopicResult::default();
        result.partitions = topic.partitions.iter().map(|asked| answer(&shared, &topic.topic, asked)).collect();
        result.topic = topic.topic;
        response.topics.push(result);
    }
    response
}

fn answer(shared: &Shared, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let mut end = EpochEndOffset::default();
    (end.partition, end.leader_epoch, end.end_offset) = (asked.partition, -1, -1);
    match find(shared, topic, asked) {
        Ok(Some((epoch, offset))) => (end.leader_epoch, end.end_offset) = (epoch.0 as i32, offset as i64),
        Ok(None) => {}
        // Its sequencer does not know yet.
        Err(ResponseError::OffsetNotAvailable) => end.error_code = ResponseError::NotLeaderOrFollower.code(),
        Err(error) => end.error_code = error.code(),
    }
    end
}

fn find(shared: &Shared, topic: &str, asked: &OffsetForLeaderPartition) -> Result<Option<(Epoch, u64)>, ResponseError> {
    let (_, uid, end) = local_end(shared, topic, asked.partition)?;
    check_epoch(asked.current_leader_epoch, end.epoch)?;
    let table = shared.broker.view().table(uid).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let Ok(epoch) = u32::try_from(asked.leader_epoch) else { return Ok(None) };
    end_of(&table, Epoch(epoch), end)
}

/// The newest epoch up to `epoch`, and the offset after its last record. Too low an offset would make consumers believe
/// that records were lost, so what this node has not heard of yet is not guessed.
fn end_of(table: &EpochTable, epoch: Epoch, end: End) -> Result<Option<(Epoch, u64)>, ResponseError> {
    if epoch > end.epoch {
        return Ok(None);
    }
    if epoch == end.epoch {
        return Ok(Some((epoch, end.high_watermark)));
    }
    let Some(upto) = table.epochs.iter().rev().find(|entry| entry.epoch <= epoch) else {
        // It was trimmed away: what is kept begins after it.
        return Ok(Some((epoch, log_start(table).0)));
    };
    let after = table.epochs.iter().find(|entry| entry.epoch > epoch);
    let next_base = after.and_then(|entry| entry.base_offset).ok_or(ResponseError::OffsetNotAvailable)?;
    Ok(Some((upto.epoch, next_base.0)))
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Esn, Lsn};

    use super::*;
    use crate::fetch::tests::{based_entry, table_of};

    /// Epochs 2 (offsets 5 to 14), 4 (nothing), 6 (from 15 on); those before were trimmed.
    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        let table = table_of(vec![
            based_entry(2, Some(5), Some(10)),
            based_entry(4, Some(15), Some(0)),
            based_entry(6, Some(15), None),
        ]);
        let end = End { epoch: Epoch(6), high_watermark: 40, released: Lsn::new(Epoch(6), Esn(25)) };
        let of = |epoch| end_of(&table, Epoch(epoch), end);
        assert_eq!(of(7), Ok(None), "nobody had it yet");
        assert_eq!(of(6), Ok(Some((Epoch(6), 40))), "no lower than what consumers saw");
        assert_eq!(of(5), Ok(Some((Epoch(4), 15))), "of the one before it");
        assert_eq!(of(4), Ok(Some((Epoch(4), 15))));
        assert_eq!(of(3), Ok(Some((Epoch(2), 15))));
        assert_eq!(of(2), Ok(Some((Epoch(2), 15))));
        assert_eq!(of(1), Ok(Some((Epoch(1), 5))), "it was trimmed");
    }

    #[test]
    fn what_this_node_has_not_heard_of_is_not_guessed() {
        let end = End { epoch: Epoch(6), high_watermark: 40, released: Lsn::new(Epoch(6), Esn(25)) };
        let behind = table_of(vec![based_entry(2, Some(5), Some(10))]);
        assert_eq!(end_of(&behind, Epoch(2), end), Err(ResponseError::OffsetNotAvailable), "where does 6 begin?");
        let undecided = table_of(vec![based_entry(2, Some(5), None), based_entry(6, None, None)]);
        assert_eq!(end_of(&undecided, Epoch(2), end), Err(ResponseError::OffsetNotAvailable));
        assert_eq!(end_of(&undecided, Epoch(6), end), Ok(Some((Epoch(6), 40))));
    }
}
