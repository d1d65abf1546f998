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
    Ok(end_of(&table, Epoch(epoch), end))
}

/// The newest epoch up to `epoch`, and the offset after its last record.
fn end_of(table: &EpochTable, epoch: Epoch, end: End) -> Option<(Epoch, u64)> {
    if epoch > end.epoch {
        return None;
    }
    if epoch == end.epoch {
        return Some((epoch, end.high_watermark));
    }
    let after = table.epochs.iter().find(|entry| entry.epoch > epoch);
    let upto = table.epochs.iter().rev().find(|entry| entry.epoch <= epoch);
    let next_base = after.and_then(|entry| entry.base_offset).map_or(end.high_watermark, |base| base.0);
    match upto {
        Some(entry) => Some((entry.epoch, next_base)),
        // It was trimmed away: what is kept begins after it.
        None => Some((epoch, log_start(table).0)),
    }
}
