//! What a shard's engine may be told.

use dlog_proto::block::{BlockHeader, Placement};

use crate::segment::frame::frame_len;
use crate::segment::header::SegmentHeader;

/// Sizes and bounds. The defaults are for a real disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Length of new segments in bytes; a multiple of 4096.
    pub segment_len: u32,
    /// Longest frame of an entry in bytes: how much may be lost at the end of a segment, at worst.
    pub entry_len_max: u32,
    /// Longest group in bytes, unless one entry is longer.
    pub group_len_max: u32,
    /// Space on the disk that is left free when a segment is made.
    pub keep_free_bytes: u64,
    /// How far ahead of the write position zeros are written into files that are not recycled, while somebody waits for syncs.
    /// 0 for never.
    pub zero_ahead_bytes: u32,
    /// The index is flushed when this much was written since the last time: a restart reads at most this much and what was
    /// not indexed yet.
    pub checkpoint_bytes: u64,
    /// Writing waits for the index when what is not indexed yet takes more memory than this.
    pub unindexed_bytes_max: usize,
    /// Rows of trimmed blocks that are dropped from the index at a time; at least 1.
    pub trim_rows: usize,
    /// A full segment is written again, sorted, if the blocks of one partition lie together in it for less than this many
    /// bytes on average. 0 for never.
    pub sort_below_bytes: u32,
    /// A segment is written again if less than this many percent of it are needed. 0 for never.
    pub compact_below_percent: u8,
    /// Newly written blocks that are kept in memory for readers at the tail.
    pub recent_bytes_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            segment_len: 1 << 30,
            entry_len_max: Self::ENTRY_LEN_MAX,
            group_len_max: 4 << 20,
            keep_free_bytes: 256 << 20,
            zero_ahead_bytes: 32 << 20,
            checkpoint_bytes: 256 << 20,
            unindexed_bytes_max: 64 << 20,
            trim_rows: 16 << 10,
            sort_below_bytes: 256 << 10,
            compact_below_percent: 25,
            recent_bytes_max: 16 << 20,
        }
    }
}

impl EngineConfig {
    /// The frame of the longest block.
    const ENTRY_LEN_MAX: u32 =
        frame_len(Placement::LEN_MAX + BlockHeader::LEN, BlockHeader::BODY_LEN_MAX as usize) as u32;

    /// For tests: segments that fill quickly.
    pub fn small() -> Self {
        Self {
            segment_len: 64 << 10,
            entry_len_max: 16 << 10,
            group_len_max: 16 << 10,
            keep_free_bytes: 0,
            zero_ahead_bytes: 0,
            checkpoint_bytes: 64 << 10,
            unindexed_bytes_max: 1 << 20,
            trim_rows: 4,
            sort_below_bytes: 8 << 10,
            compact_below_percent: 25,
            recent_bytes_max: 16 << 10,
        }
    }

    /// How far behind the last readable frame others are looked for at a start after a crash. The index was flushed no
    /// longer ago than `checkpoint_bytes` of the log, and what is written and not durable is bounded by the write cache.
    pub(crate) fn search_len(&self) -> u32 {
        const UNSYNCED_BYTES_MAX: u64 = 256 << 20;
        u32::try_from(self.checkpoint_bytes + UNSYNCED_BYTES_MAX).unwrap_or(u32::MAX)
    }

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        let Self { segment_len, entry_len_max, .. } = *self;
        if !segment_len.is_multiple_of(SegmentHeader::PAGE_LEN) || segment_len > 1 << 31 {
            return Err(format!("segment_len is {segment_len}: it must be a multiple of 4096 up to 2 GiB"));
        }
        if !(4096..=Self::ENTRY_LEN_MAX).contains(&entry_len_max) {
            return Err(format!("entry_len_max is {entry_len_max}: it must be 4096 to {}", Self::ENTRY_LEN_MAX));
        }
        if self.trim_rows == 0 {
            return Err("trim_rows is 0: nothing that is trimmed would ever be freed".to_owned());
        }
        if self.compact_below_percent > 50 {
            return Err(format!("compact_below_percent is {}: it must be 0 to 50", self.compact_below_percent));
        }
        if segment_len / 2 < entry_len_max + SegmentHeader::PAGE_LEN {
            return Err(format!("segment_len is {segment_len}: twice the longest entry ({entry_len_max}) must fit"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(EngineConfig::default().check(), Ok(()));
        assert_eq!(EngineConfig::small().check(), Ok(()));
        let refused = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::default();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(refused(|c| c.segment_len = 1000).contains("multiple of 4096"));
        assert!(refused(|c| c.segment_len = 32 << 20).contains("twice the longest entry"));
        assert!(refused(|c| c.trim_rows = 0).contains("trim_rows is 0"));
        assert!(refused(|c| c.entry_len_max = 1).contains("entry_len_max is 1"));
    }
}
