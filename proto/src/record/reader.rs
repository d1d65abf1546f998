//! Reading: from bytes to batches, from a batch to its records.

use bytes::Bytes;

use crate::record::compression::DECOMPRESSED_LEN_MAX;
use crate::record::error::BatchError;
use crate::record::header::{BatchHeader, HEADER_LEN, parse_intact, whole_batch_len};
use crate::record::records::Records;

/// A whole batch whose CRC holds. What is inside is read by [`records`](Self::records).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes `bytes` that are exactly one batch.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        Ok(Self { header: parse_intact(&bytes)?, bytes })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as it was made, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Opens the batch to read its records, decompressing it into at most [`DECOMPRESSED_LEN_MAX`] bytes.
    pub fn records(&self) -> Result<Records, BatchError> {
        self.records_with_limit(DECOMPRESSED_LEN_MAX)
    }

    /// Opens the batch to read its records, decompressing it into at most `decompressed_len_max` bytes.
    pub fn records_with_limit(&self, decompressed_len_max: usize) -> Result<Records, BatchError> {
        let body = self.bytes.slice(HEADER_LEN..);
        // Compaction leaves a batch without records, and without anything to decompress, but with its codec.
        if self.header.record_count == 0 {
            return Ok(Records::new(&self.header, body));
        }
        let compression = self.header.attributes.compression()?;
        Ok(Records::new(&self.header, compression.decompress(&body, decompressed_len_max)?))
    }
}

/// The batches that lie back to back in `bytes`, as in the body of a block. Ends after the first error: where the next
/// batch would begin is not known.
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = whole_batch_len(&self.rest).and_then(|len| RecordBatch::parse(self.rest.split_to(len)));
        if batch.is_err() {
            self.rest.clear();
        }
        Some(batch)
    }
}

/// The headers of the batches that lie back to back in `bytes`, each with the bytes of its batch. Looks at nothing but
/// headers, so the CRCs stay unchecked. Ends after the first error.
pub fn batch_headers(bytes: &[u8]) -> BatchHeaders<'_> {
    BatchHeaders { rest: bytes }
}

/// See [`batch_headers`].
#[derive(Debug, Clone)]
pub struct BatchHeaders<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for BatchHeaders<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = whole_batch_len(self.rest).and_then(|len| {
            let (batch, rest) = self.rest.split_at(len);
            self.rest = rest;
            Ok((BatchHeader::parse(batch)?, batch))
        });
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::compression::Compression;
    use crate::record::golden;
    use crate::record::header::{at, put_field};
    use crate::record::stamp::put_crc;
    use crate::record::testing::{TestRecord, any_batch, any_records, build, read_everything};

    #[test]
    fn a_block_holds_batches_back_to_back() {
        let made: Vec<_> = golden::ALL.iter().map(|(_, hex)| golden::batch(hex)).collect();
        let block = Bytes::from(made.concat());
        let read: Vec<_> = batches(block.clone()).map(|batch| batch.unwrap().into_bytes()).collect();
        assert_eq!(read, made);
        let headers: Vec<_> = batch_headers(&block).map(Result::unwrap).collect();
        assert!(
            headers.iter().zip(&made).all(|((header, bytes), batch)| bytes == batch && header.batch_len == batch.len())
        );
        assert_eq!((batches(Bytes::new()).count(), batch_headers(&[]).count()), (0, 0));
    }

    #[test]
    fn reading_ends_at_the_first_error() {
        let one = golden::batch(golden::JAVA_NONE);
        let cut_off = Bytes::from([&one[..], &one[..one.len() - 1]].concat());
        let error = BatchError::Truncated { len: one.len() - 1, needed: one.len() };
        let read: Vec<_> = batches(cut_off.clone()).collect();
        assert_eq!((read.len(), &read[1]), (2, &Err(error.clone())));
        let headers: Vec<_> = batch_headers(&cut_off).collect();
        assert_eq!((headers.len(), &headers[1]), (2, &Err(error)));

        let mut damaged = [&one[..], &one[..]].concat();
        damaged[one.len() - 1] ^= 1;
        assert_eq!(batches(damaged.clone().into()).count(), 1, "a CRC that does not hold");
        assert_eq!(batch_headers(&damaged).filter(Result::is_ok).count(), 2, "which headers alone do not show");
    }

    #[test]
    fn a_batch_emptied_by_compaction_still_has_a_span() {
        let mut batch = golden::batch(golden::JAVA_ZSTD)[..HEADER_LEN].to_vec();
        put_field(&mut batch, at::BATCH_LENGTH, 49u32.to_be_bytes());
        put_field(&mut batch, at::RECORDS_COUNT, 0u32.to_be_bytes());
        put_crc(&mut batch);
        let batch = RecordBatch::parse(batch.into()).unwrap();
        assert_eq!((batch.header().span(), batch.records().unwrap().count()), (4, 0));
    }

    #[test]
    fn a_bomb_is_an_error_of_its_batch() {
        let bomb = TestRecord { value: Some(vec![0; 1 << 20]), ..TestRecord::default() };
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let batch = RecordBatch::parse(build(std::slice::from_ref(&bomb), codec)).unwrap();
            let error = batch.records_with_limit(1 << 20).unwrap_err();
            assert_eq!(error, BatchError::DecompressedTooLarge { max: 1 << 20 }, "{codec}");
            assert_eq!(batch.records().unwrap().count(), 1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn what_was_built_is_read(records in any_records(), codec in 0u16..5) {
            let codec = Compression::from_codec(codec).unwrap();
            let batch = RecordBatch::parse(build(&records, codec)).unwrap();
            let header = batch.header();
            prop_assert_eq!(header.attributes.compression(), Ok(codec));
            prop_assert_eq!(header.record_count as usize, records.len());
            prop_assert_eq!(header.span() as usize, records.len());
            prop_assert_eq!(header.base_timestamp_ms, records[0].timestamp_ms);
            prop_assert_eq!(Some(header.max_timestamp_ms), records.iter().map(|record| record.timestamp_ms).max());
            let opened = batch.records().unwrap();
            let borrowed: Vec<_> = opened.refs().map(|record| TestRecord::from(&record.unwrap())).collect();
            prop_assert_eq!(&borrowed, &records);
            let owned: Vec<_> = opened.map(|record| TestRecord::from(&record.unwrap())).collect();
            prop_assert_eq!(&owned, &records);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            read_everything(&bytes.into());
        }

        // With the CRC made right again the damage reaches what the CRC protects.
        #[test]
        fn no_damaged_batch_panics(
            batch in any_batch(), flips in prop::collection::vec((any::<u16>(), any::<u8>()), 0..4), cut in 0usize..3, fix: bool,
        ) {
            let mut bytes = batch.to_vec();
            for (at, byte) in flips {
                let len = bytes.len();
                bytes[usize::from(at) % len] = byte;
            }
            bytes.truncate(bytes.len() - cut);
            if fix {
                let counted = bytes.len() as u32 - at::LEADER_EPOCH as u32;
                put_field(&mut bytes, at::BATCH_LENGTH, counted.to_be_bytes());
                put_field(&mut bytes, at::MAGIC, [2]);
                put_crc(&mut bytes);
            }
            read_everything(&bytes.into());
        }
    }
}
