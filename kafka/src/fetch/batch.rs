//! A batch on its way to a consumer.

use bytes::{Bytes, BytesMut};
use dlog_client::ReadBatch;
use dlog_proto::block::Block;
use dlog_proto::record::{self, BatchError, HEADER_LEN, batch_headers};
use dlog_proto::{Epoch, Esn, Lsn};

/// A batch where it stands in its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    epoch: Epoch,
    pub(crate) offset: u64,
    /// After its last record.
    pub(crate) next_offset: u64,
    bytes: Bytes,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same in memory of its own.
    pub(crate) fn copied(self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self }
    }

    /// Its bytes with the offset and epoch that readers know it by: a header of its own, and the records as they lie.
    pub(crate) fn pieces(&self) -> [Bytes; 2] {
        let mut header = BytesMut::from(&self.bytes[..HEADER_LEN]);
        record::stamp(&mut header, self.offset, self.epoch.0);
        [header.freeze(), self.bytes.slice(HEADER_LEN..)]
    }
}

impl From<ReadBatch> for Batch {
    fn from(read: ReadBatch) -> Self {
        let offset = read.offset.0;
        let next_offset = offset + u64::from(read.batch.header().span());
        Self { epoch: read.lsn.epoch(), offset, next_offset, bytes: read.batch.into_bytes() }
    }
}

/// The batches of a block, from the one on that holds `from`, whose offset is `offset`. The block was checked; the batches'
/// own CRCs are for the consumer.
pub(crate) fn of_block(block: &Block, from: Lsn, offset: u64) -> Result<Vec<Batch>, BatchError> {
    // Stored, a batch's base offset is its first ESN − 1.
    let epoch = block.header().first_lsn().epoch();
    let epoch_base = offset.saturating_sub(u64::from(from.esn().0.saturating_sub(Esn(1).0)));
    let body = block.body();
    let mut batches = Vec::new();
    for batch in batch_headers(&body) {
        let (header, bytes) = batch?;
        let offset_of_batch = epoch_base + header.base_offset;
        let next_offset = offset_of_batch + u64::from(header.span());
        if next_offset > offset {
            batches.push(Batch { epoch, offset: offset_of_batch, next_offset, bytes: body.slice_ref(bytes) });
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use dlog_proto::PartitionUid;
    use dlog_proto::block::BlockBuilder;
    use dlog_proto::record::{BatchBuilder, BatchHeader, BatchOptions, NewRecord, RecordBatch};

    use super::*;

    fn batch(records: u32) -> Bytes {
        let mut builder = BatchBuilder::new(128);
        for _ in 0..records {
            builder.append(&NewRecord { timestamp_ms: 1, key: None, value: Some(b"v"), headers: &[] });
        }
        builder.finish(BatchOptions::default()).freeze()
    }

    /// Three batches of two records from e3n11 on.
    fn block() -> Block {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(3), Esn(11), 5);
        (0..3).for_each(|_| builder.push(&batch(2), 2, (1, 1)));
        builder.finish()
    }

    #[test]
    fn batches_get_the_offsets_of_their_epoch_and_stay_whole() {
        // The epoch begins at offset 100, so e3n11 has offset 110.
        let batches = of_block(&block(), Lsn::new(Epoch(3), Esn(11)), 110).unwrap();
        let places: Vec<_> = batches.iter().map(|batch| (batch.offset, batch.next_offset)).collect();
        assert_eq!(places, [(110, 112), (112, 114), (114, 116)]);
        let sent = Bytes::from(batches[1].pieces().concat());
        assert_eq!(sent.len(), batches[1].len());
        let header = BatchHeader::parse(&sent).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (112, 3));
        assert_eq!(RecordBatch::parse(sent).unwrap().records().unwrap().count(), 2, "its CRC holds");
    }

    #[test]
    fn reading_begins_with_the_batch_that_holds_the_place() {
        let batches = of_block(&block(), Lsn::new(Epoch(3), Esn(14)), 113).unwrap();
        assert_eq!(batches.iter().map(|batch| batch.offset).collect::<Vec<_>>(), [112, 114]);
        let later = of_block(&block(), Lsn::new(Epoch(3), Esn(5)), 104).unwrap();
        assert_eq!(later[0].offset, 110, "a block that follows others");
    }
}
