//! What can be wrong with bytes that should be a record batch.

use crate::record::compression::Compression;
use crate::time::TimestampMs;

/// Why bytes are not a record batch, or not one that is taken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("{len} bytes are not a whole record batch, {needed} are needed")]
    Truncated { len: usize, needed: usize },
    #[error("{extra} bytes follow the record batch: exactly one batch is expected")]
    Trailing { extra: usize },
    #[error("record batch of format {0}, only format 2 is understood: use a client of Kafka 0.11 or later")]
    Magic(i8),
    #[error("record batch whose length field says {0}, the least possible is 49")]
    Length(i32),
    #[error("record batch damaged: its CRC-32C is {stored:#010x}, that of its bytes {computed:#010x}; send it again")]
    Crc { stored: u32, computed: u32 },
    #[error("record batch of {len} bytes, the limit is {max}: send fewer or smaller records in a batch")]
    TooLarge { len: usize, max: usize },
    #[error("record batch that says it has {records} records and a last offset delta of {last_offset_delta}")]
    Count { records: i32, last_offset_delta: i32 },
    #[error("record batch that says it has {records} records, but at most {max} fit into its bytes")]
    TooManyRecords { records: u32, max: usize },
    #[error("record batch with base offset {0}: a stored one is 0 or more, a producer's is 0")]
    BaseOffset(i64),
    #[error("record batch with attribute bits {0:#06x}, which are not for producers to set")]
    ReservedAttributes(u16),
    #[error("record batch that claims a time of append: only the log sets that, send the time of creation")]
    AppendTime,
    #[error("record batch compressed with codec {0}: only none, gzip, snappy, lz4 and zstd (0 to 4) are understood")]
    Codec(u16),
    #[error("timestamp {timestamp_ms} is not between {earliest_ms} and {latest_ms}: is the producer's clock right?")]
    Timestamp { timestamp_ms: TimestampMs, earliest_ms: TimestampMs, latest_ms: TimestampMs },
    #[error(
        "producer id {id}, epoch {epoch}, base sequence {base_sequence}: an idempotent or transactional batch has all \
         three from 0 up"
    )]
    Producer { id: i64, epoch: i16, base_sequence: i32 },
    #[error("record batch that does not decompress with {codec}: {reason}")]
    Decompress { codec: Compression, reason: Box<str> },
    #[error("record batch that decompresses to more than {max} bytes")]
    DecompressedTooLarge { max: usize },
    #[error("record {index} of the batch is malformed: {what}")]
    Record { index: u32, what: &'static str },
}

impl BatchError {
    /// Whether the same batch, sent again at once, may be taken: it was damaged on its way. Otherwise the batch itself is
    /// wrong and stays so.
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Crc { .. } | Self::Truncated { .. })
    }
}
