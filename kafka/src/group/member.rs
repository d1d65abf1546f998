//! A member of a group.

use std::time::Duration;

use bytes::Bytes;
use dlog_proto::Time;

use super::message::{DescribedMember, Join};
use super::stored::StoredMember;

/// Who waits for an answer.
pub(super) type Token = u64;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// Has joined the generation that is being formed, and waits for it.
    pub(super) joining: Option<Token>,
    /// Waits for its assignment.
    pub(super) syncing: Option<Token>,
    /// Has asked for its assignment in this generation.
    pub(super) synced: bool,
    /// Is gone if nothing is heard of it until then.
    pub(super) session_ends: Time,
}

impl Member {
    pub(super) fn new(now: Time, id: String, token: Option<Token>, join: &Join) -> Self {
        Self {
            id,
            instance: join.instance.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            joining: token,
            syncing: None,
            synced: false,
            session_ends: now + join.session_timeout,
        }
    }

    /// Takes over what a join says anew.
    pub(super) fn update(&mut self, join: &Join) {
        self.client_id.clone_from(&join.client_id);
        self.client_host.clone_from(&join.client_host);
        self.session_timeout = join.session_timeout;
        self.rebalance_timeout = join.rebalance_timeout;
        self.protocols.clone_from(&join.protocols);
    }

    pub(super) fn touch(&mut self, now: Time) {
        self.session_ends = now + self.session_timeout;
    }

    /// Who waits for us is not silent.
    pub(super) fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn describe(&self, protocol: Option<&str>) -> DescribedMember {
        DescribedMember {
            member: self.id.clone(),
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            metadata: protocol.map(|protocol| self.metadata(protocol)).unwrap_or_default(),
            assignment: self.assignment.clone(),
        }
    }

    pub(super) fn store(&self) -> StoredMember {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        StoredMember {
            id: self.id.clone(),
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            session_timeout_ms: ms(self.session_timeout),
            rebalance_timeout_ms: ms(self.rebalance_timeout),
            protocols: self.protocols.iter().map(|(name, metadata)| (name.clone(), metadata.to_vec())).collect(),
            assignment: self.assignment.to_vec(),
        }
    }

    pub(super) fn load(now: Time, stored: StoredMember) -> Self {
        let session_timeout = Duration::from_millis(stored.session_timeout_ms.into());
        Self {
            id: stored.id,
            instance: stored.instance,
            client_id: stored.client_id,
            client_host: stored.client_host,
            session_timeout,
            rebalance_timeout: Duration::from_millis(stored.rebalance_timeout_ms.into()),
            protocols: stored.protocols.into_iter().map(|(name, metadata)| (name, metadata.into())).collect(),
            assignment: stored.assignment.into(),
            joining: None,
            syncing: None,
            synced: true,
            session_ends: now + session_timeout,
        }
    }
}
