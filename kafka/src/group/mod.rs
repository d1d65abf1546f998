//! Consumer groups: membership, generations, committed offsets.
//!
//! [`coordinator`] is a pure core: requests and the time go in, answers and changes to be stored come out. [`shell`] keeps
//! one per partition of the internal log `__dlog/groups` that is sequenced on this node: it stores the changes there and
//! hands out the answers that wait for them, and when the sequencer comes here it reads what its predecessor stored.
//!
//! INV-GROUP-STORED: an answer that promises something (an assignment, a committed offset, a deletion) is given after the
//! change is acknowledged with the log's write quorum.
//! INV-GROUP-ONE: changes are appended to the epoch in which they were loaded. A coordinator whose partition went to
//! another epoch gets an error for its append, answers NOT_COORDINATOR and forgets all it knows.

mod coordinator;
mod member;
mod membership;
mod message;
mod offsets;
mod settings;
mod shell;
mod stored;
mod subscription;

pub(crate) use message::{
    CommitOffset, Described, GroupAnswer, GroupRequest, Join, JoinRefused, Joined, Leaving, Listed, OffsetsWanted,
    StoredOffset, Sync,
};
pub use settings::GroupSettings;
pub(crate) use shell::Groups;

#[cfg(test)]
mod tests;
