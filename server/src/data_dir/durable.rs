//! Files that are there whole, or as they were before.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::DataDirError;

/// Replaces `dir/name` by way of `dir/new_name`. Durable when it returns.
pub(super) fn replace(dir: &Path, name: &str, new_name: &str, contents: &[u8]) -> Result<(), DataDirError> {
    let (path, new) = (dir.join(name), dir.join(new_name));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    written.map_err(DataDirError::file("write", &new))?;
    fs::rename(&new, &path).map_err(DataDirError::file("replace", &path))?;
    sync_dir(dir)
}

/// Makes durable which files a directory has.
pub(super) fn sync_dir(dir: &Path) -> Result<(), DataDirError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DataDirError::file("sync", dir))
}
