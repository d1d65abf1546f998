//! `node.json`: whose data a directory holds. Small, readable, replaced whole.
//!
//! ```json
//! {"format":1,"node":1,"cluster":"0123456789abcdef0123456789abcdef","created_ms":1767225600000}
//! ```
//! `cluster` is null until the node has met its cluster. `format` counts changes that an older DLog must not touch: of the
//! directory's layout, or of anything in it that does not say its own version.

use std::fs;
use std::io;
use std::path::Path;

use dlog_proto::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::{DataDirError, durable};

pub(super) const MARKER_FILE: &str = "node.json";
pub(super) const NEW_MARKER_FILE: &str = "node.json.new";
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    pub format: u32,
    pub node: NodeId,
    pub cluster: Option<ClusterId>,
    pub created_ms: i64,
}

/// The one part of a marker that all formats share.
#[derive(Deserialize)]
struct AnyMarker {
    format: u32,
}

impl Marker {
    /// `None` if there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, DataDirError> {
        let path = dir.join(MARKER_FILE);
        let damaged = |why: String| DataDirError::MarkerDamaged { path: path.clone(), why };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataDirError::file("read", &path)(error)),
        };
        let AnyMarker { format } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match format {
            0 => Err(damaged("there is no format 0".to_owned())),
            1..=FORMAT => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string())),
            found => Err(DataDirError::NewerFormat { path: dir.to_owned(), found }),
        }
    }

    /// Durably, so that after a crash the old one or this one is there.
    pub(super) fn write(&self, dir: &Path) -> Result<(), DataDirError> {
        let mut json = serde_json::to_vec(self).expect("a marker is made of numbers and text");
        json.push(b'\n');
        durable::replace(dir, MARKER_FILE, NEW_MARKER_FILE, &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker { format: FORMAT, node: NodeId(3), cluster: Some(ClusterId(0xab)), created_ms: 5 };
        marker.write(dir.path()).unwrap();
        let golden = "{\"format\":1,\"node\":3,\"cluster\":\"000000000000000000000000000000ab\",\"created_ms\":5}\n";
        assert_eq!(fs::read_to_string(dir.path().join(MARKER_FILE)).unwrap(), golden);
        assert_eq!(Marker::read(dir.path()).unwrap(), Some(marker));
    }

    #[test]
    fn damage_is_not_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), None);
        for bad in ["", "{", "[]", "{\"format\":0}", "{\"format\":1}", "{\"format\":1,\"node\":1,\"cluster\":\"x\"}"] {
            fs::write(dir.path().join(MARKER_FILE), bad).unwrap();
            let error = Marker::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains("node.json is damaged"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_newer_format_is_left_to_the_newer_program() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER_FILE), "{\"format\":2,\"whatever\":true}").unwrap();
        let error = Marker::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("in format 2; this one knows formats up to 1"), "{error}");
    }
}
