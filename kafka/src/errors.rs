//! Our errors in Kafka's codes. What is transient gets a code that clients retry; UNKNOWN_SERVER_ERROR is never used, because
//! idempotent producers take it for the end. No match has a `_`: whoever adds an error says what clients make of it.

use dlog_metadata::state::{
    CreateLogError, CreatePartitionsError, PartitionError, ProducerIdsError, SetAttributesError, TrimError, UnknownLog,
};
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
        BatchError::Trailing { .. }
        | BatchError::Count { .. }
        | BatchError::TooManyRecords { .. }
        | BatchError::BaseOffset(_)
        | BatchError::ReservedAttributes(_)
        | BatchError::Producer { .. }
        | BatchError::Decompress { .. }
        | BatchError::DecompressedTooLarge { .. }
        | BatchError::Record { .. } => ResponseError::InvalidRecord,
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
        SetAttributesError::Attribute(_) | SetAttributesError::NotEnough { .. } => ResponseError::InvalidConfig,
    }
}

/// A log that is to be deleted is gone already.
pub(crate) fn of_delete(UnknownLog(_): &UnknownLog) -> ResponseError {
    ResponseError::UnknownTopicOrPartition
}

pub(crate) fn of_trim(error: &TrimError) -> ResponseError {
    match error {
        TrimError::Partition(PartitionError::Unknown(_) | PartitionError::Deleted(_)) => {
            ResponseError::UnknownTopicOrPartition
        }
        // This node took it for released, so the metadata tier will know soon.
        TrimError::NotReleased { .. } => ResponseError::LeaderNotAvailable,
    }
}

/// What InitProducerId gets. Not COORDINATOR_NOT_AVAILABLE: Java's idempotent producers would look for the coordinator of
/// their transactional id, and have none.
pub(crate) fn of_producer_ids(error: &ProducerIdsError) -> ResponseError {
    match error {
        ProducerIdsError::Count(_) => ResponseError::CoordinatorLoadInProgress,
        ProducerIdsError::Exhausted => ResponseError::PolicyViolation,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use dlog_metadata::placement::NotEnough;
    use dlog_metadata::state::AttributeError;
    use dlog_proto::record::Compression;
    use dlog_proto::wire::Retry;
    use dlog_proto::{Epoch, LogId, Lsn, PartitionUid};

    use super::*;

    const SENT_AGAIN: bool = true;
    const FINAL: bool = false;

    /// What each error is told as, and whether Kafka's clients try again by themselves.
    fn check<E: Display + Debug>(of: impl Fn(&E) -> ResponseError, all: Vec<(E, ResponseError, bool)>) {
        for (error, code, is_sent_again) in all {
            assert_eq!(of(&error), code, "{error:?}");
            assert_eq!(code.is_retriable(), is_sent_again, "{error:?}: {code}");
            assert_ne!(code, ResponseError::UnknownServerError, "{error:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn appends() {
        use ResponseError::*;
        let (node, epoch) = (None, Epoch(1));
        let all = vec![
            (AppendError::NotSequencer { node, epoch }, NotLeaderOrFollower, SENT_AGAIN),
            (AppendError::Preempted { node, epoch }, NotLeaderOrFollower, SENT_AGAIN),
            // A topic that is gone may be made again: clients look for a while.
            (AppendError::UnknownPartition, UnknownTopicOrPartition, SENT_AGAIN),
            (AppendError::Recovering { reason: String::new(), retry_after_ms: 1 }, NotEnoughReplicas, SENT_AGAIN),
            (AppendError::Overloaded { retry_after_ms: 1 }, NotEnoughReplicas, SENT_AGAIN),
            (AppendError::NotEnoughShards { available: 1, needed: 2 }, NotEnoughReplicas, SENT_AGAIN),
            (AppendError::Corrupt, CorruptMessage, SENT_AGAIN),
            (AppendError::TooLarge { len: 2, max: 1 }, MessageTooLarge, FINAL),
            (AppendError::Invalid { reason: String::new() }, InvalidRecord, FINAL),
            // Producers know what to do about these two.
            (AppendError::OutOfOrder { producer: 1, expected: 1, found: 2 }, OutOfOrderSequenceNumber, FINAL),
            (AppendError::UnknownProducer { producer: 1 }, OutOfOrderSequenceNumber, FINAL),
            (AppendError::Fenced { producer: 1, current: 1 }, InvalidProducerEpoch, FINAL),
        ];
        for (error, _, is_sent_again) in &all {
            let native = error.retry() != Retry::Never || *error == AppendError::UnknownPartition;
            assert_eq!(*is_sent_again, native, "{error}: native clients do the same");
        }
        check(of_append, all);
    }

    #[test]
    fn batches() {
        use ResponseError::*;
        let codec = Compression::Gzip;
        let all = vec![
            (BatchError::Truncated { len: 1, needed: 2 }, CorruptMessage, SENT_AGAIN),
            (BatchError::Length(1), CorruptMessage, SENT_AGAIN),
            (BatchError::Crc { stored: 1, computed: 2 }, CorruptMessage, SENT_AGAIN),
            (BatchError::TooLarge { len: 2, max: 1 }, MessageTooLarge, FINAL),
            (BatchError::Timestamp { timestamp_ms: 1, earliest_ms: 2, latest_ms: 3 }, InvalidTimestamp, FINAL),
            (BatchError::AppendTime, InvalidTimestamp, FINAL),
            (BatchError::Codec(7), UnsupportedCompressionType, FINAL),
            (BatchError::Magic(1), UnsupportedForMessageFormat, FINAL),
            (BatchError::Trailing { extra: 1 }, InvalidRecord, FINAL),
            (BatchError::Count { records: 1, last_offset_delta: 1 }, InvalidRecord, FINAL),
            (BatchError::TooManyRecords { records: 2, max: 1 }, InvalidRecord, FINAL),
            (BatchError::BaseOffset(1), InvalidRecord, FINAL),
            (BatchError::ReservedAttributes(0x80), InvalidRecord, FINAL),
            (BatchError::Producer { id: 1, epoch: -1, base_sequence: -1 }, InvalidRecord, FINAL),
            (BatchError::Decompress { codec, reason: "".into() }, InvalidRecord, FINAL),
            (BatchError::DecompressedTooLarge { max: 1 }, InvalidRecord, FINAL),
            (BatchError::Record { index: 1, what: "" }, InvalidRecord, FINAL),
        ];
        check(of_batch, all);
    }

    #[test]
    fn changes_of_topics() {
        use ResponseError::*;
        let log = || LogId::new("default", "t").unwrap();
        let short = NotEnough { scope: None, have: 1, need: 3 };
        let attribute = || AttributeError::Required;
        check(
            of_create,
            vec![
                (CreateLogError::Exists(log()), TopicAlreadyExists, FINAL),
                (CreateLogError::Partitions(0), InvalidPartitions, FINAL),
                (CreateLogError::ClusterFull { have: 1, asked: 1 }, PolicyViolation, FINAL),
                (CreateLogError::Attribute(attribute()), InvalidConfig, FINAL),
                (CreateLogError::NotEnough { log: log(), short }, InvalidReplicationFactor, FINAL),
                (
                    CreateLogError::Ambiguous { log: log(), other: log(), topic: String::new() },
                    InvalidTopicException,
                    FINAL,
                ),
                (CreateLogError::LikeNamespace { log: log(), namespace: String::new() }, InvalidTopicException, FINAL),
            ],
        );
        check(
            of_create_partitions,
            vec![
                (CreatePartitionsError::Unknown(UnknownLog(log())), UnknownTopicOrPartition, SENT_AGAIN),
                (CreatePartitionsError::NotMore { log: log(), have: 2, asked: 1 }, InvalidPartitions, FINAL),
                (CreatePartitionsError::Partitions(0), InvalidPartitions, FINAL),
                (CreatePartitionsError::ClusterFull { have: 1, asked: 1 }, PolicyViolation, FINAL),
            ],
        );
        check(
            of_set_attributes,
            vec![
                (SetAttributesError::Unknown(UnknownLog(log())), UnknownTopicOrPartition, SENT_AGAIN),
                (SetAttributesError::Attribute(attribute()), InvalidConfig, FINAL),
                (SetAttributesError::NotEnough { log: log(), short }, InvalidConfig, FINAL),
            ],
        );
        check(of_delete, vec![(UnknownLog(log()), UnknownTopicOrPartition, SENT_AGAIN)]);
        let partition = PartitionUid(1);
        check(
            of_trim,
            vec![
                (PartitionError::Unknown(partition).into(), UnknownTopicOrPartition, SENT_AGAIN),
                (PartitionError::Deleted(partition).into(), UnknownTopicOrPartition, SENT_AGAIN),
                (
                    TrimError::NotReleased { partition, upto: Lsn::ZERO, first_undecided: Epoch(1) },
                    LeaderNotAvailable,
                    SENT_AGAIN,
                ),
            ],
        );
    }

    #[test]
    fn producer_ids() {
        let loading = ResponseError::CoordinatorLoadInProgress;
        check(
            of_producer_ids,
            vec![
                (ProducerIdsError::Count(0), loading, SENT_AGAIN),
                (ProducerIdsError::Exhausted, ResponseError::PolicyViolation, FINAL),
            ],
        );
    }
}
