//! DeleteRecords: lets go of a partition's first records.

use std::sync::Arc;

use dlog_metadata::state::{Command, Response, Trim, TrimItem};
use dlog_proto::LogOffset;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::time::timeout_at;

use super::errands::deadline;
use super::topics::wait_applied;
use crate::cluster::log_start;
use crate::errors;
use crate::fetch::local_end;
use crate::gateway::Shared;

/// Everything that can be read.
const HIGH_WATERMARK: i64 = -1;

pub(super) async fn delete(shared: Arc<Shared>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let deadline = deadline(request.timeout_ms);
    let mut response = DeleteRecordsResponse::default();
    for topic in request.topics {
        let mut result = DeleteRecordsTopicResult::default();
        for partition in topic.partitions {
            let mut done = DeleteRecordsPartitionResult::default();
            (done.partition_index, done.low_watermark) = (partition.partition_index, -1);
            let deleting = delete_before(&shared, &topic.name, partition.partition_index, partition.offset);
            match timeout_at(deadline, deleting).await.unwrap_or(Err(ResponseError::RequestTimedOut)) {
                Ok(start) => done.low_watermark = start as i64,
                Err(error) => done.error_code = error.code(),
            }
            result.partitions.push(done);
        }
        result.name = topic.name;
        response.topics.push(result);
    }
    response
}

/// Lets go of records before `offset`; the offset of the first that is left.
async fn delete_before(shared: &Shared, topic: &str, index: i32, offset: i64) -> Result<u64, ResponseError> {
    let (_, uid, end) = local_end(shared, topic, index).map_err(|error| match error {
        // Its sequencer does not know yet.
        ResponseError::OffsetNotAvailable => ResponseError::LeaderNotAvailable,
        error => error,
    })?;
    let offset = match offset {
        HIGH_WATERMARK => end.high_watermark,
        offset => u64::try_from(offset).map_err(|_| ResponseError::OffsetOutOfRange)?,
    };
    if offset > end.high_watermark {
        return Err(ResponseError::OffsetOutOfRange);
    }
    let start = || shared.broker.view().table(uid).map(|table| (log_start(&table).0, table));
    let (first, table) = start().ok_or(ResponseError::UnknownTopicOrPartition)?;
    if offset <= first {
        return Ok(first);
    }
    let upto = table.lsn_of(LogOffset(offset - 1)).ok_or(ResponseError::RequestTimedOut)?;
    let trim = Command::Trim(Trim { items: vec![TrimItem { partition: uid, upto }] });
    match shared.broker.propose(trim).await {
        Ok((revision, Response::Trim(Ok(results)))) if results.iter().all(Result::is_ok) => {
            wait_applied(shared, revision).await;
            Ok(start().map_or(offset, |(first, _)| first))
        }
        Ok((_, Response::Trim(Ok(results)))) => {
            let refused = results.into_iter().find_map(Result::err);
            tracing::info!(topic, index, offset, "kafka: records were not deleted: {refused:?}");
            Err(refused.map_or(ResponseError::RequestTimedOut, |error| errors::of_trim(&error)))
        }
        failed => {
            tracing::info!(topic, index, offset, "kafka: records were not deleted: {failed:?}");
            Err(ResponseError::RequestTimedOut)
        }
    }
}
