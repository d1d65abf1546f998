//! All readers' streams from one shard, by who reads (`K`): which of them a change of a partition wakes, and what they then want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dlog_proto::wire::{LostBefore, ReadStarted, ReadStatus, StartRead};
use dlog_proto::{Lsn, PartitionUid, ShardId};

use super::{ReadOutput, ReadStream, Readable, ShardCore};
use crate::read::{Chunk, ReadError};

#[derive(Debug)]
pub struct ReadStreams<K> {
    shard: ShardId,
    lost: LostBefore,
    streams: BTreeMap<K, ReadStream>,
    /// Who reads a partition.
    readers: BTreeMap<PartitionUid, Vec<K>>,
    /// Who may have something to say.
    awake: BTreeSet<K>,
    refused: VecDeque<(K, ReadStarted)>,
}

impl<K: Copy + Ord> ReadStreams<K> {
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            lost: LostBefore::default(),
            streams: BTreeMap::new(),
            readers: BTreeMap::new(),
            awake: BTreeSet::new(),
            refused: VecDeque::new(),
        }
    }

    /// What the shard has lost.
    pub fn lost(&self) -> LostBefore {
        self.lost
    }

    /// What the shard has lost: readers that start are told.
    pub fn handle_lost(&mut self, lost: LostBefore) {
        self.lost = lost;
    }

    /// A reader starts, or starts over. `shard` is asked for the partition.
    pub fn handle_start(&mut self, shard: &mut ShardCore, reader: K, request: StartRead) {
        let refusal = match () {
            () if shard.is_failed() => Some(ReadStatus::Disabled),
            () if request.incarnation != shard.incarnation() => Some(ReadStatus::Incarnation),
            () => None,
        };
        if let Some(status) = refusal {
            return self.refuse(reader, request.version, status);
        }
        let partition = request.partition;
        shard.want(partition);
        if let Some(stream) = self.streams.get_mut(&reader).filter(|stream| stream.partition() == partition) {
            stream.handle_restart(request);
        } else {
            self.stop(reader);
            let mut stream = ReadStream::new(self.shard, request);
            shard.readable(partition).into_iter().for_each(|readable| stream.handle_readable(readable));
            self.streams.insert(reader, stream);
            self.readers.entry(partition).or_default().push(reader);
        }
        self.awake.insert(reader);
    }

    /// A partition is loaded, or more of it may be read.
    pub fn handle_readable(&mut self, partition: PartitionUid, readable: Readable) {
        for reader in self.readers.get(&partition).into_iter().flatten() {
            if let Some(stream) = self.streams.get_mut(reader) {
                stream.handle_readable(readable);
                self.awake.insert(*reader);
            }
        }
    }

    /// What came of a [`ReadOutput::Read`]. Who asked for what cannot be read is refused.
    pub fn handle_chunk(&mut self, reader: K, version: u32, chunk: Result<Chunk, ReadError>) {
        let Some(stream) = self.streams.get_mut(&reader) else { return };
        match chunk {
            Ok(chunk) => {
                stream.handle_chunk(version, chunk);
                self.awake.insert(reader);
            }
            Err(error) => {
                tracing::error!(shard = %self.shard, partition = %stream.partition(), %error, "cannot read");
                self.stop(reader);
                self.refuse(reader, version, ReadStatus::Disabled);
            }
        }
    }

    fn refuse(&mut self, reader: K, version: u32, status: ReadStatus) {
        let (released, trim, lost) = (Lsn::ZERO, Lsn::ZERO, self.lost);
        let started = ReadStarted { shard: self.shard, version, status, released, trim, lost };
        self.refused.push_back((reader, started));
    }

    /// A reader is gone.
    pub fn stop(&mut self, reader: K) {
        let Some(stream) = self.streams.remove(&reader) else { return };
        if let Some(readers) = self.readers.get_mut(&stream.partition()) {
            readers.retain(|other| *other != reader);
            if readers.is_empty() {
                self.readers.remove(&stream.partition());
            }
        }
    }

    pub fn get(&self, reader: K) -> Option<&ReadStream> {
        self.streams.get(&reader)
    }

    /// All that read now.
    pub fn readers(&self) -> impl ExactSizeIterator<Item = K> + '_ {
        self.streams.keys().copied()
    }

    pub fn poll_output(&mut self) -> Option<(K, ReadOutput)> {
        if let Some((reader, started)) = self.refused.pop_front() {
            return Some((reader, ReadOutput::Started(started)));
        }
        while let Some(reader) = self.awake.first().copied() {
            if let Some(mut output) = self.streams.get_mut(&reader).and_then(ReadStream::poll_output) {
                if let ReadOutput::Started(started) = &mut output {
                    started.lost = self.lost;
                }
                return Some((reader, output));
            }
            self.awake.remove(&reader);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::wire::ReadMode;
    use dlog_proto::{Epoch, Esn, Incarnation};

    use super::*;

    const PARTITION: PartitionUid = PartitionUid(1);

    fn start(version: u32, partition: PartitionUid, incarnation: u32) -> StartRead {
        StartRead {
            shard: ShardId::new(1, 0),
            incarnation: Incarnation(incarnation),
            partition,
            version,
            from: Lsn::new(Epoch(1), Esn(1)),
            until: Lsn::MAX,
            mode: ReadMode::AllSendAll,
        }
    }

    fn readable() -> Readable {
        let released = Lsn::new(Epoch(1), Esn(4));
        Readable { released, settled: released, trim: Lsn::ZERO }
    }

    fn said(streams: &mut ReadStreams<u8>) -> Vec<(u8, &'static str)> {
        std::iter::from_fn(|| streams.poll_output())
            .map(|(reader, output)| match output {
                ReadOutput::Started(started) if started.status == ReadStatus::Ok => (reader, "started"),
                ReadOutput::Started(_) => (reader, "refused"),
                ReadOutput::Read { .. } => (reader, "read"),
                ReadOutput::Claim(_) => (reader, "claim"),
                ReadOutput::Block(..) => (reader, "block"),
            })
            .collect()
    }

    #[test]
    fn a_change_wakes_those_that_read_the_partition() {
        let (mut shard, mut streams) = shard();
        streams.handle_start(&mut shard, 1, start(1, PARTITION, 1));
        streams.handle_start(&mut shard, 2, start(1, PARTITION, 1));
        streams.handle_start(&mut shard, 3, start(1, PartitionUid(2), 1));
        assert_eq!(said(&mut streams), [], "nothing is loaded");
        streams.handle_readable(PARTITION, readable());
        assert_eq!(said(&mut streams), [(1, "started"), (1, "read"), (2, "started"), (2, "read")]);
        streams.stop(1);
        streams.handle_chunk(1, 1, Ok(Chunk::default()));
        streams.handle_chunk(2, 1, Ok(Chunk::default()));
        assert_eq!(said(&mut streams), [(2, "claim")], "who is gone is told nothing");
    }

    #[test]
    fn a_reader_that_goes_to_another_partition_leaves_the_first() {
        let (mut shard, mut streams) = shard();
        streams.handle_start(&mut shard, 1, start(1, PARTITION, 1));
        streams.handle_start(&mut shard, 1, start(2, PartitionUid(2), 1));
        streams.handle_readable(PARTITION, readable());
        assert_eq!(said(&mut streams), []);
        streams.handle_readable(PartitionUid(2), readable());
        assert_eq!(said(&mut streams), [(1, "started"), (1, "read")]);
    }

    #[test]
    fn who_asks_for_another_disk_or_a_failed_one_is_refused() {
        let (mut shard, mut streams) = shard();
        streams.handle_start(&mut shard, 1, start(1, PARTITION, 2));
        assert_eq!(said(&mut streams), [(1, "refused")]);
        shard.handle_failed();
        streams.handle_start(&mut shard, 2, start(1, PARTITION, 1));
        assert_eq!(said(&mut streams), [(2, "refused")]);
        assert_eq!(streams.readers().count(), 0);
    }

    fn shard() -> (ShardCore, ReadStreams<u8>) {
        let shard = ShardId::new(1, 0);
        (ShardCore::new(shard, Incarnation(1)), ReadStreams::new(shard))
    }
}
