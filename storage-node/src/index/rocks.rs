//! The index in RocksDB: one database per shard, beside the segments.
//!
//! Without a write-ahead log, in one column family: RocksDB flushes memtables whole and in order, so whatever a crash leaves
//! is the state after some batch (see [`kv`](super::kv)).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, FlushOptions, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use super::kv::{Batch, Direction, Kv, KvError, KvStore, Visit};

/// `index.set-aside-1`, and so on.
const ASIDE_EXTENSION: &str = "set-aside-";

/// How much memory a shard's index may take. What is idle takes a fraction of it.
#[derive(Debug, Clone, Copy)]
pub struct RocksConfig {
    pub block_cache_bytes: usize,
    pub memtable_bytes: usize,
    pub open_files_max: i32,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self { block_cache_bytes: 32 << 20, memtable_bytes: 32 << 20, open_files_max: 256 }
    }
}

/// Where a shard's RocksDB lives.
#[derive(Debug, Clone)]
pub struct RocksStore {
    path: PathBuf,
    config: RocksConfig,
}

impl RocksStore {
    /// The database in `<shard_dir>/index`.
    pub fn new(shard_dir: &Path, config: RocksConfig) -> Self {
        Self { path: shard_dir.join("index"), config }
    }

    fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(self.config.block_cache_bytes));
        table.set_bloom_filter(10.0, false);
        // In pieces: one filter of a large table is larger than a shard of the cache, and would be read again each time.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_format_version(6);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(self.config.memtable_bytes);
        options.set_max_write_buffer_number(2);
        // The arena grows by this much: an idle shard's memtable should be small.
        options.set_arena_block_size(256 << 10);
        options.set_max_open_files(self.config.open_files_max);
        options.set_max_background_jobs(2);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // A checksum that does not hold is an error, and then the whole index is rebuilt.
        options.set_paranoid_checks(true);
        options
    }
}

impl RocksStore {
    /// Opens it to look at it; `None` if there is none. Somebody else may use it at the same time.
    pub fn open_read_only(&self) -> Result<Option<Arc<dyn Kv>>, KvError> {
        if !self.path.try_exists().map_err(|io| KvError(io.to_string()))? {
            return Ok(None);
        }
        let mut options = self.options();
        options.create_if_missing(false);
        let db = DB::open_for_read_only(&options, &self.path, false).map_err(error)?;
        Ok(Some(Arc::new(RocksKv { db, write: WriteOptions::default() })))
    }
}

impl KvStore for RocksStore {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        let db = DB::open(&self.options(), &self.path).map_err(error)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Arc::new(RocksKv { db, write }))
    }

    fn set_aside(&self) -> io::Result<()> {
        if !self.path.try_exists()? {
            return Ok(());
        }
        let older = self.aside()?;
        let number = older.iter().map(|(number, _)| number).max().map_or(1, |last| last.saturating_add(1));
        std::fs::rename(&self.path, self.path.with_extension(format!("{ASIDE_EXTENSION}{number}")))?;
        for (_, path) in older {
            // It is of no use to the shard: if it cannot be removed, that is no reason not to start.
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "an older index that was set aside cannot be removed");
            }
        }
        Ok(())
    }
}

impl RocksStore {
    /// What was set aside before, by number.
    fn aside(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(self.path.parent().unwrap_or_else(|| Path::new(".")))? {
            let path = entry?.path();
            if path.file_stem() == self.path.file_stem()
                && let Some(number) = path.extension().and_then(|extension| extension.to_str())
                && let Some(number) = number.strip_prefix(ASIDE_EXTENSION).and_then(|number| number.parse().ok())
            {
                aside.push((number, path));
            }
        }
        Ok(aside)
    }
}

struct RocksKv {
    db: DB,
    write: WriteOptions,
}

impl std::fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksKv").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

fn error(error: rocksdb::Error) -> KvError {
    KvError(error.into_string())
}

impl Kv for RocksKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get(key).map_err(error)
    }

    fn scan(&self, range: Range<&[u8]>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KvError> {
        if range.start >= range.end {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start);
        options.set_iterate_upper_bound(range.end);
        let mut entries = self.db.raw_iterator_opt(options);
        match direction {
            Direction::Ascending => entries.seek_to_first(),
            Direction::Descending => entries.seek_to_last(),
        }
        while let Some((key, value)) = entries.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Ascending => entries.next(),
                Direction::Descending => entries.prev(),
            }
        }
        entries.status().map_err(error)
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        let mut write = WriteBatch::default();
        for (key, value) in &batch.changes {
            match value {
                Some(value) => write.put(key, value),
                None => write.delete(key),
            }
        }
        self.db.write_opt(write, &self.write).map_err(error)
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::tests::{behaves_as_an_ordered_map, keys, put};

    #[test]
    fn it_is_an_ordered_map() {
        let dir = tempfile::tempdir().unwrap();
        behaves_as_an_ordered_map(&*RocksStore::new(dir.path(), RocksConfig::default()).open().unwrap());
    }

    #[test]
    fn what_was_flushed_is_there_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::new(dir.path(), RocksConfig::default());
        let kv = store.open().unwrap();
        put(&*kv, &[(b"a", Some(b"1"))]);
        kv.flush().unwrap();
        put(&*kv, &[(b"b", Some(b"1"))]);
        // A copy of the directory is what a killed process leaves.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("index")).unwrap();
        for entry in std::fs::read_dir(dir.path().join("index")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join("index").join(entry.file_name())).unwrap();
        }
        let kv = RocksStore::new(copy.path(), RocksConfig::default()).open().unwrap();
        assert_eq!(keys(&*kv, b"a"..b"z", Direction::Ascending, 9), [b"a"]);
    }

    #[test]
    fn what_was_set_aside_last_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::new(dir.path(), RocksConfig::default());
        std::fs::create_dir(dir.path().join("index.set-aside-mine")).unwrap();
        std::fs::write(dir.path().join("other.set-aside-1"), "").unwrap();
        for _ in 0..3 {
            let kv = store.open().unwrap();
            assert_eq!(kv.get(b"a").unwrap(), None);
            put(&*kv, &[(b"a", Some(b"1"))]);
            drop(kv);
            store.set_aside().unwrap();
        }
        store.set_aside().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["index.set-aside-3", "index.set-aside-mine", "other.set-aside-1"]);
    }
}
