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
