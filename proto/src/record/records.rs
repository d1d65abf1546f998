//! The records inside a batch: read one after the other where they lie, nothing copied and nothing allocated.
//!
//! Everything is checked on the way, because a batch's CRC only says that its bytes are its producer's. Lengths stay
//! inside what holds them, offset deltas rise and stay below the span, and the records fill the body exactly. After the
//! first error the iterators end: where the next record would begin is not known.

use std::borrow::Cow;

use bytes::Bytes;

use crate::record::error::BatchError;
use crate::record::header::BatchHeader;
use crate::record::varint;
use crate::time::TimestampMs;

/// The shortest record: one byte each for its length, attributes, two deltas, two lengths and the header count.
pub(super) const RECORD_LEN_MIN: usize = 7;

/// A record, borrowed from the body that it lies in.
#[derive(Debug, Clone)]
pub struct RecordRef<'a> {
    /// Its place in the batch: the batch's base offset and this are the record's offset.
    pub offset_delta: u32,
    pub timestamp_ms: TimestampMs,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: HeaderRefs<'a>,
}

/// A record that shares the bytes of its batch's body and keeps them alive.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the batch: the batch's base offset and this are the record's offset.
    pub offset_delta: u32,
    pub timestamp_ms: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// A name and a value that a producer gave a record along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// UTF-8; what is not is shown as U+FFFD, as the Java client does.
    pub key: Cow<'a, str>,
    pub value: Option<&'a [u8]>,
}

/// A record's headers in the order in which they were given, as they lie; iterating parses them.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    bytes: Bytes,
    count: u32,
}

impl Headers {
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> HeaderRefs<'_> {
        HeaderRefs { bytes: &self.bytes, left: self.count }
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = HeaderRef<'a>;
    type IntoIter = HeaderRefs<'a>;
    fn into_iter(self) -> HeaderRefs<'a> {
        self.iter()
    }
}

/// Iterates over a record's headers. Their lengths were checked when the record was read.
#[derive(Debug, Clone, Default)]
pub struct HeaderRefs<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> HeaderRefs<'a> {
    /// The headers that `bytes` are, each looked at.
    fn checked(bytes: &'a [u8], count: i32) -> Result<Self, &'static str> {
        let left = u32::try_from(count).map_err(|_| "its header count is negative")?;
        let mut rest = bytes;
        for _ in 0..left {
            take_header(&mut rest).ok_or("a header runs past its end")?;
        }
        if rest.is_empty() { Ok(Self { bytes, left }) } else { Err("bytes follow its last header") }
    }
}

impl<'a> Iterator for HeaderRefs<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (key, value) = take_header(&mut self.bytes)?;
        Some(HeaderRef { key: String::from_utf8_lossy(key), value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for HeaderRefs<'_> {}

/// The records of a batch, each sharing its body. [`refs`](Self::refs) is the quicker way where a borrow is enough.
#[derive(Debug, Clone)]
pub struct Records {
    body: Bytes,
    cursor: Cursor,
}

impl Records {
    /// The records that `body`, decompressed, should hold by the word of `header`.
    pub(super) fn new(header: &BatchHeader, body: Bytes) -> Self {
        Self { body, cursor: Cursor::new(header) }
    }

    /// The records still to come, borrowed. Does not advance `self`.
    pub fn refs(&self) -> RecordRefs<'_> {
        RecordRefs { body: &self.body, cursor: self.cursor.clone() }
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let body = &self.body;
        let record = match self.cursor.next(body)? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let headers = match record.headers.left {
            0 => Headers::default(),
            count => Headers { bytes: body.slice_ref(record.headers.bytes), count },
        };
        Some(Ok(Record {
            offset_delta: record.offset_delta,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(|key| body.slice_ref(key)),
            value: record.value.map(|value| body.slice_ref(value)),
            headers,
        }))
    }
}

/// The records of a batch, borrowed from its body.
#[derive(Debug, Clone)]
pub struct RecordRefs<'a> {
    body: &'a [u8],
    cursor: Cursor,
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.body)
    }
}

/// Where reading stands in a body.
#[derive(Debug, Clone)]
struct Cursor {
    at: usize,
    /// How many records were read, and how many there are.
    index: u32,
    count: u32,
    /// The least offset delta that the next record may have, and the greatest that any may.
    offset_delta_min: u32,
    offset_delta_max: u32,
    base_timestamp_ms: TimestampMs,
    /// What stands for all records' times.
    append_time_ms: Option<TimestampMs>,
}

impl Cursor {
    fn new(header: &BatchHeader) -> Self {
        Self {
            at: 0,
            index: 0,
            count: header.record_count,
            offset_delta_min: 0,
            offset_delta_max: header.last_offset_delta,
            base_timestamp_ms: header.base_timestamp_ms,
            append_time_ms: header.append_time_ms(),
        }
    }

    #[inline]
    fn next<'a>(&mut self, body: &'a [u8]) -> Option<Result<RecordRef<'a>, BatchError>> {
        let what = if self.index < self.count {
            match self.read(body) {
                Ok(record) => {
                    self.index += 1;
                    return Some(Ok(record));
                }
                Err(what) => what,
            }
        } else if self.at < body.len() {
            "bytes follow the last record"
        } else {
            return None;
        };
        let error = BatchError::Record { index: self.index, what };
        self.count = self.index;
        self.at = body.len();
        Some(Err(error))
    }

    #[inline]
    fn read<'a>(&mut self, body: &'a [u8]) -> Result<RecordRef<'a>, &'static str> {
        let mut rest = &body[self.at..];
        let len = varint::take_i32(&mut rest).ok_or("its length is cut off")?;
        let len = usize::try_from(len).map_err(|_| "its length is negative")?;
        let mut record = rest.split_off(..len).ok_or("it runs past the batch's end")?;
        self.at = body.len() - rest.len();

        // Attributes: none is defined, and Kafka ignores what stands there.
        record.split_off_first().ok_or("its attributes are cut off")?;
        let timestamp_delta = varint::take_i64(&mut record).ok_or("its timestamp delta is cut off")?;
        let offset_delta = varint::take_i32(&mut record).ok_or("its offset delta is cut off")?;
        let offset_delta = u32::try_from(offset_delta)
            .ok()
            .filter(|delta| (self.offset_delta_min..=self.offset_delta_max).contains(delta))
            .ok_or("its offset delta does not rise or is beyond the last one")?;
        self.offset_delta_min = offset_delta + 1;
        let key = take_nullable(&mut record).ok_or("its key runs past its end")?;
        let value = take_nullable(&mut record).ok_or("its value runs past its end")?;
        let header_count = varint::take_i32(&mut record).ok_or("its header count is cut off")?;
        Ok(RecordRef {
            offset_delta,
            // Wraps as in the Java client, so that every pair of times has a delta.
            timestamp_ms: self.append_time_ms.unwrap_or_else(|| self.base_timestamp_ms.wrapping_add(timestamp_delta)),
            key,
            value,
            headers: HeaderRefs::checked(record, header_count)?,
        })
    }
}

/// A length and so many bytes; −1 stands for none, which differs from no bytes.
#[inline]
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::take_i32(bytes)? {
        -1 => Some(None),
        len => bytes.split_off(..usize::try_from(len).ok()?).map(Some),
    }
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    Some((take_nullable(bytes)??, take_nullable(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;
    use crate::record::header::HEADER_LEN;

    fn header() -> BatchHeader {
        BatchHeader::parse(&golden::batch(golden::JAVA_NONE)).unwrap()
    }

    /// How reading `body` ends as the records of a batch with a span of 4, of which `count` are left.
    fn fault(count: u32, body: &[u8]) -> Option<(u32, &'static str)> {
        let records = Records::new(&BatchHeader { record_count: count, ..header() }, Bytes::copy_from_slice(body));
        let owned: Vec<_> = records.clone().map(|record| record.map(|record| record.offset_delta)).collect();
        let borrowed: Vec<_> = records.refs().map(|record| record.map(|record| record.offset_delta)).collect();
        assert_eq!(owned, borrowed, "both ways of reading are one");
        assert!(owned.iter().rev().skip(1).all(Result::is_ok), "nothing follows an error");
        match owned.last()? {
            Ok(_) => None,
            Err(BatchError::Record { index, what }) => Some((*index, what)),
            Err(other) => panic!("{other}"),
        }
    }

    // length 6 · attributes · timestamp +0 · offset +0 · no key · no value · no headers
    const LEAST: [u8; 7] = [12, 0, 0, 0, 1, 1, 0];

    fn least_with(at: usize, byte: u8) -> [u8; 7] {
        let mut record = LEAST;
        record[at] = byte;
        record
    }

    #[test]
    fn the_least_record_is_as_short_as_said() {
        assert_eq!(LEAST.len(), RECORD_LEN_MIN);
        assert_eq!(fault(1, &LEAST), None);
    }

    #[test]
    fn counts_that_lie_are_found_out() {
        assert_eq!(fault(0, &[]), None, "compaction took all records and left the batch");
        assert_eq!(fault(0, &LEAST), Some((0, "bytes follow the last record")));
        assert_eq!(fault(1, &[LEAST, LEAST].concat()), Some((1, "bytes follow the last record")));
        assert_eq!(fault(2, &LEAST), Some((1, "its length is cut off")));
        assert_eq!(fault(u32::MAX, &[]), Some((0, "its length is cut off")));
    }

    #[test]
    fn lengths_stay_inside_what_holds_them() {
        assert_eq!(fault(1, &least_with(0, 1)), Some((0, "its length is negative")));
        assert_eq!(fault(1, &least_with(0, 14)), Some((0, "it runs past the batch's end")));
        assert_eq!(fault(1, &least_with(0, 10)), Some((0, "its header count is cut off")));
        assert_eq!(fault(1, &least_with(4, 3)), Some((0, "its key runs past its end")), "−2 is no length");
        assert_eq!(fault(1, &least_with(4, 6)), Some((0, "its key runs past its end")));
        assert_eq!(fault(1, &least_with(5, 4)), Some((0, "its value runs past its end")));
        assert_eq!(fault(1, &least_with(6, 1)), Some((0, "its header count is negative")));
        assert_eq!(fault(1, &least_with(6, 2)), Some((0, "a header runs past its end")));
        let null_header_key = [16, 0, 0, 0, 1, 1, 2, 1, 1];
        assert_eq!(fault(1, &null_header_key), Some((0, "a header runs past its end")));
        let unused = [14, 0, 0, 0, 1, 1, 0, 0];
        assert_eq!(fault(1, &unused), Some((0, "bytes follow its last header")));
    }

    #[test]
    fn offset_deltas_rise_and_end_with_the_span() {
        let what = "its offset delta does not rise or is beyond the last one";
        let after = |byte| [LEAST, least_with(3, byte)].concat();
        assert_eq!(fault(2, &after(6)), None, "compaction leaves gaps");
        assert_eq!(fault(2, &after(8)), Some((1, what)));
        assert_eq!(fault(2, &after(0)), Some((1, what)));
        assert_eq!(fault(1, &least_with(3, 1)), Some((0, what)));
    }

    #[test]
    fn a_header_key_that_is_not_utf8_does_not_hide_the_record() {
        let body = [20, 0, 0, 0, 1, 1, 2, 2, 0xff, 2, b'v'];
        let mut records = Records::new(&BatchHeader { record_count: 1, ..header() }, Bytes::copy_from_slice(&body));
        let record = records.next().unwrap().unwrap();
        let expected = HeaderRef { key: "\u{fffd}".into(), value: Some(&b"v"[..]) };
        assert_eq!((record.headers.len(), record.headers.iter().next()), (1, Some(expected)));
    }

    #[test]
    fn records_share_the_bodys_memory() {
        let batch = golden::batch(golden::JAVA_NONE);
        let records: Vec<_> = Records::new(&header(), batch.slice(HEADER_LEN..)).map(Result::unwrap).collect();
        let inside = |bytes: &Bytes| batch.as_ptr_range().contains(&bytes.as_ptr());
        assert!(inside(records[0].key.as_ref().unwrap()) && inside(records[0].value.as_ref().unwrap()));
        assert!(inside(&records[1].headers.bytes));
    }
}
