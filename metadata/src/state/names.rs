//! Names of logs, and the Kafka topics that they are.
//!
//! A log `namespace/name` is the Kafka topic `namespace.name`; one in the namespace `default` is the topic `name`. Dots
//! may stand in all of them, so a name that could be read in two ways is refused when it is made:
//!
//! INV-TOPIC: no two logs are the same topic, and no log of `default` has a name that begins with the name of a
//! namespace and a dot.

use dlog_proto::{DEFAULT_NAMESPACE, LogId};

use super::State;
use super::errors::CreateLogError;
use super::logs::LogUid;

/// The Kafka topic that a log is.
pub fn topic_of(log: &LogId) -> String {
    if log.namespace() == DEFAULT_NAMESPACE {
        log.name().to_owned()
    } else {
        format!("{}.{}", log.namespace(), log.name())
    }
}

/// The ways to read `topic` as a namespace and a name.
fn readings(topic: &str) -> impl Iterator<Item = (&str, &str)> {
    topic
        .match_indices('.')
        .map(|(at, _)| (&topic[..at], &topic[at + 1..]))
        .filter(|(ns, name)| !ns.is_empty() && !name.is_empty())
}

impl State {
    /// The log that a Kafka topic is. `None` if there is none; [`Self::log_for_topic`] says which it would be.
    pub fn log_of_topic(&self, topic: &str) -> Option<LogId> {
        let named = |namespace, name| LogId::new(namespace, name).ok().filter(|log| self.names.contains_key(log));
        named(DEFAULT_NAMESPACE, topic).or_else(|| readings(topic).find_map(|(namespace, name)| named(namespace, name)))
    }

    /// The log that a new Kafka topic of this name would be: in the longest namespace that it begins with, else in
    /// `default`.
    pub fn log_for_topic(&self, topic: &str) -> Option<LogId> {
        let known = readings(topic).filter(|(namespace, _)| self.is_namespace(namespace)).last();
        let (namespace, name) = known.unwrap_or((DEFAULT_NAMESPACE, topic));
        LogId::new(namespace, name).ok()
    }

    fn is_namespace(&self, name: &str) -> bool {
        name == DEFAULT_NAMESPACE || self.namespaces.contains_key(name)
    }

    pub(super) fn check_name(&self, log: &LogId) -> Result<(), CreateLogError> {
        if self.names.contains_key(log) {
            return Err(CreateLogError::Exists(log.clone()));
        }
        if let Some(namespace) = self.like_namespace(log) {
            return Err(CreateLogError::LikeNamespace { log: log.clone(), namespace: namespace.to_owned() });
        }
        if log.namespace() == DEFAULT_NAMESPACE {
            return Ok(());
        }
        let topic = topic_of(log);
        let others = readings(&topic).filter_map(|(namespace, name)| LogId::new(namespace, name).ok());
        let same = others.into_iter().find(|other| self.names.contains_key(other));
        if let Some(other) = same.or_else(|| self.default_log_below(log.namespace())) {
            return Err(CreateLogError::Ambiguous { log: log.clone(), other, topic });
        }
        Ok(())
    }

    /// The namespace with which the name of a log of `default` begins.
    fn like_namespace<'a>(&self, log: &'a LogId) -> Option<&'a str> {
        let mut namespaces = readings(log.name()).map(|(namespace, _)| namespace);
        namespaces.find(|ns| log.namespace() == DEFAULT_NAMESPACE && self.is_namespace(ns))
    }

    pub(super) fn is_like_namespace(&self, log: &LogId) -> bool {
        self.like_namespace(log).is_some()
    }

    /// A log of `default` whose name begins with `namespace` and a dot.
    fn default_log_below(&self, namespace: &str) -> Option<LogId> {
        // If this is too long for a name, then so is all that begins with it.
        let from = LogId::new(DEFAULT_NAMESPACE, &format!("{namespace}.")).ok()?;
        let (log, _) = self.names.iter_from(&from).next()?;
        (log.namespace() == DEFAULT_NAMESPACE && log.name().starts_with(from.name())).then(|| log.clone())
    }

    pub(super) fn add_name(&mut self, log: &LogId, uid: LogUid) {
        self.names.insert(log.clone(), uid);
        match self.namespaces.get_mut(log.namespace()) {
            Some(count) => *count += 1,
            None => drop(self.namespaces.insert(log.namespace().to_owned(), 1)),
        }
    }

    pub(super) fn remove_name(&mut self, log: &LogId) {
        self.names.remove(log);
        let count = self.namespaces.get_mut(log.namespace()).expect("the namespace of a log");
        *count -= 1;
        if *count == 0 {
            self.namespaces.remove(log.namespace());
        }
    }
}
