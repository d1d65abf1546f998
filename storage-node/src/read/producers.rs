//! Which producers wrote what, for a sequencer that fills its window.

use dlog_proto::producer::{ProducerBatch, ProducerTable};
use dlog_proto::record::{BatchHeader, batch_headers};
use dlog_proto::wire::EpochEnd;
use dlog_proto::{Epoch, Esn, Lsn, PartitionUid, TimestampMs};

use super::{ReadError, ReadItem, Reader};

/// Read at a time, in bytes.
const CHUNK_LEN: usize = 1 << 20;

impl Reader {
    /// Notes the producers of all data blocks from `after` on (the position of the snapshot that is known) up to the given
    /// ends in `table`. `false` if something in between is damaged: what the table lacks proves nothing then.
    pub fn fill_producers(
        &self,
        partition: PartitionUid,
        after: Lsn,
        ends: &[EpochEnd],
        table: &mut ProducerTable,
    ) -> Result<bool, ReadError> {
        let mut complete = true;
        for end in ends {
            let last = Lsn::new(end.epoch, end.last_esn);
            let mut next = Some(after.max(Lsn::new(end.epoch, Esn(1)))).filter(|from| *from <= last);
            while let Some(from) = next {
                let chunk = self.read(partition, from, last, CHUNK_LEN)?;
                for item in &chunk.items {
                    complete &= match item {
                        ReadItem::Block(stored) => {
                            let header = stored.block.header();
                            note_block(header.epoch, header.sequencer_timestamp, &stored.block.body(), table)
                        }
                        ReadItem::Damaged { .. } => false,
                    };
                }
                next = chunk.next;
            }
        }
        Ok(complete)
    }
}

/// Notes the batches of a block's body. `false` if they are not batches.
fn note_block(epoch: Epoch, timestamp: TimestampMs, body: &[u8], table: &mut ProducerTable) -> bool {
    for batch in batch_headers(body) {
        let Ok((header, _)) = batch else { return false };
        if let Some((batch, lsn)) = producer_batch(epoch, &header) {
            table.note(&batch, lsn, header.append_time_ms().unwrap_or(timestamp));
        }
    }
    true
}

fn producer_batch(epoch: Epoch, header: &BatchHeader) -> Option<(ProducerBatch, Lsn)> {
    let (producer, last_sequence) = (header.producer?, header.last_sequence()?);
    let batch = ProducerBatch {
        producer: producer.id,
        epoch: producer.epoch,
        first_sequence: producer.base_sequence,
        last_sequence,
    };
    // A stored batch has `baseOffset` = ESN - 1.
    let first_esn = Esn(u32::try_from(header.base_offset).ok()?.checked_add(1)?);
    Some((batch, Lsn::new(epoch, first_esn)))
}
