//! The Raft log on disk.
//!
//! Segments of some megabytes, written front to back, one fdatasync per batch of what waits. All numbers little-endian.
//!
//! ```text
//! segment-<number>.wal
//!    0  magic         8   "DLOGRAFT"
//!    8  version       u32 1
//!   12  node          u16 whose log it is
//!   14  reserved      u16 0
//!   16  number        u64 of the segment, from 1
//!   24  previous_len  u64 of the segment before it, which was complete by then; 0 for the first
//!   32  reserved      u32 0
//!   36  crc           u32 CRC-32 of bytes 0..36
//!   40  records
//!
//! record
//!    0  len     u32 of the payload
//!    4  crc     u32 CRC-32 of segment number, position in the segment (u64 each), len, kind and payload
//!    8  kind    u8
//!    9  payload postcard
//! ```
//!
//! The first record of a segment is a `Start`: the vote, the committed and the purged log id as they were, so that
//! older segments can go once their entries are purged. Each batch begins with a `Mark`: it was written after
//! everything before it was durable. What is durable is also noted in the file `durable` after each sync, without a
//! sync of its own.
//!
//! **Damage.** A record that does not hold together ends the log if it may never have been durable: a torn tail, which
//! is cut off. It may have been if a `Mark` stands anywhere behind it, if `durable` says so, or if another segment
//! follows: then a vote or an entry that was promised to others is lost, and the node must not take part. The log
//! refuses to open and says where. (The position in each record's CRC keeps what lay there before from being taken for
//! a `Mark`.)

mod durable;
mod record;
mod replay;
mod segment;
mod writer;

#[cfg(test)]
mod crash_tests;

use std::path::PathBuf;
use std::{fmt, io};

use dlog_proto::NodeId;

#[cfg(test)]
use replay::Replayed;
pub(super) use replay::open;
pub(super) use writer::{Op, Writer};

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} is the metadata log of {found}, this node is {node}", path.display())]
    OtherNode { path: PathBuf, found: NodeId, node: NodeId },
    #[error("{} was written by a later version ({what})", path.display())]
    Version { path: PathBuf, what: String },
    #[error(
        "{} is damaged at byte {offset}: {what}. What stood there was promised to other nodes, so this replica must \
         not take part as it is. If a majority of the voters is well, remove the directory {} on this node only, and \
         it is made again from the others",
        path.display(), path.ancestors().nth(2).unwrap_or(path).display()
    )]
    Damaged { path: PathBuf, offset: u64, what: Damage },
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    Header,
    Record,
    /// A record is whole and makes no sense after those before it.
    Order(&'static str),
    /// The file is shorter than what was written.
    Short {
        expected: u64,
    },
    /// A segment file is not there.
    Missing,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header does not hold together"),
            Self::Record => f.write_str("a record does not hold together"),
            Self::Order(what) => f.write_str(what),
            Self::Short { expected } => write!(f, "{expected} bytes were written and made durable"),
            Self::Missing => f.write_str("the file is missing"),
        }
    }
}

fn io_error(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> WalError {
    move |source| WalError::Io { doing, path: path.into(), source }
}
