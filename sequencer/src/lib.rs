//! DLog's sequencer: it decides the order of a partition and nothing else.

mod appender;
mod copyset;
mod health;
mod host;
mod in_flight;
mod lease;
mod output;
mod partition;
mod pending;
mod producers;
mod recovery;
mod settings;
mod snapshots;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod traps;

pub use host::{ACTIVATIONS_AT_ONCE, Host, HostOutput};
pub use lease::{LEASE, LeaseGrant, LeaseKeeper, LeaseTimes};
pub use output::{Decision, Event, NewEpochReason, Output, Proposal, Token};
pub use partition::{AppendRequest, PartitionSequencer};
pub use settings::Settings;
