//! The Kafka gateway: every node answers Kafka's protocol on the TCP port of the same number as its QUIC one.
//!
//! A topic is a log, a partition's leader is the node of its sequencer, its leader epoch the epoch. So a Produce goes to a
//! sequencer in the same process, and Metadata sends every client to the right node. Record batches pass through as they
//! are. Groups live in internal logs; a group's coordinator is the node of the sequencer of its partition of
//! `__dlog/groups`.
//!
//! ```text
//! gateway     takes connections
//! connection  one task each: frames in, answers out in the same order
//! wire        bytes to requests, answers to bytes
//! handlers    one per API
//! fetch       sessions, waiting for records, open readers
//! group       the coordinator: a pure core, and the shell that keeps it in a log
//! cluster     the metadata tier's state in Kafka's words
//! broker      what the gateway needs of the node that it is part of
//! ```

mod broker;
mod cluster;
mod configs;
mod connection;
mod errors;
mod fetch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gateway;
mod group;
mod handlers;
mod producer_ids;
mod settings;
mod wire;

pub use broker::{Broker, LogDir, LogDirUsage, Pending, ProposeError};
pub use gateway::Gateway;
pub use group::GroupSettings;
pub use settings::Settings;
#[cfg(any(test, feature = "samples"))]
pub use wire::samples;
