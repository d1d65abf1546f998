//! The header of a record batch: what everybody on the way looks at, and all that most of them look at.

use crate::record::compression::Compression;
use crate::record::error::BatchError;
use crate::time::TimestampMs;

/// Length of the header: the records begin here.
pub const HEADER_LEN: usize = 61;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: TimestampMs = -1;

/// Where the header's fields begin.
pub(super) mod at {
    pub(in crate::record) const BASE_OFFSET: usize = 0;
    pub(in crate::record) const BATCH_LENGTH: usize = BASE_OFFSET + 8;
    pub(in crate::record) const LEADER_EPOCH: usize = BATCH_LENGTH + 4;
    pub(in crate::record) const MAGIC: usize = LEADER_EPOCH + 4;
    pub(in crate::record) const CRC: usize = MAGIC + 1;
    pub(in crate::record) const ATTRIBUTES: usize = CRC + 4;
    pub(in crate::record) const LAST_OFFSET_DELTA: usize = ATTRIBUTES + 2;
    pub(in crate::record) const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + 4;
    pub(in crate::record) const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + 8;
    pub(in crate::record) const PRODUCER_ID: usize = MAX_TIMESTAMP + 8;
    pub(in crate::record) const PRODUCER_EPOCH: usize = PRODUCER_ID + 8;
    pub(in crate::record) const BASE_SEQUENCE: usize = PRODUCER_EPOCH + 2;
    pub(in crate::record) const RECORDS_COUNT: usize = BASE_SEQUENCE + 4;
    // Kafka's layout, byte for byte: a field that moves would be another format.
    const _: () = assert!(MAGIC == 16 && ATTRIBUTES == 21 && RECORDS_COUNT + 4 == super::HEADER_LEN);
}

/// Bytes of a batch that its length field does not count: the fields up to its end.
pub(super) const UNCOUNTED_LEN: usize = at::LEADER_EPOCH;
pub(super) const MAGIC: i8 = 2;

/// Whether a batch's timestamps are the producer's or the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// Each record has the time that its producer gave it.
    CreateTime,
    /// All records have the time at which the log took the batch: its [`max_timestamp_ms`](BatchHeader::max_timestamp_ms).
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub u16);

impl Attributes {
    pub(super) const CODEC: u16 = 0b111;
    pub(super) const APPEND_TIME: u16 = 1 << 3;
    pub(super) const TRANSACTIONAL: u16 = 1 << 4;
    pub(super) const CONTROL: u16 = 1 << 5;
    pub(super) const DELETE_HORIZON: u16 = 1 << 6;

    /// What the records are compressed with.
    pub fn compression(self) -> Result<Compression, BatchError> {
        let codec = self.0 & Self::CODEC;
        Compression::from_codec(codec).ok_or(BatchError::Codec(codec))
    }

    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the records are marks for readers' libraries (a transaction ends) and not for their users.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which compaction may drop the batch's tombstones.
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// Who made an idempotent batch, and where it stands in the sequence of everything made by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    pub id: i64,
    pub epoch: i16,
    /// Sequence number of the batch's first record. −1 in control batches, which take no part in the sequence.
    pub base_sequence: i32,
}

impl ProducerStamp {
    /// Sequence number of the `n`th record after the first. After `i32::MAX` comes 0, also inside a batch (trap P18).
    pub const fn sequence_after(self, n: u32) -> i32 {
        ((self.base_sequence as u32).wrapping_add(n) & i32::MAX as u32) as i32
    }
}

/// The header's fields, bounds checked and nothing else believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Length of the whole batch in bytes, this header included.
    pub batch_len: usize,
    pub base_offset: u64,
    /// −1 if nobody has set it; librdkafka sends 0.
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: Attributes,
    /// At most `i32::MAX`.
    pub last_offset_delta: u32,
    pub base_timestamp_ms: TimestampMs,
    pub max_timestamp_ms: TimestampMs,
    /// `None` if the producer id is negative, whatever stands in the other two fields: sarama leaves a 0 there.
    pub producer: Option<ProducerStamp>,
    /// At most the span.
    pub record_count: u32,
}

impl BatchHeader {
    /// When the batch was appended, if its log keeps that in place of the producer's times.
    pub fn append_time_ms(&self) -> Option<TimestampMs> {
        (self.attributes.timestamp_type() == TimestampType::LogAppendTime).then_some(self.max_timestamp_ms)
    }

    /// Reads the header that `bytes` begin with. They may end after it: that the batch is whole and intact is for
    /// [`RecordBatch::parse`](crate::record::RecordBatch::parse) and [`check_produced`](crate::record::check_produced).
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let batch_len = batch_len(bytes)?;
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated { len: bytes.len(), needed: HEADER_LEN });
        };
        let base_offset = i64::from_be_bytes(field(header, at::BASE_OFFSET));
        let last_offset_delta = i32::from_be_bytes(field(header, at::LAST_OFFSET_DELTA));
        let records = i32::from_be_bytes(field(header, at::RECORDS_COUNT));
        if last_offset_delta < 0 || records < 0 || i64::from(records) > i64::from(last_offset_delta) + 1 {
            return Err(BatchError::Count { records, last_offset_delta });
        }
        let producer = ProducerStamp {
            id: i64::from_be_bytes(field(header, at::PRODUCER_ID)),
            epoch: i16::from_be_bytes(field(header, at::PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(field(header, at::BASE_SEQUENCE)),
        };
        Ok(Self {
            batch_len,
            base_offset: u64::try_from(base_offset).map_err(|_| BatchError::BaseOffset(base_offset))?,
            leader_epoch: i32::from_be_bytes(field(header, at::LEADER_EPOCH)),
            crc: u32::from_be_bytes(field(header, at::CRC)),
            attributes: Attributes(u16::from_be_bytes(field(header, at::ATTRIBUTES))),
            last_offset_delta: last_offset_delta as u32,
            base_timestamp_ms: i64::from_be_bytes(field(header, at::BASE_TIMESTAMP)),
            max_timestamp_ms: i64::from_be_bytes(field(header, at::MAX_TIMESTAMP)),
            producer: (producer.id >= 0).then_some(producer),
            record_count: records as u32,
        })
    }

    /// How many LSNs the batch takes. Not its record count, which compaction may lower.
    pub const fn span(&self) -> u32 {
        self.last_offset_delta + 1
    }

    pub const fn last_offset(&self) -> u64 {
        self.base_offset + self.last_offset_delta as u64
    }

    /// Sequence number of the batch's last record; `None` if it takes no part in a sequence.
    pub fn last_sequence(&self) -> Option<i32> {
        let producer = self.producer.filter(|producer| producer.base_sequence >= 0)?;
        Some(producer.sequence_after(self.last_offset_delta))
    }
}

/// Length of the batch that `bytes` begin with. The magic is looked at first: where an older format has another layout,
/// only it tells.
fn batch_len(bytes: &[u8]) -> Result<usize, BatchError> {
    match bytes.get(at::MAGIC) {
        None => return Err(BatchError::Truncated { len: bytes.len(), needed: HEADER_LEN }),
        Some(&magic) if magic as i8 != MAGIC => return Err(BatchError::Magic(magic as i8)),
        Some(_) => {}
    }
    let counted = i32::from_be_bytes(field(bytes, at::BATCH_LENGTH));
    match usize::try_from(counted) {
        Ok(counted) if counted >= HEADER_LEN - UNCOUNTED_LEN => Ok(UNCOUNTED_LEN + counted),
        _ => Err(BatchError::Length(counted)),
    }
}

/// Splits off the batch that `bytes` begin with: its length, if all of it is there.
pub(super) fn whole_batch_len(bytes: &[u8]) -> Result<usize, BatchError> {
    let needed = batch_len(bytes)?;
    if bytes.len() < needed { Err(BatchError::Truncated { len: bytes.len(), needed }) } else { Ok(needed) }
}

/// Checks that `batch` is one whole batch and nothing else, undamaged, and reads its header. The CRC comes before what it
/// protects: a damaged batch is told from a wrong one, because only the former is worth sending again.
pub(super) fn parse_intact(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let extra = batch.len() - whole_batch_len(batch)?;
    if extra > 0 {
        return Err(BatchError::Trailing { extra });
    }
    let (stored, computed) = (u32::from_be_bytes(field(batch, at::CRC)), compute_crc(batch));
    if stored != computed {
        return Err(BatchError::Crc { stored, computed });
    }
    BatchHeader::parse(batch)
}

pub(super) fn compute_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[at::ATTRIBUTES..])
}

/// The `N` bytes from `start`, which the caller has checked to be there.
fn field<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[start + i])
}

pub(super) fn put_field<const N: usize>(batch: &mut [u8], start: usize, value: [u8; N]) {
    batch[start..start + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;

    #[test]
    fn sequences_wrap_to_zero() {
        let stamp = |base_sequence| ProducerStamp { id: 1, epoch: 0, base_sequence };
        assert_eq!(stamp(0).sequence_after(0), 0);
        assert_eq!(stamp(7).sequence_after(3), 10);
        assert_eq!(stamp(i32::MAX).sequence_after(0), i32::MAX);
        assert_eq!(stamp(i32::MAX).sequence_after(1), 0);
        assert_eq!(stamp(i32::MAX - 1).sequence_after(3), 1);
        assert_eq!(stamp(i32::MAX).sequence_after(i32::MAX as u32 + 1), i32::MAX, "once around");
    }

    #[test]
    fn a_header_can_be_read_before_the_rest_is_there() {
        let batch = golden::batch(golden::JAVA_NONE);
        let header = BatchHeader::parse(&batch[..HEADER_LEN]).unwrap();
        assert_eq!(header.batch_len, batch.len());
        assert_eq!(
            BatchHeader::parse(&batch[..HEADER_LEN - 1]),
            Err(BatchError::Truncated { len: HEADER_LEN - 1, needed: HEADER_LEN })
        );
        assert_eq!(BatchHeader::parse(&[]), Err(BatchError::Truncated { len: 0, needed: HEADER_LEN }));
    }

    #[test]
    fn an_older_format_is_called_by_its_name_even_if_short() {
        let mut message_v1 = [0; 34];
        message_v1[at::MAGIC] = 1;
        assert_eq!(BatchHeader::parse(&message_v1), Err(BatchError::Magic(1)));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let batch = golden::batch(golden::JAVA_NONE);
        let with = |start: usize, value: i32| {
            let mut batch = batch.to_vec();
            put_field(&mut batch, start, value.to_be_bytes());
            BatchHeader::parse(&batch)
        };
        assert_eq!(with(at::BATCH_LENGTH, 48), Err(BatchError::Length(48)));
        assert_eq!(with(at::BATCH_LENGTH, -1), Err(BatchError::Length(-1)));
        assert_eq!(with(at::BATCH_LENGTH, i32::MAX).unwrap().batch_len, i32::MAX as usize + 12);
        assert_eq!(with(at::BASE_OFFSET, -1), Err(BatchError::BaseOffset(-1 << 32)));
        assert_eq!(with(at::RECORDS_COUNT, -1), Err(BatchError::Count { records: -1, last_offset_delta: 3 }));
        assert_eq!(with(at::RECORDS_COUNT, 5), Err(BatchError::Count { records: 5, last_offset_delta: 3 }));
        assert_eq!(with(at::RECORDS_COUNT, 0).unwrap().span(), 4, "compaction took all records and left the batch");
        assert_eq!(with(at::LAST_OFFSET_DELTA, -1), Err(BatchError::Count { records: 4, last_offset_delta: -1 }));
        assert_eq!(with(at::LAST_OFFSET_DELTA, i32::MAX).unwrap().span(), 1 << 31);
    }

    #[test]
    fn a_control_batch_takes_no_part_in_a_sequence() {
        let mut batch = golden::batch(golden::JAVA_NONE).to_vec();
        put_field(&mut batch, at::BASE_SEQUENCE, (-1i32).to_be_bytes());
        assert_eq!(BatchHeader::parse(&batch).unwrap().last_sequence(), None);
        put_field(&mut batch, at::PRODUCER_ID, (-1i64).to_be_bytes());
        put_field(&mut batch, at::BASE_SEQUENCE, 0i32.to_be_bytes());
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!((header.producer, header.last_sequence()), (None, None));
    }
}
