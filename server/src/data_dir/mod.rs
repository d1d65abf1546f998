//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! <data-dir>/node.json    whose data this is: the node, its cluster once known, the format (see `marker`)
//!            dlog.lock    locked while a process uses the directory; holds its pid
//!            metadata/    the metadata tier's log and snapshots
//!            shard-0/ …   a shard's segments and index each
//!            tls/         the cluster's CA, this node's certificate and key
//! ```
//! The marker is written before anything else and replaced whole, so a directory without one holds no data of ours, and one
//! whose marker cannot be read is damaged, not new.

mod durable;
mod lock;
mod marker;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dlog_proto::{ClusterId, NodeId};

use lock::{LOCK_FILE, Lock};
use marker::{FORMAT, MARKER_FILE, Marker};

/// A directory that this process, and no other, uses.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    marker: Mutex<Marker>,
    made: Made,
    _lock: Lock,
}

/// What taking a directory has made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It was a node's before.
    Nothing,
    /// It was empty.
    Contents,
    /// It was not there.
    Directory,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot {action} {path}: {error}")]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("the data directory {path} is not a directory: choose another with --data-dir")]
    NotADirectory { path: PathBuf },
    #[error(
        "the data directory {path} is in use by {}: stop it, or choose another directory with --data-dir",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "the data directory {path} is not empty and not DLog's: it has no {MARKER_FILE}, but {found}. Choose a new or empty \
         directory with --data-dir"
    )]
    Foreign { path: PathBuf, found: String },
    #[error(
        "the data directory {path} has lost its {MARKER_FILE}, but has {found}: restore that file from a copy; without it \
         nothing says whose data this is"
    )]
    MarkerMissing { path: PathBuf, found: String },
    #[error("{path} is damaged ({why}): restore it from a copy, or choose another directory with --data-dir")]
    MarkerDamaged { path: PathBuf, why: String },
    #[error(
        "the data directory {path} was written by a newer DLog, in format {found}; this one knows formats up to {FORMAT}: run \
         the newer one"
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(
        "the data directory {path} belongs to node {}, but this is node {}: start it with --node-id {}, or choose another \
         directory with --data-dir",
        found.0, expected.0, found.0
    )]
    OtherNode { path: PathBuf, found: NodeId, expected: NodeId },
    #[error(
        "the data directory {path} belongs to cluster {found}, but the nodes of --cluster-nodes are of cluster {expected}: \
         correct --cluster-nodes, or choose a new directory with --data-dir to join that cluster"
    )]
    OtherCluster { path: PathBuf, found: ClusterId, expected: ClusterId },
}

impl DataDirError {
    fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::File { action, path: path.to_owned(), error }
    }
}

impl DataDir {
    /// Takes the directory for `node`, and makes it if it is not there.
    pub fn open(path: &Path, node: NodeId, now_ms: i64) -> Result<Self, DataDirError> {
        let created = create(path)?;
        let path = path.canonicalize().map_err(DataDirError::file("find", path))?;
        // Before the lock, so that nothing is written into a directory that is not ours.
        if Marker::read(&path)?.is_none() {
            refuse_contents(&path)?;
        }
        let lock = Lock::take(&path)?;
        // Again, because only now nobody else writes it.
        let (marker, made) = match Marker::read(&path)? {
            Some(marker) if marker.node != node => {
                return Err(DataDirError::OtherNode { path, found: marker.node, expected: node });
            }
            Some(marker) => (marker, Made::Nothing),
            None => {
                let marker = Marker { format: FORMAT, node, cluster: None, created_ms: now_ms };
                marker.write(&path)?;
                (marker, if created { Made::Directory } else { Made::Contents })
            }
        };
        Ok(Self { path, marker: Mutex::new(marker), made, _lock: lock })
    }

    /// Leaves nothing of a directory that was new to [`open`](Self::open), for a start that failed before it stored anything in it. One
    /// that was a node's before stays as it is.
    pub fn abandon(&self) {
        if self.made == Made::Nothing || self.cluster().is_some() || self.metadata_dir().exists() {
            return;
        }
        let _ = fs::remove_dir_all(self.tls_dir());
        // Without its marker, a directory that is not empty is nobody's.
        if self.tls_dir().exists() || fs::remove_file(self.path.join(MARKER_FILE)).is_err() {
            return;
        }
        if self.made == Made::Directory {
            let _ = fs::remove_file(self.path.join(LOCK_FILE)).and_then(|()| fs::remove_dir(&self.path));
        }
    }

    /// Absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata_dir(&self) -> PathBuf {
        self.path.join("metadata")
    }

    pub fn shard_dir(&self, shard: u16) -> PathBuf {
        self.path.join(format!("{SHARD_PREFIX}{shard}"))
    }

    pub fn tls_dir(&self) -> PathBuf {
        self.path.join("tls")
    }

    /// The cluster whose data this is; `None` until it is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.marker.lock().expect("nothing panics with a marker in hand").cluster
    }

    /// Binds the directory to a cluster for ever, durably.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<(), DataDirError> {
        let mut marker = self.marker.lock().expect("nothing panics with a marker in hand");
        match marker.cluster {
            Some(found) if found == cluster => Ok(()),
            Some(found) => Err(DataDirError::OtherCluster { path: self.path.clone(), found, expected: cluster }),
            None => {
                let bound = Marker { cluster: Some(cluster), ..marker.clone() };
                bound.write(&self.path)?;
                *marker = bound;
                Ok(())
            }
        }
    }
}

const SHARD_PREFIX: &str = "shard-";

/// Whether it was not there.
fn create(path: &Path) -> Result<bool, DataDirError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(false),
        Ok(_) => Err(DataDirError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(DataDirError::file("create the data directory", path))?;
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
            durable::sync_dir(parent).map(|()| true)
        }
        Err(error) => Err(DataDirError::file("look at the data directory", path)(error)),
    }
}

/// A directory without a marker must be empty, but for what an interrupted first start leaves and what a file system has.
fn refuse_contents(path: &Path) -> Result<(), DataDirError> {
    let harmless = [LOCK_FILE, marker::NEW_MARKER_FILE, "lost+found"];
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(DataDirError::file("list", path))? {
        let name = entry.map_err(DataDirError::file("list", path))?.file_name().to_string_lossy().into_owned();
        if !harmless.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    let ours = names.iter().any(|name| name == "metadata" || name.starts_with(SHARD_PREFIX));
    let (path, found) = (path.to_owned(), some_of(&names));
    Err(if ours { DataDirError::MarkerMissing { path, found } } else { DataDirError::Foreign { path, found } })
}

/// The first few names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("'{}'", name.escape_debug())).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn open(path: &Path) -> Result<DataDir, String> {
        DataDir::open(path, NODE, 1).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_directory_becomes_the_nodes_and_stays_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let data = open(&path).unwrap();
        assert_eq!((data.cluster(), data.shard_dir(3)), (None, data.path().join("shard-3")));
        data.set_cluster(ClusterId(7)).unwrap();
        data.set_cluster(ClusterId(7)).unwrap();
        drop(data);
        let data = open(&path).unwrap();
        assert_eq!(data.cluster(), Some(ClusterId(7)));
        let error = data.set_cluster(ClusterId(8)).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to cluster {}", ClusterId(7))), "{error}");
        assert!(error.contains(&format!("of cluster {}", ClusterId(8))), "{error}");
        assert_eq!(data.cluster(), Some(ClusterId(7)));
    }

    #[test]
    fn a_start_that_comes_to_nothing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let data = open(&path).unwrap();
        fs::create_dir(data.tls_dir()).unwrap();
        fs::write(data.tls_dir().join("node.pem"), "made by this start").unwrap();
        data.abandon();
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        let data = open(&path).unwrap();
        data.abandon();
        drop(data);
        assert!(path.exists() && !path.join(MARKER_FILE).exists(), "the directory was there before");

        drop(open(&path).unwrap());
        open(&path).unwrap().abandon();
        assert!(path.join(MARKER_FILE).exists(), "it was a node's before");
        let data = open(&path).unwrap();
        data.set_cluster(ClusterId(1)).unwrap();
        data.abandon();
        assert_eq!(data.cluster(), Marker::read(data.path()).unwrap().unwrap().cluster, "it belongs to a cluster");
    }

    #[test]
    fn two_processes_cannot_use_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        open(dir.path()).unwrap();
    }

    #[test]
    fn another_nodes_directory_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let error = DataDir::open(dir.path(), NodeId(2), 1).unwrap_err().to_string();
        assert!(error.contains("belongs to node 1, but this is node 2: start it with --node-id 1"), "{error}");
        open(dir.path()).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b", "c", "d", "e"] {
            fs::write(dir.path().join(name), "mine").unwrap();
        }
        let error = open(dir.path()).unwrap_err();
        assert!(error.contains("not DLog's") && error.contains("'a.txt', 'b', 'c' and 2 more"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "nothing was added");

        let file = dir.path().join("a.txt");
        assert!(open(&file).unwrap_err().contains("is not a directory"));
    }

    #[test]
    fn a_lost_marker_is_not_a_new_directory() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        fs::create_dir(dir.path().join("shard-0")).unwrap();
        fs::remove_file(dir.path().join(MARKER_FILE)).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(error.contains("has lost its node.json, but has 'shard-0'"), "{error}");
    }

    #[test]
    fn an_interrupted_first_start_is_a_new_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "99999\n").unwrap();
        fs::write(dir.path().join(marker::NEW_MARKER_FILE), "{").unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        open(dir.path()).unwrap();
        assert!(!dir.path().join(marker::NEW_MARKER_FILE).exists());
    }

    #[test]
    fn a_relative_path_works_from_here() {
        let here = std::env::current_dir().unwrap();
        let dir = tempfile::tempdir_in(&here).unwrap();
        let data = open(dir.path().strip_prefix(&here).unwrap()).unwrap();
        assert!(data.path().is_absolute());
    }
}
