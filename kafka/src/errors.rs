//! Our errors in Kafka's codes. What is transient gets a code that clients retry; UNKNOWN_SERVER_ERROR is never used, because
//! idempotent producers take it for the end (P12).

use dlog_metadata::state::{CreateLogError, CreatePartitionsError, SetAttributesError};
use dlog_proto::record::BatchError;
use dlog_proto::wire::AppendError;
use kafka_protocol::ResponseError;

/// What a batch gets that is not taken.
pub(crate) fn of_batch(error: &BatchError) -> ResponseError {
    match error {
        BatchError::Truncated { .. } | BatchError::Length(_) | BatchError::Crc { .. } => ResponseError::CorruptMessage,
        BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
        BatchError::Timestamp { .. } | BatchError::AppendTime => ResponseError::InvalidTimestamp,
        BatchError::Codec(_) => ResponseError::UnsupportedCompressionType,
        BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        _ => ResponseError::InvalidRecord,
    }
}

/// What an append gets that was not acknowledged.
pub(crate) fn of_append(error: &AppendError) -> ResponseError {
    match error {
        AppendError::NotSequencer { .. } | AppendError::Preempted { .. } => ResponseError::NotLeaderOrFollower,
        AppendError::UnknownPartition => ResponseError::UnknownTopicOrPartition,
        // Nothing was written, and every client tries again without losing its place.
        AppendError::Recovering { .. } | AppendError::Overloaded { .. } | AppendError::NotEnoughShards { .. } => {
            ResponseError::NotEnoughReplicas
        }
        AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
        AppendError::Invalid { .. } => ResponseError::InvalidRecord,
        AppendError::Corrupt => ResponseError::CorruptMessage,
        // Of a producer without state, a batch that is not the first either came before the first one, which is on its way
        // once more (the client sends it again, in order), or its state has expired (the client begins a new epoch). This
        // code makes clients tell the two apart; UNKNOWN_PRODUCER_ID makes Java's begin new epochs without end.
        AppendError::OutOfOrder { .. } | AppendError::UnknownProducer { .. } => ResponseError::OutOfOrderSequenceNumber,
        AppendError::Fenced { .. } => ResponseError::InvalidProducerEpoch,
    }
}

/// Whether the client should look for another leader.
pub(crate) fn is_elsewhere(error: &AppendError) -> bool {
    matches!(error, AppendError::NotSequencer { .. } | AppendError::Preempted { .. })
}

pub(crate) fn of_create(error: &CreateLogError) -> ResponseError {
    match error {
        CreateLogError::Exists(_) => ResponseError::TopicAlreadyExists,
        CreateLogError::Partitions(_) => ResponseError::InvalidPartitions,
        CreateLogError::ClusterFull { .. } => ResponseError::PolicyViolation,
        CreateLogError::Attribute(_) => ResponseError::InvalidConfig,
        CreateLogError::NotEnough { .. } => ResponseError::InvalidReplicationFactor,
        CreateLogError::Ambiguous { .. } | CreateLogError::LikeNamespace { .. } => ResponseError::InvalidTopicException,
    }
}

pub(crate) fn of_create_partitions(error: &CreatePartitionsError) -> ResponseError {
    match error {
        CreatePartitionsError::Unknown(_) => ResponseError::UnknownTopicOrPartition,
        CreatePartitionsError::NotMore { .. } | CreatePartitionsError::Partitions(_) => {
            ResponseError::InvalidPartitions
        }
        CreatePartitionsError::ClusterFull { .. } => ResponseError::PolicyViolation,
    }
}

pub(crate) fn of_set_attributes(error: &SetAttributesError) -> ResponseError {
    match error {
        SetAttributesError::Unknown(_) => ResponseError::UnknownTopicOrPartition,
        SetAttributesError::Attribute(_) => ResponseError::InvalidConfig,
        SetAttributesError::NotEnough { .. } => ResponseError::InvalidConfig,
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::Epoch;
    use dlog_proto::wire::Retry;

    use super::*;

    /// Clients send again what is transient, and give up on UNKNOWN_SERVER_ERROR.
    #[test]
    fn what_is_transient_is_sent_again_and_nothing_is_unknown() {
        let (node, epoch) = (None, Epoch(1));
        let examples = [
            AppendError::NotSequencer { node, epoch },
            AppendError::UnknownPartition,
            AppendError::Recovering { reason: String::new(), retry_after_ms: 1 },
            AppendError::Overloaded { retry_after_ms: 1 },
            AppendError::NotEnoughShards { available: 1, needed: 2 },
            AppendError::TooLarge { len: 2, max: 1 },
            AppendError::Invalid { reason: String::new() },
            AppendError::Corrupt,
            AppendError::OutOfOrder { producer: 1, expected: 1, found: 2 },
            AppendError::UnknownProducer { producer: 1 },
            AppendError::Fenced { producer: 1, current: 1 },
            AppendError::Preempted { node, epoch },
        ];
        for error in examples {
            let code = of_append(&error);
            assert_ne!(code, ResponseError::UnknownServerError, "{error}");
            // A topic that is gone may be made again: Kafka's clients look for a while.
            let is_transient = error.retry() != Retry::Never || error == AppendError::UnknownPartition;
            assert_eq!(code.is_retriable(), is_transient, "{error}: {code}");
        }
    }
}
