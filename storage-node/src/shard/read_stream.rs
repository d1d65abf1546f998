//! One reader's stream from one shard: ships what is released, says what it has no more of, waits for more.
//!
//! A claim of having no (further) records up to an LSN ends at `released`; in single-copy mode at `settled`, because a shard
//! that a block is still on its way to is not one that need not have it (trap C17).
//!
//! INV-TRIM-TOLD: what is trimmed is told as trimmed before anything above it is sent. A reader that gets a later block first takes
//! what is missing before it for lost.

use std::collections::VecDeque;

use dlog_proto::block::{Block, Copyset};
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{
    ClaimKind, LostBefore, ReadBlock, ReadClaim, ReadMode, ReadStarted, ReadStatus, StartRead, WirePlacement,
};
use dlog_proto::{Lsn, PartitionUid, ShardId};

use crate::entry::StoredBlock;
use crate::read::{Chunk, ReadItem};

/// How much is read at a time, in bytes.
const READ_LEN: usize = 1 << 20;

/// What a shard says to a reader, or has to do for it.
#[derive(Debug)]
pub enum ReadOutput {
    Started(ReadStarted),
    Block(ReadBlock, Block),
    Claim(ReadClaim),
    /// Read this part of the partition; the answer comes through [`ReadStream::handle_chunk`].
    Read {
        version: u32,
        partition: PartitionUid,
        from: Lsn,
        upto: Lsn,
        len_max: usize,
    },
}

/// What the shard knows of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readable {
    pub released: Lsn,
    pub settled: Lsn,
    pub trim: Lsn,
}

#[derive(Debug)]
pub struct ReadStream {
    shard: ShardId,
    request: StartRead,
    /// `None` until the partition is loaded.
    readable: Option<Readable>,
    /// Everything below it was sent or claimed to be absent.
    cursor: Lsn,
    /// A read is under way, up to here.
    reading_upto: Option<Lsn>,
    /// The last claim that was made.
    claimed: Option<(Lsn, Lsn)>,
    out: VecDeque<ReadOutput>,
}

impl ReadStream {
    pub fn new(shard: ShardId, request: StartRead) -> Self {
        let cursor = request.from;
        Self { shard, request, readable: None, cursor, reading_upto: None, claimed: None, out: VecDeque::new() }
    }

    pub fn partition(&self) -> PartitionUid {
        self.request.partition
    }

    /// Starts over, as the reader asks; what was sent before is void. An older request than the current one changes nothing.
    pub fn handle_restart(&mut self, request: StartRead) {
        if request.version <= self.request.version {
            return;
        }
        let readable = self.readable;
        *self = Self::new(self.shard, request);
        if let Some(readable) = readable {
            self.handle_readable(readable);
        }
    }

    /// The partition is loaded, or more of it may be read, or less: it was trimmed.
    pub fn handle_readable(&mut self, readable: Readable) {
        if self.readable.replace(readable).is_none() {
            let Readable { released, trim, .. } = readable;
            let (shard, version, status) = (self.shard, self.request.version, ReadStatus::Ok);
            self.out.push_back(ReadOutput::Started(ReadStarted {
                shard,
                version,
                status,
                released,
                trim,
                lost: LostBefore::default(),
            }));
        }
        self.skip_trimmed();
        self.go_on();
    }

    /// INV-TRIM-TOLD. That there is nothing up to the trim point is true in every mode.
    fn skip_trimmed(&mut self) {
        let trim = self.readable.map_or(Lsn::ZERO, |readable| readable.trim);
        if self.cursor <= trim {
            self.cursor = trim.next();
            self.claim(trim, ClaimKind::NoRecords);
        }
    }

    /// What was read of what was asked for last. Answers to the questions of an older version are void.
    pub fn handle_chunk(&mut self, version: u32, chunk: Chunk) {
        let Some(upto) = self.reading_upto.filter(|_| version == self.request.version) else { return };
        self.reading_upto = None;
        for item in chunk.items {
            match item {
                ReadItem::Block(block) => self.ship(block),
                ReadItem::Damaged { first, last } => {
                    self.claim(self.claimable(Lsn(first.0.saturating_sub(1))), ClaimKind::NoRecords);
                    self.claim(last, ClaimKind::UnderReplicated);
                }
            }
        }
        self.cursor = self.cursor.max(chunk.next.unwrap_or_else(|| upto.next()));
        self.go_on();
    }

    fn ship(&mut self, StoredBlock { placement, block }: StoredBlock) {
        self.cursor = self.cursor.max(block.header().last_lsn().next());
        let ships = match &self.request.mode {
            ReadMode::AllSendAll => true,
            ReadMode::SingleCopy { known_down } => is_shipper(self.shard, &placement.copyset, known_down),
        };
        if ships {
            let released = self.readable.map_or(Lsn::ZERO, |r| r.released);
            let placement = WirePlacement::from(&placement);
            let version = self.request.version;
            self.out.push_back(ReadOutput::Block(ReadBlock { version, placement, released }, block));
        }
    }

    /// Reads on, or says that there is nothing more for now.
    fn go_on(&mut self) {
        let Some(readable) = self.readable.filter(|_| self.reading_upto.is_none()) else { return };
        let limit = readable.released.min(self.request.until);
        if self.cursor <= limit {
            self.reading_upto = Some(limit);
            let (version, partition, from) = (self.request.version, self.request.partition, self.cursor);
            self.out.push_back(ReadOutput::Read { version, partition, from, upto: limit, len_max: READ_LEN });
            return;
        }
        self.claim(self.claimable(limit), ClaimKind::NoRecords);
    }

    /// How far silence up to `limit` proves something (trap C17).
    fn claimable(&self, limit: Lsn) -> Lsn {
        match self.request.mode {
            ReadMode::AllSendAll => limit,
            ReadMode::SingleCopy { .. } if bug(Bug::SilenceBeyondSettled) => limit,
            ReadMode::SingleCopy { .. } => limit.min(self.readable.map_or(Lsn::ZERO, |readable| readable.settled)),
        }
    }

    /// Says so, unless it was said before.
    fn claim(&mut self, upto: Lsn, kind: ClaimKind) {
        let Readable { released, trim, .. } = self.readable.unwrap_or_default();
        if self.claimed.is_some_and(|(claimed, at)| upto <= claimed && released <= at) {
            return;
        }
        let upto = self.claimed.map_or(upto, |(claimed, _)| upto.max(claimed));
        self.claimed = Some((upto, released));
        let version = self.request.version;
        self.out.push_back(ReadOutput::Claim(ReadClaim { version, upto, kind, released, trim }));
    }

    pub fn poll_output(&mut self) -> Option<ReadOutput> {
        self.out.pop_front()
    }
}

/// Whether `me` is the one of a block's holders that sends it. Every shard computes the same: the copyset in an order that
/// depends on the copyset only, so that the blocks of a sticky run come from one shard; the first that is not down. Who
/// sees itself called down sends too, so that the reader learns that it is not (LogDevice's SCD rules).
fn is_shipper(me: ShardId, copyset: &Copyset, known_down: &[ShardId]) -> bool {
    if known_down.contains(&me) {
        return true;
    }
    let seed = copyset.shards().iter().fold(0, |seed, shard| mix(seed ^ u64::from(shard.to_u32())));
    let up = copyset.shards().iter().filter(|shard| !known_down.contains(shard));
    let first = up.min_by_key(|shard| mix(seed ^ u64::from(shard.to_u32())));
    first.is_none_or(|first| *first == me)
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same on every node, for ever.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use dlog_proto::block::{BlockBuilder, Placement, PlacementVersion};
    use dlog_proto::{Epoch, Esn, Incarnation};

    use super::*;

    fn lsn(epoch: u32, esn: u32) -> Lsn {
        Lsn::new(Epoch(epoch), Esn(esn))
    }

    fn start(version: u32, from: Lsn, mode: ReadMode) -> StartRead {
        StartRead {
            shard: ShardId::new(1, 0),
            incarnation: Incarnation(1),
            partition: PartitionUid(1),
            version,
            from,
            until: Lsn::MAX,
            mode,
        }
    }

    fn stored(epoch: u32, first: u32, span: u32) -> ReadItem {
        let mut builder = BlockBuilder::new(PartitionUid(1), Epoch(epoch), Esn(first), 0);
        builder.push(&bytes::Bytes::from(vec![0; 61]), span, (0, 0));
        let placement = Placement {
            version: PlacementVersion { writer_epoch: Epoch(epoch), wave: 1 },
            copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(2, 0)]).unwrap(),
            acked: Esn::ZERO,
            settled: Esn::ZERO,
        };
        ReadItem::Block(StoredBlock { placement, block: builder.finish() })
    }

    fn readable(released: Lsn, settled: Lsn) -> Readable {
        Readable { released, settled, trim: Lsn::ZERO }
    }

    fn said(stream: &mut ReadStream) -> Vec<String> {
        std::iter::from_fn(|| stream.poll_output())
            .map(|output| match output {
                ReadOutput::Started(s) => format!("started {}", s.released),
                ReadOutput::Block(_, block) => format!("{}..{}", block.header().first_lsn(), block.header().last_lsn()),
                ReadOutput::Claim(c) => format!("{:?} to {}", c.kind, c.upto),
                ReadOutput::Read { from, upto, .. } => format!("read {from} to {upto}"),
            })
            .collect()
    }

    #[test]
    fn what_is_released_is_shipped_and_the_rest_waited_for() {
        let mut stream = ReadStream::new(ShardId::new(1, 0), start(1, lsn(1, 1), ReadMode::AllSendAll));
        assert_eq!(said(&mut stream), [""; 0], "not loaded yet");
        stream.handle_readable(readable(lsn(1, 4), lsn(1, 2)));
        assert_eq!(said(&mut stream), ["started e1n4", "read e1n1 to e1n4"]);
        stream.handle_readable(readable(lsn(1, 6), lsn(1, 2)));
        assert_eq!(said(&mut stream), [""; 0], "one read at a time");
        stream.handle_chunk(1, Chunk { items: vec![stored(1, 1, 2)], next: Some(lsn(1, 3)) });
        assert_eq!(said(&mut stream), ["e1n1..e1n2", "read e1n3 to e1n6"]);
        stream.handle_chunk(1, Chunk { items: vec![stored(1, 3, 2)], next: None });
        assert_eq!(said(&mut stream), ["e1n3..e1n4", "NoRecords to e1n6"]);
        stream.handle_readable(readable(lsn(2, 0), lsn(2, 0)));
        assert_eq!(said(&mut stream), ["read e1n7 to e2n0"]);
        stream.handle_chunk(1, Chunk::default());
        assert_eq!(said(&mut stream), ["NoRecords to e2n0"]);
    }

    #[test]
    fn in_single_copy_mode_silence_proves_nothing_above_settled() {
        let mode = ReadMode::SingleCopy { known_down: vec![] };
        let mut stream = ReadStream::new(ShardId::new(1, 0), start(1, lsn(1, 1), mode));
        stream.handle_readable(readable(lsn(1, 4), lsn(1, 2)));
        stream.handle_chunk(1, Chunk::default());
        assert_eq!(said(&mut stream).last().unwrap(), "NoRecords to e1n2");
        stream.handle_readable(readable(lsn(1, 4), lsn(1, 4)));
        assert_eq!(said(&mut stream), ["NoRecords to e1n4"]);
    }

    #[test]
    fn what_is_trimmed_is_told_before_anything_above_it_is_sent() {
        let mode = ReadMode::SingleCopy { known_down: vec![] };
        for mode in [ReadMode::AllSendAll, mode] {
            let mut stream = ReadStream::new(ShardId::new(1, 0), start(1, lsn(1, 1), mode));
            stream.handle_readable(readable(lsn(1, 4), lsn(1, 2)));
            said(&mut stream);
            // Trimmed while the stream is being read: what was read does not have it any more.
            stream.handle_readable(Readable { trim: lsn(1, 3), ..readable(lsn(1, 4), lsn(1, 2)) });
            stream.handle_chunk(1, Chunk { items: vec![stored(1, 4, 1)], next: None });
            let said = said(&mut stream);
            assert_eq!(said.first().map(String::as_str), Some("NoRecords to e1n3"), "{said:?}");
        }
    }

    #[test]
    fn damage_is_told_not_skipped() {
        let mut stream = ReadStream::new(ShardId::new(1, 0), start(1, lsn(1, 1), ReadMode::AllSendAll));
        stream.handle_readable(readable(lsn(1, 9), lsn(1, 9)));
        said(&mut stream);
        let damaged = ReadItem::Damaged { first: lsn(1, 3), last: lsn(1, 5) };
        stream.handle_chunk(1, Chunk { items: vec![damaged], next: None });
        assert_eq!(said(&mut stream), ["NoRecords to e1n2", "UnderReplicated to e1n5", "NoRecords to e1n9"]);
    }

    #[test]
    fn a_newer_request_starts_over_and_voids_what_was_asked_before() {
        let mut stream = ReadStream::new(ShardId::new(1, 0), start(2, lsn(1, 3), ReadMode::AllSendAll));
        stream.handle_readable(readable(lsn(1, 4), lsn(1, 4)));
        said(&mut stream);
        stream.handle_restart(start(1, lsn(1, 1), ReadMode::AllSendAll));
        assert_eq!(said(&mut stream), [""; 0], "an old request that came late");
        stream.handle_restart(start(3, lsn(1, 1), ReadMode::AllSendAll));
        assert_eq!(said(&mut stream), ["started e1n4", "read e1n1 to e1n4"]);
        stream.handle_chunk(2, Chunk { items: vec![stored(1, 3, 2)], next: None });
        assert_eq!(said(&mut stream), [""; 0]);
    }

    #[test]
    fn exactly_one_holder_ships() {
        let shards: Vec<_> = (1..=3).map(|n| ShardId::new(n, 0)).collect();
        for copyset in [[0, 1, 2], [2, 1, 0]].map(|order| Copyset::new(order.map(|i| shards[i])).unwrap()) {
            let shippers = |down: &[ShardId]| {
                shards.iter().filter(|s| !down.contains(s) && is_shipper(**s, &copyset, down)).count()
            };
            assert_eq!(shippers(&[]), 1);
            assert!(shards.iter().all(|down| shippers(&[*down]) == 1));
            assert!(is_shipper(shards[0], &copyset, &shards), "all down: everybody sends");
        }
    }
}
