//! Finding shards in a data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dlog_storage_node::disk::RealDisk;
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::offline::{SegmentFile, ShardFiles};

use crate::args::ShardDirArgs;
use crate::failure::Failure;

/// What the server calls a shard's directory, before its number.
const SHARD_PREFIX: &str = "shard-";

/// A shard's directory.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) disk: Arc<RealDisk>,
    pub(super) files: ShardFiles,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        let opened = RealDisk::existing(&path).and_then(|disk| {
            let disk = Arc::new(disk);
            Ok((ShardFiles::open(disk.clone())?, disk))
        });
        let (files, disk) =
            opened.map_err(|error| Failure::new(format!("cannot look at {}: {error}", path.display())))?;
        Ok(Self { path, disk, files })
    }

    /// As `n1s0`, or the path if no file says it.
    pub(super) fn name(&self) -> String {
        self.files.identity().map_or_else(|| self.path.display().to_string(), |identity| identity.shard.to_string())
    }

    pub(super) fn index(&self) -> RocksStore {
        RocksStore::new(&self.path, RocksConfig::default())
    }

    /// Its segments, or the one of this number.
    pub(super) fn segments(&self, wanted: Option<u64>) -> impl Iterator<Item = &SegmentFile> {
        self.files.segments.iter().filter(move |file| wanted.is_none_or(|number| number == file.id.number()))
    }
}

/// All shards that are asked for, by their numbers.
pub(super) fn open(args: &ShardDirArgs) -> Result<Vec<Shard>, Failure> {
    find(args)?.into_iter().map(Shard::open).collect()
}

fn find(args: &ShardDirArgs) -> Result<Vec<PathBuf>, Failure> {
    let dir = &args.data_dir;
    let mut shards =
        numbered(dir).map_err(|error| Failure::new(format!("cannot look into {}: {error}", dir.display())))?;
    shards.sort();
    if let Some(wanted) = args.shard {
        shards.retain(|(number, _)| *number == wanted);
    } else if shards.is_empty() && is_shard(dir) {
        return Ok(vec![dir.clone()]);
    }
    if shards.is_empty() {
        let what = args.shard.map_or_else(|| "no shard".to_owned(), |number| format!("no shard {number}"));
        let failure = Failure::new(format!("there is {what} in {}", dir.display()));
        return Err(
            failure.hint("--data-dir is what the node was started with, or one of the shard-N directories in it")
        );
    }
    Ok(shards.into_iter().map(|(_, path)| path).collect())
}

fn numbered(dir: &Path) -> io::Result<Vec<(u16, PathBuf)>> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(SHARD_PREFIX)?.parse().ok());
        if let (Some(number), true) = (number, entry.file_type()?.is_dir()) {
            shards.push((number, entry.path()));
        }
    }
    Ok(shards)
}

fn is_shard(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name == "marker" || name.to_string_lossy().ends_with(".seg"))
}
