//! Record batches: Kafka's RecordBatch v2, made once by a producer and passed on by everybody.
//!
//! ```text
//!  0  baseOffset            i64  of the first record; 0 from a producer, ESN − 1 when stored, an offset when read
//!  8  batchLength           i32  bytes that follow this field: the batch's length − 12
//! 12  partitionLeaderEpoch  i32  the epoch; −1 or 0 from a producer
//! 16  magic                 i8   2
//! 17  crc                   u32  CRC-32C (Castagnoli) of everything from 21 to the end
//! 21  attributes            i16  see below
//! 23  lastOffsetDelta       i32  the batch's span − 1
//! 27  baseTimestamp         i64  what the records' timestamps count from: the first record's, or the delete horizon
//! 35  maxTimestamp          i64  the newest record's, or the time of append
//! 43  producerId            i64  −1: the producer is not idempotent
//! 51  producerEpoch         i16
//! 53  baseSequence          i32  of the first record; the last one's may lie beyond the wrap from 2^31 − 1 to 0
//! 57  recordsCount          i32  compaction may leave fewer than the span, even none
//! 61  records                    as one compressed blob if the attributes name a codec
//!
//! attributes: 0-2 codec · 3 time of append · 4 transactional · 5 control · 6 delete horizon · 7-15 zero
//!
//! record: length varint · attributes i8 (0) · timestampDelta varlong · offsetDelta varint
//!         · key length varint (−1: none) · key · value length varint (−1: none, a tombstone) · value
//!         · header count varint · headers: key length varint · key (UTF-8) · value length varint (−1: none) · value
//! ```
//! All big-endian; varints are zig-zag.
//!
//! What may change after a producer has finished a batch, and by whom ([`stamp()`], [`set_append_time`], [`set_producer`]):
//! - `baseOffset` and `partitionLeaderEpoch` lie outside the CRC. The sequencer sets both, and whoever hands a batch to a
//!   reader sets the offset that the reader knows the first record by.
//! - `maxTimestamp` and attribute bit 3 lie inside. Only the sequencer sets them, in logs that keep the time of append.
//! - the producer's three fields lie inside. Only the producer sets them, until the batch is first sent.
//!
//! Everything else is as the producer made it, bit for bit, compressed bytes included. A sequencer checks what can be
//! checked without decompressing ([`check_produced`]); whether the records are what the header says is for readers to
//! find out, and they get an error, not a panic and not a gigabyte ([`RecordBatch::records`]).

mod builder;
mod compression;
mod error;
#[cfg(test)]
mod golden;
mod header;
mod reader;
mod records;
mod stamp;
#[cfg(test)]
mod testing;
mod validate;
mod varint;

pub use builder::{BatchBuilder, BatchOptions, NewRecord};
pub use compression::{Compression, DECOMPRESSED_LEN_MAX};
pub use error::BatchError;
pub use header::{Attributes, BatchHeader, HEADER_LEN, NO_TIMESTAMP, ProducerStamp, TimestampType};
pub use reader::{BatchHeaders, Batches, RecordBatch, batch_headers, batches};
pub use records::{HeaderRef, HeaderRefs, Headers, Record, RecordRef, RecordRefs, Records};
pub use stamp::{set_append_time, set_producer, stamp};
pub use validate::{BatchLimits, check_produced};
