//! The other values of the index.

use bytes::{Buf, BufMut};
use dlog_proto::block::Placement;
use dlog_proto::{Epoch, Esn, Lsn, TimestampMs};

use super::{Row, at_least, get_position, put_position};
use crate::entry::{EpochMarks, Marks};
use crate::segment::entries::SegmentRanges;
use crate::segment::header::Identity;
use crate::segment::{Position, SegmentId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointRow {
    pub(crate) identity: Identity,
    /// Everything before this is in the index.
    pub(crate) position: Position,
    pub(crate) next_commit: u64,
}

impl CheckpointRow {
    const VERSION: u8 = 1;
}

impl Row for CheckpointRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![Self::VERSION];
        self.identity.encode(&mut out);
        put_position(&mut out, self.position);
        out.put_u64_le(self.next_commit);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 1 + Identity::LEN + 20)?;
        if fields.get_u8() != Self::VERSION {
            return None;
        }
        let identity = Identity::decode(fields);
        Some(Self { identity, position: get_position(fields), next_commit: fields.get_u64_le() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShardRow {
    pub(crate) at: Position,
    pub(crate) incomplete_before: u64,
    pub(crate) segments: SegmentRanges,
}

impl Row for ShardRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_position(&mut out, self.at);
        out.put_u64_le(self.incomplete_before);
        self.segments.encode(&mut out);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 20)?;
        let (at, incomplete_before) = (get_position(fields), fields.get_u64_le());
        Some(Self { at, incomplete_before, segments: SegmentRanges::decode(std::mem::take(fields))? })
    }
}

/// A run.
///
/// ```text
///  0  segment        u64
///  8  begin          u32  of its first frame
/// 12  end            u32  of its last frame; frames of others may lie between
/// 16  last_esn       u32
/// 20  blocks         u32
/// 24  bytes          u32  of its frames
/// 28  min_timestamp  i64  of the sequencer
/// 36  max_timestamp  i64
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunRow {
    pub(crate) segment: SegmentId,
    pub(crate) begin: u32,
    pub(crate) end: u32,
    pub(crate) last_esn: Esn,
    pub(crate) blocks: u32,
    pub(crate) bytes: u32,
    pub(crate) min_timestamp: TimestampMs,
    pub(crate) max_timestamp: TimestampMs,
}

impl Row for RunRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(44);
        out.put_u64_le(self.segment.0);
        out.put_u32_le(self.begin);
        out.put_u32_le(self.end);
        out.put_u32_le(self.last_esn.0);
        out.put_u32_le(self.blocks);
        out.put_u32_le(self.bytes);
        out.put_i64_le(self.min_timestamp);
        out.put_i64_le(self.max_timestamp);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 44)?;
        Some(Self {
            segment: SegmentId(fields.get_u64_le()),
            begin: fields.get_u32_le(),
            end: fields.get_u32_le(),
            last_esn: Esn(fields.get_u32_le()),
            blocks: fields.get_u32_le(),
            bytes: fields.get_u32_le(),
            min_timestamp: fields.get_i64_le(),
            max_timestamp: fields.get_i64_le(),
        })
    }
}

/// A block on its own: segment u64, offset u32, len u32 (of its frame), last_esn u32, timestamp i64 (of the sequencer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LateRow {
    pub(crate) position: Position,
    pub(crate) len: u32,
    pub(crate) last_esn: Esn,
    pub(crate) timestamp: TimestampMs,
}

impl Row for LateRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28);
        put_position(&mut out, self.position);
        out.put_u32_le(self.len);
        out.put_u32_le(self.last_esn.0);
        out.put_i64_le(self.timestamp);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 28)?;
        Some(Self {
            position: get_position(fields),
            len: fields.get_u32_le(),
            last_esn: Esn(fields.get_u32_le()),
            timestamp: fields.get_i64_le(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmendRow {
    pub(crate) segment: SegmentId,
    pub(crate) placement: Placement,
}

impl Row for AmendRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.placement.encoded_len());
        out.put_u64_le(self.segment.0);
        self.placement.encode(&mut out);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let segment = SegmentId(at_least(fields, 8)?.get_u64_le());
        let (placement, len) = Placement::decode(fields).ok()?;
        fields.advance(len);
        Some(Self { segment, placement })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SegmentRow {
    /// Of frames of blocks that are not given up.
    pub(crate) live_bytes: u64,
    /// Amends that are the newest of their block.
    pub(crate) live_amends: u64,
    /// Of the file that the index leads to.
    pub(crate) generation: u16,
    /// How often, from one block to the next, the partition changed.
    pub(crate) stretches: u32,
}

impl SegmentRow {
    /// What is counted is a function of the log, but a log can lose parts: counts never fall below nothing.
    pub(crate) fn drop_bytes(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }

    pub(crate) fn drop_amend(&mut self) {
        self.live_amends = self.live_amends.saturating_sub(1);
    }
}

impl Row for SegmentRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(22);
        out.put_u64_le(self.live_bytes);
        out.put_u64_le(self.live_amends);
        out.put_u16_le(self.generation);
        out.put_u32_le(self.stretches);
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let fields = at_least(fields, 22)?;
        Some(Self {
            live_bytes: fields.get_u64_le(),
            live_amends: fields.get_u64_le(),
            generation: fields.get_u16_le(),
            stretches: fields.get_u32_le(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LossRow {
    pub(crate) end: u32,
}

impl Row for LossRow {
    fn encode(&self) -> Vec<u8> {
        self.end.to_le_bytes().to_vec()
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        Some(Self { end: at_least(fields, 4)?.get_u32_le() })
    }
}

impl Row for Marks {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.epochs.len() * 12);
        out.put_u64_le(self.released.0);
        for marks in &self.epochs {
            out.put_u32_le(marks.epoch.0);
            out.put_u32_le(marks.acked.0);
            out.put_u32_le(marks.settled.0);
        }
        out
    }

    fn parse(fields: &mut &[u8]) -> Option<Self> {
        let mut marks = Self { released: Lsn(at_least(fields, 8)?.get_u64_le()), ..Self::default() };
        while !fields.is_empty() {
            let fields = at_least(fields, 12)?;
            let (epoch, acked, settled) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
            marks.raise(EpochMarks { epoch: Epoch(epoch), acked: Esn(acked), settled: Esn(settled) });
        }
        Some(marks)
    }
}
