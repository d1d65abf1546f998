//! What happened, as the outside saw it: what was sent, what was acknowledged, what was read. The invariants are about this.

use std::collections::BTreeMap;
use std::time::Duration;

use dlog_proto::{LogOffset, Lsn, PartitionUid};

use crate::ledger::Ledger;

/// A record's payload: who wrote it, and its number among what that writer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Payload {
    pub writer: u16,
    pub number: u64,
}

impl Payload {
    pub(crate) fn encode(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&self.writer.to_le_bytes());
        bytes[2..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let writer = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
        let number = u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?);
        Some(Self { writer, number })
    }
}

/// What became of a payload, as far as its writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Sent; no answer, or none that says for sure.
    Unknown,
    Acknowledged(Lsn),
}

/// One partition's history.
#[derive(Debug, Default)]
pub(crate) struct PartitionHistory {
    pub written: BTreeMap<Payload, Fate>,
    /// What any reader, at any time, was given at an LSN.
    pub read: BTreeMap<Lsn, (Payload, LogOffset)>,
    /// Highest LSN that any reader was told is released.
    pub released: Lsn,
    /// Whether retries of this partition's writers are told from new records.
    pub idempotent: bool,
    /// Last sequence number of each idempotent producer that was acknowledged.
    pub acked_sequences: BTreeMap<i64, i32>,
    /// Offsets that acknowledgements named.
    pub acked_offsets: BTreeMap<Lsn, LogOffset>,
    /// Up to where the metadata tier has let go.
    pub trim: Lsn,
    /// What is acknowledged may be lost by right, if it is told.
    pub may_lose: bool,
    /// How long an append may take.
    pub patience: Option<Duration>,
    /// What readers were told is lost, in runs that may lose.
    pub gaps: Vec<(Lsn, Lsn)>,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    pub partitions: BTreeMap<PartitionUid, PartitionHistory>,
    pub ledger: Ledger,
}

impl History {
    pub(crate) fn of(&mut self, partition: PartitionUid) -> &mut PartitionHistory {
        self.partitions.entry(partition).or_default()
    }
}
