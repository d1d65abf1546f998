//! openraft's own tests of a log and a state machine.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::replica::Replica;
use super::snapshot_file::SnapshotDir;
use super::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Replica, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Replica), StorageError<u64>> {
        let dir = TempDir::new().unwrap();
        let log = LogStore::open(&dir.path().join("log"), dlog_proto::NodeId(1), None).unwrap();
        let snapshots = SnapshotDir::open(&dir.path().join("snapshots")).unwrap();
        Ok((dir, log, Replica::new(snapshots, None)))
    }
}

#[test]
fn openraft_is_content() {
    Suite::test_all(Builder).unwrap();
}
